//! Rounding, NaN and flushing rules for all floating point forms.
//!
//! The directed modes (`.rz`, `.rm`, `.rp`) and the 16-bit types use an f64 intermediate that is either exact or
//! *rounded to odd* (truncated, with its last bit set). An f64 has more than two extra bits compared with every
//! narrower type, so rounding it once more gives the correctly rounded exact value (Boldo and Melquiond, "When double
//! rounding is odd").

use half::{bf16, f16};

/// Rounding modes, as const arguments.
pub const RN: u8 = 0;
pub const RZ: u8 = 1;
pub const RM: u8 = 2;
pub const RP: u8 = 3;

/// NaN payloads are not modelled: every NaN result has this value (ISA: f32 operations return 0x7fffffff).
pub const NAN32: f32 = f32::from_bits(0x7fff_ffff);
/// CUDA's `CUDART_NAN`.
pub const NAN64: f64 = f64::from_bits(0xfff8_0000_0000_0000);
pub const NAN16: u32 = 0x7fff;

/// Compares bits. With `is_nan`, the compiler ignored signalling NaNs under a square root.
#[inline(always)]
pub fn nan32(x: f32) -> f32 {
    if x.to_bits() & 0x7fff_ffff > 0x7f80_0000 { NAN32 } else { x }
}

#[inline(always)]
pub fn nan64(x: f64) -> f64 {
    if x.to_bits() & !(1 << 63) > f64::INFINITY.to_bits() { NAN64 } else { x }
}

/// `.ftz`: a subnormal becomes a zero with the same sign.
#[inline(always)]
pub fn flush<const FTZ: bool>(x: f32) -> f32 {
    let is_subnormal = x.to_bits() & 0x7f80_0000 == 0;
    if FTZ && is_subnormal { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// `.sat`: clamped to [0, 1], NaN to 0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    let below = if x < 1.0 { x } else { 1.0 };
    if x > 0.0 { below } else { 0.0 }
}

#[inline(always)]
pub fn saturate64(x: f64) -> f64 {
    let below = if x < 1.0 { x } else { 1.0 };
    if x > 0.0 { below } else { 0.0 }
}

/// Applies an instruction's flags to an f32 result.
#[inline(always)]
pub fn finish<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = flush::<FTZ>(x);
    if SAT { saturate(x) } else { nan32(x) }
}

/// `a + b`, exact or rounded to odd. With `.rm`, a zero sum of different signs is -0.
#[inline(always)]
pub fn odd_sum<const R: u8>(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // Knuth's TwoSum computes the exact rounding error of the sum.
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    let sum = to_odd(sum, error);
    if R == RM && sum == 0.0 {
        return f64::from_bits((a.to_bits() | b.to_bits()) & (1 << 63));
    }
    sum
}

/// `x + error` rounded to odd, where x is the sum rounded to nearest; errors of infinities are NaN and are ignored.
#[inline(always)]
pub fn to_odd(x: f64, error: f64) -> f64 {
    let bits = x.to_bits();
    let truncated = if (error < 0.0) == (x > 0.0) { bits.wrapping_sub(1) } else { bits };
    if error != 0.0 && !error.is_nan() { f64::from_bits(truncated | 1) } else { x }
}

/// Rounds an exact (or odd) value to f32.
#[inline(always)]
pub fn to_f32<const R: u8>(x: f64) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    let bits = nearest.to_bits();
    let fixed = match R {
        RZ if back.abs() > x.abs() => bits.wrapping_sub(1),
        RM if back > x => toward(bits, 0x8000_0000),
        RP if back < x => toward(bits, 0),
        _ => bits,
    };
    f32::from_bits(fixed)
}

/// The next float towards this sign.
#[inline(always)]
fn toward(bits: u32, sign: u32) -> u32 {
    if bits & 0x7fff_ffff == 0 {
        sign | 1
    } else if bits & 0x8000_0000 == sign {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    }
}

/// Rounds an exact (or odd) value to a small float with `M` mantissa and `E` exponent bits; NaN is all ones except the
/// sign.
#[inline(always)]
pub fn to_small<const M: u32, const E: u32, const R: u8>(x: f64) -> u32 {
    const FRACTION: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let negative = bits >> 63 != 0;
    let abs = bits & !(1 << 63);
    let infinity = ((1_u64 << E) - 1) << M;
    let exponent = (abs >> 52) as i64 - 1023;
    // The exponent of subnormal results and of the smallest normal ones.
    let least = 2 - (1_i64 << (E - 1));
    let mantissa = if abs == 0 { 0 } else { abs & FRACTION | (FRACTION + 1) };
    let drop = (52 - M as i64 + (least - exponent).max(0)).min(60) as u64;
    let kept = mantissa >> drop;
    let rest = mantissa & ((1 << drop) - 1);
    let half = 1 << (drop - 1);
    let away = match R {
        RN => rest > half || rest == half && kept & 1 != 0,
        RM => rest != 0 && negative,
        RP => rest != 0 && !negative,
        _ => false,
    };
    // The leading bit of `kept` adds one to the exponent field below, and so does a carry from rounding.
    let field = (exponent - least).max(0) as u64;
    let rounded = (field << M) + kept + away as u64;
    let stays_finite = R == RZ || R == RM && !negative || R == RP && negative;
    let most = if stays_finite && abs != f64::INFINITY.to_bits() { infinity - 1 } else { infinity };
    let magnitude = if abs > f64::INFINITY.to_bits() { (1 << (M + E)) - 1 } else { rounded.min(most) };
    let sign = if negative && abs <= f64::INFINITY.to_bits() { 1 << (M + E) } else { 0 };
    (magnitude | sign) as u32
}

#[inline(always)]
pub fn to_f16<const R: u8>(x: f64) -> f16 {
    f16::from_bits(to_small::<10, 5, R>(x) as u16)
}

#[inline(always)]
pub fn to_bf16<const R: u8>(x: f64) -> bf16 {
    bf16::from_bits(to_small::<7, 8, R>(x) as u16)
}

/// f32 → bf16, to nearest even: the conversion that kernels use most, in 32-bit steps.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { NAN16 } else { rounded }
}

#[inline(always)]
pub fn bf16_to_f32(x: u32) -> f32 {
    nan32(f32::from_bits(x << 16))
}

/// f16 → f32. Uses masks instead of branches, so that the loop over lanes vectorises.
#[inline(always)]
pub fn f16_to_f32(x: u32) -> f32 {
    const TWO_TO_MINUS_24: f32 = f32::from_bits(0x3380_0000);
    let magnitude = x & 0x7fff;
    let normal = (magnitude << 13) + ((127 - 15) << 23);
    // Subnormals are multiples of 2^-24. (They would be slow as f32 subnormals.)
    let subnormal = ((magnitude & 0x3ff) as i32 as f32 * TWO_TO_MINUS_24).to_bits();
    let is_subnormal = mask(magnitude < 0x400);
    let finite = subnormal & is_subnormal | normal & !is_subnormal;
    let is_special = mask(magnitude >= 0x7c00);
    let is_nan = mask(magnitude > 0x7c00);
    let bits = (x & 0x8000) << 16 | 0x7f80_0000 & is_special | finite & !is_special;
    f32::from_bits(0x7fff_ffff & is_nan | bits & !is_nan)
}

#[inline(always)]
fn mask(condition: bool) -> u32 {
    (condition as u32).wrapping_neg()
}
