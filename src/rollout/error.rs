//! The errors of generation.

use crate::ops::OpError;

/// Why there are no completions.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error("rollout: {0}")]
    Request(String),
    #[error("rollout: the model's logits are not finite (prompt {group}, sample {sample}, position {position})")]
    NotFinite { group: usize, sample: usize, position: usize },
    /// `stop` was set, or whoever took the completions wanted no more.
    #[error("rollout: interrupted")]
    Interrupted,
}
