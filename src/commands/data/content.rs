//! Hashes of what rows say, by which equal rows are found without keeping any.

use crate::data::{Message, TemplateArguments};

/// Sixteen bytes of BLAKE3: rows that have the same say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    /// Of a prompt and the texts that answer it, in their order.
    pub fn of<'a>(
        prompt: &[Message],
        arguments: &TemplateArguments,
        answers: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            // The length, so that no text can run over into the next.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        for turn in prompt {
            add(&turn.role);
            add(&turn.text());
        }
        if !arguments.is_empty() {
            add(&serde_json::Value::Object(arguments.clone()).to_string());
        }
        add("answers");
        answers.into_iter().for_each(add);
        Self::cut(&hasher)
    }

    /// This hash and a seed in a number that is uniform over all rows.
    pub fn number(self, purpose: &str, seed: u64) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(purpose.as_bytes()).update(&seed.to_le_bytes()).update(&self.0);
        let Self(hash) = Self::cut(&hasher);
        u64::from_le_bytes(*hash.first_chunk().expect("sixteen bytes have eight"))
    }

    fn cut(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
}

/// Whether a uniform number falls into a share of all.
pub fn is_within(number: u64, share: f64) -> bool {
    (number as f64) < share * 2_f64.powi(64)
}
