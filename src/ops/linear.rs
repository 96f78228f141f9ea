//! Matmuls with a weight matrix: `y = x · Wᵀ` and its two gradients.
//!
//! `W` is [out_features, in_features], row-major, as in a checkpoint; its master copy is f32, in the parameter
//! arena. A backend computes with a prepared copy (`Linear::Weight`: packed panels on the CPU, bf16 on a GPU), rebuilt
//! after every update. On the CPU a result's summation order depends on `in_features` alone, so a row of `y` has the
//! same bits in a batch of 1 and of 4096.

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// Sizes of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearSizes {
    pub out_features: usize,
    pub in_features: usize,
}

impl LinearSizes {
    /// Weights of the matrix.
    pub fn len(&self) -> usize {
        self.out_features * self.in_features
    }

    /// Whether one of the sizes is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A multiply-add for each row and each weight, and these bytes.
    fn cost(&self, rows: usize, bytes: usize) -> Cost {
        Cost { bytes: bytes as u64, flops: 2 * (rows * self.len()) as u64 }
    }
}

/// `out = x · Wᵀ`.
pub struct LinearForward<'a, D: Linear> {
    /// [rows, out_features]
    pub out: Mut<'a, D, D::Compute>,
    /// [rows, in_features]
    pub x: Ref<'a, D, D::Compute>,
    pub weight: &'a D::Weight,
    pub rows: usize,
    pub sizes: LinearSizes,
}

impl<D: Linear> LinearForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("linear_forward");
        check.size("out", self.out.len(), self.rows * self.sizes.out_features)?;
        check.size("x", self.x.len(), self.rows * self.sizes.in_features)
    }

    /// `x`, the prepared weight and `out` once each.
    pub fn cost(&self) -> Cost {
        let elements = self.rows * (self.sizes.out_features + self.sizes.in_features) + self.sizes.len();
        self.sizes.cost(self.rows, elements * size_of::<D::Compute>())
    }
}

/// `d_x = d_out · W`, added to `d_x` when `accumulate` is set.
pub struct LinearBackwardInput<'a, D: Linear> {
    /// [rows, in_features]
    pub d_x: Mut<'a, D, D::Compute>,
    /// [rows, out_features]
    pub d_out: Ref<'a, D, D::Compute>,
    pub weight: &'a D::Weight,
    pub rows: usize,
    pub sizes: LinearSizes,
    pub accumulate: bool,
}

impl<D: Linear> LinearBackwardInput<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("linear_backward_input");
        check.size("d_x", self.d_x.len(), self.rows * self.sizes.in_features)?;
        check.size("d_out", self.d_out.len(), self.rows * self.sizes.out_features)
    }

    /// As in the forward pass; an accumulated `d_x` is also read.
    pub fn cost(&self) -> Cost {
        let LinearSizes { out_features, in_features } = self.sizes;
        let passes = if self.accumulate { 2 } else { 1 };
        let elements = self.rows * (out_features + passes * in_features) + self.sizes.len();
        self.sizes.cost(self.rows, elements * size_of::<D::Compute>())
    }
}

/// `d_weight += d_outᵀ · x`, rows added in order.
pub struct LinearBackwardWeight<'a, D: Linear> {
    /// [out_features, in_features], accumulated
    pub d_weight: Mut<'a, D, f32>,
    /// [rows, out_features]
    pub d_out: Ref<'a, D, D::Compute>,
    /// [rows, in_features]
    pub x: Ref<'a, D, D::Compute>,
    pub rows: usize,
    pub sizes: LinearSizes,
}

impl<D: Linear> LinearBackwardWeight<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("linear_backward_weight");
        check.size("d_weight", self.d_weight.len(), self.sizes.len())?;
        check.size("d_out", self.d_out.len(), self.rows * self.sizes.out_features)?;
        check.size("x", self.x.len(), self.rows * self.sizes.in_features)
    }

    /// `d_out` and `x` are read; the f32 `d_weight` is read and written.
    pub fn cost(&self) -> Cost {
        let elements = self.rows * (self.sizes.out_features + self.sizes.in_features);
        self.sizes.cost(self.rows, elements * size_of::<D::Compute>() + 8 * self.sizes.len())
    }
}

/// Matmuls with a weight matrix on a device. The f32 master weights are kept apart from the copy that is multiplied with.
pub trait Linear: Device {
    /// A weight matrix in the form that this backend multiplies with.
    type Weight: Send + Sync;

    /// Memory for a prepared weight; `linear_prepare` fills it.
    fn linear_weight(&self, sizes: LinearSizes) -> Result<Self::Weight, super::OpError>;
    /// Builds the prepared copy from the master weight [out_features, in_features].
    fn linear_prepare(&self, weight: &mut Self::Weight, master: Ref<'_, Self, f32>, sizes: LinearSizes) -> OpResult;
    fn linear_forward(&self, args: LinearForward<'_, Self>) -> OpResult;
    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) -> OpResult;
    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) -> OpResult;
}
