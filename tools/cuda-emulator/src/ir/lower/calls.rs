//! Inlined calls: arguments and results pass through slots, which are registers here.

use super::Lowering;
use super::names::Named;
use super::operands::shown;
use crate::forms::Kind;
use crate::ir::error::{Lowered, refuse};
use crate::ir::inline::call_operands;
use crate::ir::{Op, Reg};
use crate::ptx::{Base, Function, Operand, Statement};

/// A `.param` variable of a body: the values stored in it, by offset.
#[derive(Default)]
pub struct Slot {
    parts: Vec<(i64, Reg, Kind)>,
}

impl<'a> Lowering<'a> {
    /// `.param .b64 param0;` in a body.
    pub fn new_slot(&mut self) -> Named {
        self.slots.push(Slot::default());
        Named::Slot(self.slots.len() as u32 - 1)
    }

    /// The slot and offset of `[param0+8]`; None for a parameter of the kernel.
    pub fn slot(&mut self, address: &Operand<'a>) -> Lowered<Option<(u32, i64)>> {
        if let Operand::Address(Base::Name(name), offset) = address
            && let Some(Named::Slot(slot)) = self.names.find(name)?
        {
            return Ok(Some((slot, *offset)));
        }
        Ok(None)
    }

    /// `st.param` of these registers, one after the other.
    pub fn store_in_slot(&mut self, slot: u32, mut offset: i64, bytes: u8, regs: &[Reg], kind: Kind) -> Lowered<()> {
        for reg in regs {
            let known = self.slots[slot as usize].parts.iter().find(|part| part.0 == offset && part.2 == kind);
            let part = match known {
                Some((_, part, _)) => *part,
                None => {
                    let part = self.names.new_register(kind)?;
                    self.slots[slot as usize].parts.push((offset, part, kind));
                    part
                }
            };
            self.copy(kind, part, *reg)?;
            offset += bytes as i64;
        }
        Ok(())
    }

    /// `ld.param` into these registers.
    pub fn load_from_slot(&mut self, slot: u32, mut offset: i64, bytes: u8, regs: &[Reg], kind: Kind) -> Lowered<()> {
        for reg in regs {
            let known = self.slots[slot as usize].parts.iter().find(|part| part.0 == offset && part.2 == kind);
            let Some((_, part, _)) = known.copied() else {
                return refuse(format!("nothing of this width was passed at offset {offset} of the argument"));
            };
            if *reg != Reg::NONE {
                self.copy(kind, *reg, part)?;
            }
            offset += bytes as i64;
        }
        Ok(())
    }

    /// Start of a function's body.
    pub fn enter(&mut self, function: &'a Function<'a>, call: &'a Statement<'a>, line: u32) -> Lowered<()> {
        self.line = line;
        let Some((results, _, arguments)) = call_operands(call) else { return refuse("a call without a function") };
        if results.len() != function.results.len() || arguments.len() != function.parameters.len() {
            return refuse(format!("the operands of the call do not match the declaration of `{}`", function.name));
        }
        let mut passed = Vec::with_capacity(results.len() + arguments.len());
        let declared = function.results.iter().chain(&function.parameters);
        for (operand, variable) in results.iter().chain(arguments).zip(declared) {
            match operand {
                Operand::Name(name) => match self.names.find(name)? {
                    Some(slot @ Named::Slot(_)) => passed.push((variable.name, slot)),
                    _ => return refuse(format!("`{name}` is not a `.param` variable of this body")),
                },
                other => return refuse(format!("{} as an operand of a call is not supported", shown(other))),
            }
        }
        self.names.open();
        self.labels.open();
        self.depth += 1;
        passed.into_iter().try_for_each(|(name, slot)| self.names.declare(name, slot))
    }

    /// End of a function's body: its returns branch to this point.
    pub fn leave(&mut self) -> Lowered<()> {
        self.labels.define(RETURN, self.code.len() as u32)?;
        self.names.close();
        self.labels.close();
        self.depth -= 1;
        Ok(())
    }

    /// A call that could not be inlined.
    pub fn call(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        match call_operands(s) {
            // CUDA's assert(), which ends the launch.
            Some((_, "__assertfail", _)) => {
                self.emit(Op::Trap);
                Ok(())
            }
            Some((_, name, _)) => refuse(format!(
                "`{}` of `{name}`: only functions with a body in this text can be called, without recursion or a guard",
                s.opcode
            )),
            None => refuse(format!("`{}` in this form is not supported", s.opcode)),
        }
    }
}

/// The label at the end of a function's body. Labels in a text are never empty.
pub const RETURN: &str = "";
