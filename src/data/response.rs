//! A response to be judged on its own.

use serde::{Deserialize, Serialize};

use super::Message;

/// A prompt with one response: an input row of the `judge` command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Unique in a data set.
    pub id: u64,
    /// The task whose primary rubric the judge sees.
    pub task: String,
    pub prompt: Vec<Message>,
    pub response: String,
}
