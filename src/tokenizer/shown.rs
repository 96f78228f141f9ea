//! Whether a template shows what it is given: what it leaves out would be learnt, or answered, as if it were not there.
//!
//! A name may stand in the rendering for other reasons (a conversation speaks of its tools), so the rendering itself is not
//! searched: the conversation is rendered once more, with a word of its own in the place of each thing that must be seen.

use serde_json::Value;

use super::{RenderOptions, Tokenizer, TokenizerError};
use crate::data::{Message, TemplateArguments};

/// A conversation with words in the place of what must be seen.
struct Trial {
    messages: Vec<Message>,
    arguments: TemplateArguments,
    /// What each word stands for, as a message says it.
    what: Vec<String>,
}

impl Tokenizer {
    /// An error if the template leaves out a tool, a document, a turn of the system or of a tool, a tool call, or the reasoning
    /// of the last turn. The inner error says which; the outer one is the template's.
    pub(super) fn check_shown(
        &self,
        messages: &[Message],
        arguments: &TemplateArguments,
        options: &RenderOptions,
    ) -> Result<Result<(), String>, TokenizerError> {
        let trial = Trial::new(messages, arguments);
        if trial.what.is_empty() {
            return Ok(Ok(()));
        }
        let options = RenderOptions { add_generation_prompt: false, continue_final_message: false, ..*options };
        let text = self.render_with(&trial.messages, &trial.arguments, &options)?;
        let hidden = trial.what.into_iter().enumerate().find(|(index, _)| !text.contains(&word(*index)));
        Ok(hidden.map_or(Ok(()), |(_, what)| Err(what)))
    }
}

/// Ends in a letter, so that no word begins another.
fn word(index: usize) -> String {
    format!("patarm-shown-{index}-x")
}

impl Trial {
    fn new(messages: &[Message], arguments: &TemplateArguments) -> Self {
        let mut trial = Self { messages: messages.to_vec(), arguments: arguments.clone(), what: Vec::new() };
        let mut what = Vec::new();
        for name in ["tools", "documents"] {
            let items = trial.arguments.get_mut(name).and_then(Value::as_array_mut);
            for (index, item) in items.into_iter().flatten().enumerate() {
                let told = if name == "tools" { name_in(item) } else { None };
                let shown = format!(
                    "the row has {name}, but the chat template does not render them all: {name}[{index}] is missing"
                );
                replace(item, told, &mut what, shown);
            }
        }
        let last = trial.messages.len().saturating_sub(1);
        for (index, turn) in trial.messages.iter_mut().enumerate() {
            if !["user", "assistant"].contains(&turn.role.as_str()) && !turn.content.trim().is_empty() {
                turn.content = word(what.len());
                what.push(format!("message {index} is of {}, but the chat template does not render it", turn.role));
            }
            for call in &mut turn.tool_calls {
                let name = name_in(call).and_then(|at| call.pointer(at)).and_then(Value::as_str).unwrap_or("a tool");
                let shown = format!("message {index} calls {name}, but the chat template does not render tool calls");
                replace(call, name_in(call), &mut what, shown);
            }
            if index == last && turn.reasoning.is_some() {
                turn.reasoning = Some(word(what.len()));
                what.push("the last turn has reasoning, but the chat template does not render it".to_string());
            }
        }
        trial.what = what;
        trial
    }
}

/// Where a tool or a call has its name.
fn name_in(tool: &Value) -> Option<&'static str> {
    ["/function/name", "/name"].into_iter().find(|at| tool.pointer(at).is_some_and(Value::is_string))
}

/// Puts a word in the place of the text at `told`, or else of the longest text in `item`. Nothing can be told of an item without
/// text.
fn replace(item: &mut Value, told: Option<&str>, what: &mut Vec<String>, shown: String) {
    let text = match told {
        Some(at) => item.pointer_mut(at),
        None => longest_text(item),
    };
    if let Some(text) = text {
        *text = word(what.len()).into();
        what.push(shown);
    }
}

fn longest_text(value: &mut Value) -> Option<&mut Value> {
    let length = |value: &&mut Value| value.as_str().map_or(0, str::len);
    match value {
        Value::String(_) => Some(value),
        Value::Array(items) => items.iter_mut().filter_map(longest_text).max_by_key(length),
        Value::Object(fields) => fields.values_mut().filter_map(longest_text).max_by_key(length),
        _ => None,
    }
}
