//! Integer arithmetic, in i128.

use super::reference::{Expected, Name, Reference};
use super::types::Type;

pub fn reference(name: &Name) -> Option<Reference> {
    let ty = *name.types.first()?;
    match ty {
        Type::U(_) | Type::S(_) => {}
        Type::U16x2 | Type::S16x2 => return packed(name, ty),
        _ => return None,
    }
    let v = move |x: u64| ty.value(x);
    let u32_type = Type::U(32);
    match (name.op, name.flags.as_slice()) {
        ("add", []) => two(ty, move |a, b| a + b),
        ("sub", []) => two(ty, move |a, b| a - b),
        ("add", ["sat"]) => two(ty, move |a, b| clamp(ty, a + b)),
        ("sub", ["sat"]) => two(ty, move |a, b| clamp(ty, a - b)),
        ("min", []) => two(ty, move |a, b| a.min(b)),
        ("max", []) => two(ty, move |a, b| a.max(b)),
        ("min", ["relu"]) => two(ty, move |a, b| a.min(b).max(0)),
        ("max", ["relu"]) => two(ty, move |a, b| a.max(b).max(0)),
        ("abs", []) => Reference::exact(&[ty], ty, move |x| ty.wrap(v(x[0]).abs())),
        ("neg", []) => Reference::exact(&[ty], ty, move |x| ty.wrap(-v(x[0]))),
        ("div", []) => Reference::new(&[ty; 2], ty, move |x| match v(x[1]) {
            0 => Expected::Anything,
            b => Expected::Bits(ty.wrap(v(x[0]) / b)),
        }),
        ("rem", []) => Reference::new(&[ty; 2], ty, move |x| match v(x[1]) {
            0 => Expected::Anything,
            b => Expected::Bits(ty.wrap(v(x[0]) % b)),
        }),
        ("sad", []) => Reference::exact(&[ty; 3], ty, move |x| ty.wrap((v(x[0]) - v(x[1])).abs() + v(x[2]))),
        ("mul", ["lo"]) => Reference::exact(&[ty; 2], ty, move |x| product(ty, x[0], x[1]).0),
        ("mul", ["hi"]) => Reference::exact(&[ty; 2], ty, move |x| product(ty, x[0], x[1]).1),
        ("mad", ["lo"]) => {
            Reference::exact(&[ty; 3], ty, move |x| ty.wrap(product(ty, x[0], x[1]).0 as i128 + v(x[2])))
        }
        ("mad", ["hi"]) => {
            Reference::exact(&[ty; 3], ty, move |x| ty.wrap(product(ty, x[0], x[1]).1 as i128 + v(x[2])))
        }
        ("mad", ["hi", "sat"]) => {
            Reference::exact(&[ty; 3], ty, move |x| ty.wrap(clamp(ty, ty.value(product(ty, x[0], x[1]).1) + v(x[2]))))
        }
        ("mul", ["wide"]) => Reference::exact(&[ty; 2], wider(ty), move |x| wider(ty).wrap(v(x[0]) * v(x[1]))),
        ("mad", ["wide"]) => Reference::exact(&[ty, ty, wider(ty)], wider(ty), move |x| {
            wider(ty).wrap(v(x[0]) * v(x[1]) + wider(ty).value(x[2]))
        }),
        ("mul24", ["lo"]) => Reference::exact(&[ty; 2], ty, move |x| ty.wrap(low24(ty, x[0]) * low24(ty, x[1]))),
        ("mul24", ["hi"]) => {
            Reference::exact(&[ty; 2], ty, move |x| ty.wrap((low24(ty, x[0]) * low24(ty, x[1])) >> 16))
        }
        ("mad24", ["lo"]) => {
            Reference::exact(&[ty; 3], ty, move |x| ty.wrap(low24(ty, x[0]) * low24(ty, x[1]) + v(x[2])))
        }
        ("dp4a", []) => dot(name, 8, 8, 0),
        ("dp2a", ["lo"]) => dot(name, 16, 8, 0),
        ("dp2a", ["hi"]) => dot(name, 16, 8, 16),
        // The forms of instructions with a carry.
        ("add3", []) => Reference::exact(&[ty, ty, u32_type], ty, move |x| ty.wrap(v(x[0]) + v(x[1]) + x[2] as i128)),
        ("carry3", []) => Reference::exact(&[ty, ty, u32_type], u32_type, move |x| {
            ((v(x[0]) + v(x[1]) + x[2] as i128) >> ty.bits()) as u64
        }),
        ("sub3", []) => Reference::exact(&[ty, ty, u32_type], ty, move |x| ty.wrap(v(x[0]) - v(x[1]) - x[2] as i128)),
        ("borrow3", []) => {
            Reference::exact(&[ty, ty, u32_type], u32_type, move |x| (v(x[0]) - v(x[1]) - (x[2] as i128) < 0) as u64)
        }
        _ => None,
    }
}

fn two(ty: Type, f: impl Fn(i128, i128) -> i128 + 'static) -> Option<Reference> {
    Reference::exact(&[ty; 2], ty, move |x| ty.wrap(f(ty.value(x[0]), ty.value(x[1]))))
}

fn packed(name: &Name, ty: Type) -> Option<Reference> {
    let half = ty.half()?;
    let f: fn(i128, i128) -> i128 = match (name.op, name.flags.as_slice()) {
        ("add", []) => |a, b| a + b,
        ("min", []) => |a, b| a.min(b),
        ("max", []) => |a, b| a.max(b),
        ("min", ["relu"]) => |a, b| a.min(b).max(0),
        ("max", ["relu"]) => |a, b| a.max(b).max(0),
        _ => return None,
    };
    Reference::packed(ty, 2, move |x| Expected::Bits(half.wrap(f(half.value(x[0]), half.value(x[1])))))
}

fn clamp(ty: Type, x: i128) -> i128 {
    x.clamp(ty.range().0, ty.range().1)
}

fn wider(ty: Type) -> Type {
    match ty {
        Type::S(bits) => Type::S(2 * bits),
        _ => Type::U(2 * ty.bits()),
    }
}

/// The low and the high half of a product, by schoolbook multiplication of the magnitudes, bit by bit.
fn product(ty: Type, a: u64, b: u64) -> (u64, u64) {
    let (a, b) = (ty.value(a), ty.value(b));
    let mut sum = 0_u128;
    for bit in 0..64 {
        if b.unsigned_abs() >> bit & 1 != 0 {
            sum += a.unsigned_abs() << bit;
        }
    }
    let signed = if (a < 0) != (b < 0) { sum.wrapping_neg() } else { sum };
    (signed as u64 & ty.ones(), (signed >> ty.bits()) as u64 & ty.ones())
}

fn low24(ty: Type, x: u64) -> i128 {
    let low = (x & 0xff_ffff) as i128;
    if ty == Type::S(32) && low >= 1 << 23 { low - (1 << 24) } else { low }
}

/// The products of fields of a and b, added to c, with the field types of a and b.
fn dot(name: &Name, a_bits: u32, b_bits: u32, b_from: u32) -> Option<Reference> {
    let [a_type, b_type] = *name.types.as_slice() else { return None };
    let field = |ty: Type, bits| if matches!(ty, Type::S(_)) { Type::S(bits) } else { Type::U(bits) };
    let (a_field, b_field) = (field(a_type, a_bits), field(b_type, b_bits));
    Reference::exact(&[Type::U(32); 3], Type::U(32), move |x| {
        let mut sum = x[2] as i128;
        for i in 0..32 / a_bits {
            let a = a_field.value(x[0] >> (i * a_bits) & a_field.ones());
            let b = b_field.value(x[1] >> (b_from + i * b_bits) & b_field.ones());
            sum += a * b;
        }
        Type::U(32).wrap(sum)
    })
}
