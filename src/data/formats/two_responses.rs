//! Rows of two responses and a field that says which is better: LLMBar, PKU-SafeRLHF, SHP, JudgeBench, PPE.

use serde_json::Value;

use super::super::Message;
use super::super::fields::{Object, field, shown, text, whole};
use super::super::turns::prompt_of;
use super::Sides;

/// Which of two responses is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    First,
    Second,
}

impl Better {
    /// The two responses, the better one as chosen.
    pub fn sides(self, prompt: Vec<Message>, first: &str, second: &str, gap: Option<f64>) -> Sides {
        let (chosen, rejected) = if self == Self::First { (first, second) } else { (second, first) };
        Sides { gap, ..Sides::new(prompt, chosen, rejected) }
    }

    /// By the sign of a preference, which is negative where the first response is better. Its size is the gap.
    pub fn by_sign(row: &Object, name: &str) -> Result<(Self, f64), String> {
        let value = field(row, name)?;
        match value.as_f64().filter(|strength| (-3.0..=3.0).contains(strength)) {
            Some(0.0) => Err(tied(name, value)),
            Some(strength) if strength < 0.0 => Ok((Self::First, -strength)),
            Some(strength) => Ok((Self::Second, strength)),
            None => Err(format!("{name}: expected a number from -3 to 3, got {}", shown(value))),
        }
    }

    /// By the number of the better response.
    fn by_number(row: &Object, name: &str, [first, second]: [i64; 2]) -> Result<Self, String> {
        let value = field(row, name)?;
        match whole(value) {
            Some(number) if number == first => Ok(Self::First),
            Some(number) if number == second => Ok(Self::Second),
            _ => Err(format!("{name}: expected {first} or {second}, got {}", shown(value))),
        }
    }

    /// By a word for each outcome. A word that begins like one of `ties` is a tie.
    pub fn by_word(row: &Object, name: &str, [first, second]: [&str; 2], ties: &[&str]) -> Result<Self, String> {
        let value = field(row, name)?;
        match value.as_str() {
            Some(word) if word == first => Ok(Self::First),
            Some(word) if word == second => Ok(Self::Second),
            Some(word) if ties.iter().any(|tie| word.starts_with(tie)) => Err(tied(name, value)),
            _ => Err(format!("{name}: expected {first:?} or {second:?}, got {}", shown(value))),
        }
    }
}

fn tied(name: &str, value: &Value) -> String {
    format!("{name}: is {}, a tie: neither response is preferred", shown(value))
}

pub(super) fn llmbar(row: &Object) -> Result<Sides, String> {
    let (first, second) = (text(row, "output_1")?, text(row, "output_2")?);
    let better = Better::by_number(row, "label", [1, 2])?;
    Ok(better.sides(vec![Message::user(text(row, "input")?)], first, second, None))
}

/// The safer response is chosen, and the better one only where the row does not say which is safer: rows of this set are judged
/// by the rubrics of safety, and the more helpful response to a harmful request is often the unsafe one.
pub(super) fn pku_saferlhf(row: &Object) -> Result<Sides, String> {
    let name = if row.contains_key("safer_response_id") { "safer_response_id" } else { "better_response_id" };
    let better = Better::by_number(row, name, [0, 1])?;
    let prompt = prompt_of(field(row, "prompt")?, "prompt")?;
    Ok(better.sides(prompt, text(row, "response_0")?, text(row, "response_1")?, None))
}

/// `labels` is 1 where A has more votes than B.
pub(super) fn shp(row: &Object) -> Result<Sides, String> {
    let better = Better::by_number(row, "labels", [1, 0])?;
    let votes = |name: &str| row.get(name).and_then(Value::as_f64);
    let lead = votes("score_A").zip(votes("score_B")).map(|(a, b)| if better == Better::First { a - b } else { b - a });
    let (first, second) = (text(row, "human_ref_A")?, text(row, "human_ref_B")?);
    Ok(better.sides(vec![Message::user(text(row, "history")?)], first, second, lead))
}

pub(super) fn judge_bench(row: &Object) -> Result<Sides, String> {
    let better = Better::by_word(row, "label", ["A>B", "B>A"], &["A=B", "B=A"])?;
    let (first, second) = (text(row, "response_A")?, text(row, "response_B")?);
    Ok(better.sides(vec![Message::user(text(row, "question")?)], first, second, None))
}

pub(super) fn ppe(row: &Object) -> Result<Sides, String> {
    let better = Better::by_word(row, "winner", ["model_a", "model_b"], &["tie", "both"])?;
    let prompt = prompt_of(field(row, "prompt")?, "prompt")?;
    Ok(better.sides(prompt, text(row, "response_1")?, text(row, "response_2")?, None))
}
