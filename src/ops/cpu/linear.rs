//! Matmuls with a weight matrix on the CPU.

use std::sync::OnceLock;

use super::Cpu;
use super::gemm::{Panels, add_transposed_matmul, matmul};
use crate::ops::linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use crate::ops::{Check, OpError, OpResult};

/// A weight matrix packed for matmuls.
pub struct PackedWeight {
    /// Wᵀ, [in, out] in panels of outputs
    forward: Panels,
    /// W, [out, in] in panels of inputs: built by the first gradient that needs it, so a model that only infers has none
    backward: OnceLock<Panels>,
}

impl PackedWeight {
    fn sizes(&self) -> LinearSizes {
        LinearSizes { out_features: self.forward.n, in_features: self.forward.k }
    }

    /// The right operand of `x · Wᵀ`.
    pub(super) fn forward(&self) -> &Panels {
        &self.forward
    }

    /// The right operand of `d_out · W`.
    pub(super) fn backward(&self) -> Result<&Panels, OpError> {
        if self.backward.get().is_none() {
            // If two threads get here at once, one of two equal copies is dropped.
            let _ = self.backward.set(self.forward.transposed()?);
        }
        Ok(self.backward.get().expect("set above"))
    }

    /// The weight must have been made for `sizes`.
    pub(super) fn check(&self, op: &'static str, sizes: LinearSizes) -> OpResult {
        Check(op).that(self.sizes() == sizes, || {
            format!("argument `weight` was made for {:?}, but `sizes` is {sizes:?}", self.sizes())
        })
    }
}

impl Linear for Cpu {
    type Weight = PackedWeight;

    fn linear_weight(&self, sizes: LinearSizes) -> Result<PackedWeight, OpError> {
        let forward = Panels::new(sizes.out_features, sizes.in_features)?;
        Ok(PackedWeight { forward, backward: OnceLock::new() })
    }

    fn linear_prepare(&self, weight: &mut PackedWeight, master: &[f32], sizes: LinearSizes) -> OpResult {
        Check("linear_prepare").size("master", master.len(), sizes.len())?;
        weight.check("linear_prepare", sizes)?;
        weight.forward.pack_transposed(master);
        if let Some(backward) = weight.backward.get_mut() {
            backward.pack(master);
        }
        Ok(())
    }

    fn linear_forward(&self, args: LinearForward<'_, Self>) -> OpResult {
        args.check()?;
        args.weight.check("linear_forward", args.sizes)?;
        matmul(args.out, args.x, &args.weight.forward, args.rows, false);
        Ok(())
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) -> OpResult {
        args.check()?;
        args.weight.check("linear_backward_input", args.sizes)?;
        matmul(args.d_x, args.d_out, args.weight.backward()?, args.rows, args.accumulate);
        Ok(())
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) -> OpResult {
        args.check()?;
        let LinearSizes { out_features, in_features } = args.sizes;
        add_transposed_matmul(args.d_weight, args.d_out, args.x, [args.rows, out_features, in_features]);
        Ok(())
    }
}
