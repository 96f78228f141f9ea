//! Rows of a prompt with a list of good and a list of bad responses: RewardBench 2, RM-Bench.

use serde_json::Value;

use super::super::fields::{Object, field, kind};
use super::super::turns::prompt_of;
use super::Sides;

/// The most pairs that a row gives. RM-Bench's rows have 9, those of RewardBench 2 have 3 or, of many right answers, many more.
const PAIRS_MAX: usize = 64;

/// Every good response with every bad one: of C and R, pair `k * C + i` holds `chosen[i]` and `rejected[(i + k) mod R]`. In this
/// order, a row that has too many pairs still gives some of each response.
pub(super) fn response_lists(row: &Object) -> Result<Vec<Sides>, String> {
    let (chosen, rejected) = (texts(row, "chosen")?, texts(row, "rejected")?);
    let prompt = prompt_of(field(row, "prompt")?, "prompt")?;
    let pairs = (0..rejected.len()).flat_map(|shift| {
        chosen.iter().enumerate().map({
            let rejected = &rejected;
            move |(index, text)| (*text, rejected[(index + shift) % rejected.len()], None)
        })
    });
    Sides::several(&prompt, pairs.take(PAIRS_MAX))
}

fn texts<'a>(row: &'a Object, name: &str) -> Result<Vec<&'a str>, String> {
    let value = field(row, name)?;
    let items = value.as_array().ok_or_else(|| format!("{name}: expected a list of texts, got {}", kind(value)))?;
    let text = |(index, item): (usize, &'a Value)| match item.as_str() {
        Some(text) if text.trim().is_empty() => Err(format!("{name}[{index}]: the response is empty")),
        Some(text) => Ok(text),
        None => Err(format!("{name}[{index}]: expected text, got {}", kind(item))),
    };
    if items.is_empty() {
        return Err(format!("{name}: has no responses"));
    }
    items.iter().enumerate().map(text).collect()
}
