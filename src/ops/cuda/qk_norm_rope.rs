//! Norms of queries and keys with rotary positions on CUDA: a group of lanes for each head.

use super::{COUNT_MAX, Cuda, rmsnorm};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use crate::ops::{Check, OpResult};

const THREADS: usize = kernels::QK_NORM_ROPE_THREADS as usize;
const HEAD_DIM_MAX: usize = kernels::QK_NORM_ROPE_HEAD_DIM_MAX as usize;
const WARP: usize = 32;
/// Columns of a lane: eight, and the eight they rotate with.
const COLS_PER_LANE: usize = 16;
/// From this many tokens on, one warp each fills the device; fewer are spread over four warps each.
const TOKENS_MANY: usize = 2048;
/// At most this many blocks in the backward pass; each writes a row of partial sums. The same on every device, so that the
/// sums are too.
const BLOCKS_MAX: usize = 256;

/// The layout of threads.
struct Layout {
    /// (lanes of a group, groups) of a block
    threads: (u32, u32),
    /// Groups that share the heads of a token.
    groups_per_token: usize,
    tokens_per_block: usize,
}

impl Layout {
    fn new(sizes: &HeadSizes) -> Self {
        let lanes = (sizes.head_dim / COLS_PER_LANE).next_power_of_two();
        let groups = THREADS / lanes;
        let groups_per_token = if sizes.tokens < TOKENS_MANY { groups } else { WARP / lanes };
        Self { threads: (lanes as u32, groups as u32), groups_per_token, tokens_per_block: groups / groups_per_token }
    }
}

fn check(op: &'static str, sizes: &HeadSizes, aligned: bool) -> OpResult {
    let (check, dim) = (Check(op), sizes.head_dim);
    check.that(dim <= HEAD_DIM_MAX, || format!("`head_dim` must be at most {HEAD_DIM_MAX} on CUDA, got {dim}"))?;
    check.that(aligned, || "on CUDA every view of numbers must start on 16 bytes".into())?;
    // Groups are counted in `int`, at most a block of them a token.
    let counts = [sizes.tokens * THREADS, sizes.pool_rows, sizes.rope_rows, sizes.q_heads + 2 * sizes.kv_heads];
    check.that(counts.iter().all(|count| *count <= COUNT_MAX), || format!("too many for CUDA: {sizes:?}"))
}

impl QkNormRope for Cuda {
    fn qk_norm_rope_forward(&self, args: QkNormRopeForward<'_, Self>) -> OpResult {
        args.check()?;
        let QkNormRopeForward { mut q, mut k_pool, mut v_pool, mut inv_rms, qkv, q_weight, k_weight, rope, .. } = args;
        let pools_aligned = k_pool.is_aligned() && v_pool.is_aligned();
        let weights_aligned = q_weight.is_aligned() && k_weight.is_aligned() && rope.is_aligned();
        let aligned = q.is_aligned() && qkv.is_aligned() && pools_aligned && weights_aligned;
        let sizes = args.sizes;
        check("qk_norm_rope_forward", &sizes, aligned)?;
        if sizes.tokens == 0 {
            return Ok(());
        }
        let layout = Layout::new(&sizes);
        let blocks = sizes.tokens.div_ceil(layout.tokens_per_block);
        let grid = Grid { blocks, threads: layout.threads, dynamic_shared_bytes: 0 };
        let arguments = [
            q.argument(),
            k_pool.argument(),
            v_pool.argument(),
            inv_rms.argument(),
            qkv.argument(),
            q_weight.argument(),
            k_weight.argument(),
            rope.argument(),
            args.positions.argument(),
            args.kv_rows.argument(),
            Argument::count(sizes.tokens),
            Argument::count(sizes.q_heads),
            Argument::count(sizes.kv_heads),
            Argument::count(sizes.head_dim),
            Argument::count(sizes.pool_rows),
            Argument::count(sizes.rope_rows),
            Argument::count(layout.groups_per_token),
            Argument::F32(args.epsilon),
        ];
        // Safety: the order is the kernel's; `args.check` holds all views to their sizes, and the kernel checks positions and
        // rows. The contract requires distinct rows, so writes are disjoint.
        unsafe { self.launch(&kernels::QK_NORM_ROPE_FORWARD_BF16, grid, arguments) }?;
        Ok(())
    }

    fn qk_norm_rope_backward(&self, args: QkNormRopeBackward<'_, Self>) -> OpResult {
        args.check()?;
        let QkNormRopeBackward { mut d_qkv, d_q_weight, d_k_weight, d_q, d_k_pool, d_v_pool, qkv, .. } = args;
        let gradients_aligned = d_q.is_aligned() && d_k_pool.is_aligned() && d_v_pool.is_aligned();
        let weights_aligned = args.q_weight.is_aligned() && args.k_weight.is_aligned() && args.rope.is_aligned();
        let aligned = d_qkv.is_aligned() && qkv.is_aligned() && gradients_aligned && weights_aligned;
        let sizes = args.sizes;
        check("qk_norm_rope_backward", &sizes, aligned)?;
        if sizes.tokens == 0 {
            return Ok(());
        }
        let (layout, dim) = (Layout::new(&sizes), sizes.head_dim);
        let blocks = sizes.tokens.div_ceil(layout.tokens_per_block).min(BLOCKS_MAX);
        let dynamic_shared_bytes = THREADS / WARP * dim * size_of::<f32>();
        let grid = Grid { blocks, threads: layout.threads, dynamic_shared_bytes };
        let (mut q_parts, mut k_parts) = (self.scratch::<f32>(blocks * dim)?, self.scratch::<f32>(blocks * dim)?);
        let arguments = [
            d_qkv.argument(),
            q_parts.argument(),
            k_parts.argument(),
            d_q.argument(),
            d_k_pool.argument(),
            d_v_pool.argument(),
            qkv.argument(),
            args.inv_rms.argument(),
            args.q_weight.argument(),
            args.k_weight.argument(),
            args.rope.argument(),
            args.positions.argument(),
            args.kv_rows.argument(),
            Argument::count(sizes.tokens),
            Argument::count(sizes.q_heads),
            Argument::count(sizes.kv_heads),
            Argument::count(dim),
            Argument::count(sizes.pool_rows),
            Argument::count(sizes.rope_rows),
            Argument::count(layout.groups_per_token),
        ];
        // Safety: as above; the scratch has a row for each block.
        unsafe { self.launch(&kernels::QK_NORM_ROPE_BACKWARD_BF16, grid, arguments) }?;
        for (d_weight, parts) in [(d_q_weight, &mut q_parts), (d_k_weight, &mut k_parts)] {
            if let Some(d_weight) = d_weight {
                rmsnorm::add_parts(self, d_weight, parts, blocks)?;
            }
        }
        Ok(())
    }
}
