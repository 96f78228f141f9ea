//! The global norm on CUDA: partial sums by blocks, then the root of their sum. The host does not wait for it.

use super::Cuda;
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::OpResult;
use crate::ops::global_norm::{GlobalNorm, Norm};
use crate::tensor::View;

impl Norm for Cuda {
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> OpResult {
        args.check()?;
        let GlobalNorm { mut norm, gradient } = args;
        let len = gradient.len();
        let threads = kernels::GLOBAL_NORM_THREADS;
        let blocks = len.div_ceil(kernels::GLOBAL_NORM_TILE as usize).min(kernels::GLOBAL_NORM_BLOCKS_MAX as usize);
        let mut parts = self.scratch::<f64>(blocks)?;
        if len > 0 {
            let grid = Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 };
            let arguments = [parts.argument(), gradient.argument(), Argument::Size(len)];
            // Safety: the view has `len` elements, the scratch one for each block.
            unsafe { self.launch(&kernels::GLOBAL_NORM_PARTS_F64, grid, arguments) }?;
        }
        let grid = Grid { blocks: 1, threads: (32, 1), dynamic_shared_bytes: 0 };
        let arguments = [norm.argument(), parts.argument(), Argument::count(blocks)];
        // Safety: the launch before wrote all parts; `args.check` holds `norm` to one element.
        unsafe { self.launch(&kernels::GLOBAL_NORM_TOTAL_F64, grid, arguments) }?;
        Ok(())
    }
}
