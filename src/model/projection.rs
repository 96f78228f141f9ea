//! A weight matrix of the model, with all that is done with it: forward, both gradients, and its update.

use std::ops::Range;

use super::ParameterTable;
use super::activations::elements;
use super::parameters::Matrix;
use crate::ops::adamw::{Prepared, Tensor};
use crate::ops::linear::{LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use crate::ops::{Backend, OpError, OpResult};
use crate::tensor::{Mut, Ref};

/// A weight matrix [out_features, in_features].
///
/// Its master weights and their gradient lie in the model's arenas, at `range`; the prepared weight, which matmuls read, is here.
/// A frozen projection has no gradient and no update, and needs no master weights.
///
/// An adapter will be one more field, `Option<Adapter>` with A and B: `forward` adds `scale · (x · Aᵀ) · Bᵀ` to `out`, `backward`
/// adds to `d_x` and computes the gradients of A and B whether or not the matrix itself is frozen, and no caller changes.
pub struct Projection<B: Backend> {
    range: Range<usize>,
    sizes: LinearSizes,
    weight: B::Weight,
    frozen: bool,
}

/// Buffers of a backward pass through a projection; rows count from 0.
pub struct ProjectionBackward<'a, B: Backend> {
    /// [rows, in_features], overwritten; `None` where nothing below is trained
    pub d_x: Option<&'a mut B::Buffer<B::Compute>>,
    /// [arena], accumulated; unchanged where the projection is frozen
    pub d_weights: &'a mut B::Buffer<f32>,
    /// [rows, out_features]
    pub d_out: &'a B::Buffer<B::Compute>,
    /// [rows, in_features]
    pub x: &'a B::Buffer<B::Compute>,
    pub rows: usize,
}

impl<B: Backend> Projection<B> {
    /// Allocates the prepared weight; [`refresh`](Self::refresh) fills it.
    pub fn new(b: &B, table: &ParameterTable, Matrix { range, sizes }: &Matrix) -> Result<Self, OpError> {
        let (weight, frozen) = (b.linear_weight(*sizes)?, !table.trains(range));
        Ok(Self { range: range.clone(), sizes: *sizes, weight, frozen })
    }

    /// Rebuilds the prepared weight from an arena of master weights.
    pub fn refresh(&mut self, b: &B, master: &B::Buffer<f32>) -> OpResult {
        b.linear_prepare(&mut self.weight, b.view(master, self.range.clone()), self.sizes)
    }

    /// Builds the prepared weight from its own master weights, [out_features, in_features].
    pub fn prepare(&mut self, b: &B, master: &B::Buffer<f32>) -> OpResult {
        b.linear_prepare(&mut self.weight, b.view(master, 0..self.sizes.len()), self.sizes)
    }

    /// Its part of an arena.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The form that matmuls read.
    pub fn weight(&self) -> &B::Weight {
        &self.weight
    }

    /// Features out and in.
    pub fn sizes(&self) -> LinearSizes {
        self.sizes
    }

    /// `out = x · Wᵀ` for `rows` of both buffers: out [_, out_features], x [_, in_features].
    pub fn forward(
        &self,
        b: &B,
        out: &mut B::Buffer<B::Compute>,
        x: &B::Buffer<B::Compute>,
        rows: &Range<usize>,
    ) -> OpResult {
        b.linear_forward(LinearForward {
            out: b.view_mut(out, elements(rows, self.sizes.out_features)),
            x: b.view(x, elements(rows, self.sizes.in_features)),
            weight: &self.weight,
            rows: rows.len(),
            sizes: self.sizes,
        })
    }

    /// `d_W += d_outᵀ · x` unless it is frozen, and `d_x = d_out · W` where it is asked for.
    pub fn backward(&self, b: &B, args: ProjectionBackward<'_, B>) -> OpResult {
        let ProjectionBackward { d_x, d_weights, d_out, x, rows } = args;
        let LinearSizes { out_features, in_features } = self.sizes;
        let (d_out, x): (Ref<'_, B, _>, _) = (b.view(d_out, 0..rows * out_features), b.view(x, 0..rows * in_features));
        if let Some(d_weight) = self.gradient(b, d_weights) {
            b.linear_backward_weight(LinearBackwardWeight { d_weight, d_out, x, rows, sizes: self.sizes })?;
        }
        let Some(d_x) = d_x else { return Ok(()) };
        b.linear_backward_input(LinearBackwardInput {
            d_x: b.view_mut(d_x, 0..rows * in_features),
            d_out,
            weight: &self.weight,
            rows,
            sizes: self.sizes,
            accumulate: false,
        })
    }

    /// Its part of an arena of gradients; `None` where it is frozen.
    pub fn gradient<'a>(&self, b: &B, gradients: &'a mut B::Buffer<f32>) -> Option<Mut<'a, B, f32>> {
        (!self.frozen).then(|| b.view_mut(gradients, self.range.clone()))
    }

    /// What an update has to know of it; `None` where it is frozen.
    pub fn tensor(&mut self, weight_decay: f32) -> Option<Tensor<'_, B>> {
        let Self { range, sizes, weight, frozen } = self;
        let prepared = Some(Prepared { weight, sizes: *sizes });
        (!*frozen).then(|| Tensor { range: range.clone(), weight_decay, prepared })
    }
}
