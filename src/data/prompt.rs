//! A prompt to be completed: an input row of the `generate` command.

use super::Message;

/// A prompt with the id of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub id: u64,
    pub text: PromptText,
}

/// What a prompt is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    /// Text, to be taken as it is.
    Plain(String),
    /// A conversation, to be rendered by the model's chat template.
    Chat(Vec<Message>),
}
