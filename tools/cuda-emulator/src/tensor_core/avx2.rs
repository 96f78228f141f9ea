//! One row of a block with AVX2: eight columns at once.
//!
//! The product of two 16-bit floats is exact in f32. It is scaled by a power of two so that the last kept bit is worth
//! one; converting it to an integer then truncates it, and the rest is integer addition.

use std::arch::x86_64::*;

use super::fragments::{Elements, SPECIAL, ZERO};
use super::sum::{NOTHING, Operands, TAME};

/// Adds a block to the rows. Skips rows with an extreme exponent or an infinite or NaN operand and returns them as a
/// mask.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn block<
    const LEFT: usize,
    const RIGHT: usize,
    const ELEMENTS: usize,
    const BLOCK: usize,
    const FRACTION: i32,
>(
    operands: &Operands<LEFT, RIGHT, ELEMENTS>,
    first: usize,
    sums: &mut [[f32; 8]; 16],
) -> u16 {
    let words = RIGHT / 8;
    let mut left = 0;
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: words first..first + BLOCK of a row of a, and those of b, are inside the arrays; loads need no
        // alignment.
        unsafe {
            let c = _mm256_loadu_ps(sums.as_ptr());
            let mut tops = _mm256_set1_epi16(i16::MIN);
            for word in first..first + BLOCK {
                let a = _mm256_set1_epi32(*operands.left.exponents.get_unchecked(row * words + word) as i32);
                let b = _mm256_loadu_si256(operands.right.exponents.as_ptr().add(8 * word).cast());
                tops = _mm256_max_epi16(tops, _mm256_adds_epi16(a, b));
            }
            let pairs = _mm256_max_epi16(tops, _mm256_slli_epi32::<16>(tops));
            let Some(top) = tame_top(_mm256_srai_epi32::<16>(pairs), c) else {
                left |= 1 << row;
                continue;
            };
            let scale = power_of_two(_mm256_sub_epi32(_mm256_set1_epi32(FRACTION), top));
            // |c| and each product are below 2^27 now; first and second elements have separate sums, below 2^31.
            let mut even = _mm256_cvttps_epi32(_mm256_mul_ps(c, scale));
            let mut odd = _mm256_setzero_si256();
            for word in first..first + BLOCK {
                even = _mm256_add_epi32(even, aligned(operands, 0, row * words + word, word, scale));
                if ELEMENTS == 2 {
                    odd = _mm256_add_epi32(odd, aligned(operands, 1, row * words + word, word, scale));
                }
            }
            // Four words: below 2^30 even with an accumulator. More words may need another bit, so they are added in
            // f64.
            let sum = if BLOCK == 4 { truncated(_mm256_add_epi32(even, odd)) } else { truncated_sum(even, odd) };
            let unit = power_of_two(_mm256_sub_epi32(top, _mm256_set1_epi32(FRACTION)));
            _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_mul_ps(sum, unit));
        }
    }
    left
}

/// Splits eight words of two bf16 each; see `Elements::set`.
///
/// # Safety
/// As for `Elements::set`.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub unsafe fn set_bf16<const N: usize>(elements: *mut Elements<N>, at: usize, words: [u32; 8]) {
    // SAFETY: both types are 32 bytes of plain integers.
    let word: __m256i = unsafe { std::mem::transmute(words) };
    let low = _mm256_slli_epi32::<16>(word);
    let high = _mm256_and_si256(word, _mm256_set1_epi32(0xffff_0000_u32 as i32));
    let magnitude = _mm256_and_si256(word, _mm256_set1_epi16(0x7fff));
    let field = _mm256_max_epi16(_mm256_srli_epi16::<7>(magnitude), _mm256_set1_epi16(1));
    let finite = _mm256_sub_epi16(field, _mm256_set1_epi16(127));
    let is_zero = _mm256_cmpeq_epi16(magnitude, _mm256_setzero_si256());
    let is_special = _mm256_cmpeq_epi16(field, _mm256_set1_epi16(255));
    // Replaces exponents -126 and 128 by the values for zeros and for specials.
    let to_zero = _mm256_and_si256(is_zero, _mm256_set1_epi16(ZERO as i16 + 126));
    let to_special = _mm256_and_si256(is_special, _mm256_set1_epi16(SPECIAL as i16 - 128));
    let exponent = _mm256_add_epi16(finite, _mm256_add_epi16(to_zero, to_special));
    // SAFETY: the caller guarantees that at + 8 values fit into each array.
    unsafe {
        _mm256_storeu_si256((&raw mut (*elements).values[0]).cast::<f32>().add(at).cast(), low);
        _mm256_storeu_si256((&raw mut (*elements).values[1]).cast::<f32>().add(at).cast(), high);
        _mm256_storeu_si256((&raw mut (*elements).exponents).cast::<u32>().add(at).cast(), exponent);
    }
}

/// Concatenates two slices of four values.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub fn join(low: &[u32], high: &[u32]) -> [u32; 8] {
    assert!(low.len() == 4 && high.len() == 4);
    // SAFETY: both types are 32 bytes of plain integers; the slices are long enough.
    unsafe {
        let (low, high) = (_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast()));
        std::mem::transmute(_mm256_set_m128i(high, low))
    }
}

/// A register of b by words: four words of eight columns, in the order that `fragments` defines.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub fn transposed(lanes: &[u32; 32]) -> [[u32; 8]; 4] {
    // SAFETY: 32 values are four vectors, and vectors are plain integers.
    unsafe {
        // The low half of vector i has the words of column 2i, the high half those of column 2i + 1.
        let column = |i: usize| _mm256_loadu_ps(lanes.as_ptr().add(8 * i).cast());
        let (a, b, c, d) = (column(0), column(1), column(2), column(3));
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            std::mem::transmute::<__m256, [u32; 8]>(_mm256_shuffle_ps::<0x44>(ab, cd)),
            std::mem::transmute::<__m256, [u32; 8]>(_mm256_shuffle_ps::<0xee>(ab, cd)),
            std::mem::transmute::<__m256, [u32; 8]>(_mm256_shuffle_ps::<0x44>(ab_high, cd_high)),
            std::mem::transmute::<__m256, [u32; 8]>(_mm256_shuffle_ps::<0xee>(ab_high, cd_high)),
        ]
    }
}

/// Products of one element of a with eight elements of b, as integers.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn aligned<const LEFT: usize, const RIGHT: usize, const ELEMENTS: usize>(
    operands: &Operands<LEFT, RIGHT, ELEMENTS>,
    half: usize,
    left: usize,
    word: usize,
    scale: __m256,
) -> __m256i {
    // SAFETY: the caller guarantees that both indices are inside the arrays.
    unsafe {
        let a = _mm256_set1_ps(*operands.left.values[half].get_unchecked(left));
        let b = _mm256_loadu_ps(operands.right.values[half].as_ptr().add(8 * word));
        _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_mul_ps(a, b), scale))
    }
}

/// The largest exponents of products and accumulators, raised to the lowest tame exponent where all are zeros. None if
/// one is extreme.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn tame_top(products: __m256i, c: __m256) -> Option<__m256i> {
    let magnitude = _mm256_and_si256(_mm256_castps_si256(c), _mm256_set1_epi32(0x7fff_ffff));
    // 128 for infinity and NaN, -127 for subnormals and zero; among these, only zeros are tame.
    let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(magnitude), _mm256_set1_epi32(127));
    let top = _mm256_max_epi32(products, exponent);
    let is_large = _mm256_cmpgt_epi32(top, _mm256_set1_epi32(*TAME.end()));
    let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(*TAME.start()), top);
    let is_product = _mm256_cmpgt_epi32(products, _mm256_set1_epi32(NOTHING));
    let is_sum = _mm256_cmpgt_epi32(magnitude, _mm256_setzero_si256());
    let is_small = _mm256_and_si256(is_small, _mm256_or_si256(is_product, is_sum));
    let is_extreme = _mm256_or_si256(is_large, is_small);
    let is_tame = _mm256_testz_si256(is_extreme, is_extreme) != 0;
    is_tame.then(|| _mm256_max_epi32(top, _mm256_set1_epi32(*TAME.start())))
}

/// 2^n; n must be in the range of normal numbers.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

/// Integers below 2^31 - 2^7, truncated to the 24 bits of an f32.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn truncated(x: __m256i) -> __m256 {
    let nearest = _mm256_cvtepi32_ps(x);
    let back = _mm256_cvttps_epi32(nearest);
    let is_larger = _mm256_cmpgt_epi32(_mm256_abs_epi32(back), _mm256_abs_epi32(x));
    // Adds minus one where it is larger.
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(nearest), is_larger))
}

/// `a + b`, exactly, truncated to the 24 bits of an f32.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn truncated_sum(a: __m256i, b: __m256i) -> __m256 {
    let half = |a: __m128i, b: __m128i| {
        let sum = _mm256_add_pd(_mm256_cvtepi32_pd(a), _mm256_cvtepi32_pd(b));
        // An f64 has 29 more bits; clearing them truncates, for either sign.
        let kept = _mm256_castsi256_pd(_mm256_set1_epi64x(!((1 << 29) - 1)));
        _mm256_cvtpd_ps(_mm256_and_pd(sum, kept))
    };
    let low = half(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b));
    let high = half(_mm256_extracti128_si256::<1>(a), _mm256_extracti128_si256::<1>(b));
    _mm256_set_m128(high, low)
}
