//! SwiGLU: `out = silu(gate) · up`, with gate and up side by side in one buffer (Shazeer, 2020).

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// `out = silu(gate) · up`, element by element.
pub struct SwigluForward<'a, D: Device> {
    /// [rows, cols]
    pub out: Mut<'a, D, D::Compute>,
    /// [rows, 2·cols]: gate, then up
    pub gate_up: Ref<'a, D, D::Compute>,
    pub rows: usize,
    pub cols: usize,
}

impl<D: Device> SwigluForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("swiglu_forward");
        check.size("out", self.out.len(), self.rows * self.cols)?;
        check.size("gate_up", self.gate_up.len(), 2 * self.rows * self.cols)
    }

    /// Gate, up and `out` once each. Negation, exponential, 1 + e, division and the product with up: 5 an element.
    pub fn cost(&self) -> Cost {
        let size = self.rows * self.cols;
        Cost { bytes: (3 * size * size_of::<D::Compute>()) as u64, flops: 5 * size as u64 }
    }
}

/// With s = sigmoid(gate): `d_gate = d_out · up · s · (1 + gate · (1 − s))`, `d_up = d_out · gate · s`.
pub struct SwigluBackward<'a, D: Device> {
    /// [rows, 2·cols]
    pub d_gate_up: Mut<'a, D, D::Compute>,
    /// [rows, cols]
    pub d_out: Ref<'a, D, D::Compute>,
    /// [rows, 2·cols]
    pub gate_up: Ref<'a, D, D::Compute>,
    pub rows: usize,
    pub cols: usize,
}

impl<D: Device> SwigluBackward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("swiglu_backward");
        check.size("d_gate_up", self.d_gate_up.len(), 2 * self.rows * self.cols)?;
        check.size("d_out", self.d_out.len(), self.rows * self.cols)?;
        check.size("gate_up", self.gate_up.len(), 2 * self.rows * self.cols)
    }

    /// `d_out`, gate, up and both gradients once each; 5 operations for s and gate · s, 3 for 1 + gate · (1 − s), 3 products.
    pub fn cost(&self) -> Cost {
        let size = self.rows * self.cols;
        Cost { bytes: (5 * size * size_of::<D::Compute>()) as u64, flops: 11 * size as u64 }
    }
}

/// SwiGLU on a device, and its gradient.
pub trait Swiglu: Device {
    fn swiglu_forward(&self, args: SwigluForward<'_, Self>) -> OpResult;
    fn swiglu_backward(&self, args: SwigluBackward<'_, Self>) -> OpResult;
}
