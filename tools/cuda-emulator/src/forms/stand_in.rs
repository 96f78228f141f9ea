//! Stands in for the table until it is there: any arithmetic name is found, with kinds read off its types, and does nothing.

use super::{CompareForm, Form, Kind, Operands, Rows};
use crate::ir::Reg;

unsafe fn nothing(_: Rows, _: Operands, _: u32) {}
unsafe fn never(_: Rows, _: Reg, _: Reg) -> u32 {
    0
}

fn kind(ty: &str) -> Option<Kind> {
    Some(match ty {
        "b16" | "u16" | "s16" | "f16" | "bf16" | "u8" | "s8" => Kind::Bits16,
        "b32" | "u32" | "s32" | "f32" | "bf16x2" | "f16x2" => Kind::Bits32,
        "b64" | "u64" | "s64" | "f64" => Kind::Bits64,
        _ => return None,
    })
}

pub fn find(name: &str) -> Option<&'static Form> {
    let types: Vec<Kind> = name.split('.').filter_map(kind).collect();
    let mnemonic = name.split('.').next()?;
    let last = *types.last()?;
    let n = match mnemonic {
        "pack" => 2,
        "abs" | "neg" | "not" | "mov" | "unpack" | "brev" | "cvt" | "popc" | "clz" | "bfind" | "ex2" | "lg2"
        | "sqrt" | "rsqrt" | "rcp" | "sin" | "cos" | "tanh" => 1,
        "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr" | "copysign" => 2,
        "bfi" | "lop3" => 4,
        "fma" | "mad" | "prmt" | "bfe" | "shf" | "dp4a" => 3,
        _ => return None,
    };
    let mut operands = vec![types[0]];
    operands.extend(vec![last; n]);
    if mnemonic == "mul" && name.contains(".wide") {
        operands[0] = Kind::Bits64;
    }
    if mnemonic == "mad" && name.contains(".wide") {
        operands[0] = Kind::Bits64;
        operands[3] = Kind::Bits64;
    }
    if mnemonic == "shl" || mnemonic == "shr" {
        operands[2] = Kind::Bits32;
    }
    if matches!(mnemonic, "popc" | "clz" | "bfind") {
        operands[0] = Kind::Bits32;
    }
    if mnemonic == "lop3" {
        operands[4] = Kind::Bits32;
    }
    if mnemonic == "bfi" {
        operands[3] = Kind::Bits32;
        operands[4] = Kind::Bits32;
    }
    if mnemonic == "bfe" {
        operands[2] = Kind::Bits32;
        operands[3] = Kind::Bits32;
    }
    if mnemonic == "cvt" && name.contains("x2.f32") {
        operands.push(Kind::Bits32);
    }
    Some(Box::leak(Box::new(Form { name: name.to_string().leak(), operands: operands.leak(), run: nothing })))
}

pub fn find_compare(name: &str) -> Option<&'static CompareForm> {
    let operand = kind(name.rsplit('.').next()?)?;
    name.starts_with("setp.")
        .then(|| &*Box::leak(Box::new(CompareForm { name: name.to_string().leak(), operand, run: never })))
}
