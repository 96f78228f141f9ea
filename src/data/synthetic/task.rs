//! The four tasks of the suite.

use serde::{Deserialize, Serialize};

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Repeat a list of letters.
    Chat,
    /// Add a number to each digit of a list, modulo ten.
    Math,
    /// Reverse a list of letters.
    Code,
    /// Repeat a list of letters, or refuse if the topic is a harmful one.
    Safety,
}

impl Task {
    /// In the order in which streams alternate between them.
    pub const ALL: [Task; 4] = [Task::Chat, Task::Math, Task::Code, Task::Safety];

    /// The name in pairs, prompts and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Math => "math",
            Self::Code => "code",
            Self::Safety => "safety",
        }
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// `chat`, `math`, `code` or `safety`; the error is a sentence for the user.
impl std::str::FromStr for Task {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|task| task.name() == name);
        found.ok_or_else(|| format!("task {name:?} is not one of chat, math, code, safety"))
    }
}
