//! What can go wrong between text and token ids.

use std::path::PathBuf;

/// Faults of loading, rendering and encoding. Every message says where, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file was read but does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// The tokenizer lacks a token that it is told to use, or has none at all.
    #[error("tokenizer: {0}")]
    Tokens(String),
    #[error("chat template: {0}")]
    Template(String),
    #[error("encoding text of {bytes} bytes: {reason}")]
    Encode { bytes: usize, reason: String },
    /// A conversation for which no honest loss mask exists.
    #[error("loss mask: {0}")]
    Supervised(String),
}
