//! LLaMA-Factory's two schemas, sharegpt and alpaca, and ms-swift's messages; pairs and conversations of each.

use serde_json::Value;

use super::super::Message;
use super::super::fields::{Object, field, list, optional_text, text};
use super::super::row_fields::is_empty;
use super::super::turns::{message_of, messages_of, split_conversations};
use super::Sides;

pub(super) fn sharegpt_preference(row: &Object) -> Result<Sides, String> {
    let prompt = messages_of(field(row, "conversations")?, "conversations")?;
    let side = |name| match field(row, name)? {
        Value::String(text) => Ok(text.clone()),
        value => {
            let turn = message_of(value, name)?;
            if turn.role != "assistant" {
                return Err(format!("{name}: expected a turn of gpt or assistant, got {}", turn.role));
            }
            Ok(turn.text())
        }
    };
    Ok(Sides::new(prompt, side("chosen")?, side("rejected")?))
}

pub(super) fn alpaca_preference(row: &Object) -> Result<Sides, String> {
    Ok(Sides::new(alpaca_prompt(row)?, text(row, "chosen")?, text(row, "rejected")?))
}

/// The prompt with `output` as the answer.
pub(super) fn alpaca(row: &Object) -> Result<Vec<Message>, String> {
    let mut turns = alpaca_prompt(row)?;
    turns.push(Message::assistant(text(row, "output")?));
    Ok(turns)
}

/// `instruction`, a newline and `input` (if there is any), after earlier rounds in `history`.
fn alpaca_prompt(row: &Object) -> Result<Vec<Message>, String> {
    let mut prompt = Vec::new();
    for round in row.get("history").map(|history| list(history, "history")).transpose()?.unwrap_or_default() {
        match round.as_array().map(Vec::as_slice) {
            Some([Value::String(question), Value::String(answer)]) => {
                prompt.extend([Message::user(question.as_str()), Message::assistant(answer.as_str())]);
            }
            _ => return Err("history: expected a list of [question, answer]".to_string()),
        }
    }
    let instruction = text(row, "instruction")?;
    prompt.push(Message::user(match optional_text(row, "input")? {
        Some(input) if !input.is_empty() => format!("{instruction}\n{input}"),
        _ => instruction.to_string(),
    }));
    Ok(prompt)
}

/// `messages` is the whole chosen conversation; of the rejected one the row has the last turn, or all.
pub(super) fn ms_swift(row: &Object) -> Result<Sides, String> {
    let chosen = messages_of(field(row, "messages")?, "messages")?;
    let rejected = match row.get("rejected_messages").filter(|value| !is_empty(value)) {
        Some(turns) => messages_of(turns, "rejected_messages")?,
        None => {
            let before = &chosen[..chosen.len() - 1];
            [before, &[Message::assistant(text(row, "rejected_response")?)]].concat()
        }
    };
    let (prompt, chosen, rejected) = split_conversations(chosen, rejected)?;
    Ok(Sides::new(prompt, chosen, rejected))
}
