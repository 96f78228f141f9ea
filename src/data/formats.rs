//! The dataset formats in use, recognised by their fields: from a row to a prompt and its responses.

use serde_json::Value;

use super::fields::{Object, field, json, keys, kind, list, optional_text, present, text};
use super::transcript::transcript_of;
use super::turns::{message_of, messages_of, prompt_of, same_turns, split_common_prefix, split_conversations};
use super::{Message, PromptText, TemplateArguments};

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
    let sides = if has(&["initial_reason_steps", "full_chosen", "full_rejected"]) {
        math_step_dpo(row)
    } else if has(&["output_1", "output_2", "label"]) {
        llmbar(row)
    } else if has(&["accepted", "rejected"]) {
        code_preference(row)
    } else if has(&["conversations", "chosen", "rejected"]) {
        sharegpt(row)
    } else if has(&["prompt", "chosen", "rejected"]) {
        explicit_prompt(row)
    } else if has(&["instruction", "chosen", "rejected"]) {
        alpaca(row)
    } else if has(&["chosen", "rejected"]) {
        implicit_prompt(row)
    } else {
        Err(format!("no known pair format; expected at least \"chosen\" and \"rejected\", found {}", keys(row)))
    }?;
    check_row(row)?;
    check(Sides { prompt: with_system(row, sides.prompt)?, ..sides })
}

/// Fields that would change what is learnt or judged, and that are not supported.
fn check_row(row: &Object) -> Result<(), String> {
    for name in ["images", "image", "videos", "video", "audios", "audio"] {
        if row
            .get(name)
            .is_some_and(|value| value.as_array().is_none_or(|items| items.iter().any(|item| !item.is_null())))
        {
            return Err(format!("{name}: models of text alone are supported"));
        }
    }
    if let Some(weight) = row.get("weight").filter(|weight| weight.as_f64() != Some(1.0)) {
        return Err(format!("weight: rows cannot be weighted; expected 1 or no weight, got {weight}"));
    }
    for name in ["loss_weight", "sample_weight", "train", "trainable"] {
        let neutral = |value: &&Value| value.as_f64() == Some(1.0) || **value == Value::Bool(true);
        if let Some(value) = row.get(name).filter(|value| !neutral(value)) {
            return Err(format!(
                "{name}: rows cannot be weighted; leave the row out, or remove the field, got {value}"
            ));
        }
    }
    if row.get("functions").is_some_and(|value| value != &Value::Array(Vec::new())) {
        return Err("functions: write them as `tools`".to_string());
    }
    Ok(())
}

/// The prompt after the system turn that the row carries beside its messages, if any.
fn with_system(row: &Object, mut prompt: Vec<Message>) -> Result<Vec<Message>, String> {
    for name in ["system", "system_prompt"] {
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
            Value::String(text) => match transcript_of(text)? {
                // The response's text repeats the prompt's transcript.
                Some(turns) if turns.len() > prompt.len() && same_turns(&turns[..prompt.len()], &prompt) => turns,
                _ => vec![Message::assistant(text.as_str())],
            },
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

fn implicit_prompt(row: &Object) -> Result<Sides, String> {
    let (chosen, rejected) = match (field(row, "chosen")?, field(row, "rejected")?) {
        (Value::String(chosen), Value::String(rejected)) => match (transcript_of(chosen)?, transcript_of(rejected)?) {
            (Some(chosen), Some(rejected)) => (chosen, rejected),
            (None, None) => {
                let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected)?;
                return Ok(Sides { prompt: vec![Message::user(prompt)], chosen, rejected });
            }
            _ => return Err("one of chosen and rejected is a transcript, the other is not".to_string()),
        },
        (chosen, rejected) => (messages_of(chosen, "chosen")?, messages_of(rejected, "rejected")?),
    };
    let (prompt, chosen, rejected) = split_conversations(chosen, rejected)?;
    Ok(Sides { prompt, chosen, rejected })
}

/// `messages` that end with an assistant turn.
pub(super) fn conversation_of(row: &Object) -> Result<Vec<Message>, String> {
    check_row(row)?;
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
    check_row(row)?;
    let prompt = with_system(row, prompt_of(field(row, "prompt")?, "prompt")?)?;
    check_prompt(&prompt)?;
    Ok((prompt, text(row, "response")?.to_string()))
}

/// `prompt`, as text that is taken as it is, or as messages. A turn of the assistant at their end is one to go on with.
pub(super) fn prompt_text_of(row: &Object) -> Result<PromptText, String> {
    match field(row, "prompt")? {
        Value::String(text) if text.is_empty() => Err("the prompt is empty".to_string()),
        Value::String(text) => Ok(PromptText::Plain(text.clone())),
        messages => {
            let messages = messages_of(messages, "prompt")?;
            if messages.last().is_none_or(|last| last.role != "assistant") {
                check_prompt(&messages)?;
            }
            Ok(PromptText::Chat(messages))
        }
    }
}

/// What the row gives the chat template besides messages.
pub(super) fn arguments_of(row: &Object) -> Result<TemplateArguments, String> {
    let given = match row.get("chat_template_kwargs") {
        None => TemplateArguments::new(),
        Some(Value::Object(given)) => given.clone(),
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
        let items = Value::Array(items);
        match arguments.insert(name.to_string(), items.clone()) {
            Some(other) if row.contains_key(name) && other != items => {
                return Err(format!("{name}: differs from chat_template_kwargs.{name}"));
            }
            _ => {}
        }
    }
    Ok(arguments)
}

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

/// The row's own `id` as it came, unless it is blank.
pub(super) fn id_of(row: &Object) -> Result<Option<Value>, String> {
    match row.get("id") {
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        // Whole numbers of more digits were rounded when the row was read.
        Some(Value::Number(number)) if number.as_f64().is_some_and(|n| number.is_f64() && n.abs() >= 2f64.powi(53)) => {
            Err(format!("id: expected text or a number of 64 bits, got {number}; write it as text"))
        }
        value => Ok(value.cloned()),
    }
}

/// The row's own `task`, if it names one.
pub(super) fn task_of(row: &Object) -> Result<Option<String>, String> {
    match row.get("task") {
        None => Ok(None),
        Some(Value::String(task)) if !task.trim().is_empty() => Ok(Some(task.clone())),
        Some(other) => Err(format!("task: expected a name, got {other}")),
    }
}
