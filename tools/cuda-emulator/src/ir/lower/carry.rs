//! Multi-word additions (ISA 9.7.2, "Extended-Precision Arithmetic"); the carry flag is a register here.
//!
//! With the carry as a third addend, `add.cc`, `addc` and `addc.cc` use the forms `add3` (the sum) and `carry3` (its
//! carry), and subtractions use `sub3` and `borrow3`; `mad.lo.cc` and similar instructions multiply first.

use super::Lowering;
use super::operands::exactly;
use crate::forms::{self, Kind, Operands};
use crate::ir::error::{Lowered, Refusal};
use crate::ir::{Constant, Reg};
use crate::ptx::Statement;

/// Types, their width, and the unsigned form that implements them.
const TYPES: &[(&str, Kind, &str)] = &[
    ("u32", Kind::Bits32, "u32"),
    ("s32", Kind::Bits32, "u32"),
    ("u64", Kind::Bits64, "u64"),
    ("s64", Kind::Bits64, "u64"),
];

/// Mnemonic, whether it reads the carry, the forms of result and carry, and the multiplication that precedes.
const OPERATIONS: &[(&str, bool, [&str; 2], Option<&str>)] = &[
    ("add", false, ["add3", "carry3"], None),
    ("addc", true, ["add3", "carry3"], None),
    ("sub", false, ["sub3", "borrow3"], None),
    ("subc", true, ["sub3", "borrow3"], None),
    ("mad.lo", false, ["add3", "carry3"], Some("mul.lo")),
    ("madc.lo", true, ["add3", "carry3"], Some("mul.lo")),
    ("mad.hi", false, ["add3", "carry3"], Some("mul.hi")),
    ("madc.hi", true, ["add3", "carry3"], Some("mul.hi")),
];

/// Whether an opcode reads or writes the carry flag.
pub fn uses_carry(opcode: &str) -> bool {
    opcode.contains(".cc.") || ["addc.", "subc.", "madc."].iter().any(|mnemonic| opcode.starts_with(mnemonic))
}

impl<'a> Lowering<'a> {
    pub fn with_carry(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let Some((rest, ty)) = s.opcode.rsplit_once('.') else { return Err(Refusal::UnknownForm) };
        let (name, writes) = match rest.strip_suffix(".cc") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let operation = OPERATIONS.iter().find(|(known, ..)| *known == name);
        let ty = TYPES.iter().find(|(known, ..)| *known == ty);
        let (Some((_, reads, [result, carry], product)), Some((signed, kind, unsigned))) = (operation, ty) else {
            return Err(Refusal::UnknownForm);
        };
        let (d, a, b) = match product {
            None => {
                let [d, a, b] = exactly(s)?;
                (d, self.source(a, *kind)?, self.source(b, *kind)?)
            }
            Some(product) => {
                let [d, a, b, c] = exactly(s)?;
                let (a, b) = (self.source(a, *kind)?, self.source(b, *kind)?);
                let t = self.names.new_register(*kind)?;
                self.form_of(&format!("{product}.{signed}"), t, a, b)?;
                (d, t, self.source(c, *kind)?)
            }
        };
        let d = self.target(d, *kind)?;
        let flag = match self.carry {
            Some(flag) => flag,
            None => *self.carry.insert(self.names.new_register(Kind::Bits32)?),
        };
        let c = if *reads { flag } else { self.names.constant(Constant::Bits32(0))? };
        // The new carry goes to a temporary first, because the sum still reads the old one. It may share a row with an
        // addend.
        let new = self.names.new_register(Kind::Bits32)?;
        if writes {
            self.three(&format!("{carry}.{unsigned}"), new, [a, b, c])?;
        }
        self.three(&format!("{result}.{unsigned}"), d, [a, b, c])?;
        if writes {
            self.copy(Kind::Bits32, flag, new)?;
        }
        Ok(())
    }

    fn three(&mut self, form: &str, d: Reg, [a, b, c]: [Reg; 3]) -> Lowered<()> {
        let form = forms::find(form).ok_or(Refusal::UnknownForm)?;
        self.compute(form.run, Operands { d, a, b, c, e: Reg::NONE });
        Ok(())
    }
}
