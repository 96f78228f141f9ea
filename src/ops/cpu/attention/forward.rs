//! The forward pass: a task is a tile of queries of one segment and one key head, or a query by itself (`decode.rs`).

use std::cell::RefCell;

use super::decode::OneForward;
use super::task::{Scratch, Shared, Task};
use super::tile::{
    Block, ROWS, Softmax, add_weighted, dots, dots_by_pairs, key_offsets, rows_together, sums_in_registers, transpose,
};
use crate::ops::attention::{AttentionForward, AttentionSizes};
use crate::ops::cpu::Cpu;
use crate::ops::cpu::shared::SharedMut;
use crate::ops::cpu::simd::{self, LANES, Level, Simd, WithSimd};
use crate::ops::cpu::team;

/// Queries of one task: many enough that transposing the keys costs little next to using them.
const TILE: usize = 128;
/// Multiply-adds below which a task list stays on the caller's thread.
const SERIAL_WORK: u64 = 200_000;
/// The same inside a team, whose helper threads are awake.
const SERIAL_WORK_TOGETHER: u64 = 20_000;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attention of all segments, in tasks of a tile of queries and one or more heads. The arguments have been checked.
pub fn forward(level: Level, args: AttentionForward<'_, Cpu>) {
    let AttentionForward { out, log_sum_exp, q, k_pool, v_pool, segments, sizes } = args;
    // If there are enough queries for all threads, a task takes all heads of its query: rows of the pools are then read in order.
    let together = if segments.segments().len() >= 4 * team::threads() { sizes.kv_heads } else { 1 };
    let mut tasks = Vec::new();
    for segment in segments.segments() {
        let heads = if segment.queries.len() == 1 { together } else { 1 };
        for first in (0..segment.queries.len()).step_by(TILE) {
            let queries = TILE.min(segment.queries.len() - first);
            tasks.extend((0..sizes.kv_heads / heads).map(|i| Task {
                segment,
                first,
                queries,
                kv_heads: i * heads..(i + 1) * heads,
            }));
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
    let run = |tasks: &[Task<'_>]| {
        SCRATCH.with_borrow_mut(|scratch| {
            for task in tasks {
                if task.segment.queries.len() == 1 {
                    simd::run_at(level, OneForward { task, shared: &shared, scratch });
                } else {
                    simd::run_at(level, TileForward { task, shared: &shared, scratch });
                }
            }
        });
    };
    let serial = if team::is_awake() { SERIAL_WORK_TOGETHER } else { SERIAL_WORK };
    if team::threads() == 1 || segments.pairs() * (sizes.q_heads * sizes.head_dim) as u64 <= serial {
        run(&tasks);
    } else {
        let chunks: Vec<_> = tasks.chunks(tasks.len().div_ceil(8 * team::threads())).collect();
        team::each(chunks.len(), |i| run(chunks[i]));
    }
}

struct TileForward<'a> {
    task: &'a Task<'a>,
    shared: &'a Shared<'a>,
    scratch: &'a mut Scratch,
}

impl WithSimd for TileForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, shared, scratch } = self;
        let Scratch { offsets, blocks, scores, sums, .. } = scratch;
        let AttentionSizes { q_heads, kv_heads, head_dim: dim, .. } = shared.sizes;
        let len = shared.k_pool.len().min(shared.v_pool.len());
        key_offsets(shared.segments, task.segment, kv_heads * dim, len, offsets);
        // Keys that the tile's last query sees.
        let keys = offsets.len() - task.segment.queries.len() + task.first + task.queries;
        let rows = Rows {
            task,
            shared,
            kv_head: task.kv_heads.start,
            group: q_heads / kv_heads,
            keys,
            offsets: &offsets[..keys],
            k: &shared.k_pool[task.kv_heads.start * dim..],
            v: &shared.v_pool[task.kv_heads.start * dim..],
        };
        let count = task.queries * rows.group;
        transpose(rows.k, rows.offsets, dim, blocks);
        scores.resize(ROWS * keys.next_multiple_of(LANES));
        sums.resize(ROWS * dim);
        let mut first = 0;
        while first < count {
            first += match rows_together::<S>(count - first) {
                ROWS => rows.run::<S, ROWS>(s, first, blocks, scores, sums),
                6 => rows.run::<S, 6>(s, first, blocks, scores, sums),
                4 => rows.run::<S, 4>(s, first, blocks, scores, sums),
                2 => rows.run::<S, 2>(s, first, blocks, scores, sums),
                _ => rows.run::<S, 1>(s, first, blocks, scores, sums),
            };
        }
    }
}

/// The rows (query, head) of a task, query by query.
struct Rows<'a> {
    task: &'a Task<'a>,
    shared: &'a Shared<'a>,
    kv_head: usize,
    /// Heads that read this key head.
    group: usize,
    /// Keys that the last query sees.
    keys: usize,
    offsets: &'a [usize],
    /// The pools from this key head on.
    k: &'a [f32],
    v: &'a [f32],
}

impl Rows<'_> {
    /// The row of q and out, [queries · q_heads].
    #[inline(always)]
    fn index(&self, row: usize) -> usize {
        let query = self.task.segment.queries.start + self.task.first + row / self.group;
        query * self.shared.sizes.q_heads + self.kv_head * self.group + row % self.group
    }

    /// Keys inside the causal mask.
    #[inline(always)]
    fn seen(&self, row: usize) -> usize {
        self.keys - (self.task.queries - 1 - row / self.group)
    }

    /// Computes rows `first .. first + R`; returns R.
    #[inline(always)]
    fn run<S: Simd, const R: usize>(
        &self,
        s: S,
        first: usize,
        blocks: &[Block],
        scores: &mut [f32],
        sums: &mut [f32],
    ) -> usize {
        let AttentionSizes { head_dim: dim, scale, .. } = self.shared.sizes;
        let index: [usize; R] = std::array::from_fn(|r| self.index(first + r));
        let seen: [usize; R] = std::array::from_fn(|r| self.seen(first + r));
        let q = index.map(|i| self.shared.q[i * dim..][..dim].as_chunks::<LANES>().0);
        let padded = seen[R - 1].next_multiple_of(LANES);
        let scores = &mut scores[..R * padded];
        s.call(Scores { q, blocks, scale, scores: &mut *scores });
        let (mut inverse, mut log_sum_exp) = ([0.0; R], [0.0; R]);
        s.call(Softmax { scores: &mut *scores, seen: &seen, inverse: &mut inverse, log_sum_exp: &mut log_sum_exp });
        if let Some(all) = &self.shared.log_sum_exp {
            for r in 0..R {
                // Safety: this row belongs to this task alone.
                unsafe { all.slice(index[r], 1)[0] = log_sum_exp[r] };
            }
        }
        let sums = &mut sums[..R * dim];
        sums.fill(0.0);
        let weights: [&[f32]; R] = std::array::from_fn(|r| &scores[r * padded..][..padded]);
        // First the keys that all rows see, then the few that only later rows see: masked keys are never read.
        let (of_all, offsets) = (weights.map(|w| &w[..seen[0]]), &self.offsets[..seen[0]]);
        // Safety: `key_offsets` accepts only whole rows of the pool, and this head is a part of a row.
        unsafe { add_weighted(s, of_all, self.v.as_ptr(), offsets, dim, sums) };
        for (k, offset) in self.offsets.iter().enumerate().take(seen[R - 1]).skip(seen[0]) {
            let value = &self.v[*offset..][..dim];
            for r in (0..R).filter(|r| k < seen[*r]) {
                add_scaled(s, weights[r][k], value, &mut sums[r * dim..][..dim]);
            }
        }
        for r in 0..R {
            // Safety: this row belongs to this task alone.
            let out = unsafe { self.shared.out.slice(index[r] * dim, dim) };
            for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums[r * dim..].as_chunks::<LANES>().0) {
                s.store(to, s.mul(s.load(sum), s.splat(inverse[r])));
            }
        }
        R
    }
}

/// `sums += weight · value`: continues the chains that `add_weighted` began.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, weight: f32, value: &[f32], sums: &mut [f32]) {
    for (sum, value) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(value.as_chunks::<LANES>().0) {
        let longer = s.mul_add(s.splat(weight), s.load(value), s.load(sum));
        s.store(sum, longer);
    }
}

/// Scores [R, padded] of `R` rows against transposed keys.
struct Scores<'a, const R: usize> {
    q: [&'a [[f32; LANES]]; R],
    blocks: &'a [Block],
    scale: f32,
    scores: &'a mut [f32],
}

impl<const R: usize> WithSimd for Scores<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { q, blocks, scale, scores } = self;
        let (padded, scale) = (scores.len() / R, s.splat(scale));
        for (at, keys) in (0..padded).step_by(LANES).zip(blocks.chunks_exact(q[0].len())) {
            let mut r = 0;
            // Four chains a row if the registers hold four rows of them, otherwise two chains of two rows. Keys are loaded once
            // for all rows.
            while 4 * 4 <= sums_in_registers::<S>() && r + 4 <= R {
                let dots = dots(s, [q[r], q[r + 1], q[r + 2], q[r + 3]], keys);
                for i in 0..4 {
                    s.store(&mut scores[(r + i) * padded + at..], s.mul(dots[i], scale));
                }
                r += 4;
            }
            while 2 * 2 <= sums_in_registers::<S>() && r + 2 <= R {
                let dots = dots_by_pairs(s, [q[r], q[r + 1]], keys);
                for i in 0..2 {
                    s.store(&mut scores[(r + i) * padded + at..], s.mul(dots[i], scale));
                }
                r += 2;
            }
            while r < R {
                let [dot] = dots(s, [q[r]], keys);
                s.store(&mut scores[r * padded + at..], s.mul(dot, scale));
                r += 1;
            }
        }
    }
}
