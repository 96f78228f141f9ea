//! Matmuls on the CPU: `C = A · B` with B packed in panels of 32 columns.
//!
//! Every element of C is one chain of fused multiply-adds over k in order, starting from 0 (or from what C holds). So its
//! bits depend only on its row of A, its column of B and the length of the chain, not on the number of rows, the tiling,
//! the blocking over k (the chain continues from memory), the threads or the vector instructions.
//!
//! A micro-kernel computes up to 12 rows × 2 vectors of C in registers; the loops around it only choose an order that
//! keeps its operands in cache.

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use super::memory;
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::tensor::DeviceError;

/// Columns of a panel: two vectors.
pub const PANEL: usize = 2 * LANES;

/// Rows of a tile of work. A tile reads a panel once for all of them, so the panel comes from memory once in this many
/// rows; 192 rows of A (16 micro-kernels) with K = 1536 take 1.2 MB of a 2 MB second-level cache.
const TILE_ROWS: usize = 192;
/// Multiply-adds of a tile, at least: about 0.1 ms, a hundred times what handing it to a thread costs.
const TILE_WORK: usize = 16 << 20;
/// Below this many multiply-adds (reading B counts as four rows), threads cost more than they gain.
const SERIAL_WORK: usize = 2 << 20;
/// The same inside a team, whose helpers are awake: about 5 µs of reading B.
const SERIAL_WORK_TOGETHER: usize = 1 << 18;
/// Rows of both operands of a weight gradient packed at a time: a panel of B is then 32 KB and stays in the first-level
/// cache for all of A.
const DEPTH: usize = 256;
/// Rows and panels of a tile of a weight gradient: with `DEPTH` 256 + 512 KB packed, in the second-level cache.
const GRADIENT_TILE: [usize; 2] = [256, 512 / PANEL];

/// A matmul with at most this many elements of A and at least this many of B streams the panels of B: A stays in the
/// second-level cache, and B (1 MB) is larger than that cache.
const STREAM_A_MAX: usize = 48 << 10;
const STREAM_B_MIN: usize = 256 << 10;
/// k of a streamed panel that are used at a time: 16 KB, which stay in the first-level cache (64 differs by less than the noise).
const STREAM_DEPTH: usize = 128;
/// Rows up to which a streamed panel is read in its full width, two rows at a time, rather than in halves by six.
const STREAM_PAIRS: usize = 8;

/// k of an iteration of the inner loop. The loop's overhead matters when another program runs on the same core: the processor
/// then issues half as many instructions for this one.
const UNROLL: usize = 4;

/// Rows of an operand that are prefetched ahead of packing: they are too far apart for the processor's own prefetcher.
const PACK_PREFETCH_ROWS: usize = 16;

/// One k of a panel: 32 columns, two cache lines.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(128))]
pub struct PanelRow([f32; PANEL]);

const ZERO_ROW: PanelRow = PanelRow([0.0; PANEL]);

/// The right operand of a matmul, [k, n] as panels: [n / 32][k][32], the last one padded with zeros.
pub struct Panels {
    rows: Vec<PanelRow>,
    pub n: usize,
    pub k: usize,
}

impl Panels {
    /// Panels of zeros.
    pub fn new(n: usize, k: usize) -> Result<Self, DeviceError> {
        let rows = memory::filled(n.div_ceil(PANEL) * k, ZERO_ROW)?;
        Ok(Self { rows, n, k })
    }

    /// Packs a matrix given as its transpose, [n, k]: the form of weights for `x · Wᵀ`.
    pub fn pack_transposed(&mut self, from: &[f32]) {
        let (n, k) = (self.n, self.k);
        assert_eq!(from.len(), n * k, "a matrix of another size");
        self.rows.par_chunks_mut(k.max(1)).enumerate().for_each(|(p, panel)| {
            let columns = &from[p * PANEL * k..n.min((p + 1) * PANEL) * k];
            // Eight k at a time: a cache line of each column is read once while the rows written stay in cache.
            for (block, rows) in panel.chunks_mut(8).enumerate() {
                for (c, column) in columns.chunks_exact(k).enumerate() {
                    let column = &column[block * 8..][..rows.len()];
                    rows.iter_mut().zip(column).for_each(|(row, x)| row.0[c] = *x);
                }
            }
        });
    }

    /// Column `n` of [k, n]: row `n` of the matrix that was packed from its transpose.
    pub fn copy_column(&self, to: &mut [f32], n: usize) {
        let panel = &self.rows[n / PANEL * self.k..][..self.k];
        to.iter_mut().zip(panel).for_each(|(to, row)| *to = row.0[n % PANEL]);
    }

    /// Packs a matrix [k, n]: the form of weights for `d_out · W`.
    pub fn pack(&mut self, from: &[f32]) {
        let (n, k) = (self.n, self.k);
        assert_eq!(from.len(), n * k, "a matrix of another size");
        self.rows.par_chunks_mut(k.max(1)).enumerate().for_each(|(p, panel)| {
            pack_columns(panel, from, n, p * PANEL);
        });
    }

    /// The same matrix transposed, [n, k].
    pub fn transposed(&self) -> Result<Self, DeviceError> {
        let mut to = Self::new(self.k, self.n)?;
        for (p, panel) in self.rows.chunks(self.k.max(1)).enumerate() {
            let columns = PANEL.min(self.n - p * PANEL);
            for (k, row) in panel.iter().enumerate() {
                let at = k / PANEL * self.n + p * PANEL;
                to.rows[at..at + columns].iter_mut().zip(&row.0).for_each(|(to, x)| to.0[k % PANEL] = *x);
            }
        }
        Ok(to)
    }
}

/// Packs columns `first..first + 32` of `from` [rows, stride] into one panel.
#[inline(always)]
fn pack_columns(panel: &mut [PanelRow], from: &[f32], stride: usize, first: usize) {
    let columns = PANEL.min(stride - first);
    for (to, row) in panel.iter_mut().zip(from.chunks_exact(stride)) {
        simd::prefetch_l1(row.as_ptr().wrapping_add(PACK_PREFETCH_ROWS * stride + first));
        simd::prefetch_l1(row.as_ptr().wrapping_add(PACK_PREFETCH_ROWS * stride + first + LANES));
        if columns == PANEL {
            to.0.copy_from_slice(&row[first..first + PANEL]);
        } else {
            to.0 = [0.0; PANEL];
            to.0[..columns].copy_from_slice(&row[first..]);
        }
    }
}

/// Start of row block `first..` in a packed operand of `depth` rows. Each block is followed by room for one vector, because
/// rows of blocks are stored as whole vectors.
#[inline(always)]
const fn block_start(first: usize, index: usize, depth: usize) -> usize {
    first * depth + index * LANES
}

/// Packs columns `first..first + columns` of `from` [k, stride] in `blocks` row blocks, each as [k][rows of the block]. Row
/// by row, so that memory is read sequentially.
#[inline(always)]
fn pack_row_blocks<S: Simd>(
    s: S,
    to: &mut [f32],
    blocks: usize,
    columns: usize,
    from: &[f32],
    stride: usize,
    first: usize,
) {
    let depth = from.len() / stride;
    for (k, row) in from.chunks_exact(stride).enumerate() {
        let row = &row[first..];
        for line in (0..columns).step_by(LANES) {
            simd::prefetch_l1(row.as_ptr().wrapping_add(PACK_PREFETCH_ROWS * stride + line));
        }
        for i in 0..blocks {
            let (at, width) = part(columns, blocks, i);
            let to = &mut to[block_start(at, i, depth) + k * width..][..LANES];
            if at + LANES <= row.len() {
                s.store(to, s.load(&row[at..]));
            } else {
                to[..width].copy_from_slice(&row[at..at + width]);
            }
        }
    }
}

/// Memory that several threads write, each its own tiles.
#[derive(Clone, Copy)]
struct Output(*mut f32);

impl Output {
    /// # Safety
    /// `at` must be inside the slice that this was made from.
    unsafe fn at(self, at: usize) -> *mut f32 {
        // Safety: passed on.
        unsafe { self.0.add(at) }
    }
}

// Safety: tiles of one matmul are disjoint and each is written by one thread; `matmul` and `add_transposed_matmul`
// hold the slice borrowed for as long as threads run.
unsafe impl Send for Output {}
// Safety: as above.
unsafe impl Sync for Output {}

/// A piece of a matmul for one micro-kernel or one strip of them. Pointers are valid for the sizes next to them.
#[derive(Clone, Copy)]
struct Piece {
    /// [rows, a_row] or, packed, [k][rows]
    a: *const f32,
    a_row: usize,
    /// First vector of the first panel
    b: *const f32,
    /// Elements from one panel to the next
    b_panel: usize,
    /// First element of the result
    c: *mut f32,
    c_row: usize,
    /// Columns of C from `c` on
    columns: usize,
    k: usize,
    /// Whether the chain starts from C instead of 0
    add: bool,
}

/// How a micro-kernel finds its operands.
trait Access {
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
struct Packed;

impl Access for Packed {
    const PACKED: bool = true;
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// Prefetches panels into the first-level cache, 2 KB ahead. The processor's own prefetcher alone streams weights at half the
/// speed (measured on a Xeon with AVX-512: 25 GB/s instead of 46 with four rows on two cores).
struct PrefetchL1;

impl Access for PrefetchL1 {
    const PACKED: bool = false;
    #[inline(always)]
    fn prefetch(at: *const f32) {
        simd::prefetch_l1(at.wrapping_add(16 * PANEL));
    }
}

/// Prefetches panels into the second-level cache, 16 KB ahead (measured with AVX2 on Zen 3, four rows on one core: 14–16 GB/s
/// streaming this way, 12.5–14 with `PrefetchL1`).
struct PrefetchL2;

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
const fn max_rows<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

/// One row block of `rows` ≤ `max_rows` rows. Few rows take more panels at once: it takes eight independent chains to hide
/// the latency of a multiply-add.
///
/// # Safety
/// As for `strip`, for `rows` rows.
#[inline(always)]
unsafe fn row_block<S: Simd, A: Access>(s: S, rows: usize, t: Piece) {
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

/// The `i`-th of `parts` nearly equal parts of 0..n: (first, size).
#[inline(always)]
fn part(n: usize, parts: usize, i: usize) -> (usize, usize) {
    let (size, longer) = (n / parts, n % parts);
    (i * size + i.min(longer), size + usize::from(i < longer))
}

/// A tile of `matmul`: `rows` rows × `piece.columns` columns.
struct Tile {
    piece: Piece,
    rows: usize,
    /// Few rows and a large right operand.
    streams: bool,
}

impl WithSimd for Tile {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Piece { columns, k, .. } = self.piece;
        // Not with AVX-512, where it has not been measured.
        if !self.streams || S::REGISTERS >= 32 {
            return self.part::<S, PrefetchL1>(s, max_rows::<S>(), 0..columns, 0..k);
        }
        // Panel by panel, so that B is read from memory once and in order for any number of row blocks.
        let most = if self.rows <= STREAM_PAIRS { 2 } else { max_rows::<S>() };
        for column in (0..columns).step_by(PANEL) {
            for first in (0..k).step_by(STREAM_DEPTH) {
                let (columns, k) = (column..columns.min(column + PANEL), first..k.min(first + STREAM_DEPTH));
                self.part::<S, PrefetchL2>(s, most, columns, k);
            }
        }
    }
}

impl Tile {
    /// All rows, up to `most` at a time, × some columns from a panel's first on, over some of k.
    #[inline(always)]
    fn part<S: Simd, A: Access>(&self, s: S, most: usize, columns: Range<usize>, k: Range<usize>) {
        let piece = &self.piece;
        let blocks = self.rows.div_ceil(most);
        for i in 0..blocks {
            let (first, rows) = part(self.rows, blocks, i);
            // Safety: `matmul` made the piece from slices of these sizes.
            unsafe {
                let part = Piece {
                    a: piece.a.add(first * piece.a_row + k.start),
                    b: piece.b.add(columns.start / PANEL * piece.b_panel + k.start * PANEL),
                    c: piece.c.add(first * piece.c_row + columns.start),
                    columns: columns.len(),
                    k: k.len(),
                    add: piece.add || k.start > 0,
                    ..*piece
                };
                row_block::<S, A>(s, rows, part);
            }
        }
    }
}

/// Runs tiles 0..count, on several threads if `parallel`.
fn each_tile(count: usize, parallel: bool, tile: impl Fn(usize) + Send + Sync) {
    if parallel {
        team::each(count, tile);
    } else {
        (0..count).for_each(tile);
    }
}

/// `c = a · b`, or `c += a · b` with `add`: a is [m, b.k], c is [m, b.n].
pub fn matmul(c: &mut [f32], a: &[f32], b: &Panels, m: usize, add: bool) {
    let (n, k) = (b.n, b.k);
    assert!(c.len() == m * n && a.len() == m * k, "matmul: slices of other sizes");
    if m == 0 || n == 0 {
        return;
    }
    let serial = if team::is_awake() { SERIAL_WORK_TOGETHER } else { SERIAL_WORK };
    let parallel = (m + 4) * n * k > serial && team::threads() > 1;
    let row_tiles = m.div_ceil(TILE_ROWS);
    let panels = n.div_ceil(PANEL);
    let mut group = (TILE_WORK / (TILE_ROWS.min(m) * k * PANEL).max(1)).clamp(1, panels);
    if parallel && row_tiles == 1 {
        // With few rows, every thread must stream its share of B.
        group = group.min(panels.div_ceil(2 * team::threads()));
    }
    let column_tiles = panels.div_ceil(group);
    let streams = m * k <= STREAM_A_MAX && n * k >= STREAM_B_MIN;
    let out = Output(c.as_mut_ptr());
    each_tile(row_tiles * column_tiles, parallel, |tile| {
        let (row, rows) = part(m, row_tiles, tile / column_tiles);
        let (panel, count) = part(panels, column_tiles, tile % column_tiles);
        let piece = Piece {
            a: a[row * k..].as_ptr(),
            a_row: k,
            b: b.rows[panel * k..].as_ptr().cast(),
            b_panel: k * PANEL,
            // Safety: row < m and panel * PANEL < n.
            c: unsafe { out.at(row * n + panel * PANEL) },
            c_row: n,
            columns: (count * PANEL).min(n - panel * PANEL),
            k,
            add,
        };
        simd::run(Tile { piece, rows, streams });
    });
}

/// `c += aᵀ · b`, the k rows of both added in order: a is [k, m], b is [k, n], c is [m, n].
pub fn add_transposed_matmul(c: &mut [f32], a: &[f32], b: &[f32], [k, m, n]: [usize; 3]) {
    assert!(c.len() == m * n && a.len() == k * m && b.len() == k * n, "add_transposed_matmul: slices of other sizes");
    if m == 0 || n == 0 {
        return;
    }
    let parallel = k * m * n > SERIAL_WORK && team::threads() > 1;
    let panels = n.div_ceil(PANEL);
    let (mut row_tiles, mut column_tiles) = (m.div_ceil(GRADIENT_TILE[0]), panels.div_ceil(GRADIENT_TILE[1]));
    let threads = team::threads();
    if parallel && !(row_tiles * column_tiles).is_multiple_of(threads) && row_tiles * column_tiles < 4 * threads {
        // Equal work for every thread, cut along the side that costs less to pack twice.
        if m >= n {
            row_tiles = row_tiles.next_multiple_of(threads).min(m);
        } else {
            column_tiles = column_tiles.next_multiple_of(threads).min(panels);
        }
    }
    let out = Output(c.as_mut_ptr());
    each_tile(row_tiles * column_tiles, parallel, |tile| {
        let (row, rows) = part(m, row_tiles, tile / column_tiles);
        let (panel, count) = part(panels, column_tiles, tile % column_tiles);
        // Safety: row < m and panel * PANEL < n.
        let c = unsafe { out.at(row * n + panel * PANEL) };
        SCRATCH.with_borrow_mut(|(b_packed, a_packed)| {
            let depth = DEPTH.min(k);
            b_packed.resize((count * depth).max(b_packed.len()), ZERO_ROW);
            a_packed.resize((rows * (depth + LANES)).max(a_packed.len()), 0.0);
            simd::run(TransposedTile { c, a, b, k, m, n, row, rows, panel, panels: count, b_packed, a_packed });
        });
    });
}

/// A tile of `add_transposed_matmul`: `rows` rows of C from `row` on × `panels` panels of columns from `panel` on.
struct TransposedTile<'a> {
    c: *mut f32,
    a: &'a [f32],
    b: &'a [f32],
    k: usize,
    m: usize,
    n: usize,
    row: usize,
    rows: usize,
    panel: usize,
    panels: usize,
    /// Scratch for the panels of B, `DEPTH` rows of each
    b_packed: &'a mut [PanelRow],
    /// Scratch for `DEPTH` rows of A and a vector more
    a_packed: &'a mut [f32],
}

thread_local! {
    /// Packed pieces of both operands of a weight gradient; grows to the largest tile and stays.
    static SCRATCH: RefCell<(Vec<PanelRow>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl WithSimd for TransposedTile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for first in (0..self.k).step_by(DEPTH) {
            self.add_block(s, first, DEPTH.min(self.k - first));
        }
    }
}

impl TransposedTile<'_> {
    /// Adds rows `first..first + depth` of the operands.
    #[inline(always)]
    fn add_block<S: Simd>(&mut self, s: S, first: usize, depth: usize) {
        let b_block = &self.b[first * self.n..(first + depth) * self.n];
        for (p, panel) in self.b_packed.chunks_exact_mut(depth).take(self.panels).enumerate() {
            pack_columns(panel, b_block, self.n, (self.panel + p) * PANEL);
        }
        let a_block = &self.a[first * self.m..(first + depth) * self.m];
        let blocks = self.rows.div_ceil(max_rows::<S>());
        pack_row_blocks(s, self.a_packed, blocks, self.rows, a_block, self.m, self.row);
        for p in 0..self.panels {
            let columns = PANEL.min(self.n - (self.panel + p) * PANEL);
            for i in 0..blocks {
                let (at, rows) = part(self.rows, blocks, i);
                let piece = Piece {
                    a: self.a_packed[block_start(at, i, depth)..].as_ptr(),
                    a_row: 1,
                    b: self.b_packed[p * depth..].as_ptr().cast(),
                    b_panel: 0,
                    // Safety: rows and columns of this tile, which `add_transposed_matmul` cut from C.
                    c: unsafe { self.c.add(at * self.n + p * PANEL) },
                    c_row: self.n,
                    columns,
                    k: depth,
                    add: true,
                };
                // Safety: both pieces were packed above for these sizes.
                unsafe { row_block::<S, Packed>(s, rows, piece) };
            }
        }
    }
}

/// Speed of the micro-kernel on one thread with everything in the first-level cache, in GFLOP/s: the peak that matmuls
/// on this machine are compared with. Takes about 20 ms.
pub fn peak_gflops() -> f64 {
    const K: usize = 128;
    let mut b = Panels { rows: vec![ZERO_ROW; K], n: PANEL, k: K };
    b.rows.iter_mut().enumerate().for_each(|(i, row)| row.0 = [1.0 / (i + 1) as f32; PANEL]);
    let (a, mut c) = (vec![0.5f32; 12 * K], vec![0.0f32; 12 * PANEL]);
    let flops = (2 * 12 * K * PANEL * 200) as f64;
    let timed = (0..20).map(|_| {
        let start = std::time::Instant::now();
        simd::run(Peak { a: &a, b: &b, c: &mut c });
        flops / start.elapsed().as_secs_f64() / 1e9
    });
    timed.fold(0.0, f64::max)
}

/// 200 matmuls of 12 rows with one panel.
struct Peak<'a> {
    a: &'a [f32],
    b: &'a Panels,
    c: &'a mut [f32],
}

impl WithSimd for Peak<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for _ in 0..200 {
            let rows = max_rows::<S>();
            for at in (0..12).step_by(rows) {
                let piece = Piece {
                    a: self.a[at * self.b.k..].as_ptr(),
                    a_row: 1,
                    b: self.b.rows.as_ptr().cast(),
                    b_panel: 0,
                    c: self.c[at * PANEL..].as_mut_ptr(),
                    c_row: PANEL,
                    columns: PANEL,
                    k: self.b.k,
                    add: false,
                };
                // Safety: 12 rows of A and C, one panel of B.
                unsafe { row_block::<S, Packed>(s, rows, piece) };
            }
            std::hint::black_box(&mut *self.c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::{Level, run_at};

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// One fused multiply-add per k in order, from `start`.
    fn chain(start: f32, terms: impl Iterator<Item = (f32, f32)>) -> u32 {
        terms.fold(start, |sum, (a, b)| a.mul_add(b, sum)).to_bits()
    }

    #[test]
    fn every_level_computes_the_same_chains() {
        for (m, n, k) in [
            (1, 150, 9),
            (2, 70, 3),
            (3, 150, 4),
            (4, 64, 5),
            (5, 33, 2),
            (12, 15, 40),
            (31, 50, 7),
            (4, 40, 300),
            (9, 70, 129),
        ] {
            let (a, w, start) = (values(m * k), values(n * k), values(m * n));
            let mut b = Panels::new(n, k).unwrap();
            b.pack_transposed(&w);
            let ways = [(false, false), (false, true), (true, false), (true, true)];
            for (level, (add, streams)) in Level::available().into_iter().flat_map(|l| ways.map(|way| (l, way))) {
                let mut c = start.clone();
                let piece = Piece {
                    a: a.as_ptr(),
                    a_row: k,
                    b: b.rows.as_ptr().cast(),
                    b_panel: k * PANEL,
                    c: c.as_mut_ptr(),
                    c_row: n,
                    columns: n,
                    k,
                    add,
                };
                run_at(level, Tile { piece, rows: m, streams });
                for (at, got) in c.iter().enumerate() {
                    let (r, o) = (at / n, at % n);
                    let terms = (0..k).map(|i| (a[r * k + i], w[o * k + i]));
                    let want = chain(if add { start[at] } else { 0.0 }, terms);
                    assert_eq!(
                        got.to_bits(),
                        want,
                        "{level:?} {m} × {n} × {k}, add {add}, streams {streams}: [{r}, {o}]"
                    );
                }
            }
        }
    }

    #[test]
    fn packing_a_transpose_is_transposing_the_packed() {
        for (n, k) in [(1, 1), (32, 32), (33, 5), (70, 100), (7, 64)] {
            let w = values(n * k);
            let (mut of_columns, mut of_rows) = (Panels::new(n, k).unwrap(), Panels::new(k, n).unwrap());
            of_columns.pack_transposed(&w);
            of_rows.pack(&w);
            let floats = |p: &Panels| p.rows.iter().flat_map(|row| row.0).collect::<Vec<_>>();
            assert_eq!(floats(&of_columns.transposed().unwrap()), floats(&of_rows), "{n} × {k}");
        }
    }
}
