//! `cvt` (ISA "Data Movement and Conversion Instructions: cvt").
//!
//! Integer results of 8 bits are extended to the 16 bits of the smallest register.

use half::{bf16, f16};

use super::line::{Line, forms};
use super::rounding::{
    RM, RN, RP, RZ, bf16_to_f32, f16_to_f32, f32_to_bf16, finish, flush, nan32, nan64, odd_sum, saturate64, to_bf16,
    to_f16, to_f32, to_small,
};

/// Rounds to an integer.
#[inline(always)]
fn integral<const R: u8>(x: f32) -> f32 {
    match R {
        RN => x.round_ties_even(),
        RZ => x.trunc(),
        RM => x.floor(),
        _ => x.ceil(),
    }
}

#[inline(always)]
fn integral64<const R: u8>(x: f64) -> f64 {
    match R {
        RN => x.round_ties_even(),
        RZ => x.trunc(),
        RM => x.floor(),
        _ => x.ceil(),
    }
}

/// A number that converts to f16, bf16, f32 and f64 with a single rounding.
trait Exact: Copy {
    /// The value, exact or rounded to odd.
    fn odd(self) -> f64;
    /// Converts to f64 in this mode.
    fn double<const R: u8>(self) -> f64;
}

macro_rules! exact_in_f64 {
    ($($T:ty),*) => {$(
        impl Exact for $T {
            #[inline(always)]
            fn odd(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn double<const R: u8>(self) -> f64 {
                self as f64
            }
        }
    )*};
}
exact_in_f64!(u8, i8, u16, i16, u32, i32, f32);

/// 64-bit integers are the sum of two numbers that fit into an f64.
macro_rules! two_parts {
    ($($T:ty),*) => {$(
        impl Exact for $T {
            #[inline(always)]
            fn odd(self) -> f64 {
                odd_sum::<RN>((self >> 32) as f64 * 4294967296.0, self as u32 as f64)
            }
            #[inline(always)]
            fn double<const R: u8>(self) -> f64 {
                let (high, low) = ((self >> 32) as f64 * 4294967296.0, self as u32 as f64);
                let sum = high + low;
                let error = low - (sum - high);
                // Integers have no subnormals and do not overflow, so the neighbours differ by one in the bits.
                let (up, down) = if sum > 0.0 { (1, u64::MAX) } else { (u64::MAX, 1) };
                let step = match R {
                    RZ if sum > 0.0 && error < 0.0 => down,
                    RZ if sum < 0.0 && error > 0.0 => up,
                    RM if error < 0.0 => down,
                    RP if error > 0.0 => up,
                    _ => 0,
                };
                f64::from_bits(sum.to_bits().wrapping_add(step))
            }
        }
    )*};
}
two_parts!(u64, i64);

/// From one integer type to another.
macro_rules! integer {
    ($from:literal, $S:ty, $wide:ty) => {
        &[
            integer!($from, $S, $wide, "u8", u8),
            integer!($from, $S, $wide, "s8", i8),
            integer!($from, $S, $wide, "u16", u16),
            integer!($from, $S, $wide, "s16", i16),
            integer!($from, $S, $wide, "u32", u32),
            integer!($from, $S, $wide, "s32", i32),
            integer!($from, $S, $wide, "u64", u64),
            integer!($from, $S, $wide, "s64", i64),
        ]
    };
    ($from:literal, $S:ty, $wide:ty, $to:literal, $D:ty) => {
        forms![some
            concat!("cvt.", $to, ".", $from) => (a: $S) -> $D { a as $D }
            concat!("cvt.sat.", $to, ".", $from) => (a: $S) -> $D {
                (a as $wide).clamp((<$D>::MIN as i128).max(<$wide>::MIN as i128) as $wide,
                                   (<$D>::MAX as i128).min(<$wide>::MAX as i128) as $wide) as $D
            }
        ]
    };
}

/// From an integer type to the floating point types, in one mode.
macro_rules! integer_to_float {
    ($mode:expr, $rounding:literal, $from:literal, $S:ty) => {
        forms![rare
            concat!("cvt.", $rounding, ".f16.", $from) => (a: $S) -> f16 { to_f16::<{ $mode }>(a.odd()) }
            concat!("cvt.", $rounding, ".bf16.", $from) => (a: $S) -> bf16 { to_bf16::<{ $mode }>(a.odd()) }
            concat!("cvt.", $rounding, ".f32.", $from) => (a: $S) -> f32 { to_f32::<{ $mode }>(a.odd()) }
            concat!("cvt.", $rounding, ".f64.", $from) => (a: $S) -> f64 { a.double::<{ $mode }>() }
        ]
    };
    ($from:literal, $S:ty) => {
        &[
            forms![
                concat!("cvt.rn.f16.", $from) => (a: $S) -> f16 { to_f16::<RN>(a.odd()) }
                concat!("cvt.rn.bf16.", $from) => (a: $S) -> bf16 { to_bf16::<RN>(a.odd()) }
                concat!("cvt.rn.f32.", $from) => (a: $S) -> f32 { a as f32 }
                concat!("cvt.rn.f64.", $from) => (a: $S) -> f64 { a as f64 }
            ],
            integer_to_float!(RZ, "rz", $from, $S),
            integer_to_float!(RM, "rm", $from, $S),
            integer_to_float!(RP, "rp", $from, $S),
        ]
    };
}

/// From a floating point type to the integer types. Out of range: the nearest value of the type. NaN: 0, or only the
/// highest bit if the source is f64 or the result has 64 bits.
macro_rules! float_to_integer {
    ($level:tt, $from:literal, $S:ty, $integral:ident, $nan_of_narrow:expr, |$x:ident| $value:expr) => {
        &[
            float_to_integer!($level, RN, "rni", $from, $S, $integral, $nan_of_narrow, |$x| $value),
            float_to_integer!($level, RZ, "rzi", $from, $S, $integral, $nan_of_narrow, |$x| $value),
            float_to_integer!($level, RM, "rmi", $from, $S, $integral, $nan_of_narrow, |$x| $value),
            float_to_integer!($level, RP, "rpi", $from, $S, $integral, $nan_of_narrow, |$x| $value),
        ]
    };
    ($level:tt, $mode:expr, $rounding:literal, $from:literal, $S:ty, $integral:ident, $nan:expr, |$x:ident| $value:expr) => {
        forms![$level
            concat!("cvt.", $rounding, ".u8.", $from) => ($x: $S) -> u8 {
                to_integer!($mode, $integral, $value, u8, $nan)
            }
            concat!("cvt.", $rounding, ".s8.", $from) => ($x: $S) -> i8 {
                to_integer!($mode, $integral, $value, i8, $nan)
            }
            concat!("cvt.", $rounding, ".u16.", $from) => ($x: $S) -> u16 {
                to_integer!($mode, $integral, $value, u16, $nan)
            }
            concat!("cvt.", $rounding, ".s16.", $from) => ($x: $S) -> i16 {
                to_integer!($mode, $integral, $value, i16, $nan)
            }
            concat!("cvt.", $rounding, ".u32.", $from) => ($x: $S) -> u32 {
                to_integer!($mode, $integral, $value, u32, $nan)
            }
            concat!("cvt.", $rounding, ".s32.", $from) => ($x: $S) -> i32 {
                to_integer!($mode, $integral, $value, i32, $nan)
            }
            concat!("cvt.", $rounding, ".u64.", $from) => ($x: $S) -> u64 {
                to_integer!($mode, $integral, $value, u64, true)
            }
            concat!("cvt.", $rounding, ".s64.", $from) => ($x: $S) -> i64 {
                to_integer!($mode, $integral, $value, i64, true)
            }
        ]
    };
}

macro_rules! to_integer {
    ($mode:expr, $integral:ident, $value:expr, $D:ty, $nan:expr) => {{
        let value = $value;
        let of_nan = if $nan { (1 as $D) << (<$D>::BITS - 1) } else { 0 };
        if value.is_nan() { of_nan } else { $integral::<{ $mode }>(value) as $D }
    }};
}

/// Rounds to an integer in floating point format.
macro_rules! to_integral {
    ($mode:expr, $rounding:literal) => {
        forms![rare
            concat!("cvt.", $rounding, ".f32.f32") => (a: f32) -> f32 { nan32(integral::<{ $mode }>(a)) }
            concat!("cvt.", $rounding, ".ftz.f32.f32") => (a: f32) -> f32 {
                nan32(integral::<{ $mode }>(flush::<true>(a)))
            }
            concat!("cvt.", $rounding, ".sat.f32.f32") => (a: f32) -> f32 {
                finish::<false, true>(integral::<{ $mode }>(a))
            }
            concat!("cvt.", $rounding, ".ftz.sat.f32.f32") => (a: f32) -> f32 {
                finish::<false, true>(integral::<{ $mode }>(flush::<true>(a)))
            }
            concat!("cvt.", $rounding, ".f64.f64") => (a: f64) -> f64 { nan64(integral64::<{ $mode }>(a)) }
            concat!("cvt.", $rounding, ".f16.f16") => (a: u16) -> f16 {
                to_f16::<RN>(integral::<{ $mode }>(f16_to_f32(a as u32)) as f64)
            }
            concat!("cvt.", $rounding, ".bf16.bf16") => (a: u16) -> bf16 {
                to_bf16::<RN>(integral::<{ $mode }>(bf16_to_f32(a as u32)) as f64)
            }
        ]
    };
}

/// To a narrower floating point type, in one mode.
macro_rules! narrower {
    ($level:tt, $mode:expr, $rounding:literal) => {
        forms![$level
            concat!("cvt.", $rounding, ".f32.f64") => (a: f64) -> f32 { finish::<false, false>(to_f32::<{ $mode }>(a)) }
            concat!("cvt.", $rounding, ".ftz.f32.f64") => (a: f64) -> f32 {
                finish::<true, false>(to_f32::<{ $mode }>(a))
            }
            concat!("cvt.", $rounding, ".sat.f32.f64") => (a: f64) -> f32 {
                finish::<false, true>(to_f32::<{ $mode }>(a))
            }
            concat!("cvt.", $rounding, ".f16.f32") => (a: f32) -> f16 { to_f16::<{ $mode }>(a as f64) }
            concat!("cvt.", $rounding, ".ftz.f16.f32") => (a: f32) -> f16 {
                to_f16::<{ $mode }>(flush::<true>(a) as f64)
            }
            concat!("cvt.", $rounding, ".sat.f16.f32") => (a: f32) -> f16 {
                to_f16::<{ $mode }>(finish::<false, true>(a) as f64)
            }
            concat!("cvt.", $rounding, ".f16.f64") => (a: f64) -> f16 { to_f16::<{ $mode }>(a) }
            concat!("cvt.", $rounding, ".bf16.f64") => (a: f64) -> bf16 { to_bf16::<{ $mode }>(a) }
            concat!("cvt.", $rounding, ".bf16.f16") => (a: u16) -> bf16 {
                to_bf16::<{ $mode }>(f16_to_f32(a as u32) as f64)
            }
            concat!("cvt.", $rounding, ".f16.bf16") => (a: u16) -> f16 {
                to_f16::<{ $mode }>(bf16_to_f32(a as u32) as f64)
            }
        ]
    };
}

/// `.relu`: a negative result becomes 0.
#[inline(always)]
fn relu<const RELU: bool>(x: f32) -> f32 {
    // -0 becomes 0 too; a NaN stays.
    if RELU && x <= 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn f16_of<const R: u8, const RELU: bool>(x: f32) -> u32 {
    to_small::<10, 5, R>(relu::<RELU>(x) as f64)
}

#[inline(always)]
fn bf16_of<const R: u8, const RELU: bool>(x: f32) -> u32 {
    let x = relu::<RELU>(x);
    if R == RN { f32_to_bf16(x) } else { to_small::<7, 8, R>(x as f64) }
}

/// Pairs of f32 → a register of two 16-bit floats; a goes to the high half.
macro_rules! pairs {
    ($level:tt, $mode:expr, $rounding:literal, $flag:literal, $relu:expr) => {
        forms![$level
            concat!("cvt.", $rounding, $flag, ".bf16x2.f32") => (a: f32, b: f32) -> u32 {
                bf16_of::<{ $mode }, { $relu }>(a) << 16 | bf16_of::<{ $mode }, { $relu }>(b)
            }
            concat!("cvt.", $rounding, $flag, ".f16x2.f32") => (a: f32, b: f32) -> u32 {
                f16_of::<{ $mode }, { $relu }>(a) << 16 | f16_of::<{ $mode }, { $relu }>(b)
            }
            concat!("cvt.", $rounding, $flag, ".bf16.f32") => (a: f32) -> u16 {
                bf16_of::<{ $mode }, { $relu }>(a) as u16
            }
        ]
    };
}

/// tf32 is an f32 with 13 low zero bits.
#[inline(always)]
fn tf32(x: f32, added: u32) -> f32 {
    nan32(if x.is_nan() { x } else { f32::from_bits(x.to_bits().wrapping_add(added) & !0x1fff) })
}

/// The amount to add before truncation, so that ties go to even.
#[inline(always)]
fn tie_to_even(x: f32) -> u32 {
    0xfff + (x.to_bits() >> 13 & 1)
}

pub static FAMILIES: &[&[&[Line]]] = &[
    integer!("u8", u8, i32),
    integer!("s8", i8, i32),
    integer!("u16", u16, i32),
    integer!("s16", i16, i32),
    integer!("u32", u32, i64),
    integer!("s32", i32, i64),
    integer!("u64", u64, i128),
    integer!("s64", i64, i128),
    integer_to_float!("u8", u8),
    integer_to_float!("s8", i8),
    integer_to_float!("u16", u16),
    integer_to_float!("s16", i16),
    integer_to_float!("u32", u32),
    integer_to_float!("s32", i32),
    integer_to_float!("u64", u64),
    integer_to_float!("s64", i64),
    float_to_integer!(rare, "f16", u16, integral, false, |x| f16_to_f32(x as u32)),
    float_to_integer!(rare, "bf16", u16, integral, false, |x| bf16_to_f32(x as u32)),
    float_to_integer!(some, "f32", f32, integral, false, |x| x),
    float_to_integer!(some, "f64", f64, integral64, true, |x| x),
    &[
        float_to_integer!(rare, RN, "rni.ftz", "f32", f32, integral, false, |x| flush::<true>(x)),
        float_to_integer!(rare, RZ, "rzi.ftz", "f32", f32, integral, false, |x| flush::<true>(x)),
        float_to_integer!(rare, RM, "rmi.ftz", "f32", f32, integral, false, |x| flush::<true>(x)),
        float_to_integer!(rare, RP, "rpi.ftz", "f32", f32, integral, false, |x| flush::<true>(x)),
    ],
    &[to_integral!(RN, "rni"), to_integral!(RZ, "rzi"), to_integral!(RM, "rmi"), to_integral!(RP, "rpi")],
    &[narrower!(common, RN, "rn"), narrower!(rare, RZ, "rz"), narrower!(rare, RM, "rm"), narrower!(rare, RP, "rp")],
    &[
        pairs!(common, RN, "rn", "", false),
        pairs!(common, RN, "rn", ".relu", true),
        pairs!(rare, RZ, "rz", "", false),
        pairs!(rare, RZ, "rz", ".relu", true),
    ],
    &[forms![
        "cvt.rm.bf16.f32" => (a: f32) -> bf16 { to_bf16::<RM>(a as f64) }
        "cvt.rp.bf16.f32" => (a: f32) -> bf16 { to_bf16::<RP>(a as f64) }
        "cvt.rn.relu.f16.f32" => (a: f32) -> u16 { f16_of::<RN, true>(a) as u16 }
        "cvt.rz.relu.f16.f32" => (a: f32) -> u16 { f16_of::<RZ, true>(a) as u16 }
        "cvt.rna.tf32.f32" => (a: f32) -> f32 { tf32(a, 0x1000) }
        "cvt.rn.tf32.f32" => (a: f32) -> f32 { tf32(a, tie_to_even(a)) }
        "cvt.rz.tf32.f32" => (a: f32) -> f32 { tf32(a, 0) }
        "cvt.rn.relu.tf32.f32" => (a: f32) -> f32 { relu::<true>(tf32(a, tie_to_even(a))) }
        "cvt.rz.relu.tf32.f32" => (a: f32) -> f32 { relu::<true>(tf32(a, 0)) }
        "cvt.f32.f16" => (a: u16) -> f32 { f16_to_f32(a as u32) }
        "cvt.ftz.f32.f16" => (a: u16) -> f32 { f16_to_f32(a as u32) }
        "cvt.sat.f32.f16" => (a: u16) -> f32 { finish::<false, true>(f16_to_f32(a as u32)) }
        "cvt.f32.bf16" => (a: u16) -> f32 { bf16_to_f32(a as u32) }
        "cvt.f64.f16" => (a: u16) -> f64 { nan64(f16_to_f32(a as u32) as f64) }
        "cvt.f64.bf16" => (a: u16) -> f64 { nan64(bf16_to_f32(a as u32) as f64) }
        "cvt.f64.f32" => (a: f32) -> f64 { nan64(a as f64) }
        "cvt.ftz.f64.f32" => (a: f32) -> f64 { nan64(flush::<true>(a) as f64) }
        "cvt.f32.f32" => (a: f32) -> f32 { nan32(a) }
        "cvt.ftz.f32.f32" => (a: f32) -> f32 { finish::<true, false>(a) }
        "cvt.sat.f32.f32" => (a: f32) -> f32 { finish::<false, true>(a) }
        "cvt.ftz.sat.f32.f32" => (a: f32) -> f32 { finish::<true, true>(a) }
        "cvt.sat.f64.f64" => (a: f64) -> f64 { saturate64(a) }
        "cvt.sat.f16.f16" => (a: u16) -> f16 { to_f16::<RN>(finish::<false, true>(f16_to_f32(a as u32)) as f64) }
    ]],
];
