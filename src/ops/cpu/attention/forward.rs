//! The forward pass: a task is a tile of queries of one segment and one key head.

use std::cell::RefCell;

use rayon::prelude::*;

use super::tile::{ROWS, Values, dots, key_rows, transpose, weighted_sums};
use crate::ops::attention::{AttentionForward, AttentionSizes, Segment, SegmentTable};
use crate::ops::cpu::Cpu;
use crate::ops::cpu::shared::SharedMut;
use crate::ops::cpu::simd::{self, Kernel, LANES, Level, Simd};

/// Queries of one task: many enough that turning the keys is cheap beside using them.
const TILE: usize = 64;
/// Rows (query, head) of a tile from which keys are turned into blocks; fewer rows (decoding) take keys as they lie.
const TURN_FROM: usize = 8;
/// Multiply-adds below which a task list stays on the caller's thread.
const SERIAL_WORK: u64 = 100_000;

#[derive(Default)]
struct Scratch {
    rows: Vec<u32>,
    blocks: Vec<f32>,
    scores: Vec<f32>,
    /// [ROWS, head_dim]
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One tile of queries of a segment, one key head.
struct Task<'a> {
    segment: &'a Segment,
    /// First query of the tile, counted from the segment's first, and how many.
    first: usize,
    queries: usize,
    kv_head: usize,
}

pub fn forward(level: Level, args: AttentionForward<'_, Cpu>) {
    let AttentionForward { out, log_sum_exp, q, k_pool, v_pool, segments, sizes } = args;
    let mut tasks = Vec::new();
    for segment in segments.segments() {
        for first in (0..segment.queries.len()).step_by(TILE) {
            let queries = TILE.min(segment.queries.len() - first);
            tasks.extend((0..sizes.kv_heads).map(|kv_head| Task { segment, first, queries, kv_head }));
        }
    }
    let shared = Shared {
        out: SharedMut::new(out),
        log_sum_exp: log_sum_exp.map(SharedMut::new),
        q,
        k_pool,
        v_pool,
        segments,
        sizes,
    };
    let run = |task: &Task<'_>| {
        SCRATCH.with_borrow_mut(|scratch| simd::run_at(level, TileForward { task, shared: &shared, scratch }));
    };
    if segments.pairs() * (sizes.q_heads * sizes.head_dim) as u64 <= SERIAL_WORK {
        tasks.iter().for_each(run);
    } else {
        let least = tasks.len().div_ceil(8 * rayon::current_num_threads());
        tasks.par_iter().with_min_len(least).for_each(run);
    }
}

/// Inputs and outputs that all tasks see; a task writes the rows (its queries, the heads of its key head) alone.
struct Shared<'a> {
    out: SharedMut<'a>,
    log_sum_exp: Option<SharedMut<'a>>,
    q: &'a [f32],
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    segments: &'a SegmentTable,
    sizes: AttentionSizes,
}

struct TileForward<'a> {
    task: &'a Task<'a>,
    shared: &'a Shared<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for TileForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, shared, scratch } = self;
        let Scratch { rows, blocks, scores, sums } = scratch;
        let AttentionSizes { q_heads, kv_heads, head_dim: dim, scale, .. } = shared.sizes;
        let group = q_heads / kv_heads;
        key_rows(shared.segments, task.segment, rows);
        // Keys that the tile's last query sees.
        let keys = rows.len() - task.segment.queries.len() + task.first + task.queries;
        let rows = &rows[..keys];
        let (stride, offset) = (kv_heads * dim, task.kv_head * dim);
        let tile_rows = task.queries * group;
        let turned = tile_rows >= TURN_FROM;
        if turned {
            transpose(shared.k_pool, rows, stride, offset, dim, blocks);
        }
        let padded = keys.next_multiple_of(LANES);
        scores.resize(ROWS * padded, 0.0);
        sums.resize(ROWS * dim, 0.0);
        for first_row in (0..tile_rows).step_by(ROWS) {
            // Rows past the end repeat the last one; what they give is thrown away.
            let place: [Row; ROWS] = std::array::from_fn(|r| {
                let row = (first_row + r).min(tile_rows - 1);
                let query = task.first + row / group;
                let head = task.kv_head * group + row % group;
                let index = (task.segment.queries.start + query) * q_heads + head;
                Row { index, seen: keys - (task.queries - 1 - row / group), real: first_row + r < tile_rows }
            });
            let q = place.map(|row| &shared.q[row.index * dim..][..dim]);
            if turned {
                scores_from_blocks(s, q, blocks, dim, scale, padded, scores);
            } else {
                let count = (tile_rows - first_row).min(ROWS);
                scores_from_rows(s, &q[..count], shared.k_pool, rows, stride, offset, scale, padded, scores);
            }
            let mut inverse = [0.0; ROWS];
            for (r, row) in place.iter().enumerate().filter(|(_, row)| row.real) {
                let (max, sum) = softmax(s, &mut scores[r * padded..][..padded], row.seen);
                inverse[r] = 1.0 / sum;
                if let Some(log_sum_exp) = &shared.log_sum_exp {
                    // Safety: this row belongs to this task alone.
                    unsafe { log_sum_exp.slice(row.index, 1)[0] = max + sum.ln() };
                }
            }
            let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &scores[r * padded..][..padded]);
            let values = Values { pool: shared.v_pool, rows, stride, offset, dim };
            weighted_sums(s, weights, &values, sums);
            for (r, row) in place.iter().enumerate().filter(|(_, row)| row.real) {
                // Safety: this row belongs to this task alone.
                let out = unsafe { shared.out.slice(row.index * dim, dim) };
                for (to, from) in out.iter_mut().zip(&sums[r * dim..]) {
                    *to = from * inverse[r];
                }
            }
        }
    }
}

/// One (query, head) of a tile.
#[derive(Clone, Copy)]
struct Row {
    /// Row of q and out, [queries · q_heads].
    index: usize,
    /// Keys inside the causal mask.
    seen: usize,
    real: bool,
}

#[inline(always)]
fn scores_from_blocks<S: Simd>(
    s: S,
    q: [&[f32]; ROWS],
    blocks: &[f32],
    dim: usize,
    scale: f32,
    padded: usize,
    scores: &mut [f32],
) {
    for (index, block) in blocks.chunks_exact(dim * LANES).take(padded / LANES).enumerate() {
        let dots = dots(s, q, block, dim);
        for r in 0..ROWS {
            s.store(&mut scores[r * padded + index * LANES..], s.mul(dots[r], s.splat(scale)));
        }
    }
}

/// The same scores, bit for bit, from keys as they lie: for few queries.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn scores_from_rows<S: Simd>(
    s: S,
    q: &[&[f32]],
    pool: &[f32],
    rows: &[u32],
    stride: usize,
    offset: usize,
    scale: f32,
    padded: usize,
    scores: &mut [f32],
) {
    for (block, rows) in rows.chunks(LANES).enumerate() {
        for (r, q) in q.iter().enumerate() {
            let mut lanes = [s.splat(0.0); LANES];
            for (lane, row) in lanes.iter_mut().zip(rows) {
                let key = &pool[*row as usize * stride + offset..][..q.len()];
                for (q, k) in q.as_chunks::<LANES>().0.iter().zip(key.as_chunks::<LANES>().0) {
                    *lane = s.mul_add(s.load(q), s.load(k), *lane);
                }
            }
            let dots = s.sum_each(lanes);
            s.store(&mut scores[r * padded + block * LANES..], s.mul(dots, s.splat(scale)));
        }
    }
}

/// Turns the first `seen` scores of a row into exp(score − max) and the rest into zeros; (max, sum of exponentials).
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], seen: usize) -> (f32, f32) {
    scores[seen..].fill(f32::NEG_INFINITY);
    let mut lanes = s.splat(f32::NEG_INFINITY);
    for part in scores.as_chunks::<LANES>().0 {
        // A score that is not a number may slip through here; it shows in the sum below.
        lanes = s.max(lanes, s.load(part));
    }
    let max = s.max_lane(lanes);
    let mut sum = s.splat(0.0);
    for part in scores.as_chunks_mut::<LANES>().0 {
        let e = s.exp(s.sub(s.load(part), s.splat(max)));
        s.store(part, e);
        sum = s.add(sum, e);
    }
    (max, s.sum(sum))
}
