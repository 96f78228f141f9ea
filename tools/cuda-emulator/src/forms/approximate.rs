//! `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `div`, `sin`, `cos`, `tanh` with `.approx`.
//!
//! The ISA only bounds their errors, and the hardware's tables are not public. Here the results are computed in f64 and
//! rounded once, so they are within half an ulp of the exact value (slightly more for `ex2` and `lg2`, whose
//! polynomials have an error of 1e-11) and **may differ from the hardware by an ulp or two**. Special values follow the
//! ISA.

use super::line::{Line, forms};
use super::rounding::{NAN32, finish, flush};

/// 2^x: 2^round(x) times a polynomial on [-1/2, 1/2] (Taylor; its relative error is below 1e-11).
#[inline(always)]
pub fn exp2(x: f32) -> f64 {
    // ln 2 to the power of k, over k factorial.
    const TERMS: [f64; 10] = [
        1.0,
        std::f64::consts::LN_2,
        0.2402265069591007,
        0.055504108664821576,
        0.009618129107628477,
        0.0013333558146428441,
        0.00015403530393381606,
        1.5252733804059838e-5,
        1.3215486790144305e-6,
        1.0178086009239696e-7,
    ];
    // Adding this constant leaves the nearest integer in the low bits.
    const ROUND: f64 = 6755399441055744.0;
    let x = x as f64;
    let x = if x > 300.0 { 300.0 } else { x };
    let x = if x < -300.0 { -300.0 } else { x };
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let mut sum = TERMS[9];
    for term in TERMS[..9].iter().rev() {
        sum = sum.mul_add(rest, *term);
    }
    sum * scale
}

/// log2(x) of a non-negative number: exponent plus 2 atanh((m - 1) / (m + 1)) / ln 2 for m in [0.7, 1.4].
#[inline(always)]
fn log2(x: f32) -> f64 {
    // 2 / (ln 2 (2k + 1)).
    const TERMS: [f64; 9] = [
        2.8853900817779268,
        0.9617966939259757,
        0.5770780163555853,
        0.41219858311113244,
        0.3205988979753252,
        0.2623081892525388,
        0.2219530832136867,
        0.19235933878519512,
        0.16972882833987804,
    ];
    // In f64, f32 subnormals are normal numbers.
    let bits = (x as f64).to_bits();
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let shifted = bits.wrapping_sub(SQRT_HALF);
    // The exponent, as an integer in the low bits of a float near 2^52.
    let biased = f64::from_bits((shifted >> 52).wrapping_add(1024) & 0xfff | 0x4330_0000_0000_0000);
    let exponent = biased - (4503599627370496.0 + 1024.0);
    let mantissa = f64::from_bits((shifted & ((1 << 52) - 1)).wrapping_add(SQRT_HALF));
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut sum = TERMS[8];
    for term in TERMS[..8].iter().rev() {
        sum = sum.mul_add(square, *term);
    }
    let finite = sum.mul_add(ratio, exponent);
    let from_zero = if x == 0.0 { f64::NEG_INFINITY } else { finite };
    let not_negative = if x < 0.0 || x.is_nan() { f64::NAN } else { from_zero };
    if x == f32::INFINITY { f64::INFINITY } else { not_negative }
}

/// `div.approx`: for 2^126 < |b| < 2^128 the reciprocal underflows, and the result is 0 (NaN for an infinite a).
#[inline(always)]
fn divide(a: f32, b: f32) -> f32 {
    const TWO_TO_126: f32 = f32::from_bits(0x7e80_0000);
    let is_large = b.abs() > TWO_TO_126 && b.abs() < f32::INFINITY;
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let vanished = if a.abs() < f32::INFINITY { f32::from_bits(sign) } else { NAN32 };
    if is_large { vanished } else { a / b }
}

/// A form with one source, with and without `.ftz`.
macro_rules! approximations {
    ($($op:literal => |$x:ident| $value:expr;)*) => {
        &[$(forms![common
            concat!($op, ".approx.f32") => ($x: f32) -> f32 { finish::<false, false>($value) }
            concat!($op, ".approx.ftz.f32") => ($x: f32) -> f32 {
                let $x = flush::<true>($x);
                finish::<true, false>($value)
            }
        ]),*]
    };
}

pub static FAMILIES: &[&[Line]] = approximations! {
    "ex2" => |x| exp2(x) as f32;
    "lg2" => |x| log2(x) as f32;
    "rcp" => |x| 1.0 / x;
    "sqrt" => |x| x.sqrt();
    "rsqrt" => |x| (1.0 / (x as f64).sqrt()) as f32;
    "sin" => |x| (x as f64).sin() as f32;
    "cos" => |x| (x as f64).cos() as f32;
};

pub static MORE: &[&[Line]] = &[forms![
    "tanh.approx.f32" => (x: f32) -> f32 { finish::<false, false>((x as f64).tanh() as f32) }
    "div.approx.f32" => (a: f32, b: f32) -> f32 { finish::<false, false>(divide(a, b)) }
    "div.approx.ftz.f32" => (a: f32, b: f32) -> f32 {
        finish::<true, false>(divide(flush::<true>(a), flush::<true>(b)))
    }
    "div.full.f32" => (a: f32, b: f32) -> f32 { finish::<false, false>(a / b) }
    "div.full.ftz.f32" => (a: f32, b: f32) -> f32 { finish::<true, false>(flush::<true>(a) / flush::<true>(b)) }
]];
