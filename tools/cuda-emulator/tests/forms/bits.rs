//! Logic, shifts, bit fields and moves, bit by bit according to the ISA's pseudo-code.

use super::reference::{Name, Reference};
use super::types::Type;

const WORD: Type = Type::U(32);

pub fn reference(name: &Name) -> Option<Reference> {
    let ty = *name.types.first()?;
    let (width, signed) = (ty.bits(), matches!(ty, Type::S(_)));
    match (name.op, name.flags.as_slice()) {
        ("mov", []) => Reference::exact(&[ty], ty, |x| x[0]),
        ("and", []) => by_bit(ty, 2, |x| x[0] && x[1]),
        ("or", []) => by_bit(ty, 2, |x| x[0] || x[1]),
        ("xor", []) => by_bit(ty, 2, |x| x[0] != x[1]),
        ("not", []) => by_bit(ty, 1, |x| !x[0]),
        ("cnot", []) => Reference::exact(&[ty], ty, |x| (x[0] == 0) as u64),
        ("shl", []) => Reference::exact(&[ty, WORD], ty, move |x| {
            collect(width, |i| (i as u64) >= x[1] && bit(x[0], i - x[1] as u32))
        }),
        ("shr", []) => Reference::exact(&[ty, WORD], ty, move |x| {
            let fill = signed && bit(x[0], width - 1);
            collect(width, |i| {
                let from = i as u64 + x[1];
                if from < width as u64 { bit(x[0], from as u32) } else { fill }
            })
        }),
        ("popc", []) => Reference::exact(&[ty], WORD, move |x| (0..width).filter(|i| bit(x[0], *i)).count() as u64),
        ("clz", []) => {
            Reference::exact(&[ty], WORD, move |x| (0..width).rev().take_while(|i| !bit(x[0], *i)).count() as u64)
        }
        ("brev", []) => Reference::exact(&[ty], ty, move |x| collect(width, |i| bit(x[0], width - 1 - i))),
        ("bfind", flags) => {
            let as_shift = flags == ["shiftamt"];
            Reference::exact(&[ty], WORD, move |x| {
                let sign = signed && bit(x[0], width - 1);
                match (0..width).rev().find(|i| bit(x[0], *i) != sign) {
                    None => 0xffff_ffff,
                    Some(at) => if as_shift { width - 1 - at } else { at }.into(),
                }
            })
        }
        ("bfe", []) => Reference::exact(&[ty, WORD, WORD], ty, move |x| {
            let (at, len) = ((x[1] & 0xff) as u32, (x[2] & 0xff) as u32);
            let sign = signed && len != 0 && bit(x[0], (at + len - 1).min(width - 1));
            collect(width, |i| if i < len && at + i < width { bit(x[0], at + i) } else { sign })
        }),
        ("bfi", []) => Reference::exact(&[ty, ty, WORD, WORD], ty, move |x| {
            let (at, len) = ((x[2] & 0xff) as u32, (x[3] & 0xff) as u32);
            collect(width, |i| if i >= at && i - at < len { bit(x[0], i - at) } else { bit(x[1], i) })
        }),
        ("prmt", flags) => {
            let mode = flags.first().map(|mode| mode.to_string());
            Reference::exact(&[WORD; 3], WORD, move |x| permuted(x, mode.as_deref()))
        }
        ("lop3", []) => Reference::exact(&[WORD; 4], WORD, |x| {
            collect(32, |i| x[3] >> (4 * (x[0] >> i & 1) + 2 * (x[1] >> i & 1) + (x[2] >> i & 1)) & 1 != 0)
        }),
        ("shf", [direction, mode]) => {
            let (left, wrap) = (*direction == "l", *mode == "wrap");
            Reference::exact(&[WORD; 3], WORD, move |x| {
                let n = if wrap { x[2] & 31 } else { x[2].min(32) } as u32;
                // Bits 0 to 31 of (b, a) are those of a, the next ones those of b.
                let both = |i: u32| if i < 32 { bit(x[0], i) } else { bit(x[1], i - 32) };
                collect(32, |i| both(if left { i + 32 - n } else { i + n }))
            })
        }
        ("bmsk", [mode]) => {
            let wrap = *mode == "wrap";
            Reference::exact(&[WORD; 2], WORD, move |x| {
                let (at, len) = if wrap { (x[0] & 31, x[1] & 31) } else { (x[0].min(32), x[1].min(32)) };
                collect(32, |i| (i as u64) >= at && (i as u64) < at + len)
            })
        }
        ("slct", []) => {
            let by = name.types[1];
            Reference::exact(&[ty, ty, by], ty, move |x| {
                let is_float = by == Type::F32;
                let magnitude = x[2] & 0x7fff_ffff;
                let from_zero = !bit(x[2], 31) || is_float && magnitude == 0;
                if from_zero && !(is_float && magnitude > 0x7f80_0000) { x[0] } else { x[1] }
            })
        }
        ("fns", []) => Reference::exact(&[WORD, WORD, Type::S(32)], WORD, |x| nth_set(x[0], x[1], x[2] as u32 as i32)),
        ("pack", []) => {
            let part = name.types[1];
            Reference::exact(&[part; 2], ty, move |x| x[1] << part.bits() | x[0])
        }
        ("unpack", [which]) => {
            let (part, whole) = (ty, name.types[1]);
            let shift = if *which == "high" { part.bits() } else { 0 };
            Reference::exact(&[whole], part, move |x| x[0] >> shift & part.ones())
        }
        ("copysign", []) => Reference::exact(&[ty; 2], ty, move |x| {
            collect(width, |i| bit(if i == width - 1 { x[0] } else { x[1] }, i))
        }),
        _ => None,
    }
}

fn bit(x: u64, at: u32) -> bool {
    x >> at & 1 != 0
}

fn collect(width: u32, f: impl Fn(u32) -> bool) -> u64 {
    (0..width).fold(0, |x, i| x | (f(i) as u64) << i)
}

fn by_bit(ty: Type, n: usize, f: impl Fn(&[bool]) -> bool + 'static) -> Option<Reference> {
    Reference::exact(&vec![ty; n], ty, move |x| {
        collect(ty.bits(), |i| f(&x.iter().map(|x| bit(*x, i)).collect::<Vec<_>>()))
    })
}

/// Bytes 0 to 3 are those of a, 4 to 7 those of b. The modes are listed as in the ISA's table, from the high byte down.
fn permuted(x: &[u64], mode: Option<&str>) -> u64 {
    let byte = |i: u64| if i < 4 { x[0] >> (8 * i) & 0xff } else { x[1] >> (8 * (i - 4)) & 0xff };
    let row = (x[2] & 3) as usize;
    let rows: [[u64; 4]; 4] = match mode {
        None => {
            return (0..4).fold(0, |sum, i| {
                let choice = x[2] >> (4 * i) & 15;
                let chosen = byte(choice & 7);
                let chosen = if choice < 8 {
                    chosen
                } else if chosen < 128 {
                    0
                } else {
                    255
                };
                sum | chosen << (8 * i)
            });
        }
        Some("f4e") => [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        Some("b4e") => [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        Some("rc8") => [[0; 4], [1; 4], [2; 4], [3; 4]],
        Some("ecl") => [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
        Some("ecr") => [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
        Some("rc16") => [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        Some(mode) => panic!("prmt has no mode {mode}"),
    };
    rows[row].iter().fold(0, |sum, i| sum << 8 | byte(*i))
}

fn nth_set(mask: u64, base: u64, n: i32) -> u64 {
    let none = 0xffff_ffff;
    if base > 31 {
        return none;
    }
    let base = base as u32;
    let positions: Vec<u32> = match n {
        0 => vec![base],
        1.. => (base..32).collect(),
        _ => (0..=base).rev().collect(),
    };
    let nth = n.unsigned_abs().max(1) as usize - 1;
    positions.into_iter().filter(|i| bit(mask, *i)).nth(nth).map_or(none, u64::from)
}
