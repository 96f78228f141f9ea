//! `setp` (ISA "Comparison and Selection Instructions").
//!
//! Ordered comparisons are false for NaN; those with a `u` are true.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // a NaN makes the `u` comparisons true

use half::{bf16, f16};

use super::line::{CompareLine, tests};
use super::rounding::{bf16_to_f32, f16_to_f32, flush};

macro_rules! integers {
    ($name:literal, $T:ty) => {
        tests![
            concat!("setp.eq.", $name) => (a, b: $T) { a == b }
            concat!("setp.ne.", $name) => (a, b: $T) { a != b }
            concat!("setp.lt.", $name) => (a, b: $T) { a < b }
            concat!("setp.le.", $name) => (a, b: $T) { a <= b }
            concat!("setp.gt.", $name) => (a, b: $T) { a > b }
            concat!("setp.ge.", $name) => (a, b: $T) { a >= b }
        ]
    };
}

/// Unsigned comparisons have alternative names: lower, lower or same, higher, higher or same.
macro_rules! unsigned {
    ($name:literal, $T:ty) => {
        tests![
            concat!("setp.lo.", $name) => (a, b: $T) { a < b }
            concat!("setp.ls.", $name) => (a, b: $T) { a <= b }
            concat!("setp.hi.", $name) => (a, b: $T) { a > b }
            concat!("setp.hs.", $name) => (a, b: $T) { a >= b }
        ]
    };
}

macro_rules! bits {
    ($name:literal, $T:ty) => {
        tests![
            concat!("setp.eq.", $name) => (a, b: $T) { a == b }
            concat!("setp.ne.", $name) => (a, b: $T) { a != b }
        ]
    };
}

macro_rules! floats {
    ($name:literal, $T:ty, |$x:ident| $value:expr) => {
        tests![
            concat!("setp.eq.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) == f(b) }
            concat!("setp.ne.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) < f(b) || f(a) > f(b) }
            concat!("setp.lt.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) < f(b) }
            concat!("setp.le.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) <= f(b) }
            concat!("setp.gt.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) > f(b) }
            concat!("setp.ge.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) >= f(b) }
            concat!("setp.equ.", $name) => (a, b: $T) { let f = |$x: $T| $value; !(f(a) < f(b) || f(a) > f(b)) }
            concat!("setp.neu.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a) != f(b) }
            concat!("setp.ltu.", $name) => (a, b: $T) { let f = |$x: $T| $value; !(f(a) >= f(b)) }
            concat!("setp.leu.", $name) => (a, b: $T) { let f = |$x: $T| $value; !(f(a) > f(b)) }
            concat!("setp.gtu.", $name) => (a, b: $T) { let f = |$x: $T| $value; !(f(a) <= f(b)) }
            concat!("setp.geu.", $name) => (a, b: $T) { let f = |$x: $T| $value; !(f(a) < f(b)) }
            concat!("setp.num.", $name) => (a, b: $T) { let f = |$x: $T| $value; !f(a).is_nan() && !f(b).is_nan() }
            concat!("setp.nan.", $name) => (a, b: $T) { let f = |$x: $T| $value; f(a).is_nan() || f(b).is_nan() }
        ]
    };
}

pub static COMPARISONS: &[&[CompareLine]] = &[
    integers!("u16", u16),
    integers!("s16", i16),
    integers!("u32", u32),
    integers!("s32", i32),
    integers!("u64", u64),
    integers!("s64", i64),
    unsigned!("u16", u16),
    unsigned!("u32", u32),
    unsigned!("u64", u64),
    bits!("b16", u16),
    bits!("b32", u32),
    bits!("b64", u64),
    floats!("f32", f32, |x| x),
    floats!("ftz.f32", f32, |x| flush::<true>(x)),
    floats!("f64", f64, |x| x),
    floats!("f16", f16, |x| f16_to_f32(x.to_bits() as u32)),
    floats!("bf16", bf16, |x| bf16_to_f32(x.to_bits() as u32)),
];
