//! AdamW on a flat range of parameters (Loshchilov & Hutter, 2019), decoupled weight decay.

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// `g = gradient · gradient_scale; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²;`
/// `w = w·(1 − lr·weight_decay) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)`, with t = `step` counted from 1.
pub struct AdamW<'a, D: Device> {
    /// [len], master weights
    pub weight: Mut<'a, D, f32>,
    /// [len], first moment
    pub moment1: Mut<'a, D, f32>,
    /// [len], second moment
    pub moment2: Mut<'a, D, f32>,
    /// [len]
    pub gradient: Ref<'a, D, f32>,
    /// Multiplies the gradient: clipping.
    pub gradient_scale: f32,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u64,
}

/// What [`AdamW::constants`] works out once for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    pub scale: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// lr / (1 − β₁ᵗ)
    pub step_size: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub inverse_root_correction: f32,
    pub epsilon: f32,
    /// 1 − lr · weight_decay
    pub keep: f32,
}

impl<D: Device> AdamW<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, len) = (Check("adamw"), self.weight.len());
        check.size("moment1", self.moment1.len(), len)?;
        check.size("moment2", self.moment2.len(), len)?;
        check.size("gradient", self.gradient.len(), len)?;
        check.that(self.step >= 1, || "`step` counts from 1, got 0".into())
    }

    /// The numbers that every parameter's update shares.
    pub fn constants(&self) -> Constants {
        // Bias corrections in f64: 1 − β₂ᵗ loses digits in f32 for small t.
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        Constants {
            scale: self.gradient_scale,
            beta1: self.beta1,
            beta2: self.beta2,
            step_size: (f64::from(self.learning_rate) / correction(self.beta1)) as f32,
            inverse_root_correction: (1.0 / correction(self.beta2).sqrt()) as f32,
            epsilon: self.epsilon,
            keep: (1.0 - f64::from(self.learning_rate) * f64::from(self.weight_decay)) as f32,
        }
    }

    pub fn cost(&self) -> Cost {
        let len = self.weight.len() as u64;
        Cost { bytes: 28 * len, flops: 14 * len }
    }
}

pub trait AdamWStep: Device {
    fn adamw(&self, args: AdamW<'_, Self>) -> OpResult;
}
