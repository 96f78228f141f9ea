//! The forward pass of queries by themselves, as in decoding: all key heads in one pass over a query's keys and one over its
//! values, which are read as they lie. What bounds it is memory, so the next query's keys are asked for while this one's values
//! are summed.

use super::forward::{Scratch, Shared, Task};
use super::tile::{add_weighted, key_offsets, rows_together, softmax};
use crate::ops::attention::AttentionSizes;
use crate::ops::cpu::simd::{self, Kernel, LANES, Simd};

/// Tasks of one query each, one after another.
pub struct OneByOne<'a> {
    pub tasks: &'a [Task<'a>],
    pub shared: &'a Shared<'a>,
    pub scratch: &'a mut Scratch,
}

impl Kernel for OneByOne<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tasks, shared, scratch } = self;
        let stride = shared.sizes.kv_heads * shared.sizes.head_dim;
        let len = shared.k_pool.len().min(shared.v_pool.len());
        key_offsets(shared.segments, tasks[0].segment, stride, len, &mut scratch.offsets);
        for (i, task) in tasks.iter().enumerate() {
            let next = tasks.get(i + 1);
            scratch.offsets_ahead.clear();
            if let Some(next) = next {
                key_offsets(shared.segments, next.segment, stride, len, &mut scratch.offsets_ahead);
            }
            one(s, task, next.unwrap_or(task), shared, scratch);
            std::mem::swap(&mut scratch.offsets, &mut scratch.offsets_ahead);
        }
    }
}

/// One query, whose keys begin at `scratch.offsets`; those of the next at `scratch.offsets_ahead`.
#[inline(always)]
fn one<S: Simd>(s: S, task: &Task<'_>, next: &Task<'_>, shared: &Shared<'_>, scratch: &mut Scratch) {
    let AttentionSizes { q_heads, kv_heads: all_kv_heads, head_dim: dim, .. } = shared.sizes;
    let Scratch { offsets, offsets_ahead, scores, sums, inverse, .. } = scratch;
    let (group, keys) = (q_heads / all_kv_heads, offsets.len());
    // Rows of `scores` and `sums` are these heads.
    let heads = task.kv_heads.start * group..task.kv_heads.end * group;
    let padded = keys.next_multiple_of(LANES);
    // Past the end the first key stands in: the softmax overwrites its score.
    offsets.resize(padded, offsets[0]);
    scores.resize(heads.len() * padded, 0.0);
    sums.clear();
    sums.resize(heads.len() * dim, 0.0);
    inverse.clear();
    let row = task.segment.queries.start * q_heads;
    let q = &shared.q[(row + heads.start) * dim..(row + heads.end) * dim];
    let (first, width) = (task.kv_heads.start * dim, task.kv_heads.len() * dim);
    let pass = Heads {
        dim,
        group,
        width,
        keys: &shared.k_pool[first..],
        values: &shared.v_pool[first..],
        next_keys: &shared.k_pool[next.kv_heads.start * dim..],
    };
    pass.scores(s, q, s.splat(shared.sizes.scale), offsets, scores);
    for (head, scores) in heads.clone().zip(scores.chunks_exact_mut(padded)) {
        let (max, sum) = softmax(s, scores, keys);
        inverse.push(1.0 / sum);
        if let Some(log_sum_exp) = &shared.log_sum_exp {
            // Safety: this row belongs to this task alone.
            unsafe { log_sum_exp.slice(row + head, 1)[0] = max + s.to_array(s.ln(s.splat(sum)))[0] };
        }
    }
    pass.add_values(s, scores, &offsets[..keys], offsets_ahead, sums);
    for ((head, sums), inverse) in heads.zip(sums.chunks_exact(dim)).zip(inverse) {
        // Safety: this row belongs to this task alone.
        let out = unsafe { shared.out.slice((row + head) * dim, dim) };
        for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<LANES>().0) {
            s.store(to, s.mul(s.load(sum), s.splat(*inverse)));
        }
    }
}

/// The key heads of a pass over the keys or the values.
struct Heads<'a> {
    dim: usize,
    /// Query heads of a key head.
    group: usize,
    /// Elements of all these heads in a row of a pool.
    width: usize,
    /// The pools from the first of these heads on.
    keys: &'a [f32],
    values: &'a [f32],
    /// The keys from the next task's first head on.
    next_keys: &'a [f32],
}

impl Heads<'_> {
    /// Scores [heads, offsets]; q is [heads, dim], and offsets are whole blocks of sixteen, from `key_offsets`.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, q: &[f32], scale: S::V, offsets: &[usize], scores: &mut [f32]) {
        for (block, at) in offsets.as_chunks::<LANES>().0.iter().zip((0..).step_by(LANES)) {
            for (head, q) in q.chunks_exact(self.dim).enumerate() {
                let keys = self.keys[head / self.group * self.dim..].as_ptr();
                // Safety: `key_offsets` lets whole rows of the pool through alone, and this head is a part of a row.
                let dots = unsafe { dot_each(s, q, keys, block) };
                s.store(&mut scores[head * offsets.len() + at..], s.mul(dots, scale));
            }
        }
    }

    /// `sums[head] += Σ_k weights[head][k] · value_k`, sixteen keys at a time for all heads. The next task's keys, at `ahead`, are asked
    /// for.
    #[inline(always)]
    fn add_values<S: Simd>(&self, s: S, weights: &[f32], offsets: &[usize], ahead: &[usize], sums: &mut [f32]) {
        let (dim, padded) = (self.dim, offsets.len().next_multiple_of(LANES));
        let mut ahead = ahead.chunks(LANES);
        for (at, offsets) in (0..padded).step_by(LANES).zip(offsets.chunks(LANES)) {
            for offset in ahead.next().unwrap_or_default() {
                for line in (0..self.width).step_by(LANES) {
                    simd::prefetch(self.next_keys.as_ptr().wrapping_add(offset + line));
                }
            }
            for index in 0..self.width / dim {
                let values = &self.values[index * dim..];
                let end = (index + 1) * self.group;
                let mut head = index * self.group;
                while head < end {
                    let (weights, sums) = (&weights[head * padded + at..], &mut sums[head * dim..]);
                    head += match rows_together::<S>(end - head) {
                        8 => add_rows::<S, 8>(s, weights, padded, values, offsets, dim, sums),
                        4 => add_rows::<S, 4>(s, weights, padded, values, offsets, dim, sums),
                        2 => add_rows::<S, 2>(s, weights, padded, values, offsets, dim, sums),
                        _ => add_rows::<S, 1>(s, weights, padded, values, offsets, dim, sums),
                    };
                }
            }
        }
    }
}

/// Dot products of one head with sixteen keys; the usual lengths by name, so that loops over them are unrolled.
///
/// # Safety
/// As many elements as `q` has must be readable from `keys` plus every offset on.
#[inline(always)]
unsafe fn dot_each<S: Simd>(s: S, q: &[f32], keys: *const f32, offsets: &[usize; LANES]) -> S::V {
    let q = q.as_chunks::<LANES>().0;
    // Safety: passed on.
    unsafe {
        match q.len() {
            2 => s.dot_each(&q[..2], keys, offsets),
            4 => s.dot_each(&q[..4], keys, offsets),
            8 => s.dot_each(&q[..8], keys, offsets),
            _ => s.dot_each(q, keys, offsets),
        }
    }
}

/// [`add_weighted`] for `R` rows of weights that lie `stride` apart; returns R.
#[inline(always)]
fn add_rows<S: Simd, const R: usize>(
    s: S,
    weights: &[f32],
    stride: usize,
    values: &[f32],
    offsets: &[usize],
    dim: usize,
    sums: &mut [f32],
) -> usize {
    let weights: [&[f32]; R] = std::array::from_fn(|r| &weights[r * stride..][..offsets.len()]);
    add_weighted(s, weights, values, offsets, dim, &mut sums[..R * dim]);
    R
}
