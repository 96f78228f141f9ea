//! The gradient of a weight: `C += Aᵀ · B`, with blocks of both operands packed as they are used.

use super::micro::{Packed, Piece, max_rows, row_block};
use super::panels::{PANEL, PanelRow, ZERO_ROW};
use super::{DEPTH, Output, SCRATCH, SERIAL_WORK, each_tile, part};
use crate::ops::cpu::simd::{self, LANES, Simd, WithSimd};
use crate::ops::cpu::team;

/// Rows and panels of a tile of a weight gradient: with `DEPTH` 256 + 512 KB packed, in the second-level cache.
const GRADIENT_TILE: [usize; 2] = [256, 512 / PANEL];

/// Rows of an operand that are prefetched ahead of packing: they are too far apart for the processor's own prefetcher.
const PACK_PREFETCH_ROWS: usize = 16;

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
            simd::run(GradientTile { c, a, b, k, m, n, row, rows, panel, panels: count, b_packed, a_packed });
        });
    });
}

/// A tile of `add_transposed_matmul`: `rows` rows of C from `row` on × `panels` panels of columns from `panel` on.
struct GradientTile<'a> {
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

impl WithSimd for GradientTile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for first in (0..self.k).step_by(DEPTH) {
            self.add_block(s, first, DEPTH.min(self.k - first));
        }
    }
}

impl GradientTile<'_> {
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
