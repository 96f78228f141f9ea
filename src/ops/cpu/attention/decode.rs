//! The forward pass of a query by itself, as in decoding: all key heads in one pass over its keys and one over its values,
//! which are read as they lie. What bounds it is memory, so values are asked for while the scores are computed.

use std::ops::Range;

use super::forward::{Scratch, Shared};
use super::tile::{add_weighted, key_offsets, rows_together, softmax};
use crate::ops::attention::{AttentionSizes, Segment};
use crate::ops::cpu::simd::{self, Kernel, LANES, Simd};

/// One query, and the key heads whose query heads are computed.
pub struct OneQuery<'a> {
    pub segment: &'a Segment,
    pub kv_heads: Range<usize>,
    pub shared: &'a Shared<'a>,
    pub scratch: &'a mut Scratch,
}

impl Kernel for OneQuery<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { segment, kv_heads, shared, scratch } = self;
        let AttentionSizes { q_heads, kv_heads: all_kv_heads, head_dim: dim, .. } = shared.sizes;
        let Scratch { offsets, scores, sums, inverse, .. } = scratch;
        key_offsets(shared.segments, segment, all_kv_heads * dim, offsets);
        let (group, keys) = (q_heads / all_kv_heads, offsets.len());
        // Rows of `scores` and `sums` are these heads.
        let heads = kv_heads.start * group..kv_heads.end * group;
        let padded = keys.next_multiple_of(LANES);
        scores.resize(heads.len() * padded, 0.0);
        sums.clear();
        sums.resize(heads.len() * dim, 0.0);
        inverse.clear();
        let row = segment.queries.start * q_heads;
        let q = &shared.q[(row + heads.start) * dim..(row + heads.end) * dim];
        let pass = Heads { shared, kv_heads, group, offsets };
        pass.scores(s, q, scores, padded);
        for (head, scores) in heads.clone().zip(scores.chunks_exact_mut(padded)) {
            let (max, sum) = softmax(s, scores, keys);
            inverse.push(1.0 / sum);
            if let Some(log_sum_exp) = &shared.log_sum_exp {
                // Safety: this row belongs to this task alone.
                unsafe { log_sum_exp.slice(row + head, 1)[0] = max + s.to_array(s.ln(s.splat(sum)))[0] };
            }
        }
        pass.add_values(s, scores, padded, sums);
        for ((head, sums), inverse) in heads.zip(sums.chunks_exact(dim)).zip(inverse) {
            // Safety: this row belongs to this task alone.
            let out = unsafe { shared.out.slice((row + head) * dim, dim) };
            for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<LANES>().0) {
                s.store(to, s.mul(s.load(sum), s.splat(*inverse)));
            }
        }
    }
}

/// The key heads of a pass over the keys or the values.
struct Heads<'a> {
    shared: &'a Shared<'a>,
    kv_heads: Range<usize>,
    /// Query heads of a key head.
    group: usize,
    offsets: &'a [usize],
}

impl Heads<'_> {
    /// Scores [heads, padded]; q is [heads, dim].
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, q: &[f32], scores: &mut [f32], padded: usize) {
        let Shared { k_pool, v_pool, sizes, .. } = self.shared;
        let (dim, scale) = (sizes.head_dim, s.splat(sizes.scale));
        let (first, width) = (self.kv_heads.start * dim, self.kv_heads.len() * dim);
        for (at, block) in (0..padded).step_by(LANES).zip(self.offsets.chunks(LANES)) {
            // Past the end the first key stands in: the softmax overwrites its score.
            let mut rows = [k_pool[block[0] + first..][..width].as_ptr(); LANES];
            for (row, offset) in rows.iter_mut().zip(block) {
                *row = k_pool[offset + first..][..width].as_ptr();
                for line in (0..width).step_by(LANES) {
                    simd::prefetch(v_pool.as_ptr().wrapping_add(offset + first + line));
                }
            }
            for (head, q) in q.chunks_exact(dim).enumerate() {
                // Safety: a row has `width` elements, as looked up above, and head / group < kv_heads.len().
                let dots = unsafe { dot_each(s, q, &rows, head / self.group * dim) };
                s.store(&mut scores[head * padded + at..], s.mul(dots, scale));
            }
        }
    }

    /// `sums[head] += Σ_k weights[head][k] · value_k`, sixteen keys at a time for all heads.
    #[inline(always)]
    fn add_values<S: Simd>(&self, s: S, weights: &[f32], padded: usize, sums: &mut [f32]) {
        let dim = self.shared.sizes.head_dim;
        for (at, offsets) in (0..padded).step_by(LANES).zip(self.offsets.chunks(LANES)) {
            for (index, kv_head) in self.kv_heads.clone().enumerate() {
                let values = &self.shared.v_pool[kv_head * dim..];
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
/// As many elements as `q` has must be readable from element `at` of every row on.
#[inline(always)]
unsafe fn dot_each<S: Simd>(s: S, q: &[f32], rows: &[*const f32; LANES], at: usize) -> S::V {
    let q = q.as_chunks::<LANES>().0;
    // Safety: passed on.
    unsafe {
        match q.len() {
            2 => s.dot_each(&q[..2], rows, at),
            4 => s.dot_each(&q[..4], rows, at),
            8 => s.dot_each(&q[..8], rows, at),
            _ => s.dot_each(q, rows, at),
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
