//! Sampling the next token from logits, with its log-probability.
//!
//! Gumbel-max: the token is argmax over the kept tokens of `z/T + g`, with g = −ln(−ln u) and u from Philox keyed by
//! (stream of the rollout, position); word i mod 4 of block i / 4 belongs to token i. Temperature 0 is the argmax of z.
//! The log-probability recorded is of softmax(z / T) over the whole vocabulary, before top-k, top-p and min-p
//! (of softmax(z) at temperature 0).

use std::collections::BTreeSet;

use super::{Check, Cost, OpResult};
use crate::random::Stream;
use crate::tensor::{Device, Mut, Ref, View};

/// Below the first, logits divided by the temperature may overflow; above the second, every token is as probable as the next.
pub const TEMPERATURE_MIN: f64 = 0.001;
/// The highest temperature.
pub const TEMPERATURE_MAX: f64 = 1000.0;

/// How to draw. Filters apply in the order top-k, top-p, min-p, each on probabilities at `temperature`; ties at a
/// boundary keep the lower token id, and at least one token is always kept.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sampling {
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose mass reaches p; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
}

impl Sampling {
    /// The most probable token, without random numbers.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Plain sampling at a temperature, no filter.
    pub const fn temperature(temperature: f32) -> Self {
        Self { temperature, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }

    /// The temperature that log-probabilities are taken at.
    pub fn logprob_temperature(&self) -> f32 {
        if self.temperature > 0.0 { self.temperature } else { 1.0 }
    }

    /// An error that names the first invalid number.
    pub fn validate(&self) -> Result<(), String> {
        let Self { temperature, top_p, min_p, .. } = *self;
        if temperature != 0.0 && !(TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(&f64::from(temperature)) {
            return Err(format!(
                "temperature must be 0, or from {TEMPERATURE_MIN} to {TEMPERATURE_MAX}, got {temperature}"
            ));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top_p must be in (0, 1], got {top_p}"));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(format!("min_p must be in [0, 1], got {min_p}"));
        }
        Ok(())
    }
}

/// One draw: from which row, how, and with which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Row of the logits; several draws may use the same one.
    pub row: u32,
    pub sampling: Sampling,
    /// Folded from (step, pair, role, rollout).
    pub stream: Stream,
    /// Position of the new token in its sequence.
    pub position: u32,
}

/// One token for each draw, from the logits of the draw's row, and its log-probability before the filters.
pub struct Sample<'a, D: Device> {
    /// [draws]
    pub ids: Mut<'a, D, u32>,
    /// [draws]
    pub logprobs: Mut<'a, D, f32>,
    /// [rows, vocab]
    pub logits: Ref<'a, D, f32>,
    pub draws: &'a [Draw],
    pub vocab: usize,
}

impl<D: Device> Sample<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, draws) = (Check("sample"), self.draws.len());
        check.size("ids", self.ids.len(), draws)?;
        check.size("logprobs", self.logprobs.len(), draws)?;
        check.that(self.vocab > 0, || "`vocab` must be positive".into())?;
        let rows = self.logits.len() / self.vocab;
        check.size("logits", self.logits.len(), rows * self.vocab)?;
        for (i, draw) in self.draws.iter().enumerate() {
            check.that((draw.row as usize) < rows, || format!("draw {i} is from row {} of {rows}", draw.row))?;
            check.that(draw.sampling.validate().is_ok(), || format!("draw {i}: bad {:?}", draw.sampling))?;
        }
        Ok(())
    }

    /// A row of logits is read once for all its draws, and a draw writes 8 bytes. For each token a draw does: scale,
    /// subtract the maximum, exponential, add to the sum (4), and the Gumbel noise, two logarithms, an addition, a comparison
    /// (4). Filters are not counted: their cost depends on the logits.
    pub fn cost(&self) -> Cost {
        let rows: BTreeSet<u32> = self.draws.iter().map(|draw| draw.row).collect();
        let logits = |rows: usize| (rows * self.vocab) as u64;
        let draws = self.draws.len();
        Cost { bytes: 4 * logits(rows.len()) + 8 * draws as u64, flops: 8 * logits(draws) }
    }
}

/// Token sampling on a device. A draw depends on its own row and random key alone, not on the rest of the batch.
pub trait Sampler: Device {
    /// Draws from rows with a NaN logit get id 0 and a NaN log-probability; the caller
    /// must refuse it.
    fn sample(&self, args: Sample<'_, Self>) -> OpResult;
}
