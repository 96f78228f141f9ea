//! SwiGLU on CUDA: one thread for eight neighbouring columns.

use super::{COUNT_MAX, Cuda, blocks_for};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use crate::ops::{Check, OpResult};

/// Elements that a thread moves at once.
const CHUNK: usize = 8;

fn grid(rows: usize, cols: usize) -> Grid {
    let threads = kernels::SWIGLU_THREADS;
    let blocks = blocks_for(rows * cols.div_ceil(CHUNK), threads as usize);
    Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 }
}

fn check(op: &'static str, rows: usize, cols: usize) -> OpResult {
    let fits = rows <= COUNT_MAX && cols <= COUNT_MAX / 2;
    Check(op).that(fits, || format!("`rows` and 2·`cols` must be less than 2³¹ on CUDA, got {rows} and {cols}"))
}

impl Swiglu for Cuda {
    fn swiglu_forward(&self, args: SwigluForward<'_, Self>) -> OpResult {
        args.check()?;
        let SwigluForward { mut out, gate_up, rows, cols } = args;
        check("swiglu_forward", rows, cols)?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let aligned = out.is_aligned() && gate_up.is_aligned() && cols.is_multiple_of(CHUNK);
        let kernel = if aligned { &kernels::SWIGLU_FORWARD_BF16 } else { &kernels::SWIGLU_FORWARD_UNALIGNED_BF16 };
        let arguments = [out.argument(), gate_up.argument(), Argument::count(rows), Argument::count(cols)];
        // Safety: the order is the kernel's; `args.check` holds both views to the sizes that it reads and writes.
        unsafe { self.launch(kernel, grid(rows, cols), arguments) }?;
        Ok(())
    }

    fn swiglu_backward(&self, args: SwigluBackward<'_, Self>) -> OpResult {
        args.check()?;
        let SwigluBackward { mut d_gate_up, d_out, gate_up, rows, cols } = args;
        check("swiglu_backward", rows, cols)?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let views_aligned = d_gate_up.is_aligned() && d_out.is_aligned() && gate_up.is_aligned();
        let aligned = views_aligned && cols.is_multiple_of(CHUNK);
        let kernel = if aligned { &kernels::SWIGLU_BACKWARD_BF16 } else { &kernels::SWIGLU_BACKWARD_UNALIGNED_BF16 };
        let arguments =
            [d_gate_up.argument(), d_out.argument(), gate_up.argument(), Argument::count(rows), Argument::count(cols)];
        // Safety: as above.
        unsafe { self.launch(kernel, grid(rows, cols), arguments) }?;
        Ok(())
    }
}
