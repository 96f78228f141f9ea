//! `data validate`: whether every row can be used.

use std::ops::ControlFlow;

use anyhow::{bail, ensure};
use clap::Args;

use super::input::InputArgs;
use super::reasons::{Reasons, place};
use crate::data::Streamed;
use crate::file::console::{self, StdoutError};
use crate::file::{counted, say};

/// Check that every row can be used.
///
/// Reads every row as training would, and prints each bad one with file, line and reason, then how many there are of each
/// reason. The exit code is 0 if all rows are usable and 1 if not, so a script can stop there. Rows that differ but say the
/// same are no fault: `data inspect` counts those.
///
///   patarm-train data validate train.parquet test.jsonl.gz
///   patarm-train data validate sft.jsonl --as conversations --show 3
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ValidateArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Bad rows that are printed; all are counted.
    #[arg(long, value_name = "ROWS", default_value_t = 20)]
    pub show: u64,
}

/// Prints the bad rows of every file. An error if there are any, or if a file breaks off.
pub fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let (mut rows, mut reasons, mut broken, mut printed) = (0_u64, Reasons::default(), Vec::new(), Ok(()));
    let files = args.input.files()?;
    let mut rest = &files[..];
    while !rest.is_empty() {
        let read = args.input.stream(rest, &mut |row, _, location| {
            rows += u64::from(!matches!(row, Streamed::Alone(_)));
            if let Streamed::Bad(reason) | Streamed::Alone(reason) = row {
                reasons.add(&reason, location);
                if reasons.count <= args.show {
                    printed = print(&format!("{}: {reason}", place(location)));
                }
            }
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        std::mem::replace(&mut printed, Ok(()))?;
        let Err(error) = read else { break };
        // A file that breaks off should not hide the next.
        let at = rest.iter().position(|file| error.path() == Some(file));
        let Some(at) = at else { return Err(error.into()) };
        broken.push(error);
        rest = &rest[at + 1..];
    }
    let left = reasons.count.saturating_sub(args.show);
    if left > 0 {
        console::print_line(format!("and {} (--show {} prints them)", counted(left, "more bad row"), reasons.count))?;
    }
    if reasons.count > 0 {
        say!("reasons:");
        reasons.lines().iter().for_each(|line| say!("  {line}"));
    }
    for error in &broken {
        say!("{error}");
    }
    ensure!(broken.is_empty(), "{} of {} cannot be read to the end", broken.len(), counted(files.len(), "file"));
    let (bad, kind) = (reasons.count, args.input.kind.name());
    if bad > 0 {
        bail!("{bad} of {} cannot be used as {kind}; --skip-bad leaves them out of training", counted(rows, "row"));
    }
    Ok(console::print_line(format!(
        "{} in {}, all usable as {kind}",
        counted(rows, "row"),
        counted(files.len(), "file")
    ))?)
}

/// A row may hold what moves the cursor.
fn print(line: &str) -> Result<(), StdoutError> {
    console::print_line(console::without_controls(line))
}
