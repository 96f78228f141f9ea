//! Matmuls with the transpose of a packed matrix: `C = A · Bᵀ`, for gradients of inputs. The weight is packed once, for
//! `x · Wᵀ`; here blocks of its panels are transposed as they are used.

use std::ops::Range;

use super::micro::{Piece, PrefetchL1, max_rows, row_block};
use super::panels::{PANEL, PanelRow, Panels, ZERO_ROW};
use super::{Output, SCRATCH, SERIAL_WORK, SERIAL_WORK_TOGETHER, TILE_WORK, each_tile, part};
use crate::ops::cpu::simd::{self, Simd, WithSimd};
use crate::ops::cpu::team;

/// k that are transposed at a time, at most: C is read and written once for this many.
const DEPTH: usize = 1024;
/// Rows of panels that are transposed at a time: 512 KB, in the second-level cache for all rows of A. Half of it costs 5 % with
/// 2048 rows, which read A twice as often.
const GROUP_ROWS: usize = 4096;
/// Panels and rows of a tile, at least, where that leaves two tiles for each thread: fewer panels read A for too little work, and
/// fewer rows transpose for too little.
const TILE_MIN: [usize; 2] = [4, 256];

/// `c = a · bᵀ`, or `c += a · bᵀ` with `add`: a is [m, b.n], c is [m, b.k].
pub fn matmul_transposed(c: &mut [f32], a: &[f32], b: &Panels, m: usize, add: bool) {
    let (n, k) = (b.k, b.n);
    assert!(c.len() == m * n && a.len() == m * k, "matmul_transposed: slices of other sizes");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(0.0);
        }
        return;
    }
    let serial = if team::is_awake() { SERIAL_WORK_TOGETHER } else { SERIAL_WORK };
    let parallel = (m + 4) * n * k > serial && team::threads() > 1;
    let panels = n.div_ceil(PANEL);
    let (mut row_tiles, mut column_tiles) = (1, 1);
    if parallel {
        let threads = team::threads();
        let tiles = (m * n * k / TILE_WORK).clamp(2 * threads, 4 * threads).next_multiple_of(threads);
        column_tiles = tiles.min(panels.div_ceil(TILE_MIN[0]));
        row_tiles = (tiles / column_tiles).min(m.div_ceil(TILE_MIN[1]));
        if row_tiles * column_tiles < 2 * threads {
            column_tiles = (tiles / row_tiles).min(panels);
        }
    }
    let out = Output(c.as_mut_ptr());
    each_tile(row_tiles * column_tiles, parallel, |tile| {
        let (row, rows) = part(m, row_tiles, tile / column_tiles);
        let (panel, count) = part(panels, column_tiles, tile % column_tiles);
        SCRATCH.with_borrow_mut(|(scratch, _)| {
            scratch.resize(GROUP_ROWS.max(scratch.len()), ZERO_ROW);
            // Safety: row < m.
            let c = unsafe { out.at(row * n) };
            let a = &a[row * k..(row + rows) * k];
            simd::run(Tile { c, a, b, rows, panels: panel..panel + count, add, scratch });
        });
    });
}

/// A tile of `matmul_transposed`: `rows` rows of C × some panels of its columns, for all k.
struct Tile<'a> {
    /// First element of the rows
    c: *mut f32,
    /// The rows of A, [rows, b.n]
    a: &'a [f32],
    b: &'a Panels,
    rows: usize,
    panels: Range<usize>,
    add: bool,
    /// `GROUP_ROWS` rows of panels
    scratch: &'a mut [PanelRow],
}

impl WithSimd for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let k = self.b.n;
        for first in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - first);
            let group = GROUP_ROWS / depth.next_multiple_of(PANEL);
            for panel in self.panels.clone().step_by(group) {
                self.group(s, panel..self.panels.end.min(panel + group), first..first + depth);
            }
        }
    }
}

impl Tile<'_> {
    /// All rows × a group of panels, over some of k.
    #[inline(always)]
    fn group<S: Simd>(&mut self, s: S, panels: Range<usize>, k: Range<usize>) {
        let (n, first) = (self.b.k, panels.start * PANEL);
        let depth = k.len().next_multiple_of(PANEL);
        self.b.transpose(s, self.scratch, depth, panels.clone(), k.clone());
        let piece = Piece {
            a: self.a[k.start..].as_ptr(),
            a_row: self.b.n,
            b: self.scratch.as_ptr().cast(),
            b_panel: depth * PANEL,
            // Safety: columns of this tile's panels.
            c: unsafe { self.c.add(first) },
            c_row: n,
            columns: (panels.len() * PANEL).min(n - first),
            k: k.len(),
            add: self.add || k.start > 0,
        };
        s.call(Group { piece, rows: self.rows });
    }
}

/// All rows of a tile × a group of panels.
struct Group {
    piece: Piece,
    rows: usize,
}

impl WithSimd for Group {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { piece, rows } = self;
        let blocks = rows.div_ceil(max_rows::<S>());
        for i in 0..blocks {
            let (first, rows) = part(rows, blocks, i);
            // Safety: rows of the tile; `matmul_transposed` checked the sizes.
            unsafe {
                let piece = Piece { a: piece.a.add(first * piece.a_row), c: piece.c.add(first * piece.c_row), ..piece };
                row_block::<S, PrefetchL1>(s, rows, piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::gemm::tests::{chain, values};
    use crate::ops::cpu::simd::{Level, run_at};

    /// (rows, n, k): panels of n and blocks of k that are not full, more of both than are transposed at a time.
    const SIZES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (1, 33, 40),
        (3, 150, 1100),
        (3, 31, 2070),
        (12, 64, 32),
        (12, 100, 65),
        (13, 47, 129),
        (200, 40, 33),
        (200, 7, 17),
    ];

    #[test]
    fn every_level_computes_the_same_chains() {
        for (m, n, k) in SIZES {
            // Row o of W is column o of the packed matrix: C[r, i] = Σ A[r, o] · W[o, i].
            let (a, w, start) = (values(m * k), values(k * n), values(m * n));
            let mut b = Panels::new(k, n).unwrap();
            b.pack_transposed(&w);
            for (level, add) in Level::available().into_iter().flat_map(|l| [(l, false), (l, true)]) {
                let mut c = start.clone();
                let mut scratch = vec![ZERO_ROW; GROUP_ROWS];
                let panels = 0..n.div_ceil(PANEL);
                run_at(level, Tile { c: c.as_mut_ptr(), a: &a, b: &b, rows: m, panels, add, scratch: &mut scratch });
                for (at, got) in c.iter().enumerate() {
                    let (r, i) = (at / n, at % n);
                    let terms = (0..k).map(|o| (a[r * k + o], w[o * n + i]));
                    let want = chain(if add { start[at] } else { 0.0 }, terms);
                    assert_eq!(got.to_bits(), want, "{level:?} {m} × {n} × {k}, add {add}: [{r}, {i}]");
                }
            }
        }
    }

    #[test]
    fn without_k_nothing_is_added() {
        let b = Panels::new(0, 3).unwrap();
        let mut c = [1.0, 2.0, 3.0];
        matmul_transposed(&mut c, &[], &b, 1, true);
        assert_eq!(c, [1.0, 2.0, 3.0]);
        matmul_transposed(&mut c, &[], &b, 1, false);
        assert_eq!(c, [0.0; 3]);
    }
}
