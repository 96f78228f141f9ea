//! Logic, shifts, bit fields, permutations and moves (ISA "Logic and Shift Instructions", "Integer Arithmetic
//! Instructions" for the counting ones, `mov`, `prmt`).

use super::line::{Line, forms};

/// Logic and shifts of one width. Shift counts have 32 bits and are clamped to the width.
macro_rules! logic {
    ($name:literal, $signed_name:literal, $unsigned_name:literal, $T:ty, $S:ty) => {
        forms![common
            concat!("mov.", $name) => (a: $T) -> $T { a }
            concat!("and.", $name) => (a: $T, b: $T) -> $T { a & b }
            concat!("or.", $name) => (a: $T, b: $T) -> $T { a | b }
            concat!("xor.", $name) => (a: $T, b: $T) -> $T { a ^ b }
            concat!("not.", $name) => (a: $T) -> $T { !a }
            concat!("cnot.", $name) => (a: $T) -> $T { (a == 0) as $T }
            concat!("shl.", $name) => (a: $T, n: u32) -> $T { if n < <$T>::BITS { a.wrapping_shl(n) } else { 0 } }
            concat!("shr.", $name) => (a: $T, n: u32) -> $T { if n < <$T>::BITS { a.wrapping_shr(n) } else { 0 } }
            concat!("shr.", $unsigned_name) => (a: $T, n: u32) -> $T { if n < <$T>::BITS { a.wrapping_shr(n) } else { 0 } }
            concat!("shr.", $signed_name) => (a: $S, n: u32) -> $S { a.wrapping_shr(n.min(<$T>::BITS - 1)) }
        ]
    };
}

macro_rules! count {
    ($name:literal, $T:ty) => {
        forms![
            concat!("popc.", $name) => (a: $T) -> u32 { a.count_ones() }
            concat!("clz.", $name) => (a: $T) -> u32 { a.leading_zeros() }
            concat!("brev.", $name) => (a: $T) -> $T { a.reverse_bits() }
        ]
    };
}

/// The highest bit that differs from the sign: its position, or the shift that moves it to the top; all ones if there
/// is none.
macro_rules! find_bit {
    ($name:literal, $T:ty, |$x:ident| $magnitude:expr) => {
        forms![
            concat!("bfind.", $name) => ($x: $T) -> u32 {
                let magnitude = $magnitude;
                if magnitude == 0 { u32::MAX } else { <$T>::BITS - 1 - magnitude.leading_zeros() }
            }
            concat!("bfind.shiftamt.", $name) => ($x: $T) -> u32 {
                let magnitude = $magnitude;
                if magnitude == 0 { u32::MAX } else { magnitude.leading_zeros() }
            }
        ]
    };
}

/// Bit fields: position and length are the low bytes of their operands; bits above the register count as sign bits.
macro_rules! fields {
    ($unsigned_name:literal, $signed_name:literal, $name:literal, $T:ty, $S:ty) => {
        forms![
            concat!("bfe.", $unsigned_name) => (a: $T, at: u32, len: u32) -> $T {
                shifted_right!(a, at & 0xff, $T) & low_bits!(len & 0xff, $T)
            }
            concat!("bfe.", $signed_name) => (a: $S, at: u32, len: u32) -> $S {
                let (at, len) = (at & 0xff, len & 0xff);
                let sign_at = (at + len).saturating_sub(1).min(<$T>::BITS - 1);
                let sign = if len == 0 { 0 } else { 0 - (a as $T >> sign_at & 1) as $S };
                let kept = low_bits!(len, $T);
                // Bits above the register are copies of its sign.
                let field = a.wrapping_shr(at.min(<$T>::BITS - 1)) as $T;
                (field & kept | sign as $T & !kept) as $S
            }
            concat!("bfi.", $name) => (a: $T, b: $T, at: u32, len: u32) -> $T {
                let (at, len) = (at & 0xff, len & 0xff);
                let field = if at < <$T>::BITS { low_bits!(len, $T).wrapping_shl(at) } else { 0 };
                let inserted = if at < <$T>::BITS { a.wrapping_shl(at) } else { 0 };
                inserted & field | b & !field
            }
        ]
    };
}

macro_rules! shifted_right {
    ($x:expr, $n:expr, $T:ty) => {{
        let n = $n;
        if n < <$T>::BITS { $x.wrapping_shr(n) } else { 0 }
    }};
}

/// A value with `n` low ones.
macro_rules! low_bits {
    ($n:expr, $T:ty) => {{
        let n = $n;
        if n < <$T>::BITS { ((1 as $T).wrapping_shl(n)).wrapping_sub(1) } else { !0 }
    }};
}

/// `prmt`: selects four of the eight bytes of (b, a); bit 3 of a selector replicates the byte's sign instead.
#[inline(always)]
fn permute(a: u32, b: u32, choices: u32) -> u32 {
    let both = (b as u64) << 32 | a as u64;
    let mut result = 0;
    for i in 0..4 {
        let choice = choices >> (4 * i) & 0xf;
        let byte = (both >> (8 * (choice & 7))) as u8;
        let byte = if choice & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        result |= (byte as u32) << (8 * i);
    }
    result
}

/// The modes of `prmt` are fixed selections that depend on the two low bits of c.
macro_rules! permutations {
    ($mode:literal, $choices:expr) => {
        forms![concat!("prmt.b32.", $mode) => (a: u32, b: u32, c: u32) -> u32 {
            const CHOICES: [u32; 4] = $choices;
            permute(a, b, CHOICES[(c & 3) as usize])
        }]
    };
}

/// Any function of three bits: bit `4a + 2b + c` of the table.
#[inline(always)]
fn look_up(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut result = 0;
    for entry in 0..8_u32 {
        let chosen = 0_u32.wrapping_sub(table >> entry & 1);
        let a = if entry & 4 != 0 { a } else { !a };
        let b = if entry & 2 != 0 { b } else { !b };
        let c = if entry & 1 != 0 { c } else { !c };
        result |= chosen & a & b & c;
    }
    result
}

/// The 32-bit window of (b, a) that a left shift moves into the high word, a right shift into the low one.
#[inline(always)]
fn funnel(a: u32, b: u32, left: bool, n: u32) -> u32 {
    let both = (b as u64) << 32 | a as u64;
    if left { ((both << n) >> 32) as u32 } else { (both >> n) as u32 }
}

/// `fns`: the position of the n-th set bit, counted up from `base` (n > 0) or down from it (n < 0); n = 0 tests `base`
/// itself.
#[inline(always)]
fn find_set_bit(mask: u32, base: u32, n: i32) -> u32 {
    let step = if n < 0 { -1 } else { 1 };
    let mut left = n.unsigned_abs().max(1);
    let mut at = base as i64;
    while (0..32).contains(&at) {
        left -= mask >> at & 1;
        if left == 0 {
            return at as u32;
        }
        if n == 0 {
            break;
        }
        at += step;
    }
    u32::MAX
}

pub static FAMILIES: &[&[Line]] = &[
    logic!("b16", "s16", "u16", u16, i16),
    logic!("b32", "s32", "u32", u32, i32),
    logic!("b64", "s64", "u64", u64, i64),
    count!("b32", u32),
    count!("b64", u64),
    find_bit!("u32", u32, |x| x),
    find_bit!("s32", u32, |x| if x as i32 >= 0 { x } else { !x }),
    find_bit!("u64", u64, |x| x),
    find_bit!("s64", u64, |x| if x as i64 >= 0 { x } else { !x }),
    fields!("u32", "s32", "b32", u32, i32),
    fields!("u64", "s64", "b64", u64, i64),
    permutations!("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
    permutations!("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
    permutations!("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
    permutations!("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
    permutations!("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
    permutations!("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
    forms![
        "prmt.b32" => (a: u32, b: u32, c: u32) -> u32 { permute(a, b, c) }
        "lop3.b32" => (a: u32, b: u32, c: u32, table: u32) -> u32 { look_up(a, b, c, table) }
        "shf.l.wrap.b32" => (a: u32, b: u32, n: u32) -> u32 { funnel(a, b, true, n & 31) }
        "shf.r.wrap.b32" => (a: u32, b: u32, n: u32) -> u32 { funnel(a, b, false, n & 31) }
        "shf.l.clamp.b32" => (a: u32, b: u32, n: u32) -> u32 { funnel(a, b, true, n.min(32)) }
        "shf.r.clamp.b32" => (a: u32, b: u32, n: u32) -> u32 { funnel(a, b, false, n.min(32)) }
        // A mask of b bits starting at bit a; `wrap` takes both modulo 32.
        "bmsk.clamp.b32" => (a: u32, b: u32) -> u32 { if a < 32 { low_bits!(b, u32).wrapping_shl(a) } else { 0 } }
        "bmsk.wrap.b32" => (a: u32, b: u32) -> u32 { low_bits!(b & 31, u32).wrapping_shl(a & 31) }
        "slct.b32.s32" => (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
        "slct.u32.s32" => (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
        "slct.s32.s32" => (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
        "slct.f32.s32" => (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
        "slct.b64.s32" => (a: u64, b: u64, c: i32) -> u64 { if c >= 0 { a } else { b } }
        "slct.f64.s32" => (a: u64, b: u64, c: i32) -> u64 { if c >= 0 { a } else { b } }
        // -0 counts as non-negative; a NaN does not.
        "slct.f32.f32" => (a: u32, b: u32, c: f32) -> u32 { if c >= 0.0 { a } else { b } }
        "slct.b32.f32" => (a: u32, b: u32, c: f32) -> u32 { if c >= 0.0 { a } else { b } }
    ],
    forms![rare
        "fns.b32" => (mask: u32, base: u32, n: i32) -> u32 { find_set_bit(mask, base, n) }
    ],
    // The forms of `mov` with a vector operand.
    forms![
        "pack.b32.b16" => (a: u16, b: u16) -> u32 { (b as u32) << 16 | a as u32 }
        "pack.b64.b32" => (a: u32, b: u32) -> u64 { (b as u64) << 32 | a as u64 }
        "unpack.b16.b32.low" => (a: u32) -> u16 { a as u16 }
        "unpack.b16.b32.high" => (a: u32) -> u16 { (a >> 16) as u16 }
        "unpack.b32.b64.low" => (a: u64) -> u32 { a as u32 }
        "unpack.b32.b64.high" => (a: u64) -> u32 { (a >> 32) as u32 }
    ],
];
