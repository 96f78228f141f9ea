//! HelpSteer2's ratings and preferences, and HelpSteer3's preferences.

use serde_json::Value;

use super::super::Message;
use super::super::fields::{Object, field, shown, text};
use super::super::turns::{messages_of, prompt_of};
use super::Sides;
use super::partners::{Rating, Single};
use super::two_responses::Better;

/// What begins every turn but the first in HelpSteer2's prompts, before `Assistant` or `User` and a newline.
const MARK: &str = "<extra_id_1>";

/// A response with its helpfulness, 0 to 4. Two rows of one prompt follow each other.
pub(super) fn rated(row: &Object) -> Result<Single, String> {
    let helpfulness = field(row, "helpfulness")?;
    let rating = helpfulness.as_f64().map(Rating::Score);
    let rating = rating.ok_or_else(|| format!("helpfulness: expected a number, got {}", shown(helpfulness)))?;
    let (prompt, response) = response(row)?;
    Ok(Single { prompt, response, rating })
}

/// The prompt and the response of a rated row.
pub(super) fn response(row: &Object) -> Result<(Vec<Message>, String), String> {
    Ok((prompt_turns(field(row, "prompt")?)?, text(row, "response")?.to_string()))
}

pub(super) fn preference2(row: &Object) -> Result<Sides, String> {
    let (better, gap) = Better::by_sign(row, "preference_strength")?;
    let prompt = prompt_turns(field(row, "prompt")?)?;
    Ok(better.sides(prompt, text(row, "response_1")?, text(row, "response_2")?, Some(gap)))
}

pub(super) fn preference3(row: &Object) -> Result<Sides, String> {
    let (better, gap) = Better::by_sign(row, "overall_preference")?;
    let prompt = match field(row, "context")? {
        text @ Value::String(_) => prompt_of(text, "context")?,
        turns => messages_of(turns, "context")?,
    };
    Ok(better.sides(prompt, text(row, "response1")?, text(row, "response2")?, Some(gap)))
}

/// The first user turn, and after it turns that each begin with [`MARK`], in alternation.
fn prompt_turns(prompt: &Value) -> Result<Vec<Message>, String> {
    let Some(text) = prompt.as_str().filter(|text| text.contains(MARK)) else { return prompt_of(prompt, "prompt") };
    let (first, rest) = text.split_once(MARK).unwrap_or((text, ""));
    let mut turns = Vec::new();
    if !first.trim().is_empty() {
        turns.push(Message::user(first.trim()));
    }
    for part in rest.split(MARK) {
        let turn = [("User\n", "user"), ("Assistant\n", "assistant")]
            .into_iter()
            .find_map(|(label, role)| part.strip_prefix(label).map(|said| Message::new(role, said.trim())));
        let turn = turn.ok_or_else(|| format!("prompt: has {MARK} that begins no turn of User or Assistant"))?;
        let expected = if turns.len().is_multiple_of(2) { "user" } else { "assistant" };
        if turn.role != expected {
            return Err(format!("prompt: has a turn of {} after {MARK}, where one of {expected} is due", turn.role));
        }
        turns.push(turn);
    }
    Ok(turns)
}
