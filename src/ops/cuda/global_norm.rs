//! The global norm on CUDA: parts by blocks, then their sum. The one op whose result the host waits for.

use super::Cuda;
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::OpError;
use crate::ops::global_norm::{GlobalNorm, Norm};
use crate::tensor::{Device, View};

impl Norm for Cuda {
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> Result<f64, OpError> {
        let GlobalNorm { gradient } = args;
        let len = gradient.len();
        if len == 0 {
            return Ok(0.0);
        }
        let threads = kernels::GLOBAL_NORM_THREADS;
        let blocks = len.div_ceil(threads as usize).min(kernels::GLOBAL_NORM_BLOCKS_MAX as usize);
        // Two words hold an f64.
        let mut parts = self.scratch::<u32>(2 * blocks)?;
        let grid = Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 };
        let arguments = [parts.argument(), gradient.argument(), Argument::Size(len)];
        // Safety: the view has `len` elements, the scratch one for each block.
        unsafe { self.launch(&kernels::GLOBAL_NORM_PARTS_F64, grid, arguments) }?;
        let mut total = self.scratch::<u32>(2)?;
        let grid = Grid { blocks: 1, threads: (32, 1), dynamic_shared_bytes: 0 };
        let arguments = [total.argument(), parts.argument(), Argument::count(blocks)];
        // Safety: the launch before wrote all parts.
        unsafe { self.launch(&kernels::GLOBAL_NORM_TOTAL_F64, grid, arguments) }?;
        let mut words = [0u32; 2];
        self.read(self.view(&total, 0..2), &mut words)?;
        Ok(bytemuck::cast::<_, f64>(words).sqrt())
    }
}
