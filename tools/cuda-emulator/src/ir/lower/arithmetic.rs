//! Register-only instructions: the table of forms, conversions, comparisons, selection, predicate logic.

use super::Lowering;
use super::operands::{exactly, shown};
use crate::forms::{self, CompareForm, Form, Kind, Operands};
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Combine, Op, Pred, PredicateLogic, Reg};
use crate::ptx::{Operand, Statement};

/// Operators that combine the result of `setp` with a third predicate.
pub const COMBINE: &[(&str, PredicateLogic)] =
    &[(".and.", PredicateLogic::And), (".or.", PredicateLogic::Or), (".xor.", PredicateLogic::Xor)];

const SELECT: &[(&str, Kind)] = &[
    ("selp.b16", Kind::Bits16),
    ("selp.u16", Kind::Bits16),
    ("selp.s16", Kind::Bits16),
    ("selp.b32", Kind::Bits32),
    ("selp.u32", Kind::Bits32),
    ("selp.s32", Kind::Bits32),
    ("selp.f32", Kind::Bits32),
    ("selp.b64", Kind::Bits64),
    ("selp.u64", Kind::Bits64),
    ("selp.s64", Kind::Bits64),
    ("selp.f64", Kind::Bits64),
];

const PREDICATE_LOGIC: &[(&str, PredicateLogic)] = &[
    ("and.pred", PredicateLogic::And),
    ("or.pred", PredicateLogic::Or),
    ("xor.pred", PredicateLogic::Xor),
    ("not.pred", PredicateLogic::Not),
    ("mov.pred", PredicateLogic::Move),
];

impl<'a> Lowering<'a> {
    /// Any instruction of the table of forms, by its exact name.
    pub fn form(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let form = forms::find(s.opcode).ok_or(Refusal::UnknownForm)?;
        let [d, sources @ ..] = s.operands.as_slice() else {
            return refuse(format!("`{}` without operands", s.opcode));
        };
        let d = self.target(d, form.operands[0])?;
        self.form_with(form, d, sources)
    }

    /// A form whose destination is known.
    fn form_with(&mut self, form: &Form, d: Reg, sources: &[Operand<'a>]) -> Lowered<()> {
        let kinds = &form.operands[1..];
        if sources.len() != kinds.len() {
            let (expected, found) = (kinds.len(), sources.len());
            return refuse(format!("`{}` takes {expected} operands after its result, not {found}", form.name));
        }
        let mut regs = [Reg::NONE; 4];
        for ((reg, operand), kind) in regs.iter_mut().zip(sources).zip(kinds) {
            if takes_floats(form.name) && matches!(operand, Operand::Integer(_)) {
                return refuse(format!("`{}` takes floating point numbers, not {}", form.name, shown(operand)));
            }
            *reg = self.source(operand, *kind)?;
        }
        let [a, b, c, e] = regs;
        self.compute(form.run, Operands { d, a, b, c, e });
        Ok(())
    }

    /// `cvt`: registers may be wider than the types (ISA 9.4.1, "operand size exceeding instruction-type size").
    pub fn convert(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let form = forms::find(s.opcode).ok_or(Refusal::UnknownForm)?;
        let [d, sources @ ..] = s.operands.as_slice() else {
            return refuse(format!("`{}` without operands", s.opcode));
        };
        let (d, width) = self.target_of_any_width(d)?;
        if width != form.operands[0] {
            let is_signed = s.opcode.split('.').rev().nth(1).is_some_and(|ty| ty.starts_with('s'));
            // The upper half of a row with a 16-bit value is zero, so an unsigned value already fills 32 bits.
            if is_signed || form.operands[0] != Kind::Bits16 || width != Kind::Bits32 {
                return refuse(format!("`{}` into a register of another width is not supported", s.opcode));
            }
        }
        let &[kind] = &form.operands[1..] else { return self.form_with(form, d, sources) };
        let [Operand::Name(_)] = sources else { return self.form_with(form, d, sources) };
        let (mut a, width) = self.source_of_any_width(&sources[0])?;
        if kind == Kind::Bits64 && width != kind || kind == Kind::Bits32 && width == Kind::Bits16 {
            return refuse(format!("`{}` of {}, which is narrower", s.opcode, shown(&sources[0])));
        }
        if width == Kind::Bits64 && kind != Kind::Bits64 {
            let narrow = self.names.new_register(Kind::Bits32)?;
            self.form_of("cvt.u32.u64", narrow, a, Reg::NONE)?;
            a = narrow;
        }
        self.compute(form.run, Operands { d, a, b: Reg::NONE, c: Reg::NONE, e: Reg::NONE });
        Ok(())
    }

    /// `setp.lt.f32 p, a, b`, `setp.lt.and.f32 p|q, a, b, !r`.
    pub fn compare(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        if let Some(done) = self.compare_packed(s)? {
            return Ok(done);
        }
        let joined = COMBINE.iter().find(|(word, _)| s.opcode.contains(word));
        let name = match joined {
            Some((word, _)) => s.opcode.replacen(word, ".", 1),
            None => s.opcode.to_string(),
        };
        let form = self.comparison(&name)?;
        let (results, a, b, combine) = match (joined, s.operands.as_slice()) {
            (None, [results, a, b]) => (results, a, b, Combine::PLAIN),
            (Some((_, f)), [results, a, b, with]) => {
                let (with, negated) = self.predicate(with)?;
                (results, a, b, Combine { f: *f, with, negated })
            }
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        let (p, q) = match results {
            Operand::Pair(p, q) => (self.predicate_written(p)?, self.predicate_written(q)?),
            p => (self.target_predicate(p)?, Pred::NONE),
        };
        let (a, b) = (self.source(a, form.operand)?, self.source(b, form.operand)?);
        self.emit(Op::Compare { run: form.run, a, b, p, q, combine });
        Ok(())
    }

    /// The form of a comparison: `setp.lt.f32`.
    pub fn comparison(&self, name: &str) -> Lowered<&'static CompareForm> {
        forms::find_compare(name).ok_or(Refusal::UnknownForm)
    }

    /// `selp.b32 d, a, b, p`.
    pub fn select(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let Some((_, kind)) = SELECT.iter().find(|(name, _)| *name == s.opcode) else {
            return Err(Refusal::UnknownForm);
        };
        let [d, a, b, p] = exactly(s)?;
        let d = self.target(d, *kind)?;
        let (a, b) = (self.source(a, *kind)?, self.source(b, *kind)?);
        let (p, negated) = self.predicate(p)?;
        let (a, b) = if negated { (b, a) } else { (a, b) };
        self.emit(match kind {
            Kind::Bits64 => Op::Select64 { d, a, b, p },
            _ => Op::Select32 { d, a, b, p },
        });
        Ok(())
    }

    /// `and.pred d, a, b`, `not.pred d, a`, `mov.pred d, a`.
    pub fn predicate_logic(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let Some((_, f)) = PREDICATE_LOGIC.iter().find(|(name, _)| *name == s.opcode) else {
            return Err(Refusal::UnknownForm);
        };
        let (d, a, b) = match (f, s.operands.as_slice()) {
            (PredicateLogic::Not | PredicateLogic::Move, [d, a]) => (d, a, None),
            (PredicateLogic::And | PredicateLogic::Or | PredicateLogic::Xor, [d, a, b]) => (d, a, Some(b)),
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        let d = self.target_predicate(d)?;
        let a = self.plain_predicate(a)?;
        let b = match b {
            Some(b) => self.plain_predicate(b)?,
            None => Pred::TRUE,
        };
        self.emit(Op::PredicateLogic { f: *f, d, a, b });
        Ok(())
    }

    /// A predicate for an operation that cannot negate: `!p` and a false literal are first stored in a new predicate.
    fn plain_predicate(&mut self, operand: &Operand<'a>) -> Lowered<Pred> {
        let (predicate, negated) = self.predicate(operand)?;
        if !negated {
            return Ok(predicate);
        }
        let d = self.names.new_predicate()?;
        self.emit(Op::PredicateLogic { f: PredicateLogic::Not, d, a: predicate, b: Pred::TRUE });
        Ok(d)
    }
}

/// Whether the sources of an instruction are floating point numbers, according to its last type.
fn takes_floats(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("f32" | "f64"))
}
