//! RMSNorm with the residual addition fused into it.
//!
//! `sum = x + delta; out = sum · rsqrt(mean(sum²) + ε) · weight`, row by row (Zhang & Sennrich, 2019).

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// The residual addition of the forward pass.
pub struct Residual<'a, D: Device> {
    /// [rows, cols], the new residual stream
    pub sum: Mut<'a, D, D::Compute>,
    /// [rows, cols]
    pub delta: Ref<'a, D, D::Compute>,
}

/// The norm of `x`, or with a residual that of `x + delta`, which is kept as the new residual stream.
pub struct RmsNormForward<'a, D: Device> {
    /// [rows, cols]
    pub out: Mut<'a, D, D::Compute>,
    /// [rows], rsqrt(mean of squares + ε), kept for the backward pass
    pub inv_rms: Mut<'a, D, f32>,
    /// `None`: norm of `x` alone (the first norm of a model)
    pub residual: Option<Residual<'a, D>>,
    /// [rows, cols]
    pub x: Ref<'a, D, D::Compute>,
    /// [cols]
    pub weight: Ref<'a, D, f32>,
    pub rows: usize,
    pub cols: usize,
    pub epsilon: f32,
}

impl<D: Device> RmsNormForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("rmsnorm_forward");
        let size = self.rows * self.cols;
        check.size("out", self.out.len(), size)?;
        check.size("inv_rms", self.inv_rms.len(), self.rows)?;
        if let Some(residual) = &self.residual {
            check.size("residual.sum", residual.sum.len(), size)?;
            check.size("residual.delta", residual.delta.len(), size)?;
        }
        check.size("x", self.x.len(), size)?;
        check.size("weight", self.weight.len(), self.cols)
    }

    /// `x` and `out`, with a residual `delta` and `sum` too, once each; `inv_rms` and `weight` in f32. An element is squared,
    /// added to the mean, and scaled twice.
    pub fn cost(&self) -> Cost {
        let passes = if self.residual.is_some() { 4 } else { 2 };
        let size = self.rows * self.cols;
        let moved = passes * size * size_of::<D::Compute>() + 4 * (self.rows + self.cols);
        Cost { bytes: moved as u64, flops: 4 * size as u64 }
    }
}

/// Adds the norm's gradient to the gradient of the residual stream: `d_sum += ∂out/∂sum · d_out`.
///
/// With `g = d_out · weight` and `n = sum · inv_rms`: `d_sum += inv_rms · (g − n · mean(g · n))`, `d_weight += Σ d_out · n`.
/// The gradient of the addition needs no op: both `x` and `delta` receive `d_sum`.
pub struct RmsNormBackward<'a, D: Device> {
    /// [rows, cols], accumulated; overwritten when `overwrite` is set
    pub d_sum: Mut<'a, D, D::Compute>,
    /// [cols], accumulated in a fixed order; `None` for a frozen weight
    pub d_weight: Option<Mut<'a, D, f32>>,
    /// [rows, cols]
    pub d_out: Ref<'a, D, D::Compute>,
    /// [rows, cols], the input of the forward pass's norm
    pub sum: Ref<'a, D, D::Compute>,
    /// [rows]
    pub inv_rms: Ref<'a, D, f32>,
    /// [cols]
    pub weight: Ref<'a, D, f32>,
    pub rows: usize,
    pub cols: usize,
    /// Set for the last norm of a model, where no gradient has arrived at the residual stream yet.
    pub overwrite: bool,
}

impl<D: Device> RmsNormBackward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("rmsnorm_backward");
        let size = self.rows * self.cols;
        check.size("d_sum", self.d_sum.len(), size)?;
        if let Some(d_weight) = &self.d_weight {
            check.size("d_weight", d_weight.len(), self.cols)?;
        }
        check.size("d_out", self.d_out.len(), size)?;
        check.size("sum", self.sum.len(), size)?;
        check.size("inv_rms", self.inv_rms.len(), self.rows)?;
        check.size("weight", self.weight.len(), self.cols)
    }

    /// `d_out` and `sum` are read and `d_sum` is written, and read unless overwritten; `inv_rms` and `weight` in f32, `d_weight`
    /// read and written. Operations an element: g and n (2), g · n into the mean (2), inv_rms · (g − n · mean) (3), the
    /// addition to `d_sum` (1), d_out · n into `d_weight` (2).
    pub fn cost(&self) -> Cost {
        let passes = if self.overwrite { 3 } else { 4 };
        let size = self.rows * self.cols;
        let vectors = if self.d_weight.is_some() { 3 } else { 1 };
        let moved = passes * size * size_of::<D::Compute>() + 4 * (self.rows + vectors * self.cols);
        Cost { bytes: moved as u64, flops: 10 * size as u64 }
    }
}

/// RMSNorm with the residual addition before it on a device, and its gradient.
pub trait RmsNorm: Device {
    fn rmsnorm_forward(&self, args: RmsNormForward<'_, Self>) -> OpResult;
    fn rmsnorm_backward(&self, args: RmsNormBackward<'_, Self>) -> OpResult;
}
