//! Integer arithmetic (ISA "Integer Arithmetic Instructions"); results wrap unless `.sat` or `.hi` is given.

use super::line::{Line, forms};

/// The forms of one type; `$wide` has twice as many bits.
macro_rules! integer {
    ($level:tt, $name:literal, $T:ty, $wide:ty) => {
        forms![$level
            concat!("add.", $name) => (a: $T, b: $T) -> $T { a.wrapping_add(b) }
            concat!("sub.", $name) => (a: $T, b: $T) -> $T { a.wrapping_sub(b) }
            concat!("mul.lo.", $name) => (a: $T, b: $T) -> $T { a.wrapping_mul(b) }
            concat!("mul.hi.", $name) => (a: $T, b: $T) -> $T { high!(a, b, $T, $wide) }
            concat!("mad.lo.", $name) => (a: $T, b: $T, c: $T) -> $T { a.wrapping_mul(b).wrapping_add(c) }
            concat!("mad.hi.", $name) => (a: $T, b: $T, c: $T) -> $T { high!(a, b, $T, $wide).wrapping_add(c) }
            concat!("min.", $name) => (a: $T, b: $T) -> $T { if a < b { a } else { b } }
            concat!("max.", $name) => (a: $T, b: $T) -> $T { if a > b { a } else { b } }
            concat!("sad.", $name) => (a: $T, b: $T, c: $T) -> $T {
                c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) })
            }
            // The result of a division by zero is unspecified: like the hardware's emulation, this returns all ones,
            // and the dividend as the remainder.
            concat!("div.", $name) => (a: $T, b: $T) -> $T { if b == 0 { !0 } else { a.wrapping_div(b) } }
            concat!("rem.", $name) => (a: $T, b: $T) -> $T { if b == 0 { a } else { a.wrapping_rem(b) } }
        ]
    };
}

macro_rules! high {
    ($a:ident, $b:ident, $T:ty, $wide:ty) => {
        (($a as $wide * $b as $wide) >> <$T>::BITS) as $T
    };
}

macro_rules! wide {
    ($name:literal, $T:ty, $wide:ty) => {
        forms![common
            concat!("mul.wide.", $name) => (a: $T, b: $T) -> $wide { a as $wide * b as $wide }
            concat!("mad.wide.", $name) => (a: $T, b: $T, c: $wide) -> $wide { (a as $wide * b as $wide).wrapping_add(c) }
        ]
    };
}

macro_rules! signed {
    ($name:literal, $T:ty) => {
        forms![
            concat!("abs.", $name) => (a: $T) -> $T { a.wrapping_abs() }
            concat!("neg.", $name) => (a: $T) -> $T { a.wrapping_neg() }
        ]
    };
}

/// Sum of the products of four bytes.
macro_rules! dot4 {
    ($name:literal, $A:ty, $B:ty, $D:ty) => {
        forms![concat!("dp4a.", $name) => (a: u32, b: u32, c: u32) -> u32 {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            let product = |i: usize| (a[i] as $A as i32).wrapping_mul(b[i] as $B as i32);
            (c as i32).wrapping_add(product(0) + product(1) + product(2) + product(3)) as u32
        }]
    };
}

/// Sum of the products of two 16-bit halves of a and two bytes of b (the low or the high two).
macro_rules! dot2 {
    ($half:literal, $first:expr, $name:literal, $A:ty, $B:ty) => {
        forms![concat!("dp2a.", $half, ".", $name) => (a: u32, b: u32, c: u32) -> u32 {
            let bytes = b.to_le_bytes();
            let low = (a as u16 as $A as i32).wrapping_mul(bytes[$first] as $B as i32);
            let high = ((a >> 16) as u16 as $A as i32).wrapping_mul(bytes[$first + 1] as $B as i32);
            (c as i32).wrapping_add(low).wrapping_add(high) as u32
        }]
    };
}

/// The same in both 16-bit halves.
#[inline(always)]
fn halves<T>(a: u32, b: u32, from: impl Fn(u16) -> T, f: impl Fn(T, T) -> u16) -> u32 {
    let low = f(from(a as u16), from(b as u16)) as u32;
    let high = f(from((a >> 16) as u16), from((b >> 16) as u16)) as u32;
    high << 16 | low
}

pub static FAMILIES: &[&[Line]] = &[
    integer!(rare, "u16", u16, u32),
    integer!(rare, "s16", i16, i32),
    integer!(common, "u32", u32, u64),
    integer!(common, "s32", i32, i64),
    integer!(common, "u64", u64, u128),
    integer!(common, "s64", i64, i128),
    wide!("u16", u16, u32),
    wide!("s16", i16, i32),
    wide!("u32", u32, u64),
    wide!("s32", i32, i64),
    signed!("s16", i16),
    signed!("s32", i32),
    signed!("s64", i64),
    dot4!("u32.u32", u8, u8, u32),
    dot4!("s32.s32", i8, i8, i32),
    dot4!("u32.s32", u8, i8, i32),
    dot4!("s32.u32", i8, u8, i32),
    dot2!("lo", 0, "u32.u32", u16, u8),
    dot2!("lo", 0, "s32.s32", i16, i8),
    dot2!("lo", 0, "u32.s32", u16, i8),
    dot2!("lo", 0, "s32.u32", i16, u8),
    dot2!("hi", 2, "u32.u32", u16, u8),
    dot2!("hi", 2, "s32.s32", i16, i8),
    dot2!("hi", 2, "u32.s32", u16, i8),
    dot2!("hi", 2, "s32.u32", i16, u8),
    forms![
        "add.sat.s32" => (a: i32, b: i32) -> i32 { a.saturating_add(b) }
        "sub.sat.s32" => (a: i32, b: i32) -> i32 { a.saturating_sub(b) }
        "mad.hi.sat.s32" => (a: i32, b: i32, c: i32) -> i32 { high!(a, b, i32, i64).saturating_add(c) }
        "min.relu.s32" => (a: i32, b: i32) -> i32 { a.min(b).max(0) }
        "max.relu.s32" => (a: i32, b: i32) -> i32 { a.max(b).max(0) }
        // nvcc's headers write this flag last.
        "min.s32.relu" => (a: i32, b: i32) -> i32 { a.min(b).max(0) }
        "max.s32.relu" => (a: i32, b: i32) -> i32 { a.max(b).max(0) }
        // The low 24 bits of the sources; `hi` is bits 16 to 47 of the product.
        "mul24.lo.u32" => (a: u32, b: u32) -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) }
        "mul24.hi.u32" => (a: u32, b: u32) -> u32 {
            (((a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64) >> 16) as u32
        }
        "mul24.lo.s32" => (a: i32, b: i32) -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8) }
        "mul24.hi.s32" => (a: i32, b: i32) -> i32 {
            (((a << 8 >> 8) as i64 * (b << 8 >> 8) as i64) >> 16) as i32
        }
        "mad24.lo.u32" => (a: u32, b: u32, c: u32) -> u32 {
            (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c)
        }
        "mad24.lo.s32" => (a: i32, b: i32, c: i32) -> i32 { (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c) }
    ],
    forms![
        "add.u16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x, |a, b| a.wrapping_add(b)) }
        "add.s16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x, |a, b| a.wrapping_add(b)) }
        "min.u16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x, |a, b| a.min(b)) }
        "max.u16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x, |a, b| a.max(b)) }
        "min.s16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.min(b) as u16) }
        "max.s16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.max(b) as u16) }
        "min.s16x2.relu" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.min(b).max(0) as u16) }
        "max.s16x2.relu" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.max(b).max(0) as u16) }
        "min.relu.s16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.min(b).max(0) as u16) }
        "max.relu.s16x2" => (a: u32, b: u32) -> u32 { halves(a, b, |x| x as i16, |a, b| a.max(b).max(0) as u16) }
    ],
    // The forms of instructions with a carry: the carry (0 or 1) is a third addend or is subtracted too.
    forms![
        "add3.u32" => (a: u32, b: u32, c: u32) -> u32 { a.wrapping_add(b).wrapping_add(c) }
        "carry3.u32" => (a: u32, b: u32, c: u32) -> u32 { ((a as u64 + b as u64 + c as u64) >> 32) as u32 }
        "sub3.u32" => (a: u32, b: u32, c: u32) -> u32 { a.wrapping_sub(b).wrapping_sub(c) }
        "borrow3.u32" => (a: u32, b: u32, c: u32) -> u32 { ((a as u64) < b as u64 + c as u64) as u32 }
        "add3.u64" => (a: u64, b: u64, c: u32) -> u64 { a.wrapping_add(b).wrapping_add(c as u64) }
        "carry3.u64" => (a: u64, b: u64, c: u32) -> u32 { ((a as u128 + b as u128 + c as u128) >> 64) as u32 }
        "sub3.u64" => (a: u64, b: u64, c: u32) -> u64 { a.wrapping_sub(b).wrapping_sub(c as u64) }
        "borrow3.u64" => (a: u64, b: u64, c: u32) -> u32 { ((a as u128) < b as u128 + c as u128) as u32 }
    ],
];
