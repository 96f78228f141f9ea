//! Conversions and comparisons.

use std::cmp::Ordering;

use super::exact::{F32, Mode, Number, Real, TF32};
use super::floats;
use super::reference::{Expected, Name, Reference};
use super::types::Type;

pub fn reference(name: &Name) -> Option<Reference> {
    if name.op != "cvt" {
        return None;
    }
    if name.has("tf32") {
        let mode = modes(name)?.0;
        let relu = name.has("relu");
        return Reference::exact(&[Type::F32], Type::F32, move |x| tf32(x[0], mode, relu));
    }
    let [to, from] = *name.types.as_slice() else { return None };
    if let Some(half) = to.half() {
        // The first source goes to the high half.
        let convert = conversion(name, half, from)?;
        return Reference::exact(&[from; 2], to, move |x| convert(x[0]) << 16 | convert(x[1]));
    }
    let convert = conversion(name, to, from)?;
    Reference::exact(&[from], to, move |x| convert(x[0]))
}

/// The rounding mode, and whether it rounds to an integer.
fn modes(name: &Name) -> Option<(Mode, bool)> {
    let mut found = (Mode::NearestEven, false);
    for flag in &name.flags {
        found = match *flag {
            "rn" => (Mode::NearestEven, false),
            "rna" => (Mode::NearestAway, false),
            "rz" => (Mode::Zero, false),
            "rm" => (Mode::Down, false),
            "rp" => (Mode::Up, false),
            "rni" => (Mode::NearestEven, true),
            "rzi" => (Mode::Zero, true),
            "rmi" => (Mode::Down, true),
            "rpi" => (Mode::Up, true),
            "ftz" | "sat" | "relu" | "tf32" => found,
            _ => return None,
        };
    }
    Some(found)
}

type Convert = Box<dyn Fn(u64) -> u64>;

fn conversion(name: &Name, to: Type, from: Type) -> Option<Convert> {
    let (mode, to_integral) = modes(name)?;
    let [ftz, sat, relu] = ["ftz", "sat", "relu"].map(|flag| name.has(flag));
    // `.ftz` only affects f32.
    let flushes = move |ty: Type, x: u64| if ftz && ty == Type::F32 { F32.flush(x) } else { x };
    match (from.format(), to.format()) {
        (None, None) => Some(Box::new(move |x| {
            let value = from.value(x);
            to.wrap(if sat { value.clamp(to.range().0, to.range().1) } else { value })
        })),
        (None, Some(format)) => {
            Some(Box::new(move |x| format.encode(Number::Finite(Real::integer(from.value(x))), mode)))
        }
        (Some(format), None) => Some(Box::new(move |x| match format.decode(flushes(from, x)) {
            // Only the highest bit, unless both types are narrow.
            Number::Nan if from == Type::F64 || to.bits() == 64 => 1 << (to.bits() - 1),
            Number::Nan => 0,
            Number::Infinity(negative) => to.wrap(if negative { to.range().0 } else { to.range().1 }),
            Number::Finite(x) => to.wrap(x.to_integer(mode, to.range())),
        })),
        (Some(source), Some(format)) => Some(Box::new(move |x| {
            let x = source.decode(flushes(from, x));
            let x = match x {
                Number::Finite(x) if to_integral => Number::Finite(integral(&x, mode)),
                x => x,
            };
            let bits = flushes(to, format.encode(x, mode));
            let is_negative = bits & format.sign() != 0;
            match (sat, format.is_nan(bits)) {
                (true, true) => 0,
                (true, false) => {
                    if is_negative {
                        0
                    } else {
                        bits.min(format.one())
                    }
                }
                (false, true) => format.nan,
                (false, false) => {
                    if relu && is_negative {
                        0
                    } else {
                        bits
                    }
                }
            }
        })),
    }
}

/// Rounds to an integer; zeros keep their sign. Large numbers are already integers.
fn integral(x: &Real, mode: Mode) -> Real {
    if x.exponent >= 0 {
        return x.clone();
    }
    let rounded = Real::integer(x.to_integer(mode, (i128::MIN, i128::MAX)));
    Real { negative: x.negative, ..rounded }
}

/// Rounds to 10 bits of fraction within the f32 format.
fn tf32(x: u64, mode: Mode, relu: bool) -> u64 {
    if F32.is_nan(x) {
        return F32.nan;
    }
    let bits = TF32.encode(F32.decode(x), mode) << 13;
    if relu && bits >> 31 != 0 { 0 } else { bits }
}

/// The result of a `setp` test for two values.
pub type Test = Box<dyn Fn(u64, u64) -> bool>;

/// A `setp` test with the type of its operands; None if there is no reference for it.
pub fn test(name: &str) -> Option<(Type, Test)> {
    let name = Name::of(name);
    let ([ty], [first, rest @ ..]) = (name.types.as_slice(), name.flags.as_slice()) else { return None };
    let (ty, ftz) = (*ty, rest == ["ftz"]);
    if name.op != "setp" || !(rest.is_empty() || ftz) {
        return None;
    }
    // Whether it is true for less, equal, greater and unordered numbers.
    let holds = match *first {
        "eq" => [false, true, false, false],
        "ne" => [true, false, true, false],
        "lt" | "lo" => [true, false, false, false],
        "le" | "ls" => [true, true, false, false],
        "gt" | "hi" => [false, false, true, false],
        "ge" | "hs" => [false, true, true, false],
        "equ" => [false, true, false, true],
        "neu" => [true, false, true, true],
        "ltu" => [true, false, false, true],
        "leu" => [true, true, false, true],
        "gtu" => [false, false, true, true],
        "geu" => [false, true, true, true],
        "num" => [true, true, true, false],
        "nan" => [false, false, false, true],
        _ => return None,
    };
    Some((
        ty,
        Box::new(move |a, b| {
            let order = match ty.format() {
                None => Some(ty.value(a).cmp(&ty.value(b))),
                Some(format) if ftz => floats::order(format, format.flush(a), format.flush(b)),
                Some(format) => floats::order(format, a, b),
            };
            holds[match order {
                Some(Ordering::Less) => 0,
                Some(Ordering::Equal) => 1,
                Some(Ordering::Greater) => 2,
                None => 3,
            }]
        }),
    ))
}

/// Whether the result in a lane is as expected.
pub fn agrees(result: Type, got: u64, expected: Expected) -> bool {
    match (expected, result.format()) {
        (Expected::Anything, _) => true,
        (Expected::Bits(bits), _) => got == bits,
        (Expected::Near(_), None) => false,
        (Expected::Near(value), Some(format)) if result == Type::F64 => {
            // First approximations of reciprocals: the ISA promises about 2^-20.
            (floats::as_f64(format, got) - value).abs() <= value.abs() * 2.0_f64.powi(-20)
        }
        (Expected::Near(value), Some(format)) => {
            let nearest = format.encode(super::exact::F64.decode(value.to_bits()), Mode::NearestEven);
            let ordinal = |x: u64| {
                let magnitude = (x & !format.sign()) as i64;
                if x & format.sign() != 0 { -magnitude } else { magnitude }
            };
            !format.is_nan(got) && (ordinal(got) - ordinal(nearest)).abs() <= 1
        }
    }
}
