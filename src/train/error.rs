//! The errors of the training layer.

use super::guard::GuardError;
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

/// A prompt with one completion that no micro-batch can hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "a prompt of {prompt} and a completion of {completion} tokens do not fit into a micro-batch of {capacity} tokens: \
     raise micro_batch_tokens"
)]
pub struct TooLong {
    pub prompt: usize,
    pub completion: usize,
    pub capacity: usize,
}
