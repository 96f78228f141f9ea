//! The language-model head fused with log-softmax, the loss and its gradient.
//!
//! Selected rows of the last hidden state meet the vocabulary chunk by chunk: [rows × vocab] never exists for a whole
//! batch. For a row with logits z, temperature T and target t: `logprob = log softmax(z / T)[t]`. Every loss here is a
//! function of that log-probability, so its gradient is one number c = ∂loss/∂logprob a row, and
//! `∂loss/∂z = c · (onehot(t) − softmax(z/T)) / T`.

use serde::{Deserialize, Serialize};

use super::linear::{Linear, LinearSizes};
use super::{Check, Cost, OpResult};
use crate::tensor::{Mut, Ref, View};

/// Estimator of KL(π ‖ π_ref) at a sampled token, with d = log π_ref − log π (Schulman, "Approximating KL divergence").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// −d
    K1,
    /// d² / 2
    K2,
    /// e^d − d − 1
    K3,
}

impl KlEstimator {
    /// The estimate, and its derivative by log π.
    pub fn value_and_slope(self, logprob: f32, reference: f32) -> (f32, f32) {
        let d = reference - logprob;
        match self {
            Self::K1 => (-d, 1.0),
            Self::K2 => (0.5 * d * d, -d),
            Self::K3 => (d.exp_m1() - d, -d.exp_m1()),
        }
    }
}

/// The clipped policy-gradient loss of one token.
///
/// With r = exp(logprob − old): `−Σ_A min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coefficient · KL`, the sum over
/// two advantages. A token of one sequence has one, and 0. For a token that several sequences share they are the weighted
/// means over the sequences of A's positive and of its negative part: clipping treats the signs differently, but sequences
/// of one sign all alike, so this is the weighted mean of the sequences' losses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrpoLoss {
    pub clip_low: f32,
    pub clip_high: f32,
    pub kl: KlEstimator,
    pub kl_coefficient: f32,
}

impl GrpoLoss {
    /// The loss, and its derivative by logprob.
    pub fn value_and_slope(&self, logprob: f32, old: f32, reference: f32, advantages: [f32; 2]) -> (f32, f32) {
        let ratio = (logprob - old).exp();
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let surrogate = |advantage: f32| {
            let (plain, capped) = (ratio * advantage, clipped * advantage);
            // Where the clipped branch is the smaller one, the token has no gradient through the ratio.
            if plain <= capped { (plain, plain) } else { (capped, 0.0) }
        };
        let [(a, a_slope), (b, b_slope)] = advantages.map(surrogate);
        let (kl, kl_slope) = self.kl.value_and_slope(logprob, reference);
        (self.kl_coefficient.mul_add(kl, -(a + b)), self.kl_coefficient.mul_add(kl_slope, -(a_slope + b_slope)))
    }

    /// Whether clipping takes the gradient of a token with this advantage away.
    pub fn clips(&self, logprob: f32, old: f32, advantage: f32) -> bool {
        let ratio = (logprob - old).exp();
        ratio * advantage > ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage
    }
}

/// What the gradient is of. All arrays are [selected rows] unless said otherwise.
pub enum TokenLoss<'a, D: Linear> {
    /// −logprob
    CrossEntropy,
    /// See [`GrpoLoss`].
    Grpo {
        loss: GrpoLoss,
        old_logprob: Ref<'a, D, f32>,
        reference_logprob: Ref<'a, D, f32>,
        /// [selected, 2]
        advantages: Ref<'a, D, f32>,
    },
}

/// Where gradients go.
pub struct HeadGradient<'a, D: Linear> {
    /// [tokens, hidden]: selected rows are written, all others set to zero
    pub d_hidden: Mut<'a, D, D::Compute>,
    /// [vocab, hidden], accumulated; `None` for a frozen head
    pub d_weight: Option<Mut<'a, D, f32>>,
    /// [selected]: multiplies a row's loss in the gradient (mask ÷ global denominator)
    pub row_weight: Ref<'a, D, f32>,
    pub loss: TokenLoss<'a, D>,
}

/// Log-probabilities of targets, entropies, and with `gradient` the loss and its gradients.
pub struct HeadLoss<'a, D: Linear> {
    /// [selected]
    pub logprob: Mut<'a, D, f32>,
    /// [selected], entropy of softmax(z/T) in nats
    pub entropy: Mut<'a, D, f32>,
    /// [selected], the loss of the row before `row_weight`; −logprob without `gradient`
    pub loss: Mut<'a, D, f32>,
    pub gradient: Option<HeadGradient<'a, D>>,
    /// [tokens, hidden], after the last norm
    pub hidden: Ref<'a, D, D::Compute>,
    /// The head, [vocab, hidden]
    pub weight: &'a D::Weight,
    /// [selected], rows of `hidden`, ascending and distinct
    pub rows: Ref<'a, D, u32>,
    /// [selected], each below vocab
    pub targets: Ref<'a, D, u32>,
    pub temperature: f32,
    pub tokens: usize,
    /// vocab = `sizes.out_features`, hidden = `sizes.in_features`
    pub sizes: LinearSizes,
}

impl<D: Linear> HeadLoss<'_, D> {
    pub fn selected(&self) -> usize {
        self.rows.len()
    }

    pub fn check(&self) -> OpResult {
        let (check, n) = (Check("head_loss"), self.selected());
        check.size("logprob", self.logprob.len(), n)?;
        check.size("entropy", self.entropy.len(), n)?;
        check.size("loss", self.loss.len(), n)?;
        check.size("hidden", self.hidden.len(), self.tokens * self.sizes.in_features)?;
        check.size("targets", self.targets.len(), n)?;
        check.that(self.temperature > 0.0 && self.temperature.is_finite(), || {
            format!("`temperature` must be a positive number, got {}", self.temperature)
        })?;
        let Some(gradient) = &self.gradient else { return Ok(()) };
        check.size("gradient.d_hidden", gradient.d_hidden.len(), self.tokens * self.sizes.in_features)?;
        if let Some(d_weight) = &gradient.d_weight {
            check.size("gradient.d_weight", d_weight.len(), self.sizes.len())?;
        }
        check.size("gradient.row_weight", gradient.row_weight.len(), n)?;
        if let TokenLoss::Grpo { old_logprob, reference_logprob, advantages, .. } = &gradient.loss {
            check.size("old_logprob", old_logprob.len(), n)?;
            check.size("reference_logprob", reference_logprob.len(), n)?;
            check.size("advantages", advantages.len(), 2 * n)?;
        }
        Ok(())
    }

    pub fn cost(&self) -> Cost {
        let products = if self.gradient.is_some() { 3 } else { 1 };
        let work = self.selected() * self.sizes.len();
        let moved = (self.selected() * self.sizes.in_features + self.sizes.len()) * size_of::<D::Compute>();
        Cost { bytes: (products * moved) as u64, flops: 2 * (products * work) as u64 }
    }
}

/// Logits of selected rows, for sampling: `out = hidden[rows] · Wᵀ`.
pub struct HeadLogits<'a, D: Linear> {
    /// [selected, vocab]
    pub out: Mut<'a, D, f32>,
    /// [tokens, hidden]
    pub hidden: Ref<'a, D, D::Compute>,
    pub weight: &'a D::Weight,
    /// [selected], rows of `hidden`
    pub rows: Ref<'a, D, u32>,
    pub tokens: usize,
    pub sizes: LinearSizes,
}

impl<D: Linear> HeadLogits<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("head_logits");
        check.size("out", self.out.len(), self.rows.len() * self.sizes.out_features)?;
        check.size("hidden", self.hidden.len(), self.tokens * self.sizes.in_features)
    }

    pub fn cost(&self) -> Cost {
        let n = self.rows.len();
        let moved = (n * self.sizes.in_features + self.sizes.len()) * size_of::<D::Compute>();
        let out = 4 * n * self.sizes.out_features;
        Cost { bytes: (moved + out) as u64, flops: 2 * (n * self.sizes.len()) as u64 }
    }
}

pub trait Head: Linear {
    fn head_logits(&self, args: HeadLogits<'_, Self>) -> OpResult;
    fn head_loss(&self, args: HeadLoss<'_, Self>) -> OpResult;
}
