//! Rows of many responses with a rating each: UltraFeedback's scores, Nectar's ranks.

use serde_json::Value;

use super::super::Message;
use super::super::fields::{Object, field, kind, list, present, text};
use super::super::turns::prompt_of;
use super::Sides;

/// The most pairs that a row gives, so that one with very many responses does not outweigh all others. The sets have 4 and 7
/// responses a row, so they give 3 and 6.
const PAIRS_MAX: usize = 8;

/// `overall_score`, the higher the better. (A set of before the end of 2023 has 10 where the critique said 1.)
pub(super) fn ultrafeedback(row: &Object) -> Result<Vec<Sides>, String> {
    let responses = responses(row, "completions", "response", "overall_score")?;
    best_against_lower(&[Message::user(text(row, "instruction")?)], &responses, "completions")
}

/// `rank`, of which 1 is the best.
pub(super) fn nectar(row: &Object) -> Result<Vec<Sides>, String> {
    let mut responses = responses(row, "answers", "answer", "rank")?;
    responses.iter_mut().for_each(|(_, rank)| *rank = -*rank);
    best_against_lower(&prompt_of(field(row, "prompt")?, "prompt")?, &responses, "answers")
}

/// The responses of a list that have both a text and a rating. The others are left out: nothing is known of them.
fn responses(row: &Object, name: &str, text: &str, rating: &str) -> Result<Vec<(String, f64)>, String> {
    let mut found = Vec::new();
    for (index, item) in list(field(row, name)?, name)?.into_iter().enumerate() {
        let Value::Object(item) = item else {
            return Err(format!("{name}[{index}]: expected an object, got {}", kind(&item)));
        };
        let mut item = present(item);
        let response = match item.remove(text) {
            Some(Value::String(response)) => response,
            None => continue,
            Some(other) => return Err(format!("{name}[{index}].{text}: expected text, got {}", kind(&other))),
        };
        if let Some(rating) = item.get(rating).and_then(Value::as_f64).filter(|_| !response.trim().is_empty()) {
            found.push((response, rating));
        }
    }
    Ok(found)
}

/// The best response (the first of several) against each that is rated lower and says something else, in the row's order. Pairs
/// among the lower ones would say little more about a prompt, and would weigh it more. The gap is the difference of the ratings.
fn best_against_lower(prompt: &[Message], responses: &[(String, f64)], name: &str) -> Result<Vec<Sides>, String> {
    let Some((best, top)) = responses.iter().reduce(|best, other| if other.1 > best.1 { other } else { best }) else {
        return Err(format!("{name}: no response has both a text and a rating"));
    };
    let lower = responses.iter().filter(|(text, rating)| rating < top && text != best).take(PAIRS_MAX);
    let sides =
        Sides::several(prompt, lower.map(|(text, rating)| (best.as_str(), text.as_str(), finite(top - rating))))?;
    if sides.is_empty() {
        return Err(format!("{name}: no response is rated lower than the best one, a tie of {}", responses.len()));
    }
    Ok(sides)
}

fn finite(gap: f64) -> Option<f64> {
    Some(gap).filter(|gap| gap.is_finite())
}
