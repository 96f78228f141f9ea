//! Loops that both directions share: dot products of rows (query, head) with blocks of sixteen keys, and weighted sums of
//! keys or values.
//!
//! Arithmetic stays in plain loops: a closure that the compiler does not inline would lose the level's instructions.

use crate::ops::attention::{Segment, SegmentTable};
use crate::ops::cpu::memory::Aligned;
use crate::ops::cpu::simd::{LANES, Simd, WithSimd};

/// Rows (query, head) that are computed together, at most.
pub const ROWS: usize = 8;

/// Vectors of sums that a loop may keep: half the registers. The other half is for the operands.
pub const fn sums_in_registers<S: Simd>() -> usize {
    S::REGISTERS / 2
}

/// How many of `left` rows the next pass takes: as many as there are registers for one vector of sums each. With AVX2 that is
/// six, as in the micro-kernel of matmuls: twelve registers of sums, two of keys, one of the row.
#[inline(always)]
pub fn rows_together<S: Simd>(left: usize) -> usize {
    match left {
        ROWS.. if ROWS <= sums_in_registers::<S>() => ROWS,
        6.. if S::REGISTERS == 8 => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Sixteen elements of a head for sixteen keys: element d of key k is at 16·d + k.
pub type Block = [f32; LANES * LANES];

/// Offset of every key of a segment in the pools, in the order of the sequence; a pool row has `stride` elements, and a
/// pool `len`.
pub fn key_offsets(table: &SegmentTable, segment: &Segment, stride: usize, len: usize, offsets: &mut Vec<usize>) {
    offsets.clear();
    for run in table.runs(segment) {
        let rows = run.start as usize..run.start as usize + run.len as usize;
        assert!(rows.end * stride <= len, "{run:?} is outside of the pool");
        offsets.extend((rows.start * stride..rows.end * stride).step_by(stride));
    }
}

/// The vectors of `dim` elements at `offsets`, transposed into blocks [keys/16][dim/16]; missing keys of the last are zeros.
pub fn transpose(values: &[f32], offsets: &[usize], dim: usize, out: &mut Aligned<Block>) {
    let chunks = dim / LANES;
    // Every element is written below, except those of missing keys.
    out.resize(offsets.len().div_ceil(LANES) * chunks);
    for (offsets, blocks) in offsets.chunks(LANES).zip(out.chunks_exact_mut(chunks)) {
        if offsets.len() < LANES {
            blocks.fill([0.0; LANES * LANES]);
        }
        for (key, offset) in offsets.iter().enumerate() {
            let from = values[*offset..][..dim].as_chunks::<LANES>().0;
            for (block, from) in blocks.iter_mut().zip(from) {
                for d in 0..LANES {
                    block[d * LANES + key] = from[d];
                }
            }
        }
    }
}

/// Dot products of `R` vectors with sixteen keys, each by the order of `Simd::sum`: lane l takes elements
/// d ≡ l mod 16 in a chain, then the tree over lanes. Four chains a row run at the same time.
#[inline(always)]
pub fn dots<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block]) -> [S::V; R] {
    let even = sums(s, four_lanes(s, x, keys, 0), four_lanes(s, x, keys, 2));
    sums(s, even, sums(s, four_lanes(s, x, keys, 1), four_lanes(s, x, keys, 3)))
}

/// [`dots`] with two chains a row at a time, for twice the rows in the same number of registers.
#[inline(always)]
pub fn dots_by_pairs<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block]) -> [S::V; R] {
    let even = sums(s, two_lanes(s, x, keys, 0), two_lanes(s, x, keys, 4));
    let even = sums(s, even, sums(s, two_lanes(s, x, keys, 2), two_lanes(s, x, keys, 6)));
    let odd = sums(s, two_lanes(s, x, keys, 1), two_lanes(s, x, keys, 5));
    let odd = sums(s, odd, sums(s, two_lanes(s, x, keys, 3), two_lanes(s, x, keys, 7)));
    sums(s, even, odd)
}

/// Lanes l, l + 4, l + 8 and l + 12 of the dot products, summed by the tree.
#[inline(always)]
fn four_lanes<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block], lane: usize) -> [S::V; R] {
    let [a, b, c, d] = lanes(s, x, keys, lane);
    sums(s, sums(s, a, c), sums(s, b, d))
}

/// Lanes l and l + 8 of the dot products, and their sum.
#[inline(always)]
fn two_lanes<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block], lane: usize) -> [S::V; R] {
    let [a, b] = lanes(s, x, keys, lane);
    sums(s, a, b)
}

/// `N` lanes of the dot products, evenly apart from `first` on.
#[inline(always)]
fn lanes<S: Simd, const R: usize, const N: usize>(
    s: S,
    x: [&[[f32; LANES]]; R],
    keys: &[Block],
    first: usize,
) -> [[S::V; R]; N] {
    let x = x.map(|x| &x[..keys.len()]);
    let mut acc = [[s.splat(0.0); R]; N];
    for (c, keys) in keys.iter().enumerate() {
        for (i, acc) in acc.iter_mut().enumerate() {
            let d = first + LANES / N * i;
            let keys = s.load(&keys[d * LANES..]);
            for r in 0..R {
                acc[r] = s.mul_add(s.splat(x[r][c][d]), keys, acc[r]);
            }
        }
    }
    acc
}

#[inline(always)]
fn sums<S: Simd, const R: usize>(s: S, mut a: [S::V; R], b: [S::V; R]) -> [S::V; R] {
    for r in 0..R {
        a[r] = s.add(a[r], b[r]);
    }
    a
}

/// `sums[r] += Σ_k weights[r][k] · values[offsets[k]..]`, one chain over k for each of the `dim` elements.
///
/// `weights` have as many elements as `offsets`; `sums` is [R, dim].
///
/// # Safety
/// `dim` elements must be readable from `values` plus every offset on.
#[inline(always)]
pub unsafe fn add_weighted<S: Simd, const R: usize>(
    s: S,
    weights: [&[f32]; R],
    values: *const f32,
    offsets: &[usize],
    dim: usize,
    sums: &mut [f32],
) {
    assert!(sums.len() == R * dim && weights.iter().all(|w| w.len() == offsets.len()), "add_weighted: other sizes");
    let mut column = 0;
    // Safety: passed on, for columns below `dim`; `weights` and `sums` have the sizes that were asserted.
    unsafe {
        let sums = sums.as_mut_ptr();
        let at = |column: usize| (values.wrapping_add(column), sums.wrapping_add(column));
        while R * 4 <= sums_in_registers::<S>() && column + 4 * LANES <= dim {
            add_weighted_columns::<S, R, 4>(s, weights, at(column), offsets, dim);
            column += 4 * LANES;
        }
        while R * 2 <= sums_in_registers::<S>() && column + 2 * LANES <= dim {
            add_weighted_columns::<S, R, 2>(s, weights, at(column), offsets, dim);
            column += 2 * LANES;
        }
        while column < dim {
            add_weighted_columns::<S, R, 1>(s, weights, at(column), offsets, dim);
            column += LANES;
        }
    }
}

/// `N` vectors of columns, from the first of values and sums that are given.
///
/// # Safety
/// As for `add_weighted`: N vectors must be readable at every offset and in every row of `sums`, whose rows are `dim` apart,
/// and every row of weights must be as long as `offsets`.
#[inline(always)]
unsafe fn add_weighted_columns<S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: [&[f32]; R],
    (values, sums): (*const f32, *mut f32),
    offsets: &[usize],
    dim: usize,
) {
    // Safety: passed on.
    unsafe {
        let mut acc = [[s.splat(0.0); N]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc = s.load_ptr(sums.add(r * dim + n * LANES));
            }
        }
        for (k, offset) in offsets.iter().enumerate() {
            let mut vectors = [s.splat(0.0); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load_ptr(values.add(offset + n * LANES));
            }
            for (weights, acc) in weights.iter().zip(&mut acc) {
                let weight = s.splat(*weights.get_unchecked(k));
                for (acc, vector) in acc.iter_mut().zip(vectors) {
                    *acc = s.mul_add(weight, vector, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (n, acc) in acc.iter().enumerate() {
                s.store_ptr(sums.add(r * dim + n * LANES), *acc);
            }
        }
    }
}

/// Softmax of up to sixteen rows of scores [rows, padded], not yet divided by their sums.
pub struct Softmax<'a> {
    pub scores: &'a mut [f32],
    /// Scores of each row that count; the rest become zeros.
    pub seen: &'a [usize],
    /// 1 / Σ exp(score − max) of each row, which the caller multiplies with
    pub inverse: &'a mut [f32],
    /// log Σ exp(score) of each row
    pub log_sum_exp: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    /// All maxima before all exponentials: the next row's need not wait for the last row's sum.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, seen, inverse, log_sum_exp } = self;
        let padded = scores.len() / seen.len();
        let (mut max, mut sums) = ([0.0; LANES], [1.0; LANES]);
        for ((max, scores), seen) in max.iter_mut().zip(scores.chunks_exact_mut(padded)).zip(seen) {
            scores[*seen..].fill(f32::NEG_INFINITY);
            let mut lanes = s.splat(f32::NEG_INFINITY);
            for part in scores.as_chunks::<LANES>().0 {
                // A NaN may get lost here; it shows in the sum below.
                lanes = s.max(lanes, s.load(part));
            }
            *max = s.max_lane(lanes);
        }
        for ((max, scores), sum) in max.iter().zip(scores.chunks_exact_mut(padded)).zip(&mut sums) {
            let mut lanes = s.splat(0.0);
            for part in scores.as_chunks_mut::<LANES>().0 {
                let e = s.exp(s.sub(s.load(part), s.splat(*max)));
                s.store(part, e);
                lanes = s.add(lanes, e);
            }
            *sum = s.sum(lanes);
        }
        let ln = s.to_array(s.ln(s.load(&sums)));
        for row in 0..seen.len() {
            inverse[row] = 1.0 / sums[row];
            log_sum_exp[row] = max[row] + ln[row];
        }
    }
}
