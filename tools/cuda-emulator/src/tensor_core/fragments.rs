//! Which lane and register holds which element (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type",
//! "… for mma.m16n8k8", "… for mma.m16n8k4").
//!
//! With group g = lane / 4 and thread t = lane % 4, all shapes share one rule when a 32-bit register counts as one *word*
//! of a row (two 16-bit elements, k = 2w and 2w + 1, or one tf32, k = w):
//!
//! | matrix | register r of lane 4g + t holds |
//! |---|---|
//! | a, 16 rows | row g + 8 (r % 2), word t + 4 (r / 2) |
//! | b, 8 columns | column g, word t + 4r |
//! | c, d in f32 | row g + 8 (r / 2), column 2t + r % 2 |
//! | c, d in f16 | row g + 8r, columns 2t (low half) and 2t + 1 |
//!
//! The eight values of a row of b, c or d are stored here in the column order 0 2 4 6 1 3 5 7, the order of c's
//! registers.

use super::Input;
use crate::forms::Rows;
use crate::forms::rounding::{RN, f16_to_f32, to_small};
use crate::ir::Reg;

/// The exponent of a zero: below all others, even after another exponent is added to it.
pub const ZERO: i32 = -8000;
/// The exponent of infinity and NaN: above all others, even after the exponent of a zero is added to it.
pub const SPECIAL: i32 = 16000;

/// The elements of a matrix by words: of a row by row, of b word by word. Aligned, because loads that cross cache lines
/// take twice as long.
#[repr(align(64))]
pub struct Elements<const N: usize> {
    /// The first (or only) element of each word, and the second one.
    pub values: [[f32; N]; 2],
    /// Exponents of both elements, as i16 in the low and the high half: the encoded exponent (subnormals have the
    /// smallest one), [`ZERO`] or [`SPECIAL`].
    pub exponents: [u32; N],
}

impl<const N: usize> Elements<N> {
    /// Splits eight words; the first one is word `at`.
    ///
    /// # Safety
    /// The elements are writable (they may be uninitialised). With `AVX2`, the processor must have it.
    #[inline(always)]
    unsafe fn set<const AVX2: bool>(elements: *mut Self, at: usize, words: [u32; 8], input: Input) {
        debug_assert!(at + 8 <= N);
        #[cfg(target_arch = "x86_64")]
        if AVX2 && input == Input::Bf16 {
            // SAFETY: guaranteed by the caller.
            return unsafe { super::avx2::set_bf16(elements, at, words) };
        }
        let least = if input == Input::F16 { -14 } else { -126 };
        for (i, word) in words.into_iter().enumerate() {
            let (low, high) = match input {
                Input::Bf16 => (word << 16, word & 0xffff_0000),
                Input::F16 => (f16_to_f32(word & 0xffff).to_bits(), f16_to_f32(word >> 16).to_bits()),
                // The low 13 bits of a tf32 register are ignored.
                Input::Tf32 => (word & !0x1fff, 0),
            };
            let exponents = exponent(low, least) as u32 & 0xffff | (exponent(high, least) as u32) << 16;
            // SAFETY: guaranteed by the caller.
            unsafe {
                (*elements).values[0][at + i] = f32::from_bits(low);
                (*elements).values[1][at + i] = f32::from_bits(high);
                (*elements).exponents[at + i] = exponents;
            }
        }
    }
}

/// The exponent of f32 bits, at least that of the type's smallest normal number.
#[inline(always)]
fn exponent(bits: u32, least: i32) -> i32 {
    let magnitude = bits & 0x7fff_ffff;
    let finite = ((magnitude >> 23) as i32 - 127).max(least);
    let finite = if magnitude == 0 { ZERO } else { finite };
    if magnitude >= 0x7f80_0000 { SPECIAL } else { finite }
}

/// The exponent of an accumulator.
#[inline(always)]
pub fn exponent_of(x: f32) -> i32 {
    exponent(x.to_bits(), -126)
}

/// Concatenates two runs of four values.
#[inline(always)]
fn join<const AVX2: bool>(low: &[u32; 32], high: &[u32; 32], at: [usize; 2]) -> [u32; 8] {
    #[cfg(target_arch = "x86_64")]
    if AVX2 {
        // SAFETY: the flag says that the processor has AVX2.
        return unsafe { super::avx2::join(&low[at[0]..][..4], &high[at[1]..][..4]) };
    }
    let mut both = [0; 8];
    both[..4].copy_from_slice(&low[at[0]..][..4]);
    both[4..].copy_from_slice(&high[at[1]..][..4]);
    both
}

/// Reads a, `N / 16` words per row.
///
/// # Safety
/// The registers are inside the rows and the elements are writable. With `AVX2`, the processor must have it.
#[inline(always)]
pub unsafe fn left<const AVX2: bool, const N: usize>(
    elements: *mut Elements<N>,
    rows: Rows,
    registers: &[Reg],
    input: Input,
) {
    // SAFETY: guaranteed by the caller.
    let register = |i: usize| unsafe { &*rows.at::<u32>(registers[i]) };
    for half in 0..2 {
        // Where rows have four words, two of them are eight lanes of one register; otherwise each is four lanes of two
        // registers.
        let (low, high) = if N == 64 { (register(half), register(half)) } else { (register(half), register(half + 2)) };
        for i in 0..N / 16 {
            let at = if N == 64 { [8 * i, 8 * i + 4] } else { [4 * i; 2] };
            // SAFETY: guaranteed by the caller.
            unsafe { Elements::set::<AVX2>(elements, N / 2 * half + 8 * i, join::<AVX2>(low, high, at), input) };
        }
    }
}

/// Reads b, eight columns per word.
///
/// # Safety
/// As for [`left`].
#[inline(always)]
pub unsafe fn right<const AVX2: bool, const N: usize>(
    elements: *mut Elements<N>,
    rows: Rows,
    registers: &[Reg],
    input: Input,
) {
    for (r, register) in registers.iter().enumerate().take(N / 32) {
        // SAFETY: guaranteed by the caller.
        let lanes: &[u32; 32] = unsafe { &*rows.at::<u32>(*register) };
        for (t, words) in transposed::<AVX2>(lanes).into_iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe { Elements::set::<AVX2>(elements, 32 * r + 8 * t, words, input) };
        }
    }
}

/// A register of b by words.
#[inline(always)]
fn transposed<const AVX2: bool>(lanes: &[u32; 32]) -> [[u32; 8]; 4] {
    #[cfg(target_arch = "x86_64")]
    if AVX2 {
        // SAFETY: the flag says that the processor has AVX2.
        return unsafe { super::avx2::transposed(lanes) };
    }
    let column = |index: usize| 2 * (index % 4) + index / 4;
    std::array::from_fn(|t| std::array::from_fn(|index| lanes[4 * column(index) + t]))
}

/// Rows of c and d, aligned like [`Elements`].
#[repr(align(64))]
pub struct Sums(pub [[f32; 8]; 16]);

/// Reads c from four f32 registers or, if `NARROW`, from two registers of f16 pairs.
///
/// # Safety
/// The registers are inside the rows. With `AVX2`, the processor must have it.
#[inline(always)]
pub unsafe fn accumulators<const AVX2: bool, const NARROW: bool>(rows: Rows, registers: &[Reg]) -> Sums {
    let mut sums = Sums([[0.0; 8]; 16]);
    // SAFETY: guaranteed by the caller.
    let register = |i: usize| unsafe { &*rows.at::<u32>(registers[i]) };
    for (half, sums) in sums.0.chunks_exact_mut(8).enumerate() {
        if NARROW {
            let pairs = register(half);
            for (g, c) in sums.iter_mut().enumerate() {
                *c = std::array::from_fn(|i| f16_to_f32(pairs[4 * g + i % 4] >> (16 * (i / 4)) & 0xffff));
            }
        } else {
            let (low, high) = (register(2 * half), register(2 * half + 1));
            for (g, c) in sums.iter_mut().enumerate() {
                *c = join::<AVX2>(low, high, [4 * g; 2]).map(f32::from_bits);
            }
        }
    }
    sums
}

/// Writes d, in the layout of c.
///
/// # Safety
/// The registers are inside the rows and do not overlap.
#[inline(always)]
pub unsafe fn store<const NARROW: bool>(rows: Rows, registers: &[Reg], sums: &Sums) {
    // SAFETY: guaranteed by the caller; there is one reference to each register.
    let register = |i: usize| unsafe { &mut *rows.at::<u32>(registers[i]) };
    for (half, sums) in sums.0.chunks_exact(8).enumerate() {
        if NARROW {
            let pairs = register(half);
            for (g, d) in sums.iter().enumerate() {
                let bits = |x: f32| to_small::<10, 5, RN>(x as f64);
                pairs[4 * g..4 * g + 4]
                    .copy_from_slice(&std::array::from_fn::<_, 4, _>(|t| bits(d[4 + t]) << 16 | bits(d[t])));
            }
        } else {
            let (low, high) = (register(2 * half), register(2 * half + 1));
            for (g, d) in sums.iter().enumerate() {
                let bits = d.map(f32::to_bits);
                low[4 * g..4 * g + 4].copy_from_slice(&bits[..4]);
                high[4 * g..4 * g + 4].copy_from_slice(&bits[4..]);
            }
        }
    }
}
