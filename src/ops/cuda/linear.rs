//! Matmuls with a weight matrix on CUDA: a bf16 copy of the weight, matmuls by cuBLASLt with f32 sums.

use half::bf16;

use super::{Cuda, blocks_for};
use crate::cuda::{Argument, Buffer, Grid, Matmul, Operand, View, kernels};
use crate::ops::linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use crate::ops::{Check, OpError, OpResult};
use crate::tensor::{Device, View as _};

/// Elements that a thread moves at once.
const CHUNK: usize = 8;

/// The bf16 copy of a weight matrix, [out_features, in_features].
pub struct RoundedWeight {
    values: Buffer<bf16>,
    sizes: LinearSizes,
}

impl RoundedWeight {
    /// All of it, if it was made for `sizes`.
    pub fn view(&self, op: &'static str, cuda: &Cuda, sizes: LinearSizes) -> Result<View<'_, bf16>, OpError> {
        self.check(op, sizes)?;
        Ok(cuda.view(&self.values, 0..sizes.len()))
    }

    pub(super) fn check(&self, op: &'static str, sizes: LinearSizes) -> OpResult {
        Check(op).that(self.sizes == sizes, || {
            format!("argument `weight` was made for {:?}, but `sizes` is {sizes:?}", self.sizes)
        })
    }

    /// Its address, for kernels that write many copies and find them in a table.
    pub(super) fn address(&mut self) -> u64 {
        match self.values.argument() {
            Argument::Pointer(address) => address,
            other => unreachable!("a buffer's argument is a pointer, not {other:?}"),
        }
    }
}

impl Linear for Cuda {
    type Weight = RoundedWeight;

    fn linear_weight(&self, sizes: LinearSizes) -> Result<RoundedWeight, OpError> {
        Ok(RoundedWeight { values: self.zeros(sizes.len())?, sizes })
    }

    fn linear_prepare(&self, weight: &mut RoundedWeight, master: View<'_, f32>, sizes: LinearSizes) -> OpResult {
        let (check, len) = (Check("linear_prepare"), sizes.len());
        check.size("master", master.len(), len)?;
        weight.check("linear_prepare", sizes)?;
        check.that(master.is_aligned(), || "`master` must start on 16 bytes".into())?;
        if len == 0 {
            return Ok(());
        }
        let threads = kernels::LINEAR_PREPARE_THREADS;
        let blocks = blocks_for(len.div_ceil(CHUNK), threads as usize);
        let grid = Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 };
        let arguments = [weight.values.argument(), master.argument(), Argument::Size(len)];
        // Safety: both hold `len` elements by the checks; a buffer starts on 256 bytes and `master` on 16.
        unsafe { self.launch(&kernels::LINEAR_PREPARE_BF16, grid, arguments) }?;
        Ok(())
    }

    fn linear_forward(&self, args: LinearForward<'_, Self>) -> OpResult {
        args.check()?;
        let LinearForward { out, x, weight, rows, sizes } = args;
        let weight = weight.view("linear_forward", self, sizes)?;
        let LinearSizes { out_features, in_features } = sizes;
        Ok(self.matmul(Matmul {
            out,
            a: Operand::plain(x, in_features),
            b: Operand::transposed(weight, in_features),
            m: rows,
            n: out_features,
            k: in_features,
            accumulate: false,
        })?)
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) -> OpResult {
        args.check()?;
        let LinearBackwardInput { d_x, d_out, weight, rows, sizes, accumulate } = args;
        let weight = weight.view("linear_backward_input", self, sizes)?;
        let LinearSizes { out_features, in_features } = sizes;
        Ok(self.matmul(Matmul {
            out: d_x,
            a: Operand::plain(d_out, out_features),
            b: Operand::plain(weight, in_features),
            m: rows,
            n: in_features,
            k: out_features,
            accumulate,
        })?)
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) -> OpResult {
        args.check()?;
        let LinearBackwardWeight { d_weight, d_out, x, rows, sizes } = args;
        if rows == 0 {
            return Ok(());
        }
        let LinearSizes { out_features, in_features } = sizes;
        Ok(self.matmul(Matmul {
            out: d_weight,
            a: Operand::transposed(d_out, out_features),
            b: Operand::plain(x, in_features),
            m: out_features,
            n: in_features,
            k: rows,
            accumulate: true,
        })?)
    }
}
