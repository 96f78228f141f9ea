//! The dataset formats in use, recognised by their fields: from a row to a prompt and its responses.

use serde_json::Value;

use super::fields::{Object, field, keys, list, optional_text, text};
use super::row_fields::{check_plain, is_empty, with_system};
use super::turns::{conversation_text, message_of, messages_of, prompt_of, same_turns};
use super::turns::{split_common_prefix, split_conversations};
use super::{Message, PromptText};

/// The prompt of a row, with its two responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    pub prompt: Vec<Message>,
    pub chosen: String,
    pub rejected: String,
}

/// The pair that a row holds, or why it holds none.
///
/// | format | fields |
/// |---|---|
/// | Math-Step-DPO | `prompt`, `initial_reason_steps`, `full_chosen`, `full_rejected` |
/// | LLMBar | `input`, `output_1`, `output_2`, `label` 1 or 2 |
/// | Code-Preference-Pairs | `input`, `accepted`, `rejected` |
/// | LLaMA-Factory sharegpt | `conversations`, `chosen`, `rejected` (`from`, `value`) |
/// | LLaMA-Factory alpaca | `instruction`, `input`?, `chosen`, `rejected`, `history`? |
/// | TRL, explicit prompt; ultrafeedback; ours | `prompt`, `chosen`, `rejected`, each text or messages |
/// | TRL, implicit prompt; Skywork; hh-rlhf | `chosen`, `rejected`: texts, messages or transcripts |
///
/// Each may have a `system` (or `system_prompt`), which becomes the first turn.
pub(super) fn pair_of(row: &Object) -> Result<Sides, String> {
    let has = |names: &[&str]| names.iter().all(|&name| row.contains_key(name));
    let filled = |name: &str| row.get(name).is_some_and(|value| !is_empty(value));
    let sides = if has(&["initial_reason_steps", "full_chosen", "full_rejected"]) {
        math_step_dpo(row)
    } else if has(&["output_1", "output_2", "label"]) {
        llmbar(row)
    } else if has(&["accepted", "rejected"]) {
        code_preference(row)
    } else if has_whole_conversations(row)? {
        implicit_prompt(row)
    } else if has(&["conversations", "chosen", "rejected"]) && filled("conversations") {
        sharegpt(row)
    } else if has(&["prompt", "chosen", "rejected"]) && (filled("prompt") || !filled("instruction")) {
        explicit_prompt(row)
    } else if has(&["instruction", "chosen", "rejected"]) {
        alpaca(row)
    } else if has(&["chosen", "rejected"]) {
        implicit_prompt(row)
    } else {
        Err(format!("no known pair format; expected at least \"chosen\" and \"rejected\", found {}", keys(row)))
    }?;
    check(Sides { prompt: with_system(row, sides.prompt)?, ..sides })
}

/// Whether both responses are whole conversations beside a prompt that is empty, and so counts as absent.
fn has_whole_conversations(row: &Object) -> Result<bool, String> {
    let prompts: Vec<&Value> = ["prompt", "conversations"].into_iter().filter_map(|name| row.get(name)).collect();
    if prompts.is_empty() || !prompts.into_iter().all(is_empty) {
        return Ok(false);
    }
    for name in ["chosen", "rejected"] {
        let turns = match row.get(name) {
            Some(Value::String(text)) => conversation_text(text, name)?,
            Some(Value::Array(items)) if !items.is_empty() => Some(messages_of(&row[name], name)?),
            _ => None,
        };
        if turns.is_none_or(|turns| turns[0].role == "assistant" || turns[0].role == "tool") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every pair must have a prompt that ends with a turn to answer, and two responses that differ.
fn check(sides: Sides) -> Result<Sides, String> {
    check_prompt(&sides.prompt)?;
    for (name, text) in [("chosen", &sides.chosen), ("rejected", &sides.rejected)] {
        if text.trim().is_empty() {
            return Err(format!("{name}: the response is empty"));
        }
    }
    if sides.chosen == sides.rejected {
        return Err("chosen and rejected are equal".to_string());
    }
    Ok(sides)
}

fn check_prompt(prompt: &[Message]) -> Result<(), String> {
    match prompt.last() {
        None => Err("the prompt is empty".to_string()),
        Some(last) if last.role != "user" && last.role != "tool" => {
            Err(format!("the prompt ends with a turn of {}; expected a turn of user or tool", last.role))
        }
        Some(last) if last.content.trim().is_empty() => Err("the prompt is empty".to_string()),
        Some(_) => Ok(()),
    }
}

/// `initial_reason_steps` ends with "Step k:"; the full responses continue from there.
fn math_step_dpo(row: &Object) -> Result<Sides, String> {
    let steps = text(row, "initial_reason_steps")?;
    let side = |name| {
        let full = text(row, name)?;
        if full.trim().is_empty() {
            return Err(format!("{name}: the response is empty"));
        }
        if !steps.is_empty() && full.starts_with(steps) {
            return Err(format!("{name}: repeats initial_reason_steps"));
        }
        Ok(format!("{steps}{full}"))
    };
    let (chosen, rejected) = (side("full_chosen")?, side("full_rejected")?);
    Ok(Sides { prompt: prompt_of(field(row, "prompt")?, "prompt")?, chosen, rejected })
}

fn llmbar(row: &Object) -> Result<Sides, String> {
    let (first, second) = (text(row, "output_1")?.to_string(), text(row, "output_2")?.to_string());
    let (chosen, rejected) = match field(row, "label")?.as_i64() {
        Some(1) => (first, second),
        Some(2) => (second, first),
        _ => return Err(format!("label: expected 1 or 2, got {}", field(row, "label")?)),
    };
    Ok(Sides { prompt: vec![Message::user(text(row, "input")?)], chosen, rejected })
}

/// `instruction` is one line for all rows ("You are a coding assistant"); the request is `input`.
fn code_preference(row: &Object) -> Result<Sides, String> {
    let (chosen, rejected) = (text(row, "accepted")?.to_string(), text(row, "rejected")?.to_string());
    Ok(Sides { prompt: vec![Message::user(text(row, "input")?)], chosen, rejected })
}

fn sharegpt(row: &Object) -> Result<Sides, String> {
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
    Ok(Sides { prompt, chosen: side("chosen")?, rejected: side("rejected")? })
}

/// The prompt is `instruction`, a newline and `input` (if there is any), after earlier rounds in `history`.
fn alpaca(row: &Object) -> Result<Sides, String> {
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
    let (chosen, rejected) = (text(row, "chosen")?.to_string(), text(row, "rejected")?.to_string());
    Ok(Sides { prompt, chosen, rejected })
}

/// `prompt` is text or messages; a response is text, or messages that follow the prompt or begin with it.
fn explicit_prompt(row: &Object) -> Result<Sides, String> {
    let prompt = prompt_of(field(row, "prompt")?, "prompt")?;
    let side = |name| {
        let turns = match field(row, name)? {
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
    Ok(Sides { prompt, chosen, rejected })
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

fn implicit_prompt(row: &Object) -> Result<Sides, String> {
    let (chosen, rejected) = match (field(row, "chosen")?, field(row, "rejected")?) {
        (Value::String(chosen), Value::String(rejected)) => {
            match (conversation_text(chosen, "chosen")?, conversation_text(rejected, "rejected")?) {
                (Some(chosen), Some(rejected)) => (chosen, rejected),
                (None, None) => {
                    let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected)?;
                    return Ok(Sides { prompt: vec![Message::user(prompt)], chosen, rejected });
                }
                _ => return Err("one of chosen and rejected is a transcript, the other is not".to_string()),
            }
        }
        (chosen, rejected) => (messages_of(chosen, "chosen")?, messages_of(rejected, "rejected")?),
    };
    let (prompt, chosen, rejected) = split_conversations(chosen, rejected)?;
    Ok(Sides { prompt, chosen, rejected })
}

/// `messages` that end with an assistant turn.
pub(super) fn conversation_of(row: &Object) -> Result<Vec<Message>, String> {
    let messages = with_system(row, messages_of(field(row, "messages")?, "messages")?)?;
    match messages.split_last() {
        Some((last, before)) if last.role == "assistant" => {
            check_prompt(before)?;
            if last.text().trim().is_empty() {
                Err("messages: the last turn is empty".to_string())
            } else if messages.iter().any(|turn| turn.role == "assistant" && turn.learnt) {
                Ok(messages)
            } else {
                Err("messages: every turn of the assistant has weight 0, so nothing would be learnt".to_string())
            }
        }
        _ => Err("messages: do not end with an assistant turn".to_string()),
    }
}

/// `prompt` (text or messages) and `response`. An empty response is allowed: the judge must see it.
pub(super) fn response_of(row: &Object) -> Result<(Vec<Message>, String), String> {
    let prompt = with_system(row, prompt_of(field(row, "prompt")?, "prompt")?)?;
    check_prompt(&prompt)?;
    Ok((prompt, text(row, "response")?.to_string()))
}

/// `prompt`, as text that is taken as it is, or as turns: of messages, or of text in a `chat`. A turn of the assistant at their
/// end is one to go on with.
pub(super) fn prompt_text_of(row: &Object, chat: bool) -> Result<PromptText, String> {
    let prompt = field(row, "prompt")?;
    if let (Value::String(text), false) = (prompt, chat) {
        check_plain(row)?;
        return if text.is_empty() {
            Err("the prompt is empty".to_string())
        } else {
            Ok(PromptText::Plain(text.clone()))
        };
    }
    let messages = with_system(row, prompt_of(prompt, "prompt")?)?;
    if messages.last().is_none_or(|last| last.role != "assistant") {
        check_prompt(&messages)?;
    }
    Ok(PromptText::Chat(messages))
}

/// The row's own `id`, unless it is blank.
pub(super) fn id_of(row: &Object) -> Option<&Value> {
    row.get("id").filter(|id| id.as_str().is_none_or(|text| !text.trim().is_empty()))
}

/// The row's own `task`, if it names one.
pub(super) fn task_of(row: &Object) -> Result<Option<String>, String> {
    match row.get("task") {
        None => Ok(None),
        Some(Value::String(task)) if !task.trim().is_empty() => Ok(Some(task.clone())),
        Some(other) => Err(format!("task: expected a name, got {other}")),
    }
}
