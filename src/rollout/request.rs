//! Requests to the engine and its results: token ids in, token ids out.

use crate::ops::sample::Sampling;
use crate::random::Stream;

/// One completion to generate for a prompt.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    pub sampling: Sampling,
    /// The random stream of this completion, folded from (step, pair, role, rollout).
    pub stream: Stream,
}

/// A prompt and the completions to generate for it; they share the prompt's keys and values.
#[derive(Clone, Debug)]
pub struct PromptGroup {
    /// At least one token.
    pub prompt: Vec<u32>,
    pub samples: Vec<SampleRequest>,
    /// Tokens that end a completion; the completion includes the token.
    pub stop: Vec<u32>,
    /// At least one.
    pub max_new_tokens: usize,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// Its last token is a stop token.
    Stop,
    /// It has `max_new_tokens` tokens.
    Length,
}

/// One completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub tokens: Vec<u32>,
    /// The log-probability of each token, from softmax(logits / temperature) over the whole vocabulary.
    pub logprobs: Vec<f32>,
    pub finish_reason: FinishReason,
}

/// The end of one sample of a [`PromptGroup`].
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its group's index in the request.
    pub group: usize,
    /// Its index in the group.
    pub sample: usize,
    /// `Err`: there is none, because the logits were not finite.
    pub completion: Result<Completion, NotFinite>,
}

/// The logits that a sample's next token was to be drawn from were not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// The token's position, counted from the beginning of the prompt.
    pub position: usize,
}
