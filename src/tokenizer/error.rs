//! The errors between text and token ids.

use std::path::PathBuf;

/// Errors of loading, rendering and encoding. Every message says where, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// A file could be read, but its contents are wrong.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// The tokenizer lacks a token that it needs.
    #[error("tokenizer: {0}")]
    Tokens(String),
    #[error("chat template: {0}")]
    Template(String),
    #[error("encoding text of {bytes} bytes: {reason}")]
    Encode { bytes: usize, reason: String },
    /// A conversation whose loss mask would be ambiguous.
    #[error("loss mask: {0}")]
    Supervised(String),
}
