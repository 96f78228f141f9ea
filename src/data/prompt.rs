//! A prompt to be completed: an input row of the `generate` command.

use super::{Message, RowId, TemplateArguments};

/// A prompt with the id of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub id: RowId,
    pub text: PromptText,
    /// What its chat template gets besides messages.
    pub arguments: TemplateArguments,
}

/// What a prompt is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    /// Text, to be taken as it is.
    Plain(String),
    /// A conversation, to be rendered by the model's chat template. If it ends with a turn of the assistant, that turn is begun
    /// and to be continued.
    Chat(Vec<Message>),
}
