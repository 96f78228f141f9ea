//! What is asked of the engine, and what comes back: token ids in, token ids out.

use crate::ops::sample::Sampling;
use crate::random::Stream;

/// One completion to draw of a prompt.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    pub sampling: Sampling,
    /// The random numbers of this completion, folded from (step, pair, role, rollout).
    pub stream: Stream,
}

/// A prompt and the completions wanted of it; they share the prompt's keys and values.
#[derive(Clone, Debug)]
pub struct PromptGroup {
    /// One token or more.
    pub prompt: Vec<u32>,
    pub samples: Vec<SampleRequest>,
    /// Tokens that end a completion; the token itself belongs to it.
    pub stop: Vec<u32>,
    /// One or more.
    pub max_new_tokens: usize,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token, the last one of the completion.
    Stop,
    /// The limit of new tokens.
    Length,
}

/// One completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub tokens: Vec<u32>,
    /// Of each token, from softmax(logits / temperature) over the whole vocabulary.
    pub logprobs: Vec<f32>,
    pub finish_reason: FinishReason,
}
