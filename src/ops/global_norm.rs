//! The Euclidean norm of all gradients, for clipping. It stays on the device: the optimizer's update reads it there.

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// The gradient, and the output for its norm.
pub struct GlobalNorm<'a, D: Device> {
    /// [1]
    pub norm: Mut<'a, D, f64>,
    /// [len]
    pub gradient: Ref<'a, D, f32>,
}

impl<D: Device> GlobalNorm<'_, D> {
    pub fn check(&self) -> OpResult {
        Check("global_norm").size("norm", self.norm.len(), 1)
    }

    /// Every element is read once, squared and added; the norm is written.
    pub fn cost(&self) -> Cost {
        let len = self.gradient.len() as u64;
        Cost { bytes: 4 * len + 8, flops: 2 * len }
    }
}

/// The norm of a gradient arena on a device.
pub trait Norm: Device {
    /// √Σ g², summed in f64 in a fixed order; not finite when any element is not.
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> OpResult;
}
