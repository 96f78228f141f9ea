//! Small products that both directions share: rows (query, head) against blocks of sixteen keys, and weighted sums of
//! keys or values.
//!
//! Arithmetic stays in plain loops: a closure that the compiler does not inline would lose the level's instructions.

use crate::ops::attention::{Segment, SegmentTable};
use crate::ops::cpu::simd::{LANES, Simd};

/// Rows (query, head) that are computed together, at most.
pub const ROWS: usize = 8;

/// Vectors of sums that a loop may keep: half the registers, the other half is for what is added to them.
pub const fn sums_in_registers<S: Simd>() -> usize {
    S::REGISTERS / 2
}

/// How many of `left` rows the next pass takes: as many as it has registers for one vector of sums each. With AVX2 that is six, as
/// in the micro-kernel of products: twelve registers of sums, two of keys, one of the row.
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
/// Sixteen elements of a head for sixteen keys: element d of key k stands at 16·d + k.
pub type Block = [f32; LANES * LANES];

/// Where every key of a segment begins in the pools, in the order of the sequence; a pool row has `stride` elements, and a
/// pool `len`.
pub fn key_offsets(table: &SegmentTable, segment: &Segment, stride: usize, len: usize, offsets: &mut Vec<usize>) {
    offsets.clear();
    for run in table.runs(segment) {
        let rows = run.start as usize..run.start as usize + run.len as usize;
        assert!(rows.end * stride <= len, "{run:?} lies outside of the pool");
        offsets.extend((rows.start * stride..rows.end * stride).step_by(stride));
    }
}

/// The vectors of `dim` elements at `offsets`, turned into blocks [keys/16][dim/16]; missing keys of the last are zeros.
pub fn turn(values: &[f32], offsets: &[usize], dim: usize, out: &mut Vec<Block>) {
    let chunks = dim / LANES;
    // Every place is written below, save those of missing keys.
    out.resize(offsets.len().div_ceil(LANES) * chunks, [0.0; LANES * LANES]);
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
/// d ≡ l mod 16 in a chain, then the tree over lanes. Four chains a row are under way at a time.
#[inline(always)]
pub fn dots<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block]) -> [S::V; R] {
    let even = sums(s, four_lanes(s, x, keys, 0), four_lanes(s, x, keys, 2));
    sums(s, even, sums(s, four_lanes(s, x, keys, 1), four_lanes(s, x, keys, 3)))
}

/// [`dots`] with two chains a row under way at a time: for twice the rows in as many registers.
#[inline(always)]
pub fn dots_by_pairs<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], keys: &[Block]) -> [S::V; R] {
    let even = sums(s, two_lanes(s, x, keys, 0), two_lanes(s, x, keys, 4));
    let even = sums(s, even, sums(s, two_lanes(s, x, keys, 2), two_lanes(s, x, keys, 6)));
    let odd = sums(s, two_lanes(s, x, keys, 1), two_lanes(s, x, keys, 5));
    let odd = sums(s, odd, sums(s, two_lanes(s, x, keys, 3), two_lanes(s, x, keys, 7)));
    sums(s, even, odd)
}

/// Lanes l, l + 4, l + 8 and l + 12 of the dot products, and their branch of the tree.
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
#[inline(always)]
pub fn add_weighted<S: Simd, const R: usize>(
    s: S,
    weights: [&[f32]; R],
    values: &[f32],
    offsets: &[usize],
    dim: usize,
    sums: &mut [f32],
) {
    let mut column = 0;
    while R * 4 <= sums_in_registers::<S>() && column + 4 * LANES <= dim {
        add_weighted_columns::<S, R, 4>(s, weights, &values[column..], offsets, dim, &mut sums[column..]);
        column += 4 * LANES;
    }
    while R * 2 <= sums_in_registers::<S>() && column + 2 * LANES <= dim {
        add_weighted_columns::<S, R, 2>(s, weights, &values[column..], offsets, dim, &mut sums[column..]);
        column += 2 * LANES;
    }
    while column < dim {
        add_weighted_columns::<S, R, 1>(s, weights, &values[column..], offsets, dim, &mut sums[column..]);
        column += LANES;
    }
}

#[inline(always)]
fn add_weighted_columns<S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: [&[f32]; R],
    values: &[f32],
    offsets: &[usize],
    dim: usize,
    sums: &mut [f32],
) {
    let weights = weights.map(|w| &w[..offsets.len()]);
    let mut acc = [[s.splat(0.0); N]; R];
    for r in 0..R {
        for n in 0..N {
            acc[r][n] = s.load(&sums[r * dim + n * LANES..]);
        }
    }
    for (k, offset) in offsets.iter().enumerate() {
        let value = &values[*offset..][..N * LANES];
        let mut vectors = [s.splat(0.0); N];
        for n in 0..N {
            vectors[n] = s.load(&value[n * LANES..]);
        }
        for r in 0..R {
            let weight = s.splat(weights[r][k]);
            for n in 0..N {
                acc[r][n] = s.mul_add(weight, vectors[n], acc[r][n]);
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            s.store(&mut sums[r * dim + n * LANES..], acc[r][n]);
        }
    }
}

/// Turns the first `seen` scores of a row into exp(score − max) and the rest into zeros; (max, sum of exponentials).
#[inline(always)]
pub fn softmax<S: Simd>(s: S, scores: &mut [f32], seen: usize) -> (f32, f32) {
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
