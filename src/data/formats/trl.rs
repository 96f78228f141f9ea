//! TRL's formats: pairs with and without a prompt of their own, completions, and rows with a label. ultrafeedback_binarized,
//! RewardBench, Skywork and hh-rlhf have the fields of one of them, and so do our own rows.

use serde_json::Value;

use super::super::Message;
use super::super::fields::{Object, field, shown, text};
use super::super::turns::{conversation_text, messages_of, prompt_of};
use super::super::turns::{same_turns, split_common_prefix, split_conversations};
use super::Sides;
use super::partners::{Rating, Single};

/// `prompt` is text or messages; a response is text, or messages that follow the prompt or begin with it. Beside messages, a
/// text is an answer whatever it looks like, so that pairs that we have written are read again as they were.
pub(super) fn explicit_prompt(row: &Object) -> Result<Sides, String> {
    let prompt = prompt_of(field(row, "prompt")?, "prompt")?;
    let side = |name| {
        let turns = match field(row, name)? {
            Value::String(text) if row["prompt"].is_array() => vec![Message::assistant(text.as_str())],
            Value::String(text) => {
                response_turns(text, &prompt, row["prompt"].as_str()).map_err(|reason| format!("{name}: {reason}"))?
            }
            value => messages_of(value, name)?,
        };
        if turns[0].role == "assistant" || turns[0].role == "tool" {
            return Ok([prompt.as_slice(), &turns].concat());
        }
        // ultrafeedback repeats the prompt (its text, possibly after a system turn) in both responses.
        let repeated = prompt.last().is_some_and(|last| turns.iter().any(|turn| turn.says_the_same(last)));
        if repeated { Ok(turns) } else { Err(format!("{name}: is a conversation that does not hold the prompt")) }
    };
    let (prompt, chosen, rejected) = split_conversations(side("chosen")?, side("rejected")?)?;
    Ok(Sides::new(prompt, chosen, rejected))
}

/// A response given as text beside a prompt: an answer as it is, unless the text repeats the prompt's transcript.
fn response_turns(text: &str, prompt: &[Message], prompt_text: Option<&str>) -> Result<Vec<Message>, String> {
    match conversation_text(text, "the text") {
        Ok(Some(turns)) if turns.len() > prompt.len() && same_turns(&turns[..prompt.len()], prompt) => Ok(turns),
        Ok(Some(turns)) if text.trim_start().starts_with('[') && turns[0].role == "assistant" => Ok(turns),
        Err(reason) if prompt.len() > 1 && prompt_text.is_some_and(|prompt| text.starts_with(prompt)) => Err(reason),
        _ => Ok(vec![Message::assistant(text)]),
    }
}

/// Two whole conversations: messages, transcripts, or texts whose common beginning is the prompt.
pub(super) fn implicit_prompt(row: &Object) -> Result<Sides, String> {
    let (chosen, rejected) = match (field(row, "chosen")?, field(row, "rejected")?) {
        (Value::String(chosen), Value::String(rejected)) => {
            match (conversation_text(chosen, "chosen")?, conversation_text(rejected, "rejected")?) {
                (Some(chosen), Some(rejected)) => (chosen, rejected),
                (None, None) => {
                    let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected)?;
                    return Ok(Sides::new(vec![Message::user(prompt)], chosen, rejected));
                }
                _ => return Err("one of chosen and rejected is a transcript, the other is not".to_string()),
            }
        }
        (chosen, rejected) => (messages_of(chosen, "chosen")?, messages_of(rejected, "rejected")?),
    };
    let (prompt, chosen, rejected) = split_conversations(chosen, rejected)?;
    Ok(Sides::new(prompt, chosen, rejected))
}

/// `prompt` and `completion`, each text or messages, as one conversation. Only the completion is learnt.
pub(super) fn completion(row: &Object) -> Result<Vec<Message>, String> {
    let mut turns = prompt_of(field(row, "prompt")?, "prompt")?;
    turns.iter_mut().filter(|turn| turn.role == "assistant").for_each(|turn| turn.learnt = false);
    match field(row, "completion")? {
        Value::String(text) => turns.push(Message::assistant(text.as_str())),
        messages => turns.extend(messages_of(messages, "completion")?),
    }
    Ok(turns)
}

/// A completion with a `label`: whether it is desirable.
pub(super) fn unpaired(row: &Object) -> Result<Single, String> {
    let label = field(row, "label")?;
    let desirable = label.as_bool().ok_or_else(|| format!("label: expected true or false, got {}", shown(label)))?;
    let (prompt, response) = response(row)?;
    Ok(Single { prompt, response, rating: Rating::Label(desirable) })
}

/// The prompt and the last turn of a [`completion`]; the turns before it belong to the prompt.
pub(super) fn response(row: &Object) -> Result<(Vec<Message>, String), String> {
    let mut turns = completion(row)?;
    match turns.pop() {
        Some(last) if last.role == "assistant" => Ok((turns, last.text())),
        _ => Err("completion: does not end with an assistant turn".to_string()),
    }
}

/// A row of stepwise supervision has a label for each step and no second response.
pub(super) fn stepwise(row: &Object) -> Result<Sides, String> {
    let name = if row.contains_key("labels") { "labels" } else { "label" };
    Err(format!("is TRL's stepwise supervision: {name} says which steps of one answer are right, which is no pair"))
}

/// `prompt` and `response`. An empty response is allowed: the judge must see it.
pub(super) fn prompt_response(row: &Object) -> Result<(Vec<Message>, String), String> {
    Ok((prompt_of(field(row, "prompt")?, "prompt")?, text(row, "response")?.to_string()))
}
