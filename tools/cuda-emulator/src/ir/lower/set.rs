//! `set`, and `setp` of packed halves: comparisons into a new predicate, then a selection of constants.

use super::Lowering;
use super::arithmetic::COMBINE;
use super::operands::exactly;
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Combine, Constant, Op, Pred, Reg};
use crate::ptx::{Operand, Statement};

/// Result types and their value for "true" (ISA, `set`: all ones for integers, 1 for floating point). False is 0.
const RESULTS: &[(&str, Kind, u32)] = &[
    ("u32", Kind::Bits32, 0xffff_ffff),
    ("s32", Kind::Bits32, 0xffff_ffff),
    ("f32", Kind::Bits32, 0x3f80_0000),
    ("u16", Kind::Bits16, 0xffff),
    ("s16", Kind::Bits16, 0xffff),
    ("f16", Kind::Bits16, 0x3c00),
    ("bf16", Kind::Bits16, 0x3f80),
];

/// Two halves in 32 bits.
struct Packed {
    name: &'static str,
    half: &'static str,
    /// Result types of `set`, and the value for "true" in each half.
    results: &'static [(&'static str, u32)],
}

const PACKED: &[Packed] = &[
    Packed { name: "f16x2", half: "f16", results: &[("f16x2", 0x3c00), ("u32", 0xffff), ("s32", 0xffff)] },
    Packed { name: "bf16x2", half: "bf16", results: &[("bf16x2", 0x3f80), ("u32", 0xffff), ("s32", 0xffff)] },
];

impl<'a> Lowering<'a> {
    /// `set.lt.f32.s32 d, a, b`, `set.lt.and.u32.f32 d, a, b, p`.
    pub fn set(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let joined = COMBINE.iter().find(|(word, _)| s.opcode.contains(word));
        let name = joined.map_or(s.opcode.to_string(), |(word, _)| s.opcode.replacen(word, ".", 1));
        // `set.CMP.RESULT.SOURCE` is the comparison `setp.CMP.SOURCE`.
        let (Some((rest, source)), Some(tests)) = (name.rsplit_once('.'), name.strip_prefix("set.")) else {
            return Err(Refusal::UnknownForm);
        };
        let Some((_, result)) = rest.rsplit_once('.') else { return Err(Refusal::UnknownForm) };
        let Some(test) = tests.strip_suffix(&format!(".{result}.{source}")) else { return Err(Refusal::UnknownForm) };
        let (d, a, b, combine) = match (joined, s.operands.as_slice()) {
            (None, [d, a, b]) => (d, a, b, Combine::PLAIN),
            (Some((_, f)), [d, a, b, with]) => {
                let (with, negated) = self.predicate(with)?;
                (d, a, b, Combine { f: *f, with, negated })
            }
            _ => return refuse(format!("`{}` with {} operands", s.opcode, s.operands.len())),
        };
        if let Some(packed) = PACKED.iter().find(|packed| packed.name == source) {
            let Some((_, truth)) = packed.results.iter().find(|(name, _)| *name == result) else {
                return Err(Refusal::UnknownForm);
            };
            let d = self.target(d, Kind::Bits32)?;
            let (low, high) = self.compare_halves(&format!("setp.{test}.{}", packed.half), a, b, combine)?;
            let low = self.choose(Kind::Bits16, *truth, low)?;
            let high = self.choose(Kind::Bits16, *truth, high)?;
            return self.form_of("pack.b32.b16", d, low, high);
        }
        let Some((_, kind, truth)) = RESULTS.iter().find(|(name, ..)| *name == result) else {
            return Err(Refusal::UnknownForm);
        };
        let d = self.target(d, *kind)?;
        let form = self.comparison(&format!("setp.{test}.{source}"))?;
        let (a, b) = (self.source(a, form.operand)?, self.source(b, form.operand)?);
        let p = self.names.new_predicate()?;
        self.emit(Op::Compare { run: form.run, a, b, p, q: Pred::NONE, combine });
        let (a, b) = (self.names.constant(Constant::Bits32(*truth))?, self.names.constant(Constant::Bits32(0))?);
        self.emit(Op::Select32 { d, a, b, p });
        Ok(())
    }

    /// `setp.lt.bf16x2 p|q, a, b`: p for the low halves, q for the high ones. None for other types.
    pub fn compare_packed(&mut self, s: &'a Statement<'a>) -> Lowered<Option<()>> {
        let Some((test, ty)) = s.opcode.rsplit_once('.') else { return Ok(None) };
        let Some(packed) = PACKED.iter().find(|packed| packed.name == ty) else { return Ok(None) };
        let [Operand::Pair(p, q), a, b] = exactly(s)? else {
            return refuse(format!("`{}` has two results, `p|q`", s.opcode));
        };
        let (p, q) = (self.predicate_written(p)?, self.predicate_written(q)?);
        let results = self.compare_halves(&format!("{test}.{}", packed.half), a, b, Combine::PLAIN)?;
        for (d, a) in [(p, results.0), (q, results.1)].into_iter().filter(|(d, _)| *d != Pred::NONE) {
            self.emit(Op::PredicateLogic { f: crate::ir::PredicateLogic::Move, d, a, b: Pred::TRUE });
        }
        Ok(Some(()))
    }

    /// Compares the low halves and the high halves.
    fn compare_halves(
        &mut self,
        name: &str,
        a: &Operand<'a>,
        b: &Operand<'a>,
        combine: Combine,
    ) -> Lowered<(Pred, Pred)> {
        let form = self.comparison(name)?;
        let (a, b) = (self.source(a, Kind::Bits32)?, self.source(b, Kind::Bits32)?);
        let mut results = [Pred::NONE; 2];
        for (result, unpack) in results.iter_mut().zip(["unpack.b16.b32.low", "unpack.b16.b32.high"]) {
            let halves = [self.names.new_register(Kind::Bits16)?, self.names.new_register(Kind::Bits16)?];
            self.form_of(unpack, halves[0], a, Reg::NONE)?;
            self.form_of(unpack, halves[1], b, Reg::NONE)?;
            *result = self.names.new_predicate()?;
            self.emit(Op::Compare { run: form.run, a: halves[0], b: halves[1], p: *result, q: Pred::NONE, combine });
        }
        Ok((results[0], results[1]))
    }

    /// A new register with the value `truth` where p is set, else 0.
    fn choose(&mut self, kind: Kind, truth: u32, p: Pred) -> Lowered<Reg> {
        let d = self.names.new_register(kind)?;
        let (a, b) = (self.names.constant(Constant::Bits32(truth))?, self.names.constant(Constant::Bits32(0))?);
        self.emit(Op::Select32 { d, a, b, p });
        Ok(d)
    }
}
