//! The right operand of a matmul, packed in panels of 32 columns.

use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::memory::Entry;
use crate::ops::cpu::memory;
use crate::ops::cpu::simd::{self, LANES, Simd};
use crate::tensor::DeviceError;

/// Columns of a panel: two vectors.
pub const PANEL: usize = 2 * LANES;

/// One k of a panel: 32 columns, two cache lines.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(128))]
pub struct PanelRow(pub(super) [f32; PANEL]);

pub(super) const ZERO_ROW: PanelRow = PanelRow([0.0; PANEL]);

/// The right operand of a matmul, [k, n] as panels: [n / 32][k][32], the last one padded with zeros.
pub struct Panels {
    pub(super) rows: Vec<PanelRow>,
    pub n: usize,
    pub k: usize,
    /// In the CPU's ledger
    pub(super) _entry: Option<Entry>,
}

impl Panels {
    /// Panels of zeros.
    pub fn new(n: usize, k: usize) -> Result<Self, DeviceError> {
        let rows = memory::filled(n.div_ceil(PANEL) * k, ZERO_ROW)?;
        let entry = memory::ledger().enter(size_of_val(&rows[..]));
        Ok(Self { rows, n, k, _entry: Some(entry) })
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

    /// Transposes k `32 · panels.start ..` of some columns into one panel of `depth` rows for each of `panels`: row `i` of a
    /// panel has 32 k of column `columns.start + i`. The first column is a multiple of 32.
    #[inline(always)]
    pub(super) fn transpose<S: Simd>(
        &self,
        s: S,
        to: &mut [PanelRow],
        depth: usize,
        panels: Range<usize>,
        columns: Range<usize>,
    ) {
        for (i, column) in columns.step_by(PANEL).enumerate() {
            for (to, panel) in to.chunks_exact_mut(depth).zip(panels.clone()) {
                let start = column / PANEL * self.k + panel * PANEL;
                let rows = &self.rows[start..start + PANEL.min(self.k - panel * PANEL)];
                prefetch_block(rows.as_ptr().wrapping_add(PANEL));
                let to = &mut to[i * PANEL..(i + 1) * PANEL];
                if rows.len() == PANEL {
                    transpose_block(s, to, rows);
                } else {
                    let mut padded = [ZERO_ROW; PANEL];
                    padded[..rows.len()].copy_from_slice(rows);
                    transpose_block(s, to, &padded);
                }
            }
        }
    }
}

/// Prefetches the 32 rows that are transposed next.
#[inline(always)]
fn prefetch_block(from: *const PanelRow) {
    for line in 0..2 * PANEL {
        simd::prefetch_l1(from.cast::<f32>().wrapping_add(line * LANES));
    }
}

/// Transposes 32 × 32.
#[inline(always)]
fn transpose_block<S: Simd>(s: S, to: &mut [PanelRow], from: &[PanelRow]) {
    assert!(to.len() == PANEL && from.len() == PANEL);
    let (to, from): (*mut f32, *const f32) = (to.as_mut_ptr().cast(), from.as_ptr().cast());
    for i in 0..2 {
        for j in 0..2 {
            // Safety: both are 32 rows of 32.
            unsafe {
                let from = from.add(i * LANES * PANEL + j * LANES);
                s.transpose(from, PANEL, to.add(j * LANES * PANEL + i * LANES), PANEL);
            }
        }
    }
}
