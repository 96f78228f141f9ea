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

/// `ROWS` vectors of sixteen lanes.
type Rows<S> = [<S as Simd>::V; ROWS];

/// Dot products of `ROWS` vectors with the sixteen columns of one block, each by the tree of `Simd::sum`.
#[inline(always)]
pub fn dots<S: Simd>(s: S, x: [&[f32]; ROWS], block: &[f32], dim: usize) -> Rows<S> {
    let (x, block) = (x.map(|row| &row[..dim]), &block[..dim * LANES]);
    // The tree of `Simd::sum`, leaf by leaf, so that few sums are alive at a time.
    let even = add(s, quad(s, x, block, 0), quad(s, x, block, 2));
    let odd = add(s, quad(s, x, block, 1), quad(s, x, block, 3));
    add(s, even, odd)
}

/// Lanes l, l + 8, l + 4 and l + 12 of the row form.
#[inline(always)]
fn quad<S: Simd>(s: S, x: [&[f32]; ROWS], block: &[f32], l: usize) -> Rows<S> {
    let first = add(s, lane(s, x, block, l), lane(s, x, block, l + 8));
    add(s, first, add(s, lane(s, x, block, l + 4), lane(s, x, block, l + 12)))
}

/// Lane l of the row form: the chain over elements d ≡ l mod 16.
#[inline(always)]
fn lane<S: Simd>(s: S, x: [&[f32]; ROWS], block: &[f32], l: usize) -> Rows<S> {
    let mut acc = [s.splat(0.0); ROWS];
    for d in (l..x[0].len()).step_by(LANES) {
        let keys = s.load(&block[d * LANES..]);
        for r in 0..ROWS {
            acc[r] = s.mul_add(s.splat(x[r][d]), keys, acc[r]);
        }
    }
    acc
}

#[inline(always)]
fn add<S: Simd>(s: S, mut a: Rows<S>, b: Rows<S>) -> Rows<S> {
    for r in 0..ROWS {
        a[r] = s.add(a[r], b[r]);
    }
    a
}

/// `out[r] = Σ_k weights[r][k] · value of key k` for `ROWS` rows of `dim` columns: one chain over keys an element.
///
/// The value of key k is the `dim` elements of `pool` from `rows[k]·stride + offset` on; `weights[r]` has an element for
/// each of `rows`.
#[inline(always)]
pub fn weighted_sums<S: Simd>(s: S, weights: [&[f32]; ROWS], values: &Values<'_>, out: &mut [f32]) {
    let Values { pool, rows, stride, offset, dim } = *values;
    let weights = weights.map(|w| &w[..rows.len()]);
    let mut column = 0;
    while column + 2 * LANES <= dim {
        let mut acc = [[s.splat(0.0); 2]; ROWS];
        for (k, row) in rows.iter().enumerate() {
            let from = &pool[*row as usize * stride + offset + column..][..2 * LANES];
            let (a, b) = (s.load(from), s.load(&from[LANES..]));
            for r in 0..ROWS {
                let w = s.splat(weights[r][k]);
                acc[r][0] = s.mul_add(w, a, acc[r][0]);
                acc[r][1] = s.mul_add(w, b, acc[r][1]);
            }
        }
        for r in 0..ROWS {
            s.store(&mut out[r * dim + column..], acc[r][0]);
            s.store(&mut out[r * dim + column + LANES..], acc[r][1]);
        }
        column += 2 * LANES;
    }
    if column < dim {
        let mut acc = [s.splat(0.0); ROWS];
        for (k, row) in rows.iter().enumerate() {
            let a = s.load(&pool[*row as usize * stride + offset + column..]);
            for r in 0..ROWS {
                acc[r] = s.mul_add(s.splat(weights[r][k]), a, acc[r]);
            }
        }
        for r in 0..ROWS {
            s.store(&mut out[r * dim + column..], acc[r]);
        }
    }
}

/// Vectors of one head, in the order of the sequence.
pub struct Values<'a> {
    pub pool: &'a [f32],
    pub rows: &'a [u32],
    pub stride: usize,
    pub offset: usize,
    pub dim: usize,
}
