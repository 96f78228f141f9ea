//! `mov`: registers, literals, special registers, addresses of variables, packing and unpacking.

use super::Lowering;
use super::names::Named;
use super::operands::{exactly, shown};
use crate::forms::{self, Kind, Operands};
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Op, Reg};
use crate::ptx::{Operand, Statement};

/// Every `mov` copies bits: its types and their width.
const MOVES: &[(&str, Kind)] = &[
    ("mov.b16", Kind::Bits16),
    ("mov.u16", Kind::Bits16),
    ("mov.s16", Kind::Bits16),
    ("mov.b32", Kind::Bits32),
    ("mov.u32", Kind::Bits32),
    ("mov.s32", Kind::Bits32),
    ("mov.f32", Kind::Bits32),
    ("mov.b64", Kind::Bits64),
    ("mov.u64", Kind::Bits64),
    ("mov.s64", Kind::Bits64),
    ("mov.f64", Kind::Bits64),
];

/// Counters that change while a warp runs, and whether they have 64 bits.
const CLOCKS: &[(&str, bool)] = &[
    ("%clock", false),
    ("%clock_hi", false),
    ("%clock64", true),
    ("%globaltimer", true),
    ("%globaltimer_lo", false),
    ("%globaltimer_hi", false),
];

fn copy_form(kind: Kind) -> &'static str {
    match kind {
        Kind::Bits16 => "mov.b16",
        Kind::Bits32 => "mov.b32",
        Kind::Bits64 => "mov.b64",
    }
}

impl<'a> Lowering<'a> {
    pub fn mov(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        if s.opcode == "mov.pred" {
            return self.predicate_logic(s);
        }
        let Some((_, kind)) = MOVES.iter().find(|(name, _)| *name == s.opcode) else {
            return Err(Refusal::UnknownForm);
        };
        let kind = *kind;
        let [d, a] = exactly(s)?;
        match (d, a) {
            (Operand::Vector(parts), a) => {
                let a = self.source(a, kind)?;
                self.unpack(parts, kind, a)
            }
            (d, Operand::Vector(parts)) => {
                let d = self.target(d, kind)?;
                self.pack(d, kind, parts)
            }
            (d, Operand::Name(name)) if CLOCKS.iter().any(|(clock, _)| clock == name) => {
                let wide = CLOCKS.iter().any(|(clock, wide)| clock == name && *wide);
                let d = self.target(d, if wide { Kind::Bits64 } else { Kind::Bits32 })?;
                self.emit(Op::ReadClock { d, wide });
                Ok(())
            }
            (d, a) => {
                let d = self.target(d, kind)?;
                let a = match self.variable(a)? {
                    Some((Named::Parameter(_), _)) => return refuse("the address of a parameter is not supported"),
                    Some((variable, offset)) => self.variable_address(variable, offset, kind)?,
                    None => self.source(a, kind)?,
                };
                self.copy(kind, d, a)
            }
        }
    }

    /// `d = a`, both of this width.
    pub fn copy(&mut self, kind: Kind, d: Reg, a: Reg) -> Lowered<()> {
        self.form_of(copy_form(kind), d, a, Reg::NONE)
    }

    /// Emits a form of the table with these operands.
    pub fn form_of(&mut self, form: &str, d: Reg, a: Reg, b: Reg) -> Lowered<()> {
        let form = forms::find(form).ok_or(Refusal::UnknownForm)?;
        self.compute(form.run, Operands { d, a, b, c: Reg::NONE, e: Reg::NONE });
        Ok(())
    }

    /// `mov.b64 d, {a, b}`: the first part is the low one.
    fn pack(&mut self, d: Reg, kind: Kind, parts: &[Operand<'a>]) -> Lowered<()> {
        match (kind, parts) {
            (Kind::Bits32, [a, b]) => {
                let (a, b) = (self.source(a, Kind::Bits16)?, self.source(b, Kind::Bits16)?);
                self.form_of("pack.b32.b16", d, a, b)
            }
            (Kind::Bits64, [a, b]) => {
                let (a, b) = (self.source(a, Kind::Bits32)?, self.source(b, Kind::Bits32)?);
                self.form_of("pack.b64.b32", d, a, b)
            }
            (Kind::Bits64, [a, b, c, e]) => {
                let mut halves = [Reg::NONE; 2];
                for (half, (low, high)) in halves.iter_mut().zip([(a, b), (c, e)]) {
                    *half = self.names.new_register(Kind::Bits32)?;
                    let (low, high) = (self.source(low, Kind::Bits16)?, self.source(high, Kind::Bits16)?);
                    self.form_of("pack.b32.b16", *half, low, high)?;
                }
                self.form_of("pack.b64.b32", d, halves[0], halves[1])
            }
            _ => refuse(format!("packing {} parts into this width is not supported", parts.len())),
        }
    }

    /// `mov.b64 {a, b}, d`; parts named `_` are skipped.
    fn unpack(&mut self, parts: &[Operand<'a>], kind: Kind, whole: Reg) -> Lowered<()> {
        match (kind, parts) {
            (Kind::Bits32, [a, b]) => self.unpack_two("unpack.b16.b32", Kind::Bits16, [a, b], whole),
            (Kind::Bits64, [a, b]) => self.unpack_two("unpack.b32.b64", Kind::Bits32, [a, b], whole),
            (Kind::Bits64, [a, b, c, e]) => {
                for (which, pair) in [("low", [a, b]), ("high", [c, e])] {
                    let half = self.names.new_register(Kind::Bits32)?;
                    self.form_of(&format!("unpack.b32.b64.{which}"), half, whole, Reg::NONE)?;
                    self.unpack_two("unpack.b16.b32", Kind::Bits16, pair, half)?;
                }
                Ok(())
            }
            _ => refuse(format!("unpacking {} parts of this width is not supported", parts.len())),
        }
    }

    fn unpack_two(&mut self, form: &str, kind: Kind, parts: [&Operand<'a>; 2], whole: Reg) -> Lowered<()> {
        for (which, part) in ["low", "high"].into_iter().zip(parts) {
            if *part == Operand::Name("_") {
                continue;
            }
            let d = self.target(part, kind)?;
            if d == whole {
                return refuse(format!("{} is both whole and part", shown(part)));
            }
            self.form_of(&format!("{form}.{which}"), d, whole, Reg::NONE)?;
        }
        Ok(())
    }
}
