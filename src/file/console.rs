//! Standard output and standard error.
//!
//! Results go to standard output, and losing one is an error. Everything else (progress, notes, errors) goes to standard error, and
//! losing that must not stop a run. `println!` and `eprintln!` panic where these are full or closed, so only this file writes to them.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {0}")]
pub struct StdoutError(pub io::Error);

impl StdoutError {
    /// Whether the reader of a pipe has gone, as `head` does when it has seen enough.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

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
pub fn print_line(line: impl std::fmt::Display) -> Result<(), StdoutError> {
    print(&format!("{line}\n"))
}

/// Writes a line to standard error. If that is closed or full, nothing else is to be done about it.
pub fn say(line: impl std::fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Writes text to standard output with its colours only on a terminal, which the text knows as two versions of itself.
pub fn print_styled(plain: &str, styled: &str) -> Result<(), StdoutError> {
    print(if io::stdout().is_terminal() { styled } else { plain })
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
