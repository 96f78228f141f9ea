//! Everything that is written: whole files, rows of a long job, the terminal, and numbers in words.
//!
//! A plain file is written aside and renamed, so that it is never there half-written. What is not a plain file (a device, a pipe,
//! an open descriptor) is written through and never replaced. Rows of a job are appended as they finish, so that a job that is
//! ended loses only what it was working on. Nothing here panics because an output is full, closed or gone.

mod atomic;
pub mod console;
mod counted;
mod kept_rows;
mod plain;
mod rows;
mod target;
mod whole;

pub use atomic::{UNFINISHED_PREFIX, write_atomically};
pub(crate) use console::say;
pub use counted::counted;
pub use plain::{open_plain, read_plain};
pub use rows::{Existing, RowError, RowOutput, RowWriter};
pub use target::{is_same, try_writing};
pub use whole::WholeFile;
