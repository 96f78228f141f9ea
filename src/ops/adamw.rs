//! AdamW (Loshchilov & Hutter, 2019), decoupled weight decay: all tensors of a model in one call, with clipping. The
//! same pass rewrites the prepared copy of each matrix that matmuls read.

use std::ops::Range;

use super::linear::{Linear, LinearSizes};
use super::{Check, Cost, OpResult};
use crate::tensor::{Mut, Ref, View};

/// `g = gradient · scale; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²;`
/// `w = w·(1 − lr·weight_decay) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)`, with t = `step` counted from 1 and
/// `scale = min(1, clip_norm / (norm + 10⁻⁶))`, as torch.nn.utils.clip_grad_norm_. If `norm` is not finite, nothing is
/// changed. Elements outside all `tensors` are neither read nor written.
pub struct AdamW<'a, D: Linear> {
    /// [len], master weights
    pub weight: Mut<'a, D, f32>,
    /// [len], first moment
    pub moment1: Mut<'a, D, f32>,
    /// [len], second moment
    pub moment2: Mut<'a, D, f32>,
    /// [len]
    pub gradient: Ref<'a, D, f32>,
    /// Ranges of the four arrays that are updated, ascending and without overlap.
    pub tensors: Vec<Tensor<'a, D>>,
    /// [1], the norm of the whole gradient as [`super::global_norm`] wrote it; the host never reads it.
    pub norm: Ref<'a, D, f64>,
    /// Gradients are scaled down to this norm; 0 switches clipping off.
    pub clip_norm: f64,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// Counted from 1.
    pub step: u64,
}

/// One range of the arena.
pub struct Tensor<'a, D: Linear> {
    pub range: Range<usize>,
    pub weight_decay: f32,
    /// For a range that matmuls read as a matrix: its prepared copy, rewritten as [`Linear::linear_prepare`] would from the new
    /// weights.
    pub prepared: Option<Prepared<'a, D>>,
}

/// A prepared weight with the sizes that it was made for.
pub struct Prepared<'a, D: Linear> {
    pub weight: &'a mut D::Weight,
    pub sizes: LinearSizes,
}

/// What [`AdamW::constants`] computes once for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    pub beta1: f32,
    pub beta2: f32,
    /// lr / (1 − β₁ᵗ)
    pub step_size: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub inverse_root_correction: f32,
    pub epsilon: f32,
}

impl<D: Linear> AdamW<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, len) = (Check("adamw"), self.weight.len());
        check.size("moment1", self.moment1.len(), len)?;
        check.size("moment2", self.moment2.len(), len)?;
        check.size("gradient", self.gradient.len(), len)?;
        check.size("norm", self.norm.len(), 1)?;
        check.that(self.step >= 1, || "`step` counts from 1, got 0".into())?;
        let mut end = 0;
        for (index, Tensor { range, prepared, .. }) in self.tensors.iter().enumerate() {
            check.that(end <= range.start && range.start <= range.end && range.end <= len, || {
                format!(
                    "`tensors[{index}]` covers {range:?}: expected a range within {end}..{len}, because tensors ascend, do not \
                     overlap, and be inside the arena"
                )
            })?;
            end = range.end;
            if let Some(Prepared { sizes, .. }) = prepared {
                check.that(range.len() == sizes.len(), || {
                    format!("`tensors[{index}]` has {} elements, but its prepared weight is for {sizes:?}", range.len())
                })?;
            }
        }
        Ok(())
    }

    /// The numbers that the updates of all parameters share.
    pub fn constants(&self) -> Constants {
        // Bias corrections in f64: 1 − β₂ᵗ loses digits in f32 for small t.
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        Constants {
            beta1: self.beta1,
            beta2: self.beta2,
            step_size: (f64::from(self.learning_rate) / correction(self.beta1)) as f32,
            inverse_root_correction: (1.0 / correction(self.beta2).sqrt()) as f32,
            epsilon: self.epsilon,
        }
    }

    /// The factor on every gradient of this norm; `None` when nothing is to be updated. Devices compute it themselves, in the
    /// same f64 arithmetic.
    pub fn gradient_scale(&self, norm: f64) -> Option<f32> {
        let scale = if self.clip_norm > 0.0 { (self.clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        norm.is_finite().then_some(scale as f32)
    }

    /// The factor on a weight that decays: 1 − lr · weight_decay. Devices compute it themselves, also in f64.
    pub fn keep(&self, weight_decay: f32) -> f32 {
        (1.0 - f64::from(self.learning_rate) * f64::from(weight_decay)) as f32
    }

    /// A parameter reads weight, gradient and both moments (16 bytes) and writes weight and moments (12); a prepared weight is
    /// written too. The norm is one f64. Operations: 1 to scale the gradient, 3 for m, 4 for v, 3 for √v · correction + ε, and
    /// 4 for w · keep − step · m ÷ that.
    pub fn cost(&self) -> Cost {
        let elements = |tensor: &Tensor<'_, D>| tensor.range.len() as u64;
        let len: u64 = self.tensors.iter().map(elements).sum();
        let prepared: u64 = self.tensors.iter().filter(|tensor| tensor.prepared.is_some()).map(elements).sum();
        Cost { bytes: 28 * len + size_of::<D::Compute>() as u64 * prepared + 8, flops: 15 * len }
    }
}

/// The optimizer's step on a device. It extends [`Linear`] because it writes the prepared weights along with the master weights.
pub trait AdamWStep: Linear {
    fn adamw(&self, args: AdamW<'_, Self>) -> OpResult;
}
