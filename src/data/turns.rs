//! Conversations from JSON: lists of messages under their various names, `Human:`/`Assistant:` transcripts, and prompts that
//! two conversations share.

use serde_json::Value;

use super::Message;
use super::fields::{Object, keys, kind};

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// A conversation from a list of `{"role", "content"}` or `{"from", "value"}` objects.
pub(super) fn messages_of(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| format!("{name}: expected a list of messages, got {}", kind(value)))?;
    if list.is_empty() {
        return Err(format!("{name}: has no messages"));
    }
    list.iter().enumerate().map(|(index, item)| message_of(item, &format!("{name}[{index}]"))).collect()
}

/// One message. Reasoning in a separate field is moved into the content, as everywhere in this program.
pub(super) fn message_of(value: &Value, name: &str) -> Result<Message, String> {
    let object = value.as_object().ok_or_else(|| format!("{name}: expected a message object, got {}", kind(value)))?;
    let (role_key, content_key) = if object.contains_key("role") { ("role", "content") } else { ("from", "value") };
    let role = object
        .get(role_key)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("{name}: expected a role in \"role\" or \"from\", found {}", keys(object)))?;
    let role = match role {
        "human" => "user",
        "gpt" => "assistant",
        "observation" => "tool",
        "system" | "user" | "assistant" | "tool" => role,
        other => return Err(format!("{name}: unknown role {other:?}; expected system, user, assistant or tool")),
    };
    if object.get("tool_calls").is_some_and(|calls| !calls.is_null() && calls != &Value::Array(Vec::new())) {
        return Err(format!("{name}: has tool calls, which are not supported; write them into the content"));
    }
    let content = content_of(object.get(content_key), &format!("{name}.{content_key}"))?;
    match object.get("reasoning_content").and_then(Value::as_str) {
        Some(reasoning) if role == "assistant" && !reasoning.trim().is_empty() => {
            Ok(Message::new(role, format!("<think>\n{}\n</think>\n\n{content}", reasoning.trim_matches('\n'))))
        }
        _ => Ok(Message::new(role, content)),
    }
}

/// Text, or a list of text parts.
fn content_of(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => parts
            .iter()
            .map(|part| part.get("text").and_then(Value::as_str))
            .collect::<Option<String>>()
            .ok_or_else(|| format!("{name}: has a part that is not text")),
        Some(other) => Err(format!("{name}: expected text, got {}", kind(other))),
        None => Err(format!("{name}: is missing")),
    }
}

/// A prompt given as text (one user turn, or an hh-rlhf transcript) or as messages.
pub(super) fn prompt_of(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) if text.starts_with(HUMAN) => {
            let mut turns = transcript_of(text).ok_or_else(|| format!("{name}: broken Human/Assistant transcript"))?;
            // hh-rlhf's prompts end with the marker of the answer and no answer.
            turns.pop_if(|turn| turn.role == "assistant" && turn.content.is_empty());
            Ok(turns)
        }
        Value::String(text) => Ok(vec![Message::user(text.as_str())]),
        other => messages_of(other, name),
    }
}

/// The turns of an hh-rlhf transcript, stripped of white space; `None` if the text is not one.
pub(super) fn transcript_of(text: &str) -> Option<Vec<Message>> {
    if !text.starts_with(HUMAN) {
        return None;
    }
    let mut turns = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (role, after) = match rest.strip_prefix(HUMAN) {
            Some(after) => ("user", after),
            None => ("assistant", rest.strip_prefix(ASSISTANT)?),
        };
        let end = [HUMAN, ASSISTANT].iter().filter_map(|marker| after.find(marker)).min().unwrap_or(after.len());
        turns.push(Message::new(role, after[..end].trim()));
        rest = &after[end..];
    }
    Some(turns)
}

/// Splits two full conversations into the prompt that they share and the response that ends each. All turns but the last
/// must be equal.
pub(super) fn split_conversations(
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> Result<(Vec<Message>, String, String), String> {
    let answer = |turns: &mut Vec<Message>, name: &str| {
        let last = turns.pop().filter(|turn| turn.role == "assistant");
        last.map(|turn| turn.content).ok_or_else(|| format!("{name}: does not end with an assistant turn"))
    };
    let (chosen_answer, rejected_answer) = (answer(&mut chosen, "chosen")?, answer(&mut rejected, "rejected")?);
    if chosen != rejected {
        return Err("chosen and rejected answer different prompts (they differ before the last turn)".to_string());
    }
    Ok((chosen, chosen_answer, rejected_answer))
}

/// The longest common beginning of two texts is the prompt. It ends before white space (which goes to the responses), so
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
    Ok((chosen[..cut].to_string(), chosen[cut..].to_string(), rejected[cut..].to_string()))
}

/// The system turn that a row carries beside its messages, if any.
pub(super) fn system_of(row: &Object) -> Option<Message> {
    let text = row.get("system").and_then(Value::as_str).filter(|text| !text.trim().is_empty())?;
    Some(Message::new("system", text))
}
