//! Attention reads K and V as often as FlashAttention-2's tiling says, and no more.

use patarm::cuda::{Cuda, kernels};
use patarm::ops::attention::{
    Attention, AttentionBackward, AttentionForward, AttentionSizes, Run, Segment, SegmentTable,
};
use patarm::tensor::Device;

use super::{Table, counted, floats, halves, kernel};

const HEADS: (usize, usize) = (4, 2);
const PAGE: usize = 16;

/// Queries and keys of segments with paged keys: decoding, a chunk, a prompt, a few queries.
const MIXED: [(usize, usize); 5] = [(1, 300), (150, 200), (20, 20), (3, 70), (1, 600)];

pub fn run(device: &Cuda, table: &mut Table) {
    for dim in [32, 64, 128] {
        forward(device, table, dim);
        backward(device, table, dim);
    }
}

fn sizes(dim: usize, pool_rows: usize) -> AttentionSizes {
    let (q_heads, kv_heads) = HEADS;
    AttentionSizes { q_heads, kv_heads, head_dim: dim, pool_rows, scale: 1.0 / (dim as f32).sqrt() }
}

/// The bytes of tiles of up to `tile` queries: (seen keys, queries, tiles).
fn tiles(segment: &Segment, tile: usize) -> Vec<(u64, u64)> {
    let queries = segment.queries.len();
    let of = |first: usize| {
        let count = (queries - first).min(tile);
        ((segment.keys - queries + first + count) as u64, count as u64)
    };
    (0..queries).step_by(tile).map(of).collect()
}

fn forward(device: &Cuda, table: &mut Table, dim: usize) {
    let (mut segments, mut next) = (SegmentTable::default(), 0);
    for (queries, keys) in MIXED {
        let pages = (0..keys)
            .step_by(PAGE)
            .map(|first| Run { start: (next + first) as u32, len: PAGE.min(keys - first) as u32 });
        segments.push(queries, pages.collect::<Vec<_>>());
        next += keys.next_multiple_of(PAGE);
    }
    let (queries, sizes) = (segments.queries() * HEADS.0, sizes(dim, next));
    let (q, pool) = (halves(device, queries * dim), halves(device, next * HEADS.1 * dim));
    let (mut out, mut sums) = (halves(device, queries * dim), floats(device, queries));
    let counters = counted(device, || {
        let args = AttentionForward::<Cuda> {
            out: device.view_mut(&mut out, 0..queries * dim),
            log_sum_exp: Some(device.view_mut(&mut sums, 0..queries)),
            q: device.view(&q, 0..queries * dim),
            k_pool: device.view(&pool, 0..next * HEADS.1 * dim),
            v_pool: device.view(&pool, 0..next * HEADS.1 * dim),
            segments: &segments,
            sizes,
        };
        device.attention_forward(args).unwrap();
    });
    table.add(&format!("attention forward {dim}"), device, &counters);
    let (q_heads, kv_heads, dim_bytes) = (HEADS.0 as u64, HEADS.1 as u64, dim as u64);
    let few = kernels::ATTENTION_DECODE_ROWS as usize / (HEADS.0 / HEADS.1);
    let (mut loads, mut stores, mut decode_loads, mut decode_stores) = (0, 0, 0, 0);
    for segment in segments.segments() {
        if segment.queries.len() > few {
            for (sees, count) in tiles(segment, kernels::ATTENTION_FORWARD_QUERIES as usize) {
                let tables = 24 * u64::from(kernels::ATTENTION_FORWARD_THREADS);
                loads += q_heads * (4 * dim_bytes * sees + 4 * sees + 2 * dim_bytes * count + tables);
                stores += q_heads * count * (2 * dim_bytes + 4);
            }
        } else {
            let splits = segment.keys.div_ceil(kernels::ATTENTION_DECODE_SPLIT as usize) as u64;
            let tables = 32 * u64::from(kernels::ATTENTION_DECODE_THREADS) * splits;
            let rows = segment.queries.len() as u64 * q_heads;
            decode_loads +=
                kv_heads * (4 * (dim_bytes + 1) * segment.keys as u64 + tables) + rows * 2 * dim_bytes * splits;
            decode_stores += rows * if splits == 1 { 2 * dim_bytes + 4 } else { (4 * dim_bytes + 8) * splits };
        }
    }
    let tiles = kernel(&counters, &format!("attention_forward_{dim}_bf16"));
    assert_eq!((tiles.load_bytes, tiles.store_bytes), (loads, stores), "forward, head_dim {dim}");
    let decode = kernel(&counters, &format!("attention_decode_{dim}_bf16"));
    assert_eq!((decode.load_bytes, decode.store_bytes), (decode_loads, decode_stores), "decoding, head_dim {dim}");
}

/// A prompt with its own queries and three rollouts of it, in one pool.
fn backward(device: &Cuda, table: &mut Table, dim: usize) {
    let (prompt, rollouts) = (150u32, [40u32, 130, 7]);
    let (mut segments, mut next) = (SegmentTable::default(), prompt);
    segments.push(prompt as usize, [Run { start: 0, len: prompt }]);
    for len in rollouts {
        segments.push(len as usize, [Run { start: 0, len: prompt }, Run { start: next, len }]);
        next += len;
    }
    segments.group();
    let (rows, pool_len) = (segments.queries() * HEADS.0, next as usize * HEADS.1 * dim);
    let (q, d_out, out) = (halves(device, rows * dim), halves(device, rows * dim), halves(device, rows * dim));
    let (pool, sums) = (halves(device, pool_len), floats(device, rows));
    let mut d_q = halves(device, rows * dim);
    let [mut d_k, mut d_v] = [(); 2].map(|()| halves(device, pool_len));
    let counters = counted(device, || {
        let args = AttentionBackward::<Cuda> {
            d_q: device.view_mut(&mut d_q, 0..rows * dim),
            d_k_pool: device.view_mut(&mut d_k, 0..pool_len),
            d_v_pool: device.view_mut(&mut d_v, 0..pool_len),
            d_out: device.view(&d_out, 0..rows * dim),
            out: device.view(&out, 0..rows * dim),
            log_sum_exp: device.view(&sums, 0..rows),
            q: device.view(&q, 0..rows * dim),
            k_pool: device.view(&pool, 0..pool_len),
            v_pool: device.view(&pool, 0..pool_len),
            segments: &segments,
            sizes: sizes(dim, next as usize),
        };
        device.attention_backward(args).unwrap();
    });
    table.add(&format!("attention backward {dim}"), device, &counters);
    let (q_heads, kv_heads, wide) = (HEADS.0 as u64, HEADS.1 as u64, dim as u64);
    let of_tile = |(sees, count): (u64, u64)| {
        let tables = 24 * u64::from(kernels::ATTENTION_BACKWARD_Q_THREADS);
        // Four lanes read each number of a row.
        q_heads * (4 * wide * sees + 4 * sees + 4 * wide * count + 4 * 8 * count + tables)
    };
    let tile = kernels::ATTENTION_BACKWARD_Q_QUERIES as usize;
    let loads: u64 = segments.segments().iter().flat_map(|segment| tiles(segment, tile)).map(of_tile).sum();
    let by_queries = kernel(&counters, &format!("attention_backward_q_{dim}_bf16"));
    assert_eq!((by_queries.load_bytes, by_queries.store_bytes), (loads, 2 * wide * rows as u64), "d_q, head_dim {dim}");
    let (mut loads, mut stores) = (0, 0);
    for (start, end) in shared_ranges(prompt as usize, &rollouts) {
        for first in (start..end).step_by(kernels::ATTENTION_BACKWARD_KV_KEYS as usize) {
            let count = (end - first).min(kernels::ATTENTION_BACKWARD_KV_KEYS as usize) as u64;
            let seen: Vec<u64> =
                segments.segments().iter().filter_map(|s| queries_that_see(&segments, s, first)).collect();
            let tables = (24 * seen.len() as u64 + 16) * u64::from(kernels::ATTENTION_BACKWARD_KV_THREADS);
            // K and V, their gradients before the addition; q, d_out and two numbers of every query, head by head.
            let group = q_heads / kv_heads;
            loads += kv_heads * (8 * wide * count + group * seen.iter().sum::<u64>() * (4 * wide + 8) + tables);
            stores += kv_heads * 4 * wide * count;
        }
    }
    let by_keys = kernel(&counters, &format!("attention_backward_kv_{dim}_bf16"));
    assert_eq!((by_keys.load_bytes, by_keys.store_bytes), (loads, stores), "d_k and d_v, head_dim {dim}");
    let delta = kernel(&counters, "attention_backward_delta_bf16");
    assert_eq!((delta.load_bytes, delta.store_bytes), (4 * wide * rows as u64, 4 * rows as u64), "delta");
}

/// The prompt, then the rollouts' own rows.
fn shared_ranges(prompt: usize, rollouts: &[u32]) -> Vec<(usize, usize)> {
    let mut found = vec![(0, prompt)];
    for len in rollouts {
        let start = found[found.len() - 1].1;
        found.push((start, start + *len as usize));
    }
    found
}

/// How many queries of a segment see a pool row; `None` if it is not among its keys.
fn queries_that_see(table: &SegmentTable, segment: &Segment, row: usize) -> Option<u64> {
    let rows: Vec<u32> = table.runs(segment).iter().flat_map(|run| run.start..run.start + run.len).collect();
    let key = rows.iter().position(|r| *r as usize == row)?;
    let before = segment.keys - segment.queries.len();
    Some((segment.queries.len() - key.saturating_sub(before)) as u64)
}
