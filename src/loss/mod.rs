//! Losses of tokens, and how they become the loss of a batch.

pub mod grpo;

use serde::{Deserialize, Serialize};

/// How the losses of tokens become the loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over all tokens of the batch (DAPO).
    TokenMean,
    /// Mean over sequences of the mean over their tokens (the first GRPO).
    SequenceMean,
    /// Sum over tokens ÷ (sequences · the limit of new tokens), a constant (Dr.GRPO).
    DrGrpo,
}

/// The parts of the global denominator; the same for every micro-batch of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denominator {
    pub tokens: usize,
    pub sequences: usize,
    pub max_new_tokens: usize,
}

impl Aggregation {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["token_mean", "sequence_mean", "dr_grpo"];

    /// The weight of each token of a sequence of `length` tokens.
    pub fn token_weight(self, length: usize, of: Denominator) -> f32 {
        let denominator = match self {
            Self::TokenMean => of.tokens as f64,
            Self::SequenceMean => length as f64 * of.sequences as f64,
            Self::DrGrpo => of.sequences as f64 * of.max_new_tokens as f64,
        };
        if denominator > 0.0 { (1.0 / denominator) as f32 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_a_batch_sum_to_what_the_aggregation_says() {
        let lengths = [3usize, 5, 2];
        let of = Denominator { tokens: 10, sequences: 3, max_new_tokens: 8 };
        let sum = |a: Aggregation| lengths.iter().map(|l| *l as f32 * a.token_weight(*l, of)).sum::<f32>();
        assert!((sum(Aggregation::TokenMean) - 1.0).abs() < 1e-6);
        assert!((sum(Aggregation::SequenceMean) - 1.0).abs() < 1e-6);
        assert!((sum(Aggregation::DrGrpo) - 10.0 / 24.0).abs() < 1e-6);
        let each: Vec<f32> =
            lengths.iter().map(|l| *l as f32 * Aggregation::SequenceMean.token_weight(*l, of)).collect();
        assert!(each.iter().all(|share| (share - 1.0 / 3.0).abs() < 1e-6), "{each:?}");
    }
}
