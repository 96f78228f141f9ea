//! A preference pair: a prompt and two responses, one preferred.

use serde::{Deserialize, Serialize};

use super::{Message, RowId, TaskBy, TemplateArguments};

/// The response of a pair that a judgement is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Chosen,
    Rejected,
}

impl Role {
    /// In the order of [`Self::index`].
    pub const BOTH: [Role; 2] = [Role::Chosen, Role::Rejected];

    /// The role of the response that this one is compared with.
    pub fn other(self) -> Self {
        match self {
            Self::Chosen => Self::Rejected,
            Self::Rejected => Self::Chosen,
        }
    }

    /// 0 for chosen, 1 for rejected: the order of the two responses in every [pairs, 2, n] array.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A prompt with its preferred and its other response. `id` is the pair's identity: its key is unique in a data set, rewards are
/// joined by it, and it is part of the key of random numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub id: RowId,
    /// The task whose primary rubric the judge sees (`chat`, `code`, `math`, `safety`, …).
    pub task: String,
    #[serde(skip)]
    pub task_by: TaskBy,
    /// The conversation up to the response: one message or many.
    pub prompt: Vec<Message>,
    pub chosen: String,
    pub rejected: String,
    /// The set that the row says it is from, or the part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// By how much the chosen response is better, in the units of its set; `None` where the set does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    #[serde(rename = "chat_template_kwargs", default, skip_serializing_if = "TemplateArguments::is_empty")]
    pub arguments: TemplateArguments,
}

impl Pair {
    /// The text of the response in this role.
    pub fn response(&self, role: Role) -> &str {
        match role {
            Role::Chosen => &self.chosen,
            Role::Rejected => &self.rejected,
        }
    }

    /// Both responses, that of this role first.
    pub fn with_first(&self, role: Role) -> [&str; 2] {
        [self.response(role), self.response(role.other())]
    }
}
