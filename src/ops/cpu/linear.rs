//! Matmuls with a weight matrix on the CPU.

use super::Cpu;
use super::gemm::{PANEL, Panels, add_transposed_matmul, matmul, matmul_transposed};
use crate::ops::linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use crate::ops::{Check, OpError, OpResult};

/// A weight matrix packed for matmuls: Wᵀ, [in, out] in panels of outputs.
pub struct PackedWeight(Panels);

impl PackedWeight {
    fn sizes(&self) -> LinearSizes {
        LinearSizes { out_features: self.0.n, in_features: self.0.k }
    }

    /// The right operand of `x · Wᵀ`; its transpose is that of `d_out · W`.
    pub(super) fn panels(&self) -> &Panels {
        &self.0
    }

    /// The weight must have been made for `sizes`.
    pub(super) fn check(&self, op: &'static str, sizes: LinearSizes) -> OpResult {
        Check(op).that(self.sizes() == sizes, || {
            format!("argument `weight` was made for {:?}, but `sizes` is {sizes:?}", self.sizes())
        })
    }
}

/// Elements of a packed weight: whole panels.
pub fn packed_len(sizes: LinearSizes) -> usize {
    sizes.out_features.next_multiple_of(PANEL) * sizes.in_features
}

impl Linear for Cpu {
    type Weight = PackedWeight;

    fn linear_weight(&self, sizes: LinearSizes) -> Result<PackedWeight, OpError> {
        Ok(PackedWeight(Panels::new(sizes.out_features, sizes.in_features)?))
    }

    fn linear_prepare(&self, weight: &mut PackedWeight, master: &[f32], sizes: LinearSizes) -> OpResult {
        Check("linear_prepare").size("master", master.len(), sizes.len())?;
        weight.check("linear_prepare", sizes)?;
        weight.0.pack_transposed(master);
        Ok(())
    }

    fn linear_forward(&self, args: LinearForward<'_, Self>) -> OpResult {
        args.check()?;
        args.weight.check("linear_forward", args.sizes)?;
        matmul(args.out, args.x, &args.weight.0, args.rows, false);
        Ok(())
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) -> OpResult {
        args.check()?;
        args.weight.check("linear_backward_input", args.sizes)?;
        matmul_transposed(args.d_x, args.d_out, &args.weight.0, args.rows, args.accumulate);
        Ok(())
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) -> OpResult {
        args.check()?;
        let LinearSizes { out_features, in_features } = args.sizes;
        add_transposed_matmul(args.d_weight, args.d_out, args.x, [args.rows, out_features, in_features]);
        Ok(())
    }
}
