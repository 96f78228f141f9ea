//! The Euclidean norm of all gradients, for clipping.

use super::{Cost, OpError};
use crate::tensor::{Device, Ref, View};

/// What to sum the squares of.
pub struct GlobalNorm<'a, D: Device> {
    pub gradient: Ref<'a, D, f32>,
}

impl<D: Device> GlobalNorm<'_, D> {
    pub fn cost(&self) -> Cost {
        let len = self.gradient.len() as u64;
        Cost { bytes: 4 * len, flops: 2 * len }
    }
}

pub trait Norm: Device {
    /// √Σ g², summed in f64 in a fixed order; not finite when any element is not.
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> Result<f64, OpError>;
}
