//! A conversation that supervised fine-tuning learns from.

use serde::{Deserialize, Serialize};

use super::{Message, Pair};

/// A conversation whose last turn is the assistant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// Unique in a data set.
    pub id: u64,
    pub messages: Vec<Message>,
}

/// The prompt of each pair with its chosen response as the answer. The ids are kept.
pub fn pairs_to_conversations(pairs: &[Pair]) -> Vec<Conversation> {
    let conversation = |pair: &Pair| {
        let mut messages = pair.prompt.clone();
        messages.push(Message::assistant(pair.chosen.clone()));
        Conversation { id: pair.id, messages }
    };
    pairs.iter().map(conversation).collect()
}
