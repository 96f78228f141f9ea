//! A usable row of any kind.

use serde_json::Value;

use super::content::ContentHash;
use crate::data::{Conversation, Message, Pair, Response, RowId, TemplateArguments};

/// A usable row.
pub enum Record {
    Pair(Pair),
    Conversation(Conversation),
    Response(Response),
}

impl Record {
    /// What the row is called.
    pub fn id(&self) -> &RowId {
        match self {
            Self::Pair(pair) => &pair.id,
            Self::Conversation(conversation) => &conversation.id,
            Self::Response(response) => &response.id,
        }
    }

    /// Its task; conversations have none.
    pub fn task(&self) -> Option<&str> {
        match self {
            Self::Pair(pair) => Some(&pair.task),
            Self::Conversation(_) => None,
            Self::Response(response) => Some(&response.task),
        }
    }

    /// The data set that the row says it is from.
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Pair(pair) => pair.source.as_deref(),
            _ => None,
        }
    }

    /// The turns before what is learnt or judged.
    pub fn prompt(&self) -> &[Message] {
        match self {
            Self::Pair(pair) => &pair.prompt,
            Self::Conversation(conversation) => conversation.messages.split_last().map_or(&[], |(_, before)| before),
            Self::Response(response) => &response.prompt,
        }
    }

    /// What answers the prompt, by its name.
    pub fn answers(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Pair(pair) => vec![("chosen", pair.chosen.clone()), ("rejected", pair.rejected.clone())],
            Self::Conversation(conversation) => {
                vec![("answer", conversation.messages.last().map(Message::text).unwrap_or_default())]
            }
            Self::Response(response) => vec![("response", response.response.clone())],
        }
    }

    fn arguments(&self) -> &TemplateArguments {
        match self {
            Self::Pair(pair) => &pair.arguments,
            Self::Conversation(conversation) => &conversation.arguments,
            Self::Response(response) => &response.arguments,
        }
    }

    /// A hash of what the row asks: its turns, tools and documents.
    pub fn prompt_hash(&self) -> ContentHash {
        ContentHash::of(self.prompt(), self.arguments(), [])
    }

    /// A hash of all that the row says. Id, task and source are no part of it.
    pub fn content_hash(&self) -> ContentHash {
        self.hash_with(self.answers().iter().map(|(_, text)| text.as_str()))
    }

    /// The content hash of the pair that prefers the other response.
    pub fn opposite_hash(&self) -> Option<ContentHash> {
        match self {
            Self::Pair(pair) => Some(self.hash_with([pair.rejected.as_str(), &pair.chosen])),
            _ => None,
        }
    }

    fn hash_with<'a>(&self, answers: impl IntoIterator<Item = &'a str>) -> ContentHash {
        ContentHash::of(self.prompt(), self.arguments(), answers)
    }

    /// The row as a line of our own form, called `id`.
    pub fn line(&self, id: &RowId) -> String {
        let mut row = match self {
            Self::Pair(pair) => serde_json::to_value(pair),
            Self::Conversation(conversation) => serde_json::to_value(conversation),
            Self::Response(response) => serde_json::to_value(response),
        }
        .expect("texts and numbers are JSON");
        if let Self::Conversation(conversation) = self {
            // What is not learnt is no field of a message, since templates do not render it.
            for (index, _) in conversation.messages.iter().enumerate().filter(|(_, turn)| !turn.learnt) {
                row["messages"][index]["weight"] = 0.into();
            }
        }
        let mut line = String::new();
        let Value::Object(fields) = row else { return line };
        // An id keeps its spelling, which a value would lose.
        line.push_str(&format!("{{\"id\":{}", id.json()));
        for (name, value) in fields.into_iter().filter(|(name, value)| name != "id" && !value.is_null()) {
            line.push_str(&format!(",{}:{value}", Value::from(name)));
        }
        line.push_str("}\n");
        line
    }
}
