//! f32 arithmetic (ISA "Floating Point Instructions").
//!
//! The default rounding is to nearest even. `div.approx`, `rcp.approx` … are in `approximate`.

use super::line::{Line, forms};
use super::rounding::{NAN32, RM, RN, RP, RZ, finish, flush, nan32, odd_sum, to_f32, to_odd};

#[inline(always)]
fn add<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN { a + b } else { to_f32::<R>(odd_sum::<R>(a as f64, b as f64)) }
}

#[inline(always)]
fn sub<const R: u8>(a: f32, b: f32) -> f32 {
    add::<R>(a, -b)
}

#[inline(always)]
fn mul<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN { a * b } else { to_f32::<R>(a as f64 * b as f64) }
}

#[inline(always)]
fn fma<const R: u8>(a: f32, b: f32, c: f32) -> f32 {
    if R == RN { a.mul_add(b, c) } else { to_f32::<R>(odd_sum::<R>(a as f64 * b as f64, c as f64)) }
}

#[inline(always)]
fn div<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN {
        return a / b;
    }
    let (a, b) = (a as f64, b as f64);
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    to_f32::<R>(to_odd(quotient, if b < 0.0 { -rest } else { rest }))
}

#[inline(always)]
fn sqrt<const R: u8>(a: f32) -> f32 {
    if R == RN {
        return a.sqrt();
    }
    let a = a as f64;
    let root = a.sqrt();
    to_f32::<R>(to_odd(root, (-root).mul_add(root, a)))
}

/// The larger value; a NaN loses (`.NaN`: wins), and +0 is above -0.
#[inline(always)]
pub fn max<const NAN_WINS: bool>(a: f32, b: f32) -> f32 {
    let larger = if a > b { a } else { b };
    let larger = if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { larger };
    without_nan::<NAN_WINS>(a, b, larger)
}

#[inline(always)]
pub fn min<const NAN_WINS: bool>(a: f32, b: f32) -> f32 {
    let smaller = if a < b { a } else { b };
    let smaller = if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { smaller };
    without_nan::<NAN_WINS>(a, b, smaller)
}

#[inline(always)]
fn without_nan<const NAN_WINS: bool>(a: f32, b: f32, otherwise: f32) -> f32 {
    if NAN_WINS {
        return if a.is_nan() || b.is_nan() { NAN32 } else { otherwise };
    }
    let x = if a.is_nan() { b } else { otherwise };
    nan32(if b.is_nan() { a } else { x })
}

/// `.xorsign.abs`: the result for the magnitudes, with the sign of the product.
#[inline(always)]
pub fn xor_sign(a: f32, b: f32, magnitude: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    nan32(f32::from_bits(magnitude.to_bits() | sign))
}

/// All flag combinations of a two-source operation with this rounding.
macro_rules! two {
    ($level:tt, $op:literal, $f:ident, $rounding:literal, $mode:expr) => {
        forms![$level
            concat!($op, $rounding, ".f32") => (a: f32, b: f32) -> f32 { finish::<false, false>($f::<{ $mode }>(a, b)) }
            concat!($op, $rounding, ".ftz.f32") => (a: f32, b: f32) -> f32 {
                finish::<true, false>($f::<{ $mode }>(flush::<true>(a), flush::<true>(b)))
            }
            concat!($op, $rounding, ".sat.f32") => (a: f32, b: f32) -> f32 {
                finish::<false, true>($f::<{ $mode }>(a, b))
            }
            concat!($op, $rounding, ".ftz.sat.f32") => (a: f32, b: f32) -> f32 {
                finish::<true, true>($f::<{ $mode }>(flush::<true>(a), flush::<true>(b)))
            }
        ]
    };
}

macro_rules! fused {
    ($level:tt, $op:literal, $rounding:literal, $mode:expr) => {
        forms![$level
            concat!($op, $rounding, ".f32") => (a: f32, b: f32, c: f32) -> f32 {
                finish::<false, false>(fma::<{ $mode }>(a, b, c))
            }
            concat!($op, $rounding, ".ftz.f32") => (a: f32, b: f32, c: f32) -> f32 {
                finish::<true, false>(fma::<{ $mode }>(flush::<true>(a), flush::<true>(b), flush::<true>(c)))
            }
            concat!($op, $rounding, ".sat.f32") => (a: f32, b: f32, c: f32) -> f32 {
                finish::<false, true>(fma::<{ $mode }>(a, b, c))
            }
            concat!($op, $rounding, ".ftz.sat.f32") => (a: f32, b: f32, c: f32) -> f32 {
                finish::<true, true>(fma::<{ $mode }>(flush::<true>(a), flush::<true>(b), flush::<true>(c)))
            }
        ]
    };
}

/// `div`, `rcp`, `sqrt` have `.ftz` only.
macro_rules! quotients {
    ($level:tt, $rounding:literal, $mode:expr) => {
        forms![$level
            concat!("div", $rounding, ".f32") => (a: f32, b: f32) -> f32 {
                finish::<false, false>(div::<{ $mode }>(a, b))
            }
            concat!("div", $rounding, ".ftz.f32") => (a: f32, b: f32) -> f32 {
                finish::<true, false>(div::<{ $mode }>(flush::<true>(a), flush::<true>(b)))
            }
            concat!("rcp", $rounding, ".f32") => (a: f32) -> f32 { finish::<false, false>(div::<{ $mode }>(1.0, a)) }
            concat!("rcp", $rounding, ".ftz.f32") => (a: f32) -> f32 {
                finish::<true, false>(div::<{ $mode }>(1.0, flush::<true>(a)))
            }
            concat!("sqrt", $rounding, ".f32") => (a: f32) -> f32 { finish::<false, false>(sqrt::<{ $mode }>(a)) }
            concat!("sqrt", $rounding, ".ftz.f32") => (a: f32) -> f32 {
                finish::<true, false>(sqrt::<{ $mode }>(flush::<true>(a)))
            }
        ]
    };
}

macro_rules! extremes {
    ($op:literal, $f:ident, $nan:literal, $nan_wins:expr) => {
        forms![
            concat!($op, $nan, ".f32") => (a: f32, b: f32) -> f32 { $f::<{ $nan_wins }>(a, b) }
            concat!($op, ".ftz", $nan, ".f32") => (a: f32, b: f32) -> f32 {
                $f::<{ $nan_wins }>(flush::<true>(a), flush::<true>(b))
            }
            concat!($op, $nan, ".xorsign.abs.f32") => (a: f32, b: f32) -> f32 {
                xor_sign(a, b, $f::<{ $nan_wins }>(a.abs(), b.abs()))
            }
            concat!($op, ".ftz", $nan, ".xorsign.abs.f32") => (a: f32, b: f32) -> f32 {
                xor_sign(a, b, $f::<{ $nan_wins }>(flush::<true>(a).abs(), flush::<true>(b).abs()))
            }
        ]
    };
}

pub static FAMILIES: &[&[Line]] = &[
    two!(common, "add", add, "", RN),
    two!(common, "add", add, ".rn", RN),
    two!(rare, "add", add, ".rz", RZ),
    two!(rare, "add", add, ".rm", RM),
    two!(rare, "add", add, ".rp", RP),
    two!(common, "sub", sub, "", RN),
    two!(common, "sub", sub, ".rn", RN),
    two!(rare, "sub", sub, ".rz", RZ),
    two!(rare, "sub", sub, ".rm", RM),
    two!(rare, "sub", sub, ".rp", RP),
    two!(common, "mul", mul, "", RN),
    two!(common, "mul", mul, ".rn", RN),
    two!(rare, "mul", mul, ".rz", RZ),
    two!(rare, "mul", mul, ".rm", RM),
    two!(rare, "mul", mul, ".rp", RP),
    fused!(common, "fma", ".rn", RN),
    fused!(some, "fma", ".rz", RZ),
    fused!(some, "fma", ".rm", RM),
    fused!(some, "fma", ".rp", RP),
    // From sm_20, mad.f32 is fma.
    fused!(some, "mad", ".rn", RN),
    fused!(rare, "mad", ".rz", RZ),
    fused!(rare, "mad", ".rm", RM),
    fused!(rare, "mad", ".rp", RP),
    quotients!(some, ".rn", RN),
    quotients!(rare, ".rz", RZ),
    quotients!(rare, ".rm", RM),
    quotients!(rare, ".rp", RP),
    extremes!("min", min, "", false),
    extremes!("min", min, ".NaN", true),
    extremes!("max", max, "", false),
    extremes!("max", max, ".NaN", true),
    // The sign of a NaN is unspecified; its other bits are kept.
    forms![
        "abs.f32" => (a: f32) -> f32 { nan32(a.abs()) }
        "abs.ftz.f32" => (a: f32) -> f32 { nan32(flush::<true>(a).abs()) }
        "neg.f32" => (a: f32) -> f32 { nan32(-a) }
        "neg.ftz.f32" => (a: f32) -> f32 { nan32(-flush::<true>(a)) }
        // The sign of the first source and the magnitude of the second.
        "copysign.f32" => (a: u32, b: u32) -> u32 { a & 0x8000_0000 | b & 0x7fff_ffff }
    ],
];
