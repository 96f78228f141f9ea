//! The sums: f32 fused multiply-adds over packed panels, in exactly the order of the algorithm, so that the bits do not depend
//! on the host's processor.

use crate::algorithm::{Algorithm, Reduction};
use crate::problem::Element;

/// Rows of A in a panel: one AVX-512 register, two of AVX2.
const PANEL_ROWS: usize = 16;
/// Columns of B in a panel: as many sums as AVX2 has registers for.
const PANEL_COLS: usize = 6;

type Tile = [[f32; PANEL_ROWS]; PANEL_COLS];

/// A dense column-major matrix with `rows` rows, or its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub transposed: bool,
}

impl Matrix<'_> {
    fn at(&self, row: usize, col: usize) -> f32 {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        self.values[col * self.rows + row]
    }
}

/// The matmul's sums: `rows` × `cols`, dense and column-major, over `depth` terms each. They are f32, but a reduction in the
/// output's type, `out`, rounds parts to it.
pub fn multiply(a: Matrix, b: Matrix, [rows, cols, depth]: [usize; 3], algorithm: Algorithm, out: Element) -> Vec<f32> {
    let round = |parts: Tile, scheme: Reduction| {
        if algorithm.reduction == scheme { parts.map(|column| column.map(|sum| out.round(sum))) } else { parts }
    };
    let a_panels = pack::<PANEL_ROWS>(rows, depth, |row, term| a.at(row, term));
    let b_panels = pack::<PANEL_COLS>(cols, depth, |col, term| b.at(term, col));
    let mut sums = vec![0.0; rows * cols];
    let part = depth.div_ceil(algorithm.splits as usize);
    for (col_panel, b_panel) in b_panels.chunks_exact(depth * PANEL_COLS).enumerate() {
        for (row_panel, a_panel) in a_panels.chunks_exact(depth * PANEL_ROWS).enumerate() {
            let mut total: Option<Tile> = None;
            for start in (0..depth).step_by(part) {
                let end = (start + part).min(depth);
                let sum = sum_part(a_panel, b_panel, start..end, algorithm.segment as usize);
                let sum = round(sum, Reduction::OutputType);
                let total_now = match total {
                    None => sum,
                    Some(total) => add(&total, &sum),
                };
                total = Some(round(total_now, Reduction::InPlace));
            }
            let (first_row, first_col) = (row_panel * PANEL_ROWS, col_panel * PANEL_COLS);
            let height = PANEL_ROWS.min(rows - first_row);
            for (col, column) in total.iter().flatten().enumerate().take(PANEL_COLS.min(cols - first_col)) {
                let start = (first_col + col) * rows + first_row;
                sums[start..start + height].copy_from_slice(&column[..height]);
            }
        }
    }
    sums
}

/// Panels of `N` lines, each `depth` × `N`, padded with zeros.
fn pack<const N: usize>(lines: usize, depth: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut panels = vec![0.0; lines.div_ceil(N) * depth * N];
    for (panel, values) in panels.chunks_exact_mut(depth * N).enumerate() {
        let height = N.min(lines - panel * N);
        for (term, row) in values.chunks_exact_mut(N).enumerate() {
            for (line, value) in row.iter_mut().enumerate().take(height) {
                *value = at(panel * N + line, term);
            }
        }
    }
    panels
}

fn add(left: &Tile, right: &Tile) -> Tile {
    std::array::from_fn(|col| std::array::from_fn(|row| left[col][row] + right[col][row]))
}

/// One part of a tile's sums: segments, each summed from zero, added in order.
fn sum_part(a: &[f32], b: &[f32], terms: std::ops::Range<usize>, segment: usize) -> Tile {
    let mut sum: Option<Tile> = None;
    for start in terms.clone().step_by(segment) {
        let end = (start + segment).min(terms.end);
        let a = &a[start * PANEL_ROWS..end * PANEL_ROWS];
        let b = &b[start * PANEL_COLS..end * PANEL_COLS];
        let tile = sum_segment(a, b);
        sum = Some(match sum {
            None => tile,
            Some(sum) => add(&sum, &tile),
        });
    }
    sum.unwrap_or([[0.0; PANEL_ROWS]; PANEL_COLS])
}

#[cfg(target_arch = "x86_64")]
fn sum_segment(a: &[f32], b: &[f32]) -> Tile {
    #[target_feature(enable = "avx2,fma")]
    fn fast(a: &[f32], b: &[f32]) -> Tile {
        sum_segment_anywhere(a, b)
    }
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // Safety: the processor has these instructions.
        return unsafe { fast(a, b) };
    }
    sum_segment_anywhere(a, b)
}

#[cfg(not(target_arch = "x86_64"))]
fn sum_segment(a: &[f32], b: &[f32]) -> Tile {
    sum_segment_anywhere(a, b)
}

/// Adds term by term with fused multiply-adds, which give the same bits on every processor.
#[inline(always)]
fn sum_segment_anywhere(a: &[f32], b: &[f32]) -> Tile {
    let mut sums = [[0.0_f32; PANEL_ROWS]; PANEL_COLS];
    for (a, b) in a.as_chunks::<PANEL_ROWS>().0.iter().zip(b.as_chunks::<PANEL_COLS>().0) {
        for (column, b) in sums.iter_mut().zip(b) {
            for (sum, a) in column.iter_mut().zip(a) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    sums
}

/// Rounds to TF32: 10 bits of fraction, to nearest, ties to even. NaN and infinity are unchanged.
pub fn round_to_tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    f32::from_bits((bits + 0xfff + ((bits >> 13) & 1)) & !0x1fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (*state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next(&mut state)).collect()
    }

    fn order(segment: u32, splits: u32) -> Algorithm {
        let reduction = if splits == 1 { Reduction::None } else { Reduction::ComputeType };
        Algorithm { segment, splits, reduction }
    }

    #[test]
    fn parts_are_rounded_where_the_reduction_is_in_the_type_of_the_output() {
        // The parts are 256 + 1, 1 and 1. bf16 has 256 and 258, and rounds 257 to 256.
        let mut a = vec![0.0; 96];
        [a[0], a[1], a[32], a[64]] = [256.0, 1.0, 1.0, 1.0];
        let ones = vec![1.0; 96];
        let a = Matrix { values: &a, rows: 1, transposed: false };
        let b = Matrix { values: &ones, rows: 96, transposed: false };
        let sum = |reduction, out| multiply(a, b, [1, 1, 96], Algorithm { segment: 32, splits: 3, reduction }, out)[0];
        assert_eq!(sum(Reduction::ComputeType, Element::Bf16), 259.0);
        assert_eq!(sum(Reduction::OutputType, Element::Bf16), 258.0);
        assert_eq!(sum(Reduction::InPlace, Element::Bf16), 256.0);
        assert_eq!(sum(Reduction::InPlace, Element::F32), 259.0);
    }

    #[test]
    fn sums_are_those_of_the_definition_for_every_transpose_and_ragged_shape() {
        for (rows, cols, depth) in [(1, 1, 1), (17, 7, 33), (16, 6, 64), (5, 20, 100)] {
            for flags in 0..4 {
                let (ta, tb) = (flags & 1 != 0, flags & 2 != 0);
                let (a, b) = (numbers(rows * depth, 1), numbers(depth * cols, 2));
                let a = Matrix { values: &a, rows: if ta { depth } else { rows }, transposed: ta };
                let b = Matrix { values: &b, rows: if tb { cols } else { depth }, transposed: tb };
                for splits in [1, 2] {
                    let sums = multiply(a, b, [rows, cols, depth], order(32, splits), Element::F32);
                    for col in 0..cols {
                        for row in 0..rows {
                            let exact: f64 =
                                (0..depth).map(|term| a.at(row, term) as f64 * b.at(term, col) as f64).sum();
                            let error = (sums[col * rows + row] as f64 - exact).abs();
                            // Each of `depth` roundings errs by at most half an ulp of partial sums below depth / 4.
                            assert!(error <= depth as f64 * depth as f64 / 4.0 * 2f64.powi(-24), "{error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_of_summation_is_the_one_the_algorithm_says() {
        // Adding 1 to 2²⁴ has no effect, but adding 32 does.
        let mut a = vec![1.0; 64];
        a[0] = 16_777_216.0;
        let ones = vec![1.0; 64];
        let a = Matrix { values: &a, rows: 1, transposed: false };
        let b = Matrix { values: &ones, rows: 64, transposed: false };
        let sum = |segment, splits| multiply(a, b, [1, 1, 64], order(segment, splits), Element::F32)[0] - 16_777_216.0;
        assert_eq!(sum(64, 1), 0.0);
        assert_eq!(sum(32, 1), 32.0);
        assert_eq!(sum(64, 2), 32.0);
        assert_eq!(sum(64, 4), 48.0);
    }

    #[test]
    fn tf32_keeps_ten_bits() {
        let ulp = 2f32.powi(-10);
        assert_eq!(round_to_tf32(1.0 + ulp), 1.0 + ulp);
        assert_eq!(round_to_tf32(1.0 + 0.5 * ulp), 1.0);
        assert_eq!(round_to_tf32(1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(round_to_tf32(-3.0), -3.0);
        assert!(round_to_tf32(f32::NAN).is_nan() && round_to_tf32(f32::INFINITY).is_infinite());
    }
}
