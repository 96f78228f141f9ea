//! RMSNorm on CUDA: a warp for each 1024 columns of a row, several rows a block.

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Buffer, Grid, ViewMut, kernels};
use crate::ops::rmsnorm::{RmsNorm, RmsNormBackward, RmsNormForward};
use crate::ops::{Check, OpResult};
use crate::tensor::{Device, View};

const COLS_MAX: usize = kernels::RMSNORM_COLS_MAX as usize;
const COLS_PER_WARP: usize = kernels::RMSNORM_COLS_PER_WARP as usize;
const WARP: usize = 32;

/// At most this many blocks: about two for each multiprocessor of an A100 (108) or H100 (132). Each reads the weight once and,
/// in the backward pass, writes a row of partial sums. The same on every device, so that the sums are too.
const BLOCKS_MAX: usize = 256;

/// Elements that a thread moves at once.
const CHUNK: usize = 8;

/// Blocks with their threads and dynamic shared memory for `shared_rows` (of the rows at a time) rows of f32.
fn grid(rows: usize, cols: usize, shared_rows: impl Fn(usize) -> usize) -> Grid {
    let threads_x = cols.div_ceil(COLS_PER_WARP) * WARP;
    // Few rows (decoding) are spread over the blocks first.
    let at_once = (kernels::RMSNORM_THREADS_MAX as usize / threads_x).min(rows.div_ceil(BLOCKS_MAX));
    let blocks = rows.div_ceil(at_once).min(BLOCKS_MAX);
    let shared_row = 2 * (cols.div_ceil(CHUNK) * CHUNK / 2 + kernels::RMSNORM_SHARED_PAD as usize);
    let dynamic_shared_bytes = shared_rows(at_once) * shared_row * size_of::<f32>();
    Grid { blocks, threads: (threads_x as u32, at_once as u32), dynamic_shared_bytes }
}

fn check(op: &'static str, rows: usize, cols: usize) -> OpResult {
    let check = Check(op);
    check.that(cols <= COLS_MAX, || format!("`cols` must be at most {COLS_MAX} on CUDA, got {cols}"))?;
    check.that(rows <= COUNT_MAX - BLOCKS_MAX * WARP, || format!("`rows` must be less than 2³¹ on CUDA, got {rows}"))
}

impl RmsNorm for Cuda {
    fn rmsnorm_forward(&self, args: RmsNormForward<'_, Self>) -> OpResult {
        args.check()?;
        let RmsNormForward { mut out, mut inv_rms, mut residual, x, weight, rows, cols, epsilon } = args;
        check("rmsnorm_forward", rows, cols)?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let aligned_residual = residual.as_ref().is_none_or(|r| r.sum.is_aligned() && r.delta.is_aligned());
        let views_aligned = out.is_aligned() && x.is_aligned() && weight.is_aligned() && aligned_residual;
        let aligned = views_aligned && cols.is_multiple_of(CHUNK);
        let kernel = if aligned { &kernels::RMSNORM_FORWARD_BF16 } else { &kernels::RMSNORM_FORWARD_UNALIGNED_BF16 };
        let (sum, delta) = match &mut residual {
            Some(residual) => (residual.sum.argument(), residual.delta.argument()),
            None => (Argument::NULL, Argument::NULL),
        };
        let arguments = [
            out.argument(),
            inv_rms.argument(),
            sum,
            x.argument(),
            delta,
            weight.argument(),
            Argument::count(rows),
            Argument::count(cols),
            Argument::F32(epsilon),
        ];
        // Safety: the order is the kernel's; `args.check` holds all views to the sizes that the kernel reads and writes.
        unsafe { self.launch(kernel, grid(rows, cols, |_| 1), arguments) }?;
        Ok(())
    }

    fn rmsnorm_backward(&self, args: RmsNormBackward<'_, Self>) -> OpResult {
        args.check()?;
        let RmsNormBackward { mut d_sum, d_weight, d_out, sum, inv_rms, weight, rows, cols, overwrite } = args;
        check("rmsnorm_backward", rows, cols)?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let views_aligned = d_sum.is_aligned() && d_out.is_aligned() && sum.is_aligned() && weight.is_aligned();
        let aligned = views_aligned && cols.is_multiple_of(CHUNK);
        let kernel = if aligned { &kernels::RMSNORM_BACKWARD_BF16 } else { &kernels::RMSNORM_BACKWARD_UNALIGNED_BF16 };
        let grid = grid(rows, cols, |at_once| at_once);
        let mut d_weight_parts = match &d_weight {
            Some(_) => Some(self.scratch::<f32>(grid.blocks * cols)?),
            None => None,
        };
        let arguments = [
            d_sum.argument(),
            d_weight_parts.as_mut().map_or(Argument::NULL, |parts| parts.argument()),
            d_out.argument(),
            sum.argument(),
            inv_rms.argument(),
            weight.argument(),
            Argument::count(rows),
            Argument::count(cols),
            Argument::I32(overwrite.into()),
        ];
        // Safety: as above; the scratch has a row for each block.
        unsafe { self.launch(kernel, grid, arguments) }?;
        match (d_weight, d_weight_parts) {
            (Some(d_weight), Some(mut parts)) => add_parts(self, d_weight, &mut parts, grid.blocks),
            _ => Ok(()),
        }
    }
}

/// `d_weight[cols] += Σ parts[blocks, cols]`, in a fixed order: the partial sums of all blocks.
pub(super) fn add_parts(
    cuda: &Cuda,
    mut d_weight: ViewMut<'_, f32>,
    parts: &mut Buffer<f32>,
    blocks: usize,
) -> OpResult {
    let cols = d_weight.len();
    assert_eq!(cuda.len(parts), blocks * cols, "a row of parts for each block");
    let threads = (kernels::RMSNORM_WEIGHT_COLS, kernels::RMSNORM_WEIGHT_GROUPS);
    let grid = Grid { blocks: cols.div_ceil(threads.0 as usize), threads, dynamic_shared_bytes: 0 };
    let arguments = [d_weight.argument(), parts.argument(), Argument::count(blocks), Argument::count(cols)];
    // Safety: `d_weight` has `cols` elements, `parts` `blocks` rows of them, which an earlier launch has written.
    unsafe { cuda.launch(&kernels::RMSNORM_BACKWARD_WEIGHT_F32, grid, arguments) }?;
    Ok(())
}
