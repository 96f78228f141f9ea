//! f16 and bf16 arithmetic, single and in pairs (ISA "Half Precision Floating Point Instructions").
//!
//! Values are 16-bit patterns in u32; results are exact (or odd) f64 values, rounded once to nearest even. The first
//! value of a pair is in the low half.

use super::approximate;
use super::float32;
use super::line::{Line, forms};
use super::rounding::{NAN16, RN, bf16_to_f32, f16_to_f32, odd_sum, to_small};

/// A 16-bit type.
trait Half {
    const ONE: u32;
    /// Exponent bits of the pattern.
    const EXPONENT: u32;
    fn widen(x: u32) -> f32;
    fn narrow(x: f64) -> u32;
}

struct F16;
struct Bf16;

impl Half for F16 {
    const ONE: u32 = 0x3c00;
    const EXPONENT: u32 = 0x7c00;
    #[inline(always)]
    fn widen(x: u32) -> f32 {
        f16_to_f32(x)
    }
    #[inline(always)]
    fn narrow(x: f64) -> u32 {
        to_small::<10, 5, RN>(x)
    }
}

impl Half for Bf16 {
    const ONE: u32 = 0x3f80;
    const EXPONENT: u32 = 0x7f80;
    #[inline(always)]
    fn widen(x: u32) -> f32 {
        bf16_to_f32(x)
    }
    #[inline(always)]
    fn narrow(x: f64) -> u32 {
        to_small::<7, 8, RN>(x)
    }
}

/// Flags for sources and results.
const PLAIN: u8 = 0;
const FTZ: u8 = 1;
const SAT: u8 = 2;
const RELU: u8 = 4;

#[inline(always)]
fn source<H: Half, const FLAGS: u8>(x: u32) -> f64 {
    H::widen(flushed::<H, FLAGS>(x)) as f64
}

#[inline(always)]
fn flushed<H: Half, const FLAGS: u8>(x: u32) -> u32 {
    if FLAGS & FTZ != 0 && x & H::EXPONENT == 0 { x & 0x8000 } else { x }
}

#[inline(always)]
fn result<H: Half, const FLAGS: u8>(x: f64) -> u32 {
    let x = flushed::<H, FLAGS>(H::narrow(x));
    let is_nan = x & 0x7fff > H::EXPONENT;
    let is_negative = x & 0x8000 != 0;
    if FLAGS & SAT != 0 {
        return if is_nan || is_negative { 0 } else { x.min(H::ONE) };
    }
    if FLAGS & RELU != 0 && is_negative && !is_nan { 0 } else { x }
}

#[inline(always)]
fn add<H: Half, const FLAGS: u8>(a: u32, b: u32) -> u32 {
    result::<H, FLAGS>(odd_sum::<RN>(source::<H, FLAGS>(a), source::<H, FLAGS>(b)))
}

#[inline(always)]
fn sub<H: Half, const FLAGS: u8>(a: u32, b: u32) -> u32 {
    result::<H, FLAGS>(odd_sum::<RN>(source::<H, FLAGS>(a), -source::<H, FLAGS>(b)))
}

#[inline(always)]
fn mul<H: Half, const FLAGS: u8>(a: u32, b: u32) -> u32 {
    result::<H, FLAGS>(source::<H, FLAGS>(a) * source::<H, FLAGS>(b))
}

#[inline(always)]
fn fma<H: Half, const FLAGS: u8>(a: u32, b: u32, c: u32) -> u32 {
    let product = source::<H, FLAGS>(a) * source::<H, FLAGS>(b);
    result::<H, FLAGS>(odd_sum::<RN>(product, source::<H, FLAGS>(c)))
}

#[inline(always)]
fn min<H: Half, const FLAGS: u8, const NAN_WINS: bool>(a: u32, b: u32) -> u32 {
    let (a, b) = (H::widen(flushed::<H, FLAGS>(a)), H::widen(flushed::<H, FLAGS>(b)));
    H::narrow(float32::min::<NAN_WINS>(a, b) as f64)
}

#[inline(always)]
fn max<H: Half, const FLAGS: u8, const NAN_WINS: bool>(a: u32, b: u32) -> u32 {
    let (a, b) = (H::widen(flushed::<H, FLAGS>(a)), H::widen(flushed::<H, FLAGS>(b)));
    H::narrow(float32::max::<NAN_WINS>(a, b) as f64)
}

/// `.xorsign.abs` of a minimum or maximum.
#[inline(always)]
fn xor_sign(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    let magnitude = f(a & 0x7fff, b & 0x7fff);
    if magnitude == NAN16 { NAN16 } else { magnitude | (a ^ b) & 0x8000 }
}

#[inline(always)]
fn neg<H: Half, const FLAGS: u8>(a: u32) -> u32 {
    if a & 0x7fff > H::EXPONENT { NAN16 } else { flushed::<H, FLAGS>(a) ^ 0x8000 }
}

#[inline(always)]
fn abs<H: Half, const FLAGS: u8>(a: u32) -> u32 {
    if a & 0x7fff > H::EXPONENT { NAN16 } else { flushed::<H, FLAGS>(a) & 0x7fff }
}

#[inline(always)]
fn exp2<H: Half, const FLAGS: u8>(a: u32) -> u32 {
    result::<H, FLAGS>(approximate::exp2(source::<H, FLAGS>(a) as f32))
}

#[inline(always)]
fn tanh<H: Half, const FLAGS: u8>(a: u32) -> u32 {
    result::<H, FLAGS>(source::<H, FLAGS>(a).tanh())
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u32 {
    high << 16 | low
}

/// An operation for one value and for a pair.
macro_rules! one_source {
    ($op:literal, $single:literal, $f:expr) => {
        forms![
            concat!($op, ".", $single) => (a: u16) -> u16 { $f(a as u32) as u16 }
            concat!($op, ".", $single, "x2") => (a: u32) -> u32 { pair($f(a & 0xffff), $f(a >> 16)) }
        ]
    };
}

macro_rules! two_sources {
    ($level:tt, $op:expr, $single:literal, $f:expr) => {
        forms![$level
            concat!($op, ".", $single) => (a: u16, b: u16) -> u16 { $f(a as u32, b as u32) as u16 }
            concat!($op, ".", $single, "x2") => (a: u32, b: u32) -> u32 {
                pair($f(a & 0xffff, b & 0xffff), $f(a >> 16, b >> 16))
            }
        ]
    };
}

macro_rules! three_sources {
    ($level:tt, $op:expr, $single:literal, $f:expr) => {
        forms![$level
            concat!($op, ".", $single) => (a: u16, b: u16, c: u16) -> u16 { $f(a as u32, b as u32, c as u32) as u16 }
            concat!($op, ".", $single, "x2") => (a: u32, b: u32, c: u32) -> u32 {
                pair($f(a & 0xffff, b & 0xffff, c & 0xffff), $f(a >> 16, b >> 16, c >> 16))
            }
        ]
    };
}

macro_rules! xor_signs {
    ($level:tt, $op:expr, $single:literal, $f:expr) => {
        forms![$level
            concat!($op, ".xorsign.abs.", $single) => (a: u16, b: u16) -> u16 {
                xor_sign(a as u32, b as u32, $f) as u16
            }
            concat!($op, ".xorsign.abs.", $single, "x2") => (a: u32, b: u32) -> u32 {
                pair(xor_sign(a & 0xffff, b & 0xffff, $f), xor_sign(a >> 16, b >> 16, $f))
            }
        ]
    };
}

pub static FAMILIES: &[&[Line]] = &[
    two_sources!(common, "add", "f16", add::<F16, PLAIN>),
    two_sources!(rare, "add.ftz", "f16", add::<F16, FTZ>),
    two_sources!(rare, "add.sat", "f16", add::<F16, SAT>),
    two_sources!(rare, "add.ftz.sat", "f16", add::<F16, { FTZ | SAT }>),
    two_sources!(common, "add.rn", "f16", add::<F16, PLAIN>),
    two_sources!(rare, "add.rn.ftz", "f16", add::<F16, FTZ>),
    two_sources!(rare, "add.rn.sat", "f16", add::<F16, SAT>),
    two_sources!(rare, "add.rn.ftz.sat", "f16", add::<F16, { FTZ | SAT }>),
    two_sources!(common, "sub", "f16", sub::<F16, PLAIN>),
    two_sources!(rare, "sub.ftz", "f16", sub::<F16, FTZ>),
    two_sources!(rare, "sub.sat", "f16", sub::<F16, SAT>),
    two_sources!(rare, "sub.ftz.sat", "f16", sub::<F16, { FTZ | SAT }>),
    two_sources!(common, "sub.rn", "f16", sub::<F16, PLAIN>),
    two_sources!(rare, "sub.rn.ftz", "f16", sub::<F16, FTZ>),
    two_sources!(rare, "sub.rn.sat", "f16", sub::<F16, SAT>),
    two_sources!(rare, "sub.rn.ftz.sat", "f16", sub::<F16, { FTZ | SAT }>),
    two_sources!(common, "mul", "f16", mul::<F16, PLAIN>),
    two_sources!(rare, "mul.ftz", "f16", mul::<F16, FTZ>),
    two_sources!(rare, "mul.sat", "f16", mul::<F16, SAT>),
    two_sources!(rare, "mul.ftz.sat", "f16", mul::<F16, { FTZ | SAT }>),
    two_sources!(common, "mul.rn", "f16", mul::<F16, PLAIN>),
    two_sources!(rare, "mul.rn.ftz", "f16", mul::<F16, FTZ>),
    two_sources!(rare, "mul.rn.sat", "f16", mul::<F16, SAT>),
    two_sources!(rare, "mul.rn.ftz.sat", "f16", mul::<F16, { FTZ | SAT }>),
    three_sources!(common, "fma.rn", "f16", fma::<F16, PLAIN>),
    three_sources!(rare, "fma.rn.ftz", "f16", fma::<F16, FTZ>),
    three_sources!(rare, "fma.rn.sat", "f16", fma::<F16, SAT>),
    three_sources!(rare, "fma.rn.ftz.sat", "f16", fma::<F16, { FTZ | SAT }>),
    three_sources!(common, "fma.rn.relu", "f16", fma::<F16, RELU>),
    three_sources!(rare, "fma.rn.ftz.relu", "f16", fma::<F16, { FTZ | RELU }>),
    two_sources!(common, "add", "bf16", add::<Bf16, PLAIN>),
    two_sources!(common, "add.rn", "bf16", add::<Bf16, PLAIN>),
    two_sources!(common, "sub", "bf16", sub::<Bf16, PLAIN>),
    two_sources!(common, "sub.rn", "bf16", sub::<Bf16, PLAIN>),
    two_sources!(common, "mul", "bf16", mul::<Bf16, PLAIN>),
    two_sources!(common, "mul.rn", "bf16", mul::<Bf16, PLAIN>),
    three_sources!(common, "fma.rn", "bf16", fma::<Bf16, PLAIN>),
    three_sources!(common, "fma.rn.relu", "bf16", fma::<Bf16, RELU>),
    one_source!("neg", "f16", neg::<F16, PLAIN>),
    one_source!("neg.ftz", "f16", neg::<F16, FTZ>),
    one_source!("neg", "bf16", neg::<Bf16, PLAIN>),
    one_source!("abs", "f16", abs::<F16, PLAIN>),
    one_source!("abs.ftz", "f16", abs::<F16, FTZ>),
    one_source!("abs", "bf16", abs::<Bf16, PLAIN>),
    two_sources!(some, "min", "f16", min::<F16, PLAIN, false>),
    two_sources!(rare, "min.ftz", "f16", min::<F16, FTZ, false>),
    two_sources!(some, "min.NaN", "f16", min::<F16, PLAIN, true>),
    two_sources!(rare, "min.ftz.NaN", "f16", min::<F16, FTZ, true>),
    xor_signs!(rare, "min", "f16", min::<F16, PLAIN, false>),
    xor_signs!(rare, "min.ftz", "f16", min::<F16, FTZ, false>),
    xor_signs!(rare, "min.NaN", "f16", min::<F16, PLAIN, true>),
    xor_signs!(rare, "min.ftz.NaN", "f16", min::<F16, FTZ, true>),
    two_sources!(some, "max", "f16", max::<F16, PLAIN, false>),
    two_sources!(rare, "max.ftz", "f16", max::<F16, FTZ, false>),
    two_sources!(some, "max.NaN", "f16", max::<F16, PLAIN, true>),
    two_sources!(rare, "max.ftz.NaN", "f16", max::<F16, FTZ, true>),
    xor_signs!(rare, "max", "f16", max::<F16, PLAIN, false>),
    xor_signs!(rare, "max.ftz", "f16", max::<F16, FTZ, false>),
    xor_signs!(rare, "max.NaN", "f16", max::<F16, PLAIN, true>),
    xor_signs!(rare, "max.ftz.NaN", "f16", max::<F16, FTZ, true>),
    two_sources!(some, "min", "bf16", min::<Bf16, PLAIN, false>),
    two_sources!(some, "min.NaN", "bf16", min::<Bf16, PLAIN, true>),
    xor_signs!(rare, "min", "bf16", min::<Bf16, PLAIN, false>),
    xor_signs!(rare, "min.NaN", "bf16", min::<Bf16, PLAIN, true>),
    two_sources!(some, "max", "bf16", max::<Bf16, PLAIN, false>),
    two_sources!(some, "max.NaN", "bf16", max::<Bf16, PLAIN, true>),
    xor_signs!(rare, "max", "bf16", max::<Bf16, PLAIN, false>),
    xor_signs!(rare, "max.NaN", "bf16", max::<Bf16, PLAIN, true>),
    one_source!("ex2.approx", "f16", exp2::<F16, PLAIN>),
    one_source!("ex2.approx.ftz", "bf16", exp2::<Bf16, FTZ>),
    one_source!("tanh.approx", "f16", tanh::<F16, PLAIN>),
    one_source!("tanh.approx", "bf16", tanh::<Bf16, PLAIN>),
];
