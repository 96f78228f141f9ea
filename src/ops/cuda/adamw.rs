//! AdamW on CUDA: one pass over weights and moments.

use super::{Cuda, blocks_for};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::OpResult;
use crate::ops::adamw::{AdamW, AdamWStep};
use crate::tensor::View;

impl AdamWStep for Cuda {
    fn adamw(&self, args: AdamW<'_, Self>) -> OpResult {
        args.check()?;
        let constants = args.constants();
        let AdamW { mut weight, mut moment1, mut moment2, gradient, .. } = args;
        let len = weight.len();
        if len == 0 {
            return Ok(());
        }
        let aligned = weight.is_aligned() && moment1.is_aligned() && moment2.is_aligned() && gradient.is_aligned();
        let threads = kernels::ADAMW_THREADS;
        let blocks = blocks_for(len.div_ceil(4), threads as usize);
        let arguments = [
            weight.argument(),
            moment1.argument(),
            moment2.argument(),
            gradient.argument(),
            Argument::Size(len),
            Argument::I32(aligned.into()),
            Argument::F32(constants.scale),
            Argument::F32(constants.beta1),
            Argument::F32(constants.beta2),
            Argument::F32(constants.step_size),
            Argument::F32(constants.inverse_root_correction),
            Argument::F32(constants.epsilon),
            Argument::F32(constants.keep),
        ];
        let grid = Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 };
        // Safety: the order is the kernel's; `args.check` holds all four views to `len` elements.
        unsafe { self.launch(&kernels::ADAMW_F32, grid, arguments) }?;
        Ok(())
    }
}
