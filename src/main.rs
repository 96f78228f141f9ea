//! The `patarm-train` binary: parses the command line and runs one command.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use patarm::commands::{self, Cli};
use patarm::file::console;

fn main() -> ExitCode {
    console::survive_size_limit();
    let result = match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(mistake) if mistake.use_stderr() => {
            // It says what it can; the exit code says the rest.
            let _ = mistake.print();
            return ExitCode::from(2);
        }
        Err(help) => {
            let text = help.render();
            let text = if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
            console::print(&text).map_err(anyhow::Error::from)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.chain().any(console::is_closed_pipe) => console::end_by_closed_pipe(),
        Err(error) => {
            console::write_stderr(&format!("error: {error:#}\n"));
            ExitCode::from(commands::interrupt::exit_code())
        }
    }
}
