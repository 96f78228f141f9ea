//! One turn of a conversation.

use serde::{Deserialize, Serialize};

/// A turn: the speaker's role (`system`, `user`, `assistant`, `tool`) and the text. Reasoning is part of `content`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    /// A turn of any role, which is not checked: chat templates decide which roles they know.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// A turn of the `user` role.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A turn of the `assistant` role.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}
