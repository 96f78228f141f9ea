//! Standard output and standard error.
//!
//! Results go to standard output, and losing one is an error. Everything else (progress, notes, errors) goes to standard error,
//! and losing that must not stop a run. `println!` and `eprintln!` panic where these are full or closed, so only this file
//! writes to them.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::RowError;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {0}")]
pub struct StdoutError(pub io::Error);

/// Whether standard output was closed (`>&-`) when the program began.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Before `main`, Rust opens /dev/null in place of a closed standard output, and everything written to it is lost in silence. So
/// this has to look before Rust does.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn look() {
        // Safety: `fcntl` reads the table of descriptors, and fails for one that is not open.
        let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
        CLOSED.store(closed, Ordering::Relaxed);
    }
    look
};

/// Standard output as a file: without a buffer, and without the library's habit of taking a closed one for written.
pub fn stdout() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    std::hint::black_box(&AT_START);
    if CLOSED.load(Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes text to standard output.
pub fn print(text: &str) -> Result<(), StdoutError> {
    stdout().and_then(|mut file| file.write_all(text.as_bytes())).map_err(StdoutError)
}

/// Writes a line to standard output.
pub fn print_line(line: impl Display) -> Result<(), StdoutError> {
    print(&format!("{line}\n"))
}

/// Writes text to standard error. If that is closed or full, there is nowhere to say so. Control characters, which rows and files
/// may hold, are written as escapes: they cannot move the cursor.
pub fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(without_controls(text).as_bytes());
}

/// Text whose control characters, but for newlines and tabs, are written as escapes.
pub fn without_controls(text: &str) -> String {
    let shown = |c: char| match c.is_control() && !matches!(c, '\n' | '\t') {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Writes a line to standard error, as `eprintln!` does, but never panics.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::file::console::write_stderr(&format!("{}\n", format_args!($($arguments)*)))
    };
}
pub(crate) use say;

/// Whether an error is that of a standard output whose reader has gone, as `head` does when it has seen enough.
pub fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let stdout = match error.downcast_ref() {
        Some(RowError::Stdout(stdout)) => Some(stdout),
        _ => error.downcast_ref::<StdoutError>(),
    };
    stdout.is_some_and(|StdoutError(error)| error.kind() == ErrorKind::BrokenPipe)
}

/// Makes a file that has reached the system's limit of size (`ulimit -f`) an error of whoever writes, as a full disk is one. The
/// signal that comes first would end the program without a word.
pub fn survive_size_limit() {
    // Safety: the call only names a signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Ends the program as the system ends one whose reader has gone: quietly, by SIGPIPE (a shell shows 141).
pub fn end_by_closed_pipe() -> ! {
    // Safety: both calls only name a signal; its default action ends the program.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
    std::process::exit(128 + libc::SIGPIPE)
}
