//! Matmuls on the CPU: `C = A · B` with B packed in panels of 32 columns.
//!
//! Every element of C is one chain of fused multiply-adds over k in order, starting from 0 (or from what C holds). So its
//! bits depend only on its row of A, its column of B and the length of the chain, not on the number of rows, the tiling,
//! the blocking over k (the chain continues from memory), the threads or the vector instructions.
//!
//! A micro-kernel computes up to 12 rows × 2 vectors of C in registers; the loops around it only choose an order that
//! keeps its operands in cache. A weight is packed once and read in both directions: as it is for `x · Wᵀ`, transposed block
//! by block for `d_out · W`.

mod gradient;
mod micro;
mod panels;
mod peak;
mod transposed;

use std::cell::RefCell;
use std::ops::Range;

pub use gradient::add_transposed_matmul;
pub use panels::{PANEL, Panels};
pub use peak::peak_gflops;
pub use transposed::matmul_transposed;

use super::simd::{self, Simd, WithSimd};
use super::team;
use micro::{Access, Piece, PrefetchL1, PrefetchL2, max_rows, row_block};
use panels::PanelRow;

/// Rows of a tile of work. A tile reads a panel once for all of them, so the panel comes from memory once in this many
/// rows; 192 rows of A (16 micro-kernels) with K = 1536 take 1.2 MB of a 2 MB second-level cache.
const TILE_ROWS: usize = 192;
/// Multiply-adds of a tile, at least: about 0.1 ms, a hundred times what handing it to a thread costs.
const TILE_WORK: usize = 16 << 20;
/// Below this many multiply-adds (reading B counts as four rows), threads cost more than they gain.
const SERIAL_WORK: usize = 2 << 20;
/// The same inside a team, whose helpers are awake: about 5 µs of reading B.
const SERIAL_WORK_TOGETHER: usize = 1 << 18;
/// k that are packed at a time where a matmul packs its right operand: a panel of it is then 32 KB and stays in the first-level
/// cache for all rows of A.
const DEPTH: usize = 256;
/// A matmul with at most this many elements of A and at least this many of B streams the panels of B: A stays in the
/// second-level cache, and B (1 MB) is larger than that cache.
const STREAM_A_MAX: usize = 48 << 10;
const STREAM_B_MIN: usize = 256 << 10;
/// k of a streamed panel that are used at a time: 16 KB, which stay in the first-level cache (64 differs by less than the noise).
const STREAM_DEPTH: usize = 128;
/// Rows up to which a streamed panel is read in its full width, two rows at a time, rather than in halves by six.
const STREAM_PAIRS: usize = 8;

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

// Safety: tiles of one matmul are disjoint and each is written by one thread; the functions that make one hold the slice
// borrowed for as long as threads run.
unsafe impl Send for Output {}
// Safety: as above.
unsafe impl Sync for Output {}

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

thread_local! {
    /// Packed pieces of the right and of the left operand; grows to the largest tile and stays.
    static SCRATCH: RefCell<(Vec<PanelRow>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::{Level, run_at};

    pub(super) fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// One fused multiply-add per k in order, from `start`.
    pub(super) fn chain(start: f32, terms: impl Iterator<Item = (f32, f32)>) -> u32 {
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
}
