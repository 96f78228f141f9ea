//! Several responses to one prompt, to be ranked.

use serde::{Deserialize, Serialize};

use super::{Message, RowId, TaskBy, TemplateArguments};

/// A prompt with its responses: an input row of the `judge` command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidates {
    pub id: RowId,
    /// The task whose primary rubric the judge sees.
    pub task: String,
    /// What decided it.
    #[serde(skip)]
    pub task_by: TaskBy,
    pub prompt: Vec<Message>,
    /// At least one; an empty text is a response too.
    pub responses: Vec<String>,
    #[serde(rename = "chat_template_kwargs", default, skip_serializing_if = "TemplateArguments::is_empty")]
    pub arguments: TemplateArguments,
}
