//! Sums of products, for a whole row of d or for one element with extreme operands.

use super::Model;
use super::fragments::{Elements, ZERO, exponent_of};
use crate::forms::rounding::{NAN32, RN, RZ, f16_to_f32, nan32, to_f32, to_small};

/// Exponents for which a row is summed in 32 bits: products are exact in f32 there, or truncated to zero.
pub const TAME: std::ops::RangeInclusive<i32> = -90..=120;
/// Below this exponent, all products are zeros.
pub const NOTHING: i32 = ZERO + 1000;

/// The operands of a matmul. a has `LEFT / 16` words per row, b has `RIGHT / 8` (the same number); a word has
/// `ELEMENTS` elements.
pub struct Operands<const LEFT: usize, const RIGHT: usize, const ELEMENTS: usize> {
    pub left: Elements<LEFT>,
    pub right: Elements<RIGHT>,
    /// Accumulators are rounded to f16 after each block.
    pub narrow: bool,
}

impl<const LEFT: usize, const RIGHT: usize, const ELEMENTS: usize> Operands<LEFT, RIGHT, ELEMENTS> {
    const WORDS: usize = RIGHT / 8;

    /// Adds the matmul to the sums. With `AVX2`, the processor must have it.
    #[inline(always)]
    pub unsafe fn add_to<const AVX2: bool>(&self, model: Model, sums: &mut [[f32; 8]; 16]) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match model {
                Model::Ampere => {
                    for first in (0..Self::WORDS).step_by(4) {
                        self.block::<AVX2, 4, 24>(first, sums);
                    }
                }
                Model::Hopper if Self::WORDS == 8 => self.block::<AVX2, 8, 25>(0, sums),
                Model::Hopper => self.block::<AVX2, 4, 25>(0, sums),
                Model::Fma => {
                    for (row, c) in sums.iter_mut().enumerate() {
                        *c = self.rounded(self.fused(row, *c));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn rounded(&self, c: [f32; 8]) -> [f32; 8] {
        if self.narrow { c.map(|x| f16_to_f32(to_small::<10, 5, RN>(x as f64))) } else { c }
    }

    /// Fused multiply-adds in the order of k.
    #[inline(always)]
    fn fused(&self, row: usize, mut c: [f32; 8]) -> [f32; 8] {
        for word in 0..Self::WORDS {
            for half in 0..ELEMENTS {
                let a = self.left.values[half][row * Self::WORDS + word];
                let b = &self.right.values[half][8 * word..8 * word + 8];
                for column in 0..8 {
                    c[column] = a.mul_add(b[column], c[column]);
                }
            }
        }
        c.map(nan32)
    }

    /// Adds `BLOCK` words from `first` and the accumulators, aligned to the largest exponent with `FRACTION` bits below
    /// it.
    #[inline(always)]
    unsafe fn block<const AVX2: bool, const BLOCK: usize, const FRACTION: i32>(
        &self,
        first: usize,
        sums: &mut [[f32; 8]; 16],
    ) {
        let mut left = u16::MAX;
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            // SAFETY: guaranteed by the caller.
            left = unsafe { super::avx2::block::<LEFT, RIGHT, ELEMENTS, BLOCK, FRACTION>(self, first, sums) };
        }
        if left != 0 {
            self.extreme_rows::<BLOCK, FRACTION>(first, sums, left);
        }
        if self.narrow {
            for c in sums {
                *c = self.rounded(*c);
            }
        }
    }

    /// The same for some of the rows, one element after the other.
    #[cold]
    #[inline(never)]
    fn extreme_rows<const BLOCK: usize, const FRACTION: i32>(
        &self,
        first: usize,
        sums: &mut [[f32; 8]; 16],
        left: u16,
    ) {
        for (row, c) in sums.iter_mut().enumerate().filter(|(row, _)| left >> row & 1 != 0) {
            *c = self.extreme_row::<BLOCK, FRACTION>(row, first, c);
        }
    }

    fn extreme_row<const BLOCK: usize, const FRACTION: i32>(&self, row: usize, first: usize, c: &[f32; 8]) -> [f32; 8] {
        std::array::from_fn(|column| {
            let mut top = exponent_of(c[column]);
            for word in first..first + BLOCK {
                let (a, b) = self.words(row, word, column);
                for half in 0..ELEMENTS {
                    top = top.max(half_of(self.left.exponents[a], half) + half_of(self.right.exponents[b], half));
                }
            }
            self.element::<BLOCK, FRACTION>(row, column, first, top, c[column])
        })
    }

    /// Indices of a row's word and a column's word.
    #[inline(always)]
    fn words(&self, row: usize, word: usize, column: usize) -> (usize, usize) {
        (row * Self::WORDS + word, 8 * word + column)
    }

    /// One element with any operands, given the largest exponent of its products and accumulator.
    fn element<const BLOCK: usize, const FRACTION: i32>(
        &self,
        row: usize,
        column: usize,
        first: usize,
        top: i32,
        c: f32,
    ) -> f32 {
        if top < NOTHING {
            return 0.0;
        }
        let mut plain = c as f64;
        let mut total = aligned(c as f64, FRACTION - top);
        for word in first..first + BLOCK {
            let (a, b) = self.words(row, word, column);
            for half in 0..ELEMENTS {
                let product = self.left.values[half][a] as f64 * self.right.values[half][b] as f64;
                plain += product;
                total += aligned(product, FRACTION - top);
            }
        }
        // If an addend is infinite or NaN, the plain sum is right.
        if !plain.is_finite() {
            return if plain.is_nan() { NAN32 } else { plain as f32 };
        }
        let sum = total * 2.0_f64.powi(top - FRACTION);
        if sum.abs() >= 2.0_f64.powi(128) { f32::INFINITY.copysign(sum as f32) } else { to_f32::<RZ>(sum) }
    }
}

/// The i16 in the low or high half.
fn half_of(pair: u32, half: usize) -> i32 {
    (pair >> (16 * half)) as i16 as i32
}

/// `x 2^n`, truncated to an integer. This is exact in f64, and so is the sum of a block.
fn aligned(x: f64, n: i32) -> f64 {
    (x * 2.0_f64.powi(n)).trunc()
}
