//! The one error of the training layer.

use super::guard::GuardError;
use super::prefix_tree::TooLong;
use crate::ops::OpError;
use crate::reward::RewardError;
use crate::rollout::EngineError;

/// Why a training step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Group(#[from] TooLong),
    #[error(
        "an example of {tokens} tokens does not fit into a micro-batch of {capacity}: raise micro_batch_tokens or lower \
         max_length"
    )]
    TooLong { tokens: usize, capacity: usize },
}
