//! The micro-kernels of all matmuls: up to 12 rows × 2 vectors of C in registers, over all k of a piece.

use super::panels::PANEL;
use crate::ops::cpu::simd::{self, LANES, Simd};

/// k of an iteration of the inner loop. The loop's overhead matters when another program runs on the same core: the processor
/// then issues half as many instructions for this one.
const UNROLL: usize = 4;

/// A piece of a matmul for one micro-kernel or one strip of them. Pointers are valid for the sizes next to them.
#[derive(Clone, Copy)]
pub struct Piece {
    /// [rows, a_row] or, packed, [k][rows]
    pub a: *const f32,
    pub a_row: usize,
    /// First vector of the first panel
    pub b: *const f32,
    /// Elements from one panel to the next
    pub b_panel: usize,
    /// First element of the result
    pub c: *mut f32,
    pub c_row: usize,
    /// Columns of C from `c` on
    pub columns: usize,
    pub k: usize,
    /// Whether the chain starts from C instead of 0
    pub add: bool,
}

/// How a micro-kernel finds its operands.
pub trait Access {
    /// Whether A is packed as [k][rows] instead of row by row.
    const PACKED: bool;
    /// Called with the address of every vector of B.
    fn prefetch(at: *const f32);
    /// Elements of A from one k to the next, in a block of `rows` rows.
    #[inline(always)]
    fn step(rows: usize) -> usize {
        if Self::PACKED { rows } else { 1 }
    }
}

/// Both operands are packed for this block: they are in cache.
pub struct Packed;

impl Access for Packed {
    const PACKED: bool = true;
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// Prefetches panels into the first-level cache, 2 KB ahead. The processor's own prefetcher alone streams weights at half the
/// speed (measured on a Xeon with AVX-512: 25 GB/s instead of 46 with four rows on two cores).
pub struct PrefetchL1;

impl Access for PrefetchL1 {
    const PACKED: bool = false;
    #[inline(always)]
    fn prefetch(at: *const f32) {
        simd::prefetch_l1(at.wrapping_add(16 * PANEL));
    }
}

/// Prefetches panels into the second-level cache, 16 KB ahead (measured with AVX2 on Zen 3, four rows on one core: 14–16 GB/s
/// streaming this way, 12.5–14 with `PrefetchL1`).
pub struct PrefetchL2;

impl Access for PrefetchL2 {
    const PACKED: bool = false;
    #[inline(always)]
    fn prefetch(at: *const f32) {
        simd::prefetch_l2(at.wrapping_add(128 * PANEL));
    }
}

/// `MR` rows × `NV` vectors of C, in registers over all of k.
///
/// # Safety
/// The piece's pointers must be valid for MR rows, k and NV whole vectors.
#[inline(always)]
unsafe fn micro<S: Simd, A: Access, const MR: usize, const NV: usize>(s: S, t: Piece) {
    // Safety: every access is inside the rows, vectors and k that the caller guarantees.
    unsafe {
        let mut acc = [[s.splat(0.0); NV]; MR];
        if t.add {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load_ptr(t.c.add(r * t.c_row + v * LANES));
                }
            }
        }
        let (mut a, mut b, mut left) = (t.a, t.b, t.k);
        while left >= UNROLL {
            for i in 0..UNROLL {
                multiply_add::<S, A, MR, NV>(s, &t, a.add(i * A::step(MR)), b.add(i * PANEL), &mut acc);
            }
            (a, b, left) = (a.add(UNROLL * A::step(MR)), b.add(UNROLL * PANEL), left - UNROLL);
        }
        for i in 0..left {
            multiply_add::<S, A, MR, NV>(s, &t, a.add(i * A::step(MR)), b.add(i * PANEL), &mut acc);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                s.store_ptr(t.c.add(r * t.c_row + v * LANES), *acc);
            }
        }
    }
}

/// One k of [`micro`].
///
/// # Safety
/// As for `micro`, with `a` and `b` at this k.
#[inline(always)]
unsafe fn multiply_add<S: Simd, A: Access, const MR: usize, const NV: usize>(
    s: S,
    t: &Piece,
    a: *const f32,
    b: *const f32,
    acc: &mut [[S::V; NV]; MR],
) {
    // Safety: passed on.
    unsafe {
        let mut vectors = [s.splat(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            let from = b.add(v / 2 * t.b_panel + v % 2 * LANES);
            *vector = s.load_ptr(from);
            A::prefetch(from);
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = s.splat(*a.add(if A::PACKED { r } else { r * t.a_row }));
            for (acc, vector) in acc.iter_mut().zip(vectors) {
                *acc = s.mul_add(x, vector, *acc);
            }
        }
    }
}

/// [`micro`] where C may have fewer columns than NV vectors: through a buffer.
///
/// # Safety
/// As for `micro`, with `t.columns` columns of C.
#[inline(always)]
unsafe fn micro_edge<S: Simd, A: Access, const MR: usize, const NV: usize>(s: S, t: Piece) {
    // Safety: the caller guarantees `columns` columns of MR rows; the buffer holds NV vectors of each.
    unsafe {
        if t.columns >= NV * LANES {
            return micro::<S, A, MR, NV>(s, t);
        }
        let mut buffer = [[[0.0f32; LANES]; NV]; MR];
        let to = buffer.as_mut_ptr().cast::<f32>();
        if t.add {
            for r in 0..MR {
                std::ptr::copy_nonoverlapping(t.c.add(r * t.c_row), to.add(r * NV * LANES), t.columns);
            }
        }
        micro::<S, A, MR, NV>(s, Piece { c: to, c_row: NV * LANES, ..t });
        for r in 0..MR {
            std::ptr::copy_nonoverlapping(to.add(r * NV * LANES), t.c.add(r * t.c_row), t.columns);
        }
    }
}

/// MR rows × all columns of the piece: `WIDE` vectors at a time, then `NARROW`.
///
/// # Safety
/// As for `micro_edge`; B must hold whole panels for all columns.
#[inline(always)]
unsafe fn strip<S: Simd, A: Access, const MR: usize, const WIDE: usize, const NARROW: usize>(s: S, t: Piece) {
    let at = |column: usize| Piece {
        // Safety: column < t.columns, and panels are whole.
        b: unsafe { t.b.add(column / PANEL * t.b_panel + column % PANEL) },
        // Safety: column < t.columns.
        c: unsafe { t.c.add(column) },
        columns: t.columns - column,
        ..t
    };
    let mut column = 0;
    while column + WIDE * LANES <= t.columns {
        // Safety: passed on.
        unsafe { micro::<S, A, MR, WIDE>(s, at(column)) };
        column += WIDE * LANES;
    }
    while column < t.columns {
        // Safety: passed on; a vector beyond the last column is still inside the last, whole panel.
        unsafe { micro_edge::<S, A, MR, NARROW>(s, at(column)) };
        column += NARROW * LANES;
    }
}

/// Rows of C in registers at once. AVX-512 has 32 registers: 12 × 2 accumulators, 2 of B and 1 of A leave room for the
/// next loads (measured: see `peak_gflops`). AVX2 has 16 of half the width: 6 × 2 accumulators.
#[inline(always)]
pub const fn max_rows<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

/// One row block of `rows` ≤ `max_rows` rows. Few rows take more panels at once: it takes eight independent chains to hide
/// the latency of a multiply-add.
///
/// # Safety
/// As for `strip`, for `rows` rows.
#[inline(always)]
pub unsafe fn row_block<S: Simd, A: Access>(s: S, rows: usize, t: Piece) {
    // Safety: passed on.
    unsafe {
        if S::REGISTERS >= 32 {
            match rows {
                1 => strip::<S, A, 1, 8, 2>(s, t),
                2 => strip::<S, A, 2, 4, 2>(s, t),
                3 => strip::<S, A, 3, 4, 2>(s, t),
                4 => strip::<S, A, 4, 4, 2>(s, t),
                5 => strip::<S, A, 5, 2, 2>(s, t),
                6 => strip::<S, A, 6, 2, 2>(s, t),
                7 => strip::<S, A, 7, 2, 2>(s, t),
                8 => strip::<S, A, 8, 2, 2>(s, t),
                9 => strip::<S, A, 9, 2, 2>(s, t),
                10 => strip::<S, A, 10, 2, 2>(s, t),
                11 => strip::<S, A, 11, 2, 2>(s, t),
                _ => strip::<S, A, 12, 2, 2>(s, t),
            }
        } else {
            match rows {
                1 => strip::<S, A, 1, 4, 1>(s, t),
                2 => strip::<S, A, 2, 2, 1>(s, t),
                3 => strip::<S, A, 3, 1, 1>(s, t),
                4 => strip::<S, A, 4, 1, 1>(s, t),
                5 => strip::<S, A, 5, 1, 1>(s, t),
                _ => strip::<S, A, 6, 1, 1>(s, t),
            }
        }
    }
}
