//! GRPO: the clipped policy-gradient loss of a token, with a penalty on the divergence from a reference model.

use serde::{Deserialize, Serialize};

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
    /// The estimate, and its derivative with respect to log π.
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
/// With r = exp(logprob − old), where old is the log-probability under the policy before the step's first update:
/// `−Σ_A min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coefficient · KL`, summed over two advantages. A token of one
/// sequence has one advantage and a 0. For a token that several sequences share, the two are weighted means over the sequences
/// of A's positive and negative parts. Clipping depends on A only through its sign, so this is the weighted mean of the
/// sequences' losses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoLoss {
    pub clip_low: f32,
    pub clip_high: f32,
    pub kl: KlEstimator,
    /// 0 switches the reference model off.
    pub kl_coefficient: f32,
}

impl Default for GrpoLoss {
    fn default() -> Self {
        Self { clip_low: 0.2, clip_high: 0.2, kl: KlEstimator::K3, kl_coefficient: 0.001 }
    }
}

impl GrpoLoss {
    /// The loss, and its derivative with respect to logprob.
    pub fn value_and_slope(&self, logprob: f32, old: f32, reference: f32, advantages: [f32; 2]) -> (f32, f32) {
        let ratio = (logprob - old).exp();
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let surrogate = |advantage: f32| {
            let (plain, capped) = (ratio * advantage, clipped * advantage);
            // If the clipped branch is the smaller one, the token has no gradient through the ratio.
            if plain <= capped { (plain, plain) } else { (capped, 0.0) }
        };
        let [(a, a_slope), (b, b_slope)] = advantages.map(surrogate);
        let (kl, kl_slope) = self.kl.value_and_slope(logprob, reference);
        (self.kl_coefficient.mul_add(kl, -(a + b)), self.kl_coefficient.mul_add(kl_slope, -(a_slope + b_slope)))
    }

    /// Whether clipping removes the gradient of a token with this advantage.
    pub fn clips(&self, logprob: f32, old: f32, advantage: f32) -> bool {
        let ratio = (logprob - old).exp();
        ratio * advantage > ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage
    }
}
