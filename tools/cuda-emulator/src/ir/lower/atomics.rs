//! `atom` and `red`: modifiers in the order of PTX ISA 9.7.13.

use super::Lowering;
use super::memory::SCOPES;
use super::modifiers::Modifiers;
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Atomic, AtomicKind, Op, Reg, Space};
use crate::ptx::Statement;

const ORDER: &[&str] = &["relaxed", "acquire", "release", "acq_rel"];

const SPACES: &[(&str, Space)] =
    &[("global", Space::Global), ("shared", Space::Shared), ("shared::cta", Space::Shared)];

const OPERATIONS: &[(&str, Atomic)] = &[
    ("add", Atomic::Add),
    ("min", Atomic::Min),
    ("max", Atomic::Max),
    ("and", Atomic::And),
    ("or", Atomic::Or),
    ("xor", Atomic::Xor),
    ("exch", Atomic::Exchange),
    ("cas", Atomic::CompareAndSwap),
    ("inc", Atomic::Increment),
    ("dec", Atomic::Decrement),
];

const TYPES: &[(&str, AtomicKind)] = &[
    ("b16", AtomicKind::B16),
    ("b32", AtomicKind::B32),
    ("u32", AtomicKind::U32),
    ("s32", AtomicKind::S32),
    ("b64", AtomicKind::B64),
    ("u64", AtomicKind::U64),
    ("s64", AtomicKind::S64),
    ("f32", AtomicKind::F32),
    ("f64", AtomicKind::F64),
    ("f16", AtomicKind::F16),
    ("bf16", AtomicKind::Bf16),
    ("f16x2", AtomicKind::F16x2),
    ("bf16x2", AtomicKind::Bf16x2),
];

/// Whether an operation exists for a type (ISA, tables of `atom`); only half precision types have `noftz`.
fn exists(f: Atomic, kind: AtomicKind, noftz: bool) -> bool {
    use AtomicKind::*;
    let half = matches!(kind, F16 | Bf16 | F16x2 | Bf16x2);
    half == noftz
        && match f {
            Atomic::Add => !matches!(kind, B16 | B32 | B64 | S64),
            Atomic::Min | Atomic::Max => matches!(kind, U32 | S32 | U64 | S64),
            Atomic::And | Atomic::Or | Atomic::Xor => matches!(kind, B32 | B64),
            Atomic::Exchange => matches!(kind, B32 | B64),
            Atomic::CompareAndSwap => matches!(kind, B16 | B32 | B64),
            Atomic::Increment | Atomic::Decrement => kind == U32,
        }
}

fn width(kind: AtomicKind) -> Kind {
    match kind {
        AtomicKind::B16 | AtomicKind::F16 | AtomicKind::Bf16 => Kind::Bits16,
        AtomicKind::B64 | AtomicKind::U64 | AtomicKind::S64 | AtomicKind::F64 => Kind::Bits64,
        _ => Kind::Bits32,
    }
}

impl<'a> Lowering<'a> {
    /// `returns`: `atom`, which returns the old value; otherwise `red`.
    pub fn atomic(&mut self, s: &'a Statement<'a>, mut m: Modifiers, returns: bool) -> Lowered<()> {
        // The ISA writes the scope before the space; nvcc writes `atom.global.cta.add.u32`. The assembler accepts both.
        m.skip(ORDER);
        let scoped = m.skip(SCOPES);
        let space = m.take(SPACES).unwrap_or(Space::Generic);
        if !scoped {
            m.skip(SCOPES);
        }
        let f = m.take(OPERATIONS).ok_or(Refusal::UnknownForm)?;
        let noftz = m.skip(&["noftz"]);
        let kind = m.last(TYPES)?;
        let is_exchange = matches!(f, Atomic::Exchange | Atomic::CompareAndSwap);
        if !exists(f, kind, noftz) || (!returns && is_exchange) {
            return Err(Refusal::UnknownForm);
        }
        let (d, rest) = match s.operands.as_slice() {
            [d, rest @ ..] if returns => (Some(d), rest),
            rest => (None, rest),
        };
        let (address, b, c) = match rest {
            [address, b] if f != Atomic::CompareAndSwap => (address, b, None),
            [address, b, c] if f == Atomic::CompareAndSwap => (address, b, Some(c)),
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        let width = width(kind);
        let d = match d {
            Some(crate::ptx::Operand::Name("_")) | None => Reg::NONE,
            Some(d) => self.target(d, width)?,
        };
        let address = self.address(address)?;
        let b = self.source(b, width)?;
        let c = match c {
            Some(c) => self.source(c, width)?,
            None => Reg::NONE,
        };
        self.emit(Op::Atomic { f, kind, space, d, address, b, c });
        Ok(())
    }
}
