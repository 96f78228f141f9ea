//! The errors of the training layer.

use super::guard::GuardError;
use crate::file::counted;
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
        "an example of {} does not fit into a micro-batch of {capacity}: raise micro_batch_tokens or lower max_length",
        counted(*.tokens, "token")
    )]
    TooLong { tokens: usize, capacity: usize },
}

/// A prompt with one completion that no micro-batch can hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "a prompt of {} and a completion of {} do not fit into a micro-batch of {}: raise micro_batch_tokens",
    counted(*.prompt, "token"), counted(*.completion, "token"), counted(*.capacity, "token")
)]
pub struct TooLong {
    pub prompt: usize,
    pub completion: usize,
    pub capacity: usize,
}
