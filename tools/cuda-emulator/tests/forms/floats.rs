//! Floating point arithmetic with exact rounding; approximations with a bound.

use std::cmp::Ordering;

use super::exact::{Format, Mode, Number, Real};
use super::reference::{Expected, Meaning, Name, Reference};

/// Flags of an instruction.
#[derive(Clone, Copy)]
struct Flags {
    mode: Mode,
    ftz: bool,
    sat: bool,
    relu: bool,
    nan_wins: bool,
    xor_sign: bool,
}

impl Flags {
    /// None if a flag is unknown.
    fn of(name: &Name) -> Option<Flags> {
        let mut mode = Mode::NearestEven;
        for flag in &name.flags {
            mode = match *flag {
                "rn" => Mode::NearestEven,
                "rz" => Mode::Zero,
                "rm" => Mode::Down,
                "rp" => Mode::Up,
                "ftz" | "sat" | "relu" | "NaN" | "xorsign" | "abs" | "approx" | "full" => mode,
                _ => return None,
            };
        }
        let [ftz, sat, relu, nan_wins, xor_sign] = ["ftz", "sat", "relu", "NaN", "xorsign"].map(|flag| name.has(flag));
        Some(Flags { mode, ftz, sat, relu, nan_wins, xor_sign })
    }

    fn source(self, format: Format, bits: u64) -> u64 {
        if self.ftz { format.flush(bits) } else { bits }
    }

    /// Applies the flags to a rounded result.
    fn result(self, format: Format, bits: u64) -> u64 {
        let bits = if self.ftz { format.flush(bits) } else { bits };
        let is_negative = bits & format.sign() != 0;
        if self.sat {
            return if format.is_nan(bits) || is_negative { 0 } else { bits.min(format.one()) };
        }
        if format.is_nan(bits) {
            return format.nan;
        }
        if self.relu && is_negative { 0 } else { bits }
    }
}

pub fn reference(name: &Name) -> Option<Reference> {
    let [ty] = *name.types.as_slice() else { return None };
    let flags = Flags::of(name)?;
    let single = ty.half().unwrap_or(ty);
    let format = single.format()?;
    let approximate = name.has("approx");
    let (n, meaning): (usize, Meaning) = match name.op {
        "neg" | "abs" => (1, sign(name.op, format, flags)),
        "min" | "max" => (2, extreme(name.op, format, flags)),
        "div" if approximate => (2, Box::new(move |x| divided_approximately(format, flags, x))),
        "add" | "sub" | "mul" | "div" => (2, rounded(name.op, format, flags)),
        "fma" | "mad" => (3, rounded("fma", format, flags)),
        "rcp" | "sqrt" if !approximate => (1, rounded(name.op, format, flags)),
        "ex2" | "lg2" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "tanh" if approximate => {
            (1, near(name.op, format, flags))
        }
        _ => return None,
    };
    if ty == single { Reference::new(&vec![ty; n], ty, meaning) } else { Reference::packed(ty, n, meaning) }
}

fn sign(op: &str, format: Format, flags: Flags) -> Meaning {
    let negate = op == "neg";
    Box::new(move |x| {
        let x = flags.source(format, x[0]);
        let changed = if negate { x ^ format.sign() } else { x & !format.sign() };
        Expected::Bits(if format.is_nan(x) { format.nan } else { changed })
    })
}

fn extreme(op: &str, format: Format, flags: Flags) -> Meaning {
    let largest = op == "max";
    Box::new(move |x| {
        let sign = (x[0] ^ x[1]) & format.sign();
        let magnitude = |x: u64| if flags.xor_sign { x & !format.sign() } else { x };
        let (a, b) = (magnitude(flags.source(format, x[0])), magnitude(flags.source(format, x[1])));
        let chosen = match (format.is_nan(a), format.is_nan(b)) {
            (true, true) => format.nan,
            (true, false) | (false, true) if flags.nan_wins => format.nan,
            (true, false) => b,
            (false, true) => a,
            (false, false) => {
                // -0 is below +0.
                let key = |x: u64| if x & format.sign() != 0 { -((x & !format.sign()) as i128) - 1 } else { x as i128 };
                if (key(a) > key(b)) == largest { a } else { b }
            }
        };
        Expected::Bits(if format.is_nan(chosen) || !flags.xor_sign { chosen } else { chosen | sign })
    })
}

fn rounded(op: &str, format: Format, flags: Flags) -> Meaning {
    let op = op.to_string();
    Box::new(move |x| {
        let x: Vec<Number> = x.iter().map(|x| format.decode(flags.source(format, *x))).collect();
        let exact = match op.as_str() {
            "add" => sum(&x[0], &x[1], flags.mode),
            "sub" => sum(&x[0], &negative(&x[1]), flags.mode),
            "mul" => product(&x[0], &x[1]),
            "fma" => sum(&product(&x[0], &x[1]), &x[2], flags.mode),
            "div" => quotient(&x[0], &x[1]),
            "rcp" => quotient(&Number::Finite(Real::integer(1)), &x[0]),
            "sqrt" => root(&x[0]),
            op => panic!("no reference of {op}"),
        };
        Expected::Bits(flags.result(format, format.encode(exact, flags.mode)))
    })
}

fn negative(x: &Number) -> Number {
    match x {
        Number::Nan => Number::Nan,
        Number::Infinity(negative) => Number::Infinity(!negative),
        Number::Finite(x) => Number::Finite(Real { negative: !x.negative, ..x.clone() }),
    }
}

fn is_negative(x: &Number) -> bool {
    match x {
        Number::Nan => false,
        Number::Infinity(negative) => *negative,
        Number::Finite(x) => x.negative,
    }
}

fn sum(a: &Number, b: &Number, mode: Mode) -> Number {
    match (a, b) {
        (Number::Nan, _) | (_, Number::Nan) => Number::Nan,
        (Number::Infinity(a), Number::Infinity(b)) if a != b => Number::Nan,
        (Number::Infinity(x), _) | (_, Number::Infinity(x)) => Number::Infinity(*x),
        (Number::Finite(a), Number::Finite(b)) => Number::Finite(a.plus(b, mode)),
    }
}

fn product(a: &Number, b: &Number) -> Number {
    let negative = is_negative(a) != is_negative(b);
    match (a, b) {
        (Number::Nan, _) | (_, Number::Nan) => Number::Nan,
        (Number::Infinity(_), Number::Finite(x)) | (Number::Finite(x), Number::Infinity(_)) if x.is_zero() => {
            Number::Nan
        }
        (Number::Finite(a), Number::Finite(b)) => Number::Finite(a.times(b)),
        _ => Number::Infinity(negative),
    }
}

fn quotient(a: &Number, b: &Number) -> Number {
    let negative = is_negative(a) != is_negative(b);
    match (a, b) {
        (Number::Nan, _) | (_, Number::Nan) | (Number::Infinity(_), Number::Infinity(_)) => Number::Nan,
        (Number::Infinity(_), _) => Number::Infinity(negative),
        (_, Number::Infinity(_)) => Number::Finite(Real { negative, ..Real::integer(0) }),
        (Number::Finite(a), Number::Finite(b)) => match (a.is_zero(), b.is_zero()) {
            (true, true) => Number::Nan,
            (false, true) => Number::Infinity(negative),
            (true, false) => Number::Finite(Real { negative, ..Real::integer(0) }),
            (false, false) => Number::Finite(a.over(b)),
        },
    }
}

fn root(x: &Number) -> Number {
    match x {
        Number::Finite(x) if x.is_zero() => Number::Finite(x.clone()),
        Number::Finite(x) if !x.negative => Number::Finite(x.root()),
        Number::Infinity(false) => Number::Infinity(false),
        _ => Number::Nan,
    }
}

/// `div.approx`: 0 for a divisor above 2^126, otherwise within two ulps.
fn divided_approximately(format: Format, flags: Flags, x: &[u64]) -> Expected {
    let (a, b) = (flags.source(format, x[0]), flags.source(format, x[1]));
    let magnitude = b & 0x7fff_ffff;
    if magnitude > 0x7e80_0000 && magnitude < 0x7f80_0000 && !format.is_nan(a) {
        let is_infinite = a & 0x7fff_ffff == 0x7f80_0000;
        return Expected::Bits(if is_infinite { format.nan } else { (a ^ b) & 0x8000_0000 });
    }
    let exact = format.encode(quotient(&format.decode(a), &format.decode(b)), Mode::NearestEven);
    Expected::Bits(flags.result(format, exact))
}

/// The value of a number as f64, which can represent every narrower type.
pub fn as_f64(format: Format, bits: u64) -> f64 {
    f64::from_bits(super::exact::F64.encode(format.decode(bits), Mode::NearestEven))
}

fn near(op: &str, format: Format, flags: Flags) -> Meaning {
    let op = op.to_string();
    Box::new(move |x| {
        let bits = flags.source(format, x[0]);
        let x = as_f64(format, bits);
        // Special values from the ISA.
        let infinity = format.infinity();
        let signed = |magnitude: u64| Expected::Bits(magnitude | bits & format.sign());
        let special = match op.as_str() {
            _ if x.is_nan() => Some(Expected::Bits(format.nan)),
            "ex2" if x == 0.0 => Some(Expected::Bits(format.one())),
            "ex2" if x.is_infinite() => Some(Expected::Bits(if x > 0.0 { infinity } else { 0 })),
            "lg2" | "rsqrt" if x < 0.0 => Some(Expected::Bits(format.nan)),
            "sqrt" if x < 0.0 => Some(Expected::Bits(format.nan)),
            "lg2" if x == 0.0 => Some(Expected::Bits(infinity | format.sign())),
            "lg2" | "sqrt" if x.is_infinite() => Some(Expected::Bits(infinity)),
            "rcp" | "rsqrt" if x == 0.0 => Some(signed(infinity)),
            "rcp" | "rsqrt" if x.is_infinite() => Some(signed(0)),
            "sqrt" | "sin" | "tanh" if x == 0.0 => Some(signed(0)),
            "cos" if x == 0.0 => Some(Expected::Bits(format.one())),
            "sin" | "cos" if x.is_infinite() => Some(Expected::Bits(format.nan)),
            "tanh" if x.is_infinite() => Some(signed(format.one())),
            _ => None,
        };
        let value = match op.as_str() {
            "ex2" => x.exp2(),
            "lg2" => x.log2(),
            "rcp" => 1.0 / x,
            "sqrt" => x.sqrt(),
            "rsqrt" => 1.0 / x.sqrt(),
            "sin" => x.sin(),
            "cos" => x.cos(),
            "tanh" => x.tanh(),
            op => panic!("no reference of {op}"),
        };
        let is_tiny = value.abs() < as_f64(format, 1 << format.fraction);
        special.unwrap_or(if flags.ftz && is_tiny { Expected::Anything } else { Expected::Near(value) })
    })
}

/// Compares two numbers; None for NaN.
pub fn order(format: Format, a: u64, b: u64) -> Option<Ordering> {
    match (format.decode(a), format.decode(b)) {
        (Number::Nan, _) | (_, Number::Nan) => None,
        (Number::Finite(a), Number::Finite(b)) => Some(a.compare(&b)),
        (Number::Infinity(a), Number::Infinity(b)) => Some(b.cmp(&a)),
        (Number::Infinity(negative), _) => Some(if negative { Ordering::Less } else { Ordering::Greater }),
        (_, Number::Infinity(negative)) => Some(if negative { Ordering::Greater } else { Ordering::Less }),
    }
}
