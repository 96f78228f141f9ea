//! Small products that both directions share: scores of four rows against sixteen keys, and weighted sums of rows.

use crate::ops::attention::{Run, Segment, SegmentTable};
use crate::ops::cpu::simd::{LANES, Simd};

/// Rows (query, head) that are computed together.
pub const ROWS: usize = 4;

/// The pool row of every key of a segment, in the order of the sequence.
pub fn key_rows(table: &SegmentTable, segment: &Segment, rows: &mut Vec<u32>) {
    rows.clear();
    for Run { start, len } in table.runs(segment) {
        rows.extend(*start..start + len);
    }
}

/// Rows of one key head turned into blocks of sixteen keys, [keys/16][head_dim][16]; missing keys of the last are zeros.
pub fn transpose(pool: &[f32], rows: &[u32], stride: usize, offset: usize, dim: usize, out: &mut Vec<f32>) {
    let blocks = rows.len().div_ceil(LANES);
    out.clear();
    out.resize(blocks * dim * LANES, 0.0);
    for (index, row) in rows.iter().enumerate() {
        let from = &pool[*row as usize * stride + offset..][..dim];
        let to = &mut out[index / LANES * dim * LANES + index % LANES..];
        for (d, value) in from.iter().enumerate() {
            to[d * LANES] = *value;
        }
    }
}

/// Dot products of `ROWS` vectors with the sixteen columns of one block, each by the tree of `Simd::sum`.
#[inline(always)]
pub fn dots<S: Simd>(s: S, x: [&[f32]; ROWS], block: &[f32], dim: usize) -> [S::V; ROWS] {
    let block = &block[..dim * LANES];
    // Lane l of the row form: the chain over d ≡ l mod 16.
    let lane = |l: usize| -> [S::V; ROWS] {
        let mut acc = [s.splat(0.0); ROWS];
        let mut d = l;
        while d < dim {
            let keys = s.load(&block[d * LANES..]);
            for r in 0..ROWS {
                acc[r] = s.mul_add(s.splat(x[r][d]), keys, acc[r]);
            }
            d += LANES;
        }
        acc
    };
    let add = |a: [S::V; ROWS], b: [S::V; ROWS]| -> [S::V; ROWS] { std::array::from_fn(|r| s.add(a[r], b[r])) };
    // The tree of `Simd::sum`, leaf by leaf, so that few sums are alive at a time.
    let pair = |i: usize| add(lane(i), lane(i + 8));
    let quad = |i: usize| add(pair(i), pair(i + 4));
    let (even, odd) = (add(quad(0), quad(2)), add(quad(1), quad(3)));
    add(even, odd)
}

/// `out[r] = Σ_k weights[r][k] · rows[k]` for `ROWS` rows, one chain over keys an element, a few vectors of columns at a time.
///
/// `row(k)` is where the vector of key k begins; `weights[r]` is a row of at least `keys` numbers.
#[inline(always)]
pub fn weighted_sums<S: Simd>(
    s: S,
    weights: [&[f32]; ROWS],
    keys: usize,
    dim: usize,
    row: impl Fn(usize) -> usize,
    values: &[f32],
    mut store: impl FnMut(usize, usize, S::V),
) {
    let weights = weights.map(|w| &w[..keys]);
    let mut column = 0;
    while column + 2 * LANES <= dim {
        let mut acc = [[s.splat(0.0); 2]; ROWS];
        for k in 0..keys {
            let from = &values[row(k) + column..][..2 * LANES];
            let (a, b) = (s.load(from), s.load(&from[LANES..]));
            for r in 0..ROWS {
                let w = s.splat(weights[r][k]);
                acc[r][0] = s.mul_add(w, a, acc[r][0]);
                acc[r][1] = s.mul_add(w, b, acc[r][1]);
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            store(r, column, acc[0]);
            store(r, column + LANES, acc[1]);
        }
        column += 2 * LANES;
    }
    while column < dim {
        let mut acc = [s.splat(0.0); ROWS];
        for k in 0..keys {
            let a = s.load(&values[row(k) + column..][..LANES]);
            for r in 0..ROWS {
                acc[r] = s.mul_add(s.splat(weights[r][k]), a, acc[r]);
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            store(r, column, acc);
        }
        column += LANES;
    }
}
