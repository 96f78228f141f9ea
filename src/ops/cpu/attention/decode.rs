//! The forward pass of single queries, as in decoding: all key heads in one pass over a query's keys and one over its values,
//! both read in memory order. It is bound by memory.

use super::task::{Scratch, Shared, Task};
use super::tile::{Softmax, add_weighted, key_offsets, rows_together};
use crate::ops::attention::AttentionSizes;
use crate::ops::cpu::simd::{LANES, Simd, WithSimd};

/// Keys that all heads use before the next keys are read: whole blocks of sixteen.
const KEYS: usize = 64;

/// A task of one query. Its three passes are separate functions, so that each has all registers.
pub struct OneForward<'a> {
    pub task: &'a Task<'a>,
    pub shared: &'a Shared<'a>,
    pub scratch: &'a mut Scratch,
}

impl WithSimd for OneForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, shared, scratch } = self;
        let AttentionSizes { q_heads, kv_heads: all_kv_heads, head_dim: dim, scale, .. } = shared.sizes;
        let Scratch { offsets, scores, sums, inverse, .. } = scratch;
        let len = shared.k_pool.len().min(shared.v_pool.len());
        key_offsets(shared.segments, task.segment, all_kv_heads * dim, len, offsets);
        let (group, seen) = (q_heads / all_kv_heads, offsets.len());
        // Rows of `scores` and `sums` are these heads.
        let heads = task.kv_heads.start * group..task.kv_heads.end * group;
        let padded = seen.next_multiple_of(LANES);
        // The padding repeats the first key; the softmax overwrites its scores.
        offsets.resize(padded, offsets[0]);
        scores.resize(heads.len() * padded);
        let row = task.segment.queries.start * q_heads;
        let q = &shared.q[(row + heads.start) * dim..(row + heads.end) * dim];
        let first = task.kv_heads.start * dim;
        s.call(Scores { q, keys: &shared.k_pool[first..], offsets, dim, group, scale, scores });
        inverse.resize(heads.len(), 0.0);
        let rows = scores.chunks_mut(LANES * padded).zip(inverse.chunks_mut(LANES));
        for ((scores, inverse), first) in rows.zip((row + heads.start..).step_by(LANES)) {
            let mut log_sum_exp = [0.0; LANES];
            let seen = &[seen; LANES][..inverse.len()];
            s.call(Softmax { scores, seen, inverse, log_sum_exp: &mut log_sum_exp });
            if let Some(all) = &shared.log_sum_exp {
                // Safety: these rows belong to this task alone.
                unsafe { all.slice(first, inverse.len()) }.copy_from_slice(&log_sum_exp[..inverse.len()]);
            }
        }
        let values = &shared.v_pool[first..];
        sums.resize(heads.len() * dim);
        sums.fill(0.0);
        s.call(Values { weights: scores, values, offsets: &offsets[..seen], dim, group, sums });
        // Safety: as above.
        let out = unsafe { shared.out.slice((row + heads.start) * dim, heads.len() * dim) };
        for ((out, sums), inverse) in out.chunks_exact_mut(dim).zip(sums.chunks_exact(dim)).zip(inverse) {
            for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<LANES>().0) {
                s.store(to, s.mul(s.load(sum), s.splat(*inverse)));
            }
        }
    }
}

/// Scores [heads, offsets] of all heads, in one pass over the keys.
struct Scores<'a> {
    /// [heads, dim]
    q: &'a [f32],
    /// The pool from the first head on
    keys: &'a [f32],
    /// Whole blocks of sixteen, from `key_offsets`
    offsets: &'a [usize],
    dim: usize,
    /// Query heads of a key head
    group: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    /// The usual head sizes as constants, so that loops over them are unrolled.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.dim / LANES {
            2 => self.each_block(s, 2),
            4 => self.each_block(s, 4),
            8 => self.each_block(s, 8),
            chunks => self.each_block(s, chunks),
        }
    }
}

impl Scores<'_> {
    #[inline(always)]
    fn each_block<S: Simd>(self, s: S, chunks: usize) {
        let Self { q, keys, offsets, dim, group, scale, scores } = self;
        let padded = offsets.len();
        for (offsets, at) in offsets.chunks(KEYS).zip((0..).step_by(KEYS)) {
            let groups = q.chunks_exact(group * dim).zip(scores.chunks_exact_mut(group * padded));
            for ((q, scores), first) in groups.zip((0..).step_by(dim)) {
                let keys = keys[first..].as_ptr();
                for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(padded)) {
                    let (q, scores) = (&q.as_chunks().0[..chunks], &mut scores[at..at + offsets.len()]);
                    // Safety: `key_offsets` accepts only whole rows of the pool, and this head is a part of a row.
                    unsafe { s.dots(q, keys, offsets, scale, scores) };
                }
            }
        }
    }
}

/// `sums[head] += Σ_k weights[head][k] · value_k`, some keys at a time for all heads.
struct Values<'a> {
    /// [heads, keys padded]
    weights: &'a [f32],
    /// The pool from the first head on
    values: &'a [f32],
    /// From `key_offsets`
    offsets: &'a [usize],
    dim: usize,
    /// Query heads of a key head
    group: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weights, values, offsets, dim, group, sums } = self;
        let (padded, groups) = (offsets.len().next_multiple_of(LANES), sums.len() / (group * dim));
        for (offsets, at) in offsets.chunks(KEYS).zip((0..).step_by(KEYS)) {
            for index in 0..groups {
                let rows = Rows {
                    weights: &weights[index * group * padded..(index + 1) * group * padded],
                    padded,
                    at,
                    values: values[index * dim..].as_ptr(),
                    offsets,
                    dim,
                };
                rows.add(s, &mut sums[index * group * dim..(index + 1) * group * dim]);
            }
        }
    }
}

/// Some keys and the query heads of one key head.
struct Rows<'a> {
    /// [heads, padded]
    weights: &'a [f32],
    padded: usize,
    /// The first of these keys in a row of weights
    at: usize,
    /// The pool from this key head on
    values: *const f32,
    offsets: &'a [usize],
    dim: usize,
}

impl Rows<'_> {
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, sums: &mut [f32]) {
        let (heads, mut head) = (sums.len() / self.dim, 0);
        while head < heads {
            head += match rows_together::<S>(heads - head) {
                8 => self.add_heads::<S, 8>(s, head, sums),
                6 => self.add_heads::<S, 6>(s, head, sums),
                4 => self.add_heads::<S, 4>(s, head, sums),
                2 => self.add_heads::<S, 2>(s, head, sums),
                _ => self.add_heads::<S, 1>(s, head, sums),
            };
        }
    }

    /// `R` heads; returns R.
    #[inline(always)]
    fn add_heads<S: Simd, const R: usize>(&self, s: S, head: usize, sums: &mut [f32]) -> usize {
        let mut weights = [&self.weights[..0]; R];
        for (r, weights) in weights.iter_mut().enumerate() {
            *weights = &self.weights[(head + r) * self.padded + self.at..][..self.offsets.len()];
        }
        let sums = &mut sums[head * self.dim..(head + R) * self.dim];
        // Safety: `key_offsets` accepts only whole rows of the pool, and this head is a part of a row.
        unsafe { add_weighted(s, weights, self.values, self.offsets, self.dim, sums) };
        R
    }
}
