//! A prompt with its two responses: what a row of any pair format becomes.

use super::super::Message;

/// The most that the pairs of one row may take, in bytes. They repeat the row's prompt and responses.
const PAIRS_BYTES_MAX: usize = 256 << 20;

/// The prompt of a row, with two of its responses.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Sides {
    pub prompt: Vec<Message>,
    pub chosen: String,
    pub rejected: String,
    /// Where the row says that it is from.
    pub source: Option<String>,
    /// By how much chosen is better, in the units of the dataset.
    pub gap: Option<f64>,
}

impl Sides {
    /// Sides of a row that says nothing more about them.
    pub fn new(prompt: Vec<Message>, chosen: impl Into<String>, rejected: impl Into<String>) -> Self {
        Self { prompt, chosen: chosen.into(), rejected: rejected.into(), source: None, gap: None }
    }

    /// The pairs of one prompt, or an error if they would take more memory than a row may.
    pub fn several<'a>(
        prompt: &[Message],
        pairs: impl Iterator<Item = (&'a str, &'a str, Option<f64>)>,
    ) -> Result<Vec<Self>, String> {
        let prompt_bytes: usize = prompt.iter().map(|turn| turn.content.len()).sum();
        let (mut sides, mut bytes) = (Vec::new(), 0);
        for (chosen, rejected, gap) in pairs {
            bytes += prompt_bytes + chosen.len() + rejected.len();
            if bytes > PAIRS_BYTES_MAX {
                return Err(format!(
                    "its pairs, each with the whole prompt, would take more than {PAIRS_BYTES_MAX} bytes"
                ));
            }
            sides.push(Self { gap, ..Self::new(prompt.to_vec(), chosen, rejected) });
        }
        Ok(sides)
    }

    /// Every pair must have a prompt that ends with a turn to answer, and two responses that differ.
    pub fn check(self) -> Result<Self, String> {
        check_prompt(&self.prompt)?;
        for (name, text) in [("chosen", &self.chosen), ("rejected", &self.rejected)] {
            if text.trim().is_empty() {
                return Err(format!("{name}: the response is empty"));
            }
        }
        if self.chosen == self.rejected {
            return Err("chosen and rejected are equal".to_string());
        }
        Ok(self)
    }
}

/// An error unless a prompt ends with a turn to answer.
pub(super) fn check_prompt(prompt: &[Message]) -> Result<(), String> {
    match prompt.last() {
        None => Err("the prompt is empty".to_string()),
        Some(last) if last.role != "user" && last.role != "tool" => {
            Err(format!("the prompt ends with a turn of {}; expected a turn of user or tool", last.role))
        }
        Some(last) if last.content.trim().is_empty() => Err("the prompt is empty".to_string()),
        Some(_) => Ok(()),
    }
}
