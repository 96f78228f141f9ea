//! GRPO: the clipped policy-gradient loss of a token, with a penalty on the divergence from a reference model.

use serde::{Deserialize, Serialize};

use crate::setting::{Finding, Relations, Severity, number, one_of, section};

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

section! {
    /// The clipped policy-gradient loss of one token.
    ///
    /// With r = exp(logprob − old), where old is the log-probability under the policy before the step's first update:
    /// `−Σ_A min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coefficient · KL`, summed over two advantages. A token of one
    /// sequence has one advantage and a 0. For a token that several sequences share, the two are weighted means over the
    /// sequences of A's positive and negative parts. Clipping depends on A only through its sign, so this is the weighted mean
    /// of the sequences' losses.
    pub struct GrpoLoss {
        /// The ratio of the policy to the old one is clipped this far below 1.
        pub clip_low: f32 = 0.2 => number(0.0, 1.0);
        /// And this far above 1.
        pub clip_high: f32 = 0.2 => number(0.0, 1000.0);
        /// Estimator of the divergence from the reference. k1 as a loss holds nothing back: its gradient has mean zero.
        pub kl: KlEstimator = KlEstimator::K3 => one_of(&["k1", "k2", "k3"]);
        /// Weight of the divergence from the reference; 0 switches the reference model off.
        pub kl_coefficient: f32 = 0.001 => number(0.0, 1000.0);
    }
}

impl Copy for GrpoLoss {}

impl Relations for GrpoLoss {
    fn relations(&self) -> Vec<Finding> {
        if self.kl != KlEstimator::K1 || self.kl_coefficient == 0.0 {
            return Vec::new();
        }
        let reason = "k1 as a loss is no penalty: its gradient has mean zero, so it adds noise and holds the policy to \
                      nothing; take k3 or k2, or set the coefficient to 0";
        vec![Finding::new(Severity::Noted, &["kl", "kl_coefficient"], reason)]
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
