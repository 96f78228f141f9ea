//! The forward pass: segments of many queries by tiles of queries, segments of few by splits of the keys. The choice
//! depends on the segment's own queries alone.

use std::sync::Arc;

use super::segments::DeviceSegments;
use super::splits::ForwardLists;
use super::{COUNT_MAX, Cuda, check, scale_log2};
use crate::cuda::kernels::{self, Kernel};
use crate::cuda::{Argument, Grid};
use crate::ops::attention::{AttentionForward, AttentionSizes, SegmentTable};
use crate::ops::{Check, OpError, OpResult};

const ROWS: usize = kernels::ATTENTION_DECODE_ROWS as usize;
const WARP: u32 = 32;

/// The kernels of one head_dim, and the shared memory of their blocks.
struct Kernels {
    tiles: &'static Kernel<11>,
    tiles_shared: u32,
    decode: &'static Kernel<13>,
    decode_shared: u32,
    join: &'static Kernel<7>,
}

impl Kernels {
    const OF_32: Self = Self {
        tiles: &kernels::ATTENTION_FORWARD_32_BF16,
        tiles_shared: kernels::ATTENTION_FORWARD_SHARED_32,
        decode: &kernels::ATTENTION_DECODE_32_BF16,
        decode_shared: kernels::ATTENTION_DECODE_SHARED_32,
        join: &kernels::ATTENTION_DECODE_JOIN_32_BF16,
    };
    const OF_64: Self = Self {
        tiles: &kernels::ATTENTION_FORWARD_64_BF16,
        tiles_shared: kernels::ATTENTION_FORWARD_SHARED_64,
        decode: &kernels::ATTENTION_DECODE_64_BF16,
        decode_shared: kernels::ATTENTION_DECODE_SHARED_64,
        join: &kernels::ATTENTION_DECODE_JOIN_64_BF16,
    };
    const OF_128: Self = Self {
        tiles: &kernels::ATTENTION_FORWARD_128_BF16,
        tiles_shared: kernels::ATTENTION_FORWARD_SHARED_128,
        decode: &kernels::ATTENTION_DECODE_128_BF16,
        decode_shared: kernels::ATTENTION_DECODE_SHARED_128,
        join: &kernels::ATTENTION_DECODE_JOIN_128_BF16,
    };

    /// `check` has refused every other head_dim.
    fn of(head_dim: usize) -> Self {
        match head_dim {
            32 => Self::OF_32,
            64 => Self::OF_64,
            _ => Self::OF_128,
        }
    }
}

/// Arguments that the kernels of tiles and of splits share.
#[derive(Clone, Copy)]
struct Shared {
    out: Argument,
    log_sum_exp: Argument,
    q: Argument,
    k_pool: Argument,
    v_pool: Argument,
    segments: Argument,
    key_rows: Argument,
}

/// The segments and the lists of blocks on the device.
pub(super) fn prepare(
    cuda: &Cuda,
    segments: &SegmentTable,
    sizes: &AttentionSizes,
) -> Result<(Arc<DeviceSegments>, Arc<ForwardLists>), OpError> {
    check("attention_forward", segments, sizes)?;
    let device = DeviceSegments::of(cuda, segments)?;
    let lists = device.forward_lists(cuda, segments, ROWS / (sizes.q_heads / sizes.kv_heads).max(1))?;
    Ok((device, lists))
}

pub(super) fn forward(cuda: &Cuda, args: AttentionForward<'_, Cuda>) -> OpResult {
    args.check()?;
    let AttentionForward { mut out, mut log_sum_exp, q, k_pool, v_pool, segments, sizes } = args;
    let aligned = out.is_aligned() && q.is_aligned() && k_pool.is_aligned() && v_pool.is_aligned();
    Check("attention_forward").that(aligned, || {
        "`out`, `q`, `k_pool` and `v_pool` must start at multiples of 16 bytes on CUDA".to_string()
    })?;
    if segments.queries() == 0 || sizes.q_heads == 0 {
        return Ok(());
    }
    let (device, lists) = prepare(cuda, segments, &sizes)?;
    let shared = Shared {
        out: out.argument(),
        log_sum_exp: log_sum_exp.as_mut().map_or(Argument::NULL, |sums| sums.argument()),
        q: q.argument(),
        k_pool: k_pool.argument(),
        v_pool: v_pool.argument(),
        segments: device.segments.read_argument(),
        key_rows: device.key_rows.read_argument(),
    };
    let kernels = Kernels::of(sizes.head_dim);
    tiles(cuda, &kernels, shared, &lists, &sizes)?;
    decode(cuda, &kernels, shared, &lists, &sizes)
}

/// Segments of many queries.
fn tiles(cuda: &Cuda, kernels: &Kernels, s: Shared, lists: &ForwardLists, sizes: &AttentionSizes) -> OpResult {
    let blocks = lists.tile_count * sizes.q_heads;
    if blocks == 0 {
        return Ok(());
    }
    check_blocks(blocks)?;
    let arguments = [
        s.out,
        s.log_sum_exp,
        s.q,
        s.k_pool,
        s.v_pool,
        s.segments,
        s.key_rows,
        lists.tiles.read_argument(),
        Argument::count(sizes.q_heads),
        Argument::count(sizes.kv_heads),
        Argument::F32(scale_log2(sizes)),
    ];
    let threads = (kernels::ATTENTION_FORWARD_THREADS, 1);
    let grid = Grid { blocks, threads, dynamic_shared_bytes: kernels.tiles_shared as usize };
    // Safety: the order is the kernel's; the contract's check holds all views to `sizes` and the table, whose device form
    // names queries and pool rows of that table alone.
    unsafe { cuda.launch(kernels.tiles, grid, arguments) }?;
    Ok(())
}

/// Segments of few queries.
fn decode(cuda: &Cuda, kernels: &Kernels, s: Shared, lists: &ForwardLists, sizes: &AttentionSizes) -> OpResult {
    let AttentionSizes { q_heads, kv_heads, head_dim, .. } = *sizes;
    let (blocks, joins) = (lists.split_count * kv_heads, lists.join_count * q_heads);
    if blocks == 0 {
        return Ok(());
    }
    check_blocks(blocks.max(joins))?;
    let mut parts = cuda.scratch::<f32>(lists.partials * q_heads * head_dim)?;
    let mut stats = cuda.scratch::<f32>(lists.partials * q_heads * 2)?;
    let arguments = [
        s.out,
        s.log_sum_exp,
        parts.argument(),
        stats.argument(),
        s.q,
        s.k_pool,
        s.v_pool,
        s.segments,
        s.key_rows,
        lists.splits.read_argument(),
        Argument::count(q_heads),
        Argument::count(kv_heads),
        Argument::F32(scale_log2(sizes)),
    ];
    let threads = (kernels::ATTENTION_DECODE_THREADS, 1);
    let grid = Grid { blocks, threads, dynamic_shared_bytes: kernels.decode_shared as usize };
    // Safety: as above; splits name only partial results inside the scratch.
    unsafe { cuda.launch(kernels.decode, grid, arguments) }?;
    if joins == 0 {
        return Ok(());
    }
    let arguments = [
        s.out,
        s.log_sum_exp,
        parts.argument(),
        stats.argument(),
        lists.joins.read_argument(),
        Argument::count(lists.join_count),
        Argument::count(q_heads),
    ];
    let blocks = joins.div_ceil((kernels::ATTENTION_DECODE_THREADS / WARP) as usize);
    // Safety: as above; the launch before wrote all partial results.
    unsafe { cuda.launch(kernels.join, Grid { blocks, threads, dynamic_shared_bytes: 0 }, arguments) }?;
    Ok(())
}

fn check_blocks(blocks: usize) -> OpResult {
    Check("attention_forward")
        .that(blocks <= COUNT_MAX, || format!("a batch of {blocks} blocks is too large for one launch on CUDA"))
}
