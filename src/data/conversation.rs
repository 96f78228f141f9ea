//! A conversation that supervised fine-tuning learns from.

use serde::{Deserialize, Serialize};

use super::{Message, Pair, RowId, TemplateArguments};

/// A conversation whose last turn is the assistant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub id: RowId,
    pub messages: Vec<Message>,
    #[serde(rename = "chat_template_kwargs", default, skip_serializing_if = "TemplateArguments::is_empty")]
    pub arguments: TemplateArguments,
}

impl From<Pair> for Conversation {
    /// The prompt of a pair with its chosen response as the answer, which alone is learnt. The id is kept.
    fn from(pair: Pair) -> Self {
        let mut messages = pair.prompt;
        messages.iter_mut().filter(|turn| turn.role == "assistant").for_each(|turn| turn.learnt = false);
        messages.push(Message::assistant(pair.chosen));
        Self { id: pair.id, messages, arguments: pair.arguments }
    }
}
