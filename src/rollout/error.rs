//! Why there are no completions.

use crate::ops::OpError;

/// Faults of generation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error("rollout: {0}")]
    Request(String),
    #[error("rollout: the model's logits are not numbers (prompt {group}, member {member}, position {position})")]
    NotFinite { group: usize, member: usize, position: usize },
    #[error("rollout: interrupted")]
    Interrupted,
}
