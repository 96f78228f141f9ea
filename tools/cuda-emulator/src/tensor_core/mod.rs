//! `mma.sync`: small matmuls of a warp, `d = a b + c`, with the rounding of tensor cores.
//!
//! | file | what it is |
//! |---|---|
//! | here | the models, and a matmul of any shape |
//! | `fragments` | which lane and register holds which element |
//! | `sum` | sums of products in each model |
//! | `avx2` | the same for a whole row |
//!
//! NVIDIA does not document how tensor cores round. The models follow published measurements (Fasi, Higham, Mikaitis
//! and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021, and follow-ups for later GPUs): products are exact;
//! a block of products and the accumulator are aligned to the largest exponent, truncated to a number of fractional
//! bits, and added as integers; the sum is truncated to f32.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod fragments;
mod sum;

use std::mem::MaybeUninit;

use self::sum::Operands;
use crate::forms::{Level, Rows};
use crate::ir::{MmaShape, Reg};

/// How sums of products round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// Blocks of 256 bits of a row (k = 8 for 16-bit types, 4 for tf32), 24 fractional bits.
    #[default]
    Ampere,
    /// Blocks of 512 bits (k = 16, 8 for tf32), 25 fractional bits.
    Hopper,
    /// f32 fused multiply-adds in the order of k. No tensor core works this way; this is the plain reference.
    Fma,
}

/// Types of a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Bf16,
    F16,
    Tf32,
}

/// `d = a b + c` over the registers that [`crate::ir::Op::Mma`] lists.
///
/// # Safety
/// The registers are inside the rows, their number fits the shape, and the processor supports the level.
pub unsafe fn multiply(level: Level, model: Model, shape: MmaShape, rows: Rows, registers: &[Reg]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => multiply_avx2(model, shape, rows, registers),
            _ => multiply_any::<false>(model, shape, rows, registers),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn multiply_avx2(model: Model, shape: MmaShape, rows: Rows, registers: &[Reg]) {
    // SAFETY: guaranteed by the caller.
    unsafe { multiply_any::<true>(model, shape, rows, registers) }
}

/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_any<const AVX2: bool>(model: Model, shape: MmaShape, rows: Rows, registers: &[Reg]) {
    use MmaShape as S;
    // SAFETY: guaranteed by the caller.
    unsafe {
        match shape {
            S::M16N8K16Bf16 => matmul::<AVX2, 128, 64, 2, false>(model, Input::Bf16, rows, registers),
            S::M16N8K16F16 => matmul::<AVX2, 128, 64, 2, false>(model, Input::F16, rows, registers),
            S::M16N8K16F16Accumulate16 => matmul::<AVX2, 128, 64, 2, true>(model, Input::F16, rows, registers),
            S::M16N8K8Tf32 => matmul::<AVX2, 128, 64, 1, false>(model, Input::Tf32, rows, registers),
            S::M16N8K8Bf16 => matmul::<AVX2, 64, 32, 2, false>(model, Input::Bf16, rows, registers),
            S::M16N8K8F16 => matmul::<AVX2, 64, 32, 2, false>(model, Input::F16, rows, registers),
            S::M16N8K4Tf32 => matmul::<AVX2, 64, 32, 1, false>(model, Input::Tf32, rows, registers),
        }
    }
}

/// A matmul with `LEFT` words in a and `RIGHT` in b (32 per register) and `ELEMENTS` elements per word. `NARROW`: sums
/// are f16.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn matmul<const AVX2: bool, const LEFT: usize, const RIGHT: usize, const ELEMENTS: usize, const NARROW: bool>(
    model: Model,
    input: Input,
    rows: Rows,
    registers: &[Reg],
) {
    let results = if NARROW { 2 } else { 4 };
    let (d, sources) = registers.split_at(results);
    let (a, sources) = sources.split_at(LEFT / 32);
    let (b, c) = sources.split_at(RIGHT / 32);
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut operands = MaybeUninit::<Operands<LEFT, RIGHT, ELEMENTS>>::uninit();
        let parts = operands.as_mut_ptr();
        fragments::left::<AVX2, LEFT>(&raw mut (*parts).left, rows, a, input);
        fragments::right::<AVX2, RIGHT>(&raw mut (*parts).right, rows, b, input);
        (*parts).narrow = NARROW;
        // All fields are written now.
        let operands = operands.assume_init_ref();
        let mut sums = fragments::accumulators::<AVX2, NARROW>(rows, c);
        operands.add_to::<AVX2>(model, &mut sums.0);
        fragments::store::<NARROW>(rows, d, &sums);
    }
}
