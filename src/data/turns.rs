//! Conversations from JSON: lists of messages under their various names, and prompts that two conversations share.

use serde_json::{Map, Value, json};

use super::Message;
use super::fields::{self, Object, keys, kind, list, present};
use super::transcript::{Text, mark_of_turns, transcript_of};

/// A conversation from a list of `{"role", "content"}` or `{"from", "value"}` objects.
pub(super) fn messages_of(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| format!("{name}: expected a list of messages, got {}", kind(value)))?;
    if list.is_empty() {
        return Err(format!("{name}: has no messages"));
    }
    list.iter().enumerate().map(|(index, item)| message_of(item, &format!("{name}[{index}]"))).collect()
}

/// One message.
pub(super) fn message_of(value: &Value, name: &str) -> Result<Message, String> {
    let object = value.as_object().ok_or_else(|| format!("{name}: expected a message object, got {}", kind(value)))?;
    let mut object = present(object.clone());
    let keys_of = if object.contains_key("role") { ["role", "content"] } else { ["from", "value"] };
    let [role_key, content_key] = keys_of;
    // Shifted, so that the fields which are left keep the order of the row.
    let role = match object.shift_remove(role_key) {
        Some(Value::String(role)) => role,
        _ => return Err(format!("{name}: expected a role in \"role\" or \"from\", found {}", keys(&object))),
    };
    let role = match role.as_str() {
        "human" => "user",
        "gpt" | "function_call" => "assistant",
        "observation" => "tool",
        "system" | "user" | "assistant" | "tool" => role.as_str(),
        other => return Err(format!("{name}: unknown role {other:?}; expected system, user, assistant or tool")),
    }
    .to_string();
    let is_call = value.get(role_key).and_then(Value::as_str) == Some("function_call");
    let content = object.shift_remove(content_key);
    let tool_calls = if is_call {
        called(content.as_ref(), &format!("{name}.{content_key}"))?
    } else {
        tool_calls_of(&mut object, &role, name)?
    };
    let reasoning = reasoning_of(&mut object, &role, name)?;
    let content = match content {
        _ if is_call => String::new(),
        None if !tool_calls.is_empty() => String::new(),
        content => content_of(content.as_ref(), &format!("{name}.{content_key}"))?,
    };
    let learnt = learnt_of(&mut object, &role, name)?;
    Ok(Message { role, content, reasoning, tool_calls, learnt, fields: object })
}

/// The calls in `tool_calls`, or the one call of the older `function_call`.
fn tool_calls_of(object: &mut Object, role: &str, name: &str) -> Result<Vec<Value>, String> {
    let mut calls = match object.shift_remove("tool_calls") {
        Some(value) => list(&value, &format!("{name}.tool_calls"))?,
        None => Vec::new(),
    };
    if let Some(function) = object.shift_remove("function_call") {
        calls.push(json!({"type": "function", "function": function}));
    }
    if !calls.is_empty() && role != "assistant" {
        return Err(format!("{name}.tool_calls: only an assistant calls tools, but this is a turn of {role}"));
    }
    for (index, call) in calls.iter().enumerate() {
        let function = call.get("function").unwrap_or(call);
        let arguments = function.get("arguments");
        let known = matches!(arguments, None | Some(Value::Null | Value::String(_) | Value::Object(_)));
        if !function.get("name").is_some_and(Value::is_string) || !known {
            let wanted = "expected {\"function\": {\"name\": text, \"arguments\": object or JSON text}}";
            return Err(format!("{name}.tool_calls[{index}]: {wanted}, got {call}"));
        }
    }
    Ok(calls)
}

/// LLaMA-Factory's turns of `function_call`: the call, or a list of calls, as JSON text.
fn called(content: Option<&Value>, name: &str) -> Result<Vec<Value>, String> {
    let text = content.and_then(Value::as_str).ok_or_else(|| format!("{name}: expected a call as JSON text"))?;
    let calls = match fields::json(text).map_err(|error| format!("{name}: expected a call as JSON text: {error}"))? {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let calls = calls.into_iter().map(|function| json!({"type": "function", "function": function})).collect();
    tool_calls_of(&mut Map::from_iter([("tool_calls".to_string(), Value::Array(calls))]), "assistant", name)
}

/// Reasoning under any of its names; two different ones are an error.
fn reasoning_of(object: &mut Object, role: &str, name: &str) -> Result<Option<String>, String> {
    let mut found: Option<(&str, String)> = None;
    for key in ["reasoning_content", "reasoning", "thinking"] {
        let Some(value) = object.shift_remove(key) else { continue };
        let Value::String(text) = value else {
            return Err(format!("{name}.{key}: expected text, got {}", kind(&value)));
        };
        if text.trim().is_empty() {
            continue;
        }
        match &found {
            Some((other, first)) if *first != text => {
                return Err(format!("{name}: {other} and {key} differ; keep one of them"));
            }
            _ => found = Some((key, text)),
        }
    }
    let Some((key, text)) = found else { return Ok(None) };
    if role != "assistant" {
        return Err(format!("{name}.{key}: only an assistant reasons, but this is a turn of {role}"));
    }
    Ok(Some(text))
}

/// Whether a turn is to be learnt: OpenAI's and Mistral's `weight`, axolotl's `train`, ms-swift's `loss`.
fn learnt_of(object: &mut Object, role: &str, name: &str) -> Result<bool, String> {
    let mut found: Option<(&str, bool)> = None;
    for key in ["weight", "train", "training", "loss", "loss_mask"] {
        let Some(value) = object.shift_remove(key) else { continue };
        let learnt = match (&value, value.as_f64()) {
            (Value::Bool(learnt), _) => *learnt,
            (_, Some(0.0)) => false,
            (_, Some(1.0)) => true,
            _ => return Err(format!("{name}.{key}: expected 0 (not learnt) or 1 (learnt), got {value}")),
        };
        if found.is_some_and(|(_, other)| other != learnt) {
            let (other, _) = found.unwrap_or_default();
            return Err(format!("{name}: {other} and {key} say opposite things"));
        }
        found = Some((key, learnt));
    }
    for key in [
        "train_detail",
        "training_detail",
        "loss_scale",
        "loss_weight",
        "sample_weight",
        "masked",
        "train_on_turn",
        "trainable",
    ] {
        if object.contains_key(key) {
            return Err(format!("{name}.{key}: is not supported; say `weight` 0 or 1 of whole turns"));
        }
    }
    for key in ["image", "images", "audio", "audios", "video", "videos"] {
        if object.contains_key(key) {
            return Err(format!("{name}.{key}: models of text alone are supported"));
        }
    }
    match found {
        Some((key, true)) if role != "assistant" => {
            Err(format!("{name}.{key}: only turns of the assistant are learnt, but this is a turn of {role}"))
        }
        found => Ok(found.is_none_or(|(_, learnt)| learnt)),
    }
}

/// Text, or a list of text parts.
fn content_of(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => parts
            .iter()
            .map(|part| part.as_str().or_else(|| part.get("text").and_then(Value::as_str)))
            .collect::<Option<String>>()
            .ok_or_else(|| format!("{name}: has a part that is not text")),
        Some(other) => Err(format!("{name}: expected text, got {}", kind(other))),
        None => Err(format!("{name}: is missing")),
    }
}

/// A prompt given as text (one user turn, or a transcript) or as messages.
pub(super) fn prompt_of(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => turns_of_prompt(text).map_err(|reason| format!("{name}: {reason}")),
        other => messages_of(other, name),
    }
}

/// A prompt given as text: the turns of a transcript or of a list of messages in JSON, or else one turn of the user.
pub fn turns_of_prompt(text: &str) -> Result<Vec<Message>, String> {
    match listed(text, "the text").unwrap_or_else(|| transcript_of(text, Text::Prompt).map_err(with_remedy))? {
        Some(mut turns) => {
            // hh-rlhf's prompts end with the marker of the answer and no answer.
            turns.pop_if(|turn| turn.role == "assistant" && turn.content.is_empty());
            Ok(turns)
        }
        None => Ok(vec![Message::user(text)]),
    }
}

/// A whole conversation given as text, if it is a transcript or a list of messages in JSON.
pub(super) fn conversation_text(text: &str, name: &str) -> Result<Option<Vec<Message>>, String> {
    let read = || transcript_of(text, Text::Conversation).map_err(|reason| with_remedy(format!("{name}: {reason}")));
    listed(text, name).unwrap_or_else(read)
}

fn with_remedy(reason: String) -> String {
    format!("{reason}; give the turns as messages, or the prompt and the responses in columns of their own")
}

/// Messages as JSON text, as files of columns may have them; `None` if the text is no list of objects with roles.
fn listed(text: &str, name: &str) -> Option<Result<Option<Vec<Message>>, String>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let value = fields::json(text).ok()?;
    let has = |item: &Value, name: &str| item.get(name).is_some_and(Value::is_string);
    let is_turn = |item: &Value| {
        (has(item, "role") && (item.get("content").is_some() || item.get("tool_calls").is_some()))
            || (has(item, "from") && has(item, "value"))
    };
    let listed = value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_turn));
    listed.then(|| messages_of(&value, name).map(Some))
}

/// Whether two lists of turns say the same.
pub(super) fn same_turns(a: &[Message], b: &[Message]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.says_the_same(b))
}

/// Splits two full conversations into the prompt that they share and the response that ends each. All turns but the last
/// must be equal.
pub(super) fn split_conversations(
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> Result<(Vec<Message>, String, String), String> {
    let answer = |turns: &mut Vec<Message>, name: &str| {
        let last = turns.pop().filter(|turn| turn.role == "assistant");
        let last = last.ok_or_else(|| format!("{name}: does not end with an assistant turn"))?;
        if !last.learnt {
            return Err(format!(
                "{name}: its last turn is not to be learnt (weight, train or loss), and it is what a pair compares"
            ));
        }
        Ok(last.text())
    };
    let (chosen_answer, rejected_answer) = (answer(&mut chosen, "chosen")?, answer(&mut rejected, "rejected")?);
    if !same_turns(&chosen, &rejected) {
        return Err("chosen and rejected answer different prompts (they differ before the last turn)".to_string());
    }
    Ok((chosen, chosen_answer, rejected_answer))
}

/// The longest common beginning of two texts is the prompt; an error if it has marks of turns, as it may then end in the
/// middle of an answer. It ends before white space (which goes to the responses), so
/// that no word is split: "The sky is" with " blue." and " black.".
pub(super) fn split_common_prefix(chosen: &str, rejected: &str) -> Result<(String, String, String), String> {
    let same = chosen.char_indices().zip(rejected.chars()).take_while(|((_, a), b)| a == b).last();
    let length = same.map_or(0, |((start, a), _)| start + a.len_utf8());
    let cut = match chosen[..length].rfind(char::is_whitespace) {
        Some(cut) => chosen[..cut].trim_end().len(),
        None => 0,
    };
    if cut == 0 {
        return Err("chosen and rejected are texts without \"prompt\" and share no beginning".to_string());
    }
    if let Some(mark) = mark_of_turns(&chosen[..length]) {
        let reason = format!("chosen and rejected are whole texts that seem to be marked by {mark}, in an unknown way");
        return Err(with_remedy(reason));
    }
    Ok((chosen[..cut].to_string(), chosen[cut..].to_string(), rejected[cut..].to_string()))
}
