//! The fields of a row beside its format's own that change what is learnt, judged or generated. Each is honoured, or refused by
//! its name; every reader of rows comes through here.

use serde_json::Value;

use super::fields::{Object, json, kind, list, optional_text, present};
use super::{Message, TemplateArguments};

/// What becomes of a field.
enum Rule {
    /// Refused unless it is empty: what it holds is not supported. The text says what to do.
    Refused(&'static str),
    /// Refused unless it says that the row counts once, as every row does.
    CountsOnce,
    /// Refused unless it is false.
    Off(&'static str),
    /// The turn of the system before the others ([`with_system`]).
    System,
    /// Given to the chat template ([`arguments_of`]).
    Argument,
}

const MEDIA: Rule = Rule::Refused("models of text alone are supported");
const IN_MESSAGE: Rule = Rule::Refused("belongs to a message; write the turn as a message that has it");
const OURS: Rule = Rule::Refused("cannot be chosen by a row; remove it");

const RULES: [(&str, Rule); 37] = [
    ("images", MEDIA),
    ("image", MEDIA),
    ("image_url", MEDIA),
    ("videos", MEDIA),
    ("video", MEDIA),
    ("audios", MEDIA),
    ("audio", MEDIA),
    ("weight", Rule::CountsOnce),
    ("loss_weight", Rule::CountsOnce),
    ("sample_weight", Rule::CountsOnce),
    ("loss_scale", Rule::CountsOnce),
    ("train", Rule::CountsOnce),
    ("trainable", Rule::CountsOnce),
    ("mask_history", Rule::Off("say `weight` 0 in the messages that are not to be learnt")),
    ("train_on_inputs", Rule::Off("only turns of the assistant are learnt")),
    ("train_on_input", Rule::Off("only turns of the assistant are learnt")),
    ("train_on_prompt", Rule::Off("only turns of the assistant are learnt")),
    ("functions", Rule::Refused("write them as `tools`")),
    ("tool", Rule::Refused("write it as `tools`, a list")),
    ("document", Rule::Refused("write it as `documents`, a list")),
    ("developer", Rule::Refused("write it as `system`")),
    ("function_call", IN_MESSAGE),
    ("tool_calls", IN_MESSAGE),
    ("reasoning_content", IN_MESSAGE),
    ("loss_mask", IN_MESSAGE),
    ("chat_template", OURS),
    ("add_generation_prompt", OURS),
    ("continue_final_message", OURS),
    ("return_assistant_tokens_mask", OURS),
    ("system", Rule::System),
    ("system_prompt", Rule::System),
    ("system_message", Rule::System),
    ("system_instruction", Rule::System),
    ("tools", Rule::Argument),
    ("documents", Rule::Argument),
    ("enable_thinking", Rule::Argument),
    ("chat_template_kwargs", Rule::Argument),
];

/// Arguments of `apply_chat_template` that say what is rendered and how.
const SET_BY_US: [&str; 9] = [
    "messages",
    "conversation",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "return_dict",
    "return_tensors",
    "return_assistant_tokens_mask",
];

/// An error if the row has a field that would change what is learnt and is not supported.
pub(super) fn check_row(row: &Object) -> Result<(), String> {
    for (name, rule) in &RULES {
        let Some(value) = row.get(*name) else { continue };
        match rule {
            Rule::Refused(remedy) if !is_empty(value) => return Err(format!("{name}: {remedy}")),
            Rule::CountsOnce if value.as_f64() != Some(1.0) && *value != Value::Bool(true) => {
                return Err(format!(
                    "{name}: rows cannot be weighted; expected 1, or leave the row or the field out, got {value}"
                ));
            }
            Rule::Off(remedy) if value.as_f64() != Some(0.0) && *value != Value::Bool(false) => {
                return Err(format!("{name}: is not supported; {remedy}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An error if the row has a field that only a chat template can show, for a prompt that is taken as it is.
pub(super) fn check_plain(row: &Object) -> Result<(), String> {
    for (name, rule) in &RULES {
        if matches!(rule, Rule::System | Rule::Argument) && row.get(*name).is_some_and(|value| !is_empty(value)) {
            return Err(format!(
                "{name}: needs a chat template, but the prompt is text that is taken as it is; give --chat, or the prompt \
                 as messages"
            ));
        }
    }
    Ok(())
}

/// Whether a value is what files of columns hold where a row has nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => matches!(text.trim(), "" | "[]" | "{}"),
        Value::Array(items) => items.iter().all(Value::is_null),
        Value::Object(fields) => fields.values().all(Value::is_null),
        _ => false,
    }
}

/// The prompt after the system turn that the row carries beside its messages, if any.
pub(super) fn with_system(row: &Object, mut prompt: Vec<Message>) -> Result<Vec<Message>, String> {
    for (name, _) in RULES.iter().filter(|(_, rule)| matches!(rule, Rule::System)) {
        let Some(text) = optional_text(row, name)?.filter(|text| !text.trim().is_empty()) else { continue };
        match prompt.first().filter(|first| first.role == "system") {
            Some(first) if first.content != text => {
                return Err(format!("{name}: differs from the system turn that the messages begin with"));
            }
            Some(_) => {}
            None => prompt.insert(0, Message::new("system", text)),
        }
    }
    Ok(prompt)
}

/// What the row gives the chat template besides messages.
pub(super) fn arguments_of(row: &Object) -> Result<TemplateArguments, String> {
    let given = match row.get("chat_template_kwargs") {
        None => TemplateArguments::new(),
        Some(Value::Object(given)) => given.clone(),
        Some(Value::String(text)) if text.trim().is_empty() => TemplateArguments::new(),
        Some(Value::String(text)) => match json(text) {
            Ok(Value::Object(given)) => given,
            _ => return Err("chat_template_kwargs: expected an object, got text that is none".to_string()),
        },
        Some(other) => return Err(format!("chat_template_kwargs: expected an object, got {}", kind(other))),
    };
    let mut arguments = present(given);
    for name in SET_BY_US {
        if arguments.contains_key(name) {
            return Err(format!("chat_template_kwargs.{name}: cannot be chosen by a row; remove it"));
        }
    }
    for name in ["tools", "documents"] {
        let Some(value) = row.get(name).or_else(|| arguments.get(name)) else { continue };
        let items = list(value, name)?;
        if let Some(other) = items.iter().find(|item| !item.is_object()) {
            return Err(format!("{name}: expected a list of objects, got {} in it", kind(other)));
        }
        add(&mut arguments, row, name, Value::Array(items))?;
    }
    if let Some(value) = row.get("enable_thinking").or_else(|| arguments.get("enable_thinking")) {
        let value = value.clone();
        if !value.is_boolean() {
            return Err(format!("enable_thinking: expected true or false, got {value}"));
        }
        add(&mut arguments, row, "enable_thinking", value)?;
    }
    Ok(arguments)
}

/// Adds an argument that stands beside `chat_template_kwargs`, or in it; both may not differ.
fn add(arguments: &mut TemplateArguments, row: &Object, name: &str, value: Value) -> Result<(), String> {
    match arguments.insert(name.to_string(), value.clone()) {
        Some(other) if row.contains_key(name) && other != value => {
            Err(format!("{name}: differs from chat_template_kwargs.{name}"))
        }
        _ => Ok(()),
    }
}

/// An error if a row that is to be judged has template variables: a judge reads the conversation as text, with the tools and
/// documents before it.
pub fn check_judged(arguments: &TemplateArguments) -> Result<(), String> {
    match arguments.keys().find(|name| !["tools", "documents"].contains(&name.as_str())) {
        Some(name) => Err(format!(
            "{name} (of the row or its chat_template_kwargs): a judge reads the conversation as text and has its own template \
             and thinking, so it cannot be honoured; remove it"
        )),
        None => Ok(()),
    }
}
