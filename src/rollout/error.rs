//! Why there are no completions.

use crate::ops::OpError;

/// Faults of generation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error("rollout: {0}")]
    Request(String),
    #[error("rollout: the model's logits are not numbers (prompt {group}, sample {sample}, position {position})")]
    NotFinite { group: usize, sample: usize, position: usize },
    #[error("rollout: interrupted")]
    Interrupted,
}
