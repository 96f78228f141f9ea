//! The backward pass: delta of every row, the gradient of q by tiles of queries, those of keys and values by tiles of pool rows.

use super::key_tiles::BackwardLists;
use super::segments::DeviceSegments;
use super::{COUNT_MAX, Cuda, check};
use crate::cuda::kernels::{self, Kernel};
use crate::cuda::{Argument, Grid};
use crate::ops::attention::{AttentionBackward, AttentionSizes};
use crate::ops::{Check, OpResult};

const Q_THREADS: u32 = kernels::ATTENTION_BACKWARD_Q_THREADS;
const KV_THREADS: u32 = kernels::ATTENTION_BACKWARD_KV_THREADS;
/// Elements that a thread moves at once.
const CHUNK: usize = 8;

/// The kernels of one head_dim, and the shared memory of their blocks.
struct Kernels {
    q: &'static Kernel<14>,
    q_shared: u32,
    kv: &'static Kernel<15>,
    kv_shared: u32,
}

impl Kernels {
    const OF_32: Self = Self {
        q: &kernels::ATTENTION_BACKWARD_Q_32_BF16,
        q_shared: kernels::ATTENTION_BACKWARD_Q_SHARED_32,
        kv: &kernels::ATTENTION_BACKWARD_KV_32_BF16,
        kv_shared: kernels::ATTENTION_BACKWARD_KV_SHARED_32,
    };
    const OF_64: Self = Self {
        q: &kernels::ATTENTION_BACKWARD_Q_64_BF16,
        q_shared: kernels::ATTENTION_BACKWARD_Q_SHARED_64,
        kv: &kernels::ATTENTION_BACKWARD_KV_64_BF16,
        kv_shared: kernels::ATTENTION_BACKWARD_KV_SHARED_64,
    };
    const OF_128: Self = Self {
        q: &kernels::ATTENTION_BACKWARD_Q_128_BF16,
        q_shared: kernels::ATTENTION_BACKWARD_Q_SHARED_128,
        kv: &kernels::ATTENTION_BACKWARD_KV_128_BF16,
        kv_shared: kernels::ATTENTION_BACKWARD_KV_SHARED_128,
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

/// Arguments that both kernels take.
#[derive(Clone, Copy)]
struct Shared {
    d_out: Argument,
    q: Argument,
    k_pool: Argument,
    v_pool: Argument,
    log_sum_exp: Argument,
    delta: Argument,
    segments: Argument,
}

pub(super) fn backward(cuda: &Cuda, args: AttentionBackward<'_, Cuda>) -> OpResult {
    args.check()?;
    let AttentionBackward { mut d_q, mut d_k_pool, mut d_v_pool, d_out, out, q, k_pool, v_pool, .. } = args;
    let (segments, sizes) = (args.segments, args.sizes);
    check("attention_backward", segments, &sizes)?;
    let gradients_aligned = d_q.is_aligned() && d_k_pool.is_aligned() && d_v_pool.is_aligned() && d_out.is_aligned();
    let inputs_aligned = out.is_aligned() && q.is_aligned() && k_pool.is_aligned() && v_pool.is_aligned();
    Check("attention_backward").that(gradients_aligned && inputs_aligned, || {
        "all views of bf16 must start at multiples of 16 bytes on CUDA".to_string()
    })?;
    let rows = segments.queries() * sizes.q_heads;
    if rows == 0 {
        return Ok(());
    }
    let device = DeviceSegments::of(cuda, segments)?;
    let lists = device.backward_lists(cuda, segments)?;
    let mut delta = cuda.scratch::<f32>(rows)?;
    let shared = Shared {
        d_out: d_out.argument(),
        q: q.argument(),
        k_pool: k_pool.argument(),
        v_pool: v_pool.argument(),
        log_sum_exp: args.log_sum_exp.argument(),
        delta: delta.argument(),
        segments: device.segments.read_argument(),
    };
    let threads = rows * (sizes.head_dim / CHUNK);
    check_count(threads + Q_THREADS as usize)?;
    let grid = Grid { blocks: threads.div_ceil(Q_THREADS as usize), threads: (Q_THREADS, 1), dynamic_shared_bytes: 0 };
    let (rows, dim) = (Argument::count(rows), Argument::count(sizes.head_dim));
    let arguments = [shared.delta, shared.d_out, out.argument(), rows, dim];
    // Safety: the order is the kernel's; the contract's check holds both views to `rows` rows of a head.
    unsafe { cuda.launch(&kernels::ATTENTION_BACKWARD_DELTA_BF16, grid, arguments) }?;
    let kernels = Kernels::of(sizes.head_dim);
    by_queries(cuda, &kernels, d_q.argument(), shared, device.key_rows.read_argument(), &lists, &sizes)?;
    by_keys(cuda, &kernels, [d_k_pool.argument(), d_v_pool.argument()], shared, &lists, &sizes)
}

fn by_queries(
    cuda: &Cuda,
    kernels: &Kernels,
    d_q: Argument,
    s: Shared,
    key_rows: Argument,
    lists: &BackwardLists,
    sizes: &AttentionSizes,
) -> OpResult {
    let blocks = lists.query_tile_count * sizes.q_heads;
    check_count(blocks)?;
    let arguments = [
        d_q,
        s.d_out,
        s.q,
        s.k_pool,
        s.v_pool,
        s.log_sum_exp,
        s.delta,
        s.segments,
        key_rows,
        lists.query_tiles.read_argument(),
        Argument::count(sizes.q_heads),
        Argument::count(sizes.kv_heads),
        Argument::F32(super::scale_log2(sizes)),
        Argument::F32(sizes.scale),
    ];
    let grid = Grid { blocks, threads: (Q_THREADS, 1), dynamic_shared_bytes: kernels.q_shared as usize };
    // Safety: the order is the kernel's; the contract's check holds all views to `sizes` and the table, whose device form
    // names queries and pool rows of that table alone; `delta` is written by the launch before.
    unsafe { cuda.launch(kernels.q, grid, arguments) }?;
    Ok(())
}

fn by_keys(
    cuda: &Cuda,
    kernels: &Kernels,
    [d_k_pool, d_v_pool]: [Argument; 2],
    s: Shared,
    lists: &BackwardLists,
    sizes: &AttentionSizes,
) -> OpResult {
    let blocks = lists.key_tile_count * sizes.kv_heads;
    check_count(blocks)?;
    let arguments = [
        d_k_pool,
        d_v_pool,
        s.d_out,
        s.q,
        s.k_pool,
        s.v_pool,
        s.log_sum_exp,
        s.delta,
        lists.key_tiles.read_argument(),
        lists.users.read_argument(),
        s.segments,
        Argument::count(sizes.q_heads),
        Argument::count(sizes.kv_heads),
        Argument::F32(super::scale_log2(sizes)),
        Argument::F32(sizes.scale),
    ];
    let grid = Grid { blocks, threads: (KV_THREADS, 1), dynamic_shared_bytes: kernels.kv_shared as usize };
    // Safety: as above; tiles name pool rows of the table, each in one tile.
    unsafe { cuda.launch(kernels.kv, grid, arguments) }?;
    Ok(())
}

fn check_count(count: usize) -> OpResult {
    Check("attention_backward").that(count <= COUNT_MAX, || format!("a batch of {count} blocks is too large for CUDA"))
}
