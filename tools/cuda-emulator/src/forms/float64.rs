//! f64 arithmetic. The directed roundings use integers: exact values with 128 bits and a sticky bit, rounded once.

use super::line::{Line, forms};
use super::rounding::{NAN64, RM, RN, RP, RZ, nan64};

/// `± mantissa × 2^exponent`; the lowest bit is sticky: it represents any smaller bits that are not all zero.
struct Wide {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

impl Wide {
    /// A finite number.
    fn of(x: f64) -> Wide {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = (bits & ((1 << 52) - 1)) as u128;
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Wide { negative: bits >> 63 != 0, mantissa, exponent: field.max(1) - 1075 }
    }

    fn times(&self, other: &Wide) -> Wide {
        Wide {
            negative: self.negative != other.negative,
            mantissa: self.mantissa * other.mantissa,
            exponent: self.exponent + other.exponent,
        }
    }

    /// Moves the leading one to bit 125, which leaves room for a carry and a sign.
    fn normalised(self) -> Wide {
        let shift = self.mantissa.leading_zeros() as i32 - 2;
        Wide { mantissa: shift_right_sticky(self.mantissa, -shift), exponent: self.exponent - shift, ..self }
    }

    /// The sum of two nonzero values.
    fn plus(self, other: Wide) -> Wide {
        let (a, b) = (self.normalised(), other.normalised());
        let (large, small) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
        let aligned = shift_right_sticky(small.mantissa, large.exponent - small.exponent) as i128;
        let signed = |negative: bool, x: i128| if negative { -x } else { x };
        let sum = signed(large.negative, large.mantissa as i128) + signed(small.negative, aligned);
        Wide { negative: sum < 0, mantissa: sum.unsigned_abs(), exponent: large.exponent }
    }

    fn rounded<const R: u8>(self) -> f64 {
        if self.mantissa == 0 {
            return if self.negative { -0.0 } else { 0.0 };
        }
        // The result's last bit: 53 bits below the leading one, but at least that of the smallest subnormal.
        let top = 127 - self.mantissa.leading_zeros() as i32 + self.exponent;
        let last = (top - 52).max(-1074);
        let with_two_more = shift_right_sticky(self.mantissa, last - 2 - self.exponent);
        // At most 55 bits are left; the last one is sticky.
        let (kept, rest) = ((with_two_more >> 2) as u64, with_two_more & 3);
        let away = match R {
            RN => rest > 2 || rest == 2 && kept & 1 != 0,
            RM => rest != 0 && self.negative,
            RP => rest != 0 && !self.negative,
            _ => false,
        };
        let field = (last + 1074) as u64;
        // As in `to_small`: the leading bit and carries add to the exponent field.
        let magnitude = (field << 52) + kept + away as u64;
        let stays_finite = R == RZ || R == RM && !self.negative || R == RP && self.negative;
        let infinity = f64::INFINITY.to_bits();
        let magnitude = magnitude.min(if stays_finite { infinity - 1 } else { infinity });
        f64::from_bits(magnitude | (self.negative as u64) << 63)
    }
}

/// Shifts right (left for n < 0); ones that are shifted out set the lowest bit.
fn shift_right_sticky(x: u128, n: i32) -> u128 {
    match n {
        ..=0 => x << -n,
        1..=127 => x >> n | (x & ((1 << n) - 1) != 0) as u128,
        _ => (x != 0) as u128,
    }
}

fn zero<const R: u8>(a_negative: bool, b_negative: bool) -> f64 {
    let negative = if R == RM { a_negative || b_negative } else { a_negative && b_negative };
    if negative { -0.0 } else { 0.0 }
}

fn fma<const R: u8>(a: f64, b: f64, c: f64) -> f64 {
    if R == RN || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return nan64(a.mul_add(b, c));
    }
    let (product, c) = (Wide::of(a).times(&Wide::of(b)), Wide::of(c));
    let (product_negative, c_negative) = (product.negative, c.negative);
    let sum = match (product.mantissa, c.mantissa) {
        (0, 0) => return zero::<R>(product_negative, c_negative),
        (0, _) => c,
        (_, 0) => product,
        _ => product.plus(c),
    };
    if sum.mantissa == 0 { zero::<R>(product_negative, c_negative) } else { sum.rounded::<R>() }
}

fn add<const R: u8>(a: f64, b: f64) -> f64 {
    fma::<R>(a, 1.0, b)
}

fn mul<const R: u8>(a: f64, b: f64) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return nan64(a * b);
    }
    Wide::of(a).times(&Wide::of(b)).rounded::<R>()
}

fn div<const R: u8>(a: f64, b: f64) -> f64 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return nan64(a / b);
    }
    let (a, b) = (Wide::of(a).normalised(), Wide::of(b));
    // 126 bits divided by at most 53 bits: at least 72 bits of quotient.
    let sticky = (a.mantissa % b.mantissa != 0) as u128;
    Wide {
        negative: a.negative != b.negative,
        mantissa: (a.mantissa / b.mantissa) << 1 | sticky,
        exponent: a.exponent - b.exponent - 1,
    }
    .rounded::<R>()
}

fn sqrt<const R: u8>(a: f64) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return nan64(a.sqrt());
    }
    let mut a = Wide::of(a).normalised();
    if a.exponent % 2 != 0 {
        (a.mantissa, a.exponent) = (a.mantissa << 1, a.exponent - 1);
    }
    let root = a.mantissa.isqrt();
    let sticky = (root * root != a.mantissa) as u128;
    Wide { negative: false, mantissa: root << 1 | sticky, exponent: a.exponent / 2 - 1 }.rounded::<R>()
}

/// As for f32: a NaN loses, +0 is above -0.
#[inline(always)]
fn max(a: f64, b: f64) -> f64 {
    let larger = if a > b { a } else { b };
    let larger = if a == b { f64::from_bits(a.to_bits() & b.to_bits()) } else { larger };
    let x = if a.is_nan() { b } else { larger };
    nan64(if b.is_nan() { a } else { x })
}

#[inline(always)]
fn min(a: f64, b: f64) -> f64 {
    let smaller = if a < b { a } else { b };
    let smaller = if a == b { f64::from_bits(a.to_bits() | b.to_bits()) } else { smaller };
    let x = if a.is_nan() { b } else { smaller };
    nan64(if b.is_nan() { a } else { x })
}

/// First approximations that f64 code refines: only the high half of the result is set (ISA).
#[inline(always)]
fn high_half(x: f64) -> f64 {
    if x.is_nan() { NAN64 } else { f64::from_bits(x.to_bits() & 0xffff_ffff_0000_0000) }
}

/// The approximations always flush (`.ftz`).
#[inline(always)]
fn flushed(x: f64) -> f64 {
    if x.abs() < f64::MIN_POSITIVE { f64::from_bits(x.to_bits() & (1 << 63)) } else { x }
}

macro_rules! directed {
    ($rounding:literal, $mode:expr) => {
        forms![rare
            concat!("add.", $rounding, ".f64") => (a: f64, b: f64) -> f64 { add::<{ $mode }>(a, b) }
            concat!("sub.", $rounding, ".f64") => (a: f64, b: f64) -> f64 { add::<{ $mode }>(a, -b) }
            concat!("mul.", $rounding, ".f64") => (a: f64, b: f64) -> f64 { mul::<{ $mode }>(a, b) }
            concat!("fma.", $rounding, ".f64") => (a: f64, b: f64, c: f64) -> f64 { fma::<{ $mode }>(a, b, c) }
            concat!("mad.", $rounding, ".f64") => (a: f64, b: f64, c: f64) -> f64 { fma::<{ $mode }>(a, b, c) }
            concat!("div.", $rounding, ".f64") => (a: f64, b: f64) -> f64 { div::<{ $mode }>(a, b) }
            concat!("rcp.", $rounding, ".f64") => (a: f64) -> f64 { div::<{ $mode }>(1.0, a) }
            concat!("sqrt.", $rounding, ".f64") => (a: f64) -> f64 { sqrt::<{ $mode }>(a) }
        ]
    };
}

pub static FAMILIES: &[&[Line]] = &[
    forms![common
        "add.f64" => (a: f64, b: f64) -> f64 { nan64(a + b) }
        "add.rn.f64" => (a: f64, b: f64) -> f64 { nan64(a + b) }
        "sub.f64" => (a: f64, b: f64) -> f64 { nan64(a - b) }
        "sub.rn.f64" => (a: f64, b: f64) -> f64 { nan64(a - b) }
        "mul.f64" => (a: f64, b: f64) -> f64 { nan64(a * b) }
        "mul.rn.f64" => (a: f64, b: f64) -> f64 { nan64(a * b) }
        "fma.rn.f64" => (a: f64, b: f64, c: f64) -> f64 { nan64(a.mul_add(b, c)) }
        "mad.rn.f64" => (a: f64, b: f64, c: f64) -> f64 { nan64(a.mul_add(b, c)) }
        "div.rn.f64" => (a: f64, b: f64) -> f64 { nan64(a / b) }
        "rcp.rn.f64" => (a: f64) -> f64 { nan64(1.0 / a) }
        "sqrt.rn.f64" => (a: f64) -> f64 { nan64(a.sqrt()) }
        "min.f64" => (a: f64, b: f64) -> f64 { min(a, b) }
        "max.f64" => (a: f64, b: f64) -> f64 { max(a, b) }
        "abs.f64" => (a: f64) -> f64 { nan64(a.abs()) }
        "neg.f64" => (a: f64) -> f64 { nan64(-a) }
        "copysign.f64" => (a: u64, b: u64) -> u64 { a & 1 << 63 | b & !(1 << 63) }
        "rcp.approx.ftz.f64" => (a: f64) -> f64 { high_half(flushed(1.0 / flushed(a))) }
        "rsqrt.approx.ftz.f64" => (a: f64) -> f64 { high_half(1.0 / flushed(a).sqrt()) }
    ],
    // Without .ftz, rsqrt.approx accepts subnormal sources; its results are never subnormal.
    forms!["rsqrt.approx.f64" => (a: f64) -> f64 { nan64(1.0 / a.sqrt()) }],
    directed!("rz", RZ),
    directed!("rm", RM),
    directed!("rp", RP),
];
