//! Faults of dataset files.

use std::path::{Path, PathBuf};

/// Faults of reading rows. Rows are counted from 1: lines of a JSONL file, elements of a JSON array,
/// rows of a Parquet file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// A bad row, where bad rows are refused.
    #[error("{}: {unit} {number}: {reason}", path.display())]
    BadRow { path: PathBuf, unit: &'static str, number: usize, reason: String },
    /// A file that cannot be read further, even if bad rows are skipped.
    #[error("{}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{}: no rows; expected JSON lines, a JSON array or Parquet{skipped}", path.display())]
    Empty { path: PathBuf, skipped: String },
    #[error("{}: is the same file as {}; give every file once", path.display(), first.display())]
    GivenTwice { path: PathBuf, first: PathBuf },
    /// A data set of the hub that is not at hand and cannot be fetched.
    #[error("{name}: {reason}")]
    Hub { name: String, reason: String },
    #[error("no data files were given")]
    NoFiles,
    /// Whoever was given the rows wanted no more of them. Never returned.
    #[error("stopped")]
    Stopped,
}

impl DataError {
    /// The file that cannot be read, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Unreadable { path, .. } | Self::Empty { path, .. } => Some(path),
            _ => None,
        }
    }
}
