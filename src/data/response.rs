//! A response to be judged on its own.

use serde::{Deserialize, Serialize};

use super::{Message, RowId, TaskBy, TemplateArguments};

/// A prompt with one response: an input row of the `judge` command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub id: RowId,
    /// The task whose primary rubric the judge sees.
    pub task: String,
    #[serde(skip)]
    pub task_by: TaskBy,
    pub prompt: Vec<Message>,
    pub response: String,
    #[serde(rename = "chat_template_kwargs", default, skip_serializing_if = "TemplateArguments::is_empty")]
    pub arguments: TemplateArguments,
}
