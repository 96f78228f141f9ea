//! Operands of a statement → rows, predicates, addresses.

use super::Lowering;
use super::names::{Named, SPECIAL};
use crate::forms::Kind;
use crate::ir::error::{Lowered, refuse};
use crate::ir::{Address, Constant, Pred, Reg, Regs};
use crate::ptx::{Base, Operand, Statement};

/// The operands, if there are exactly `N`.
pub fn exactly<'s, 'a, const N: usize>(statement: &'s Statement<'a>) -> Lowered<&'s [Operand<'a>; N]> {
    match statement.operands.as_slice().try_into() {
        Ok(operands) => Ok(operands),
        Err(_) => refuse(format!("`{}` takes {N} operands, not {}", statement.opcode, statement.operands.len())),
    }
}

impl<'a> Lowering<'a> {
    fn named(&mut self, name: &'a str) -> Lowered<Named> {
        match self.names.find(name)? {
            Some(named) => Ok(named),
            None => {
                refuse(format!("`{name}` is not declared, or is a special register that the emulator does not have"))
            }
        }
    }

    /// A destination register of this width.
    pub fn target(&mut self, operand: &Operand<'a>, kind: Kind) -> Lowered<Reg> {
        let (reg, found) = self.target_of_any_width(operand)?;
        if found == kind { Ok(reg) } else { wrong_width(operand, found, kind) }
    }

    pub fn target_of_any_width(&mut self, operand: &Operand<'a>) -> Lowered<(Reg, Kind)> {
        match operand {
            Operand::Name(name) => match self.named(name)? {
                Named::Register(reg) => {
                    // The register is overwritten, so it no longer contains the parameter.
                    self.loaded.remove(&reg);
                    Ok((reg, self.names.kind(reg)))
                }
                _ => refuse(format!("`{name}` is not a register that can be written")),
            },
            _ => refuse(format!("expected a register to write, found {}", shown(operand))),
        }
    }

    /// A source operand: register, special register or literal of this width.
    pub fn source(&mut self, operand: &Operand<'a>, kind: Kind) -> Lowered<Reg> {
        if let Some(constant) = literal(operand, kind)? {
            return self.names.constant(constant);
        }
        let (reg, found) = self.source_of_any_width(operand)?;
        if found == kind { Ok(reg) } else { wrong_width(operand, found, kind) }
    }

    /// A register or special register.
    pub fn source_of_any_width(&mut self, operand: &Operand<'a>) -> Lowered<(Reg, Kind)> {
        let Operand::Name(name) = operand else {
            return refuse(format!("expected a register or a number, found {}", shown(operand)));
        };
        if *name == "WARP_SZ" {
            return Ok((self.names.constant(Constant::Bits32(32))?, Kind::Bits32));
        }
        if name.starts_with('%')
            && let Some((_, special)) = SPECIAL.iter().find(|(known, _)| known == name)
        {
            return Ok((self.names.constant(Constant::Special(*special))?, Kind::Bits32));
        }
        match self.named(name)? {
            Named::Register(reg) => Ok((reg, self.names.kind(reg))),
            Named::Predicate(_) => refuse(format!("`{name}` is a predicate")),
            _ => refuse(format!("only `mov` can read the address of `{name}`")),
        }
    }

    /// A source predicate: `%p` or `!%p`.
    pub fn predicate(&mut self, operand: &Operand<'a>) -> Lowered<(Pred, bool)> {
        match operand {
            Operand::Name(name) => Ok((self.predicate_read(name)?, false)),
            Operand::Not(name) => Ok((self.predicate_read(name)?, true)),
            // `mov.pred %p1, -1` and similar: every number except 0 is true.
            Operand::Integer(value) => Ok((Pred::TRUE, *value == 0)),
            _ => refuse(format!("expected a predicate, found {}", shown(operand))),
        }
    }

    pub fn predicate_read(&mut self, name: &'a str) -> Lowered<Pred> {
        match self.named(name)? {
            Named::Predicate(predicate) => Ok(predicate),
            _ => refuse(format!("`{name}` is not a predicate")),
        }
    }

    /// A destination predicate; `_` gives [`Pred::NONE`].
    pub fn predicate_written(&mut self, name: &'a str) -> Lowered<Pred> {
        if name == "_" { Ok(Pred::NONE) } else { self.predicate_read(name) }
    }

    pub fn target_predicate(&mut self, operand: &Operand<'a>) -> Lowered<Pred> {
        match operand {
            Operand::Name(name) => self.predicate_written(name),
            _ => refuse(format!("expected a predicate to write, found {}", shown(operand))),
        }
    }

    /// The parts of a vector: `{a, b}` or, if `n` is 1, `a`.
    pub fn parts<'s>(&self, operand: &'s Operand<'a>, n: usize) -> Lowered<&'s [Operand<'a>]> {
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        if parts.len() == n { Ok(parts) } else { refuse(format!("expected {n} registers, found {}", shown(operand))) }
    }

    /// `n` destination registers; `_` gives [`Reg::NONE`]. All have the same width, which is the second result.
    pub fn targets(&mut self, operand: &Operand<'a>, n: usize) -> Lowered<(Vec<Reg>, Kind)> {
        let mut regs = Vec::with_capacity(n);
        let mut width = None;
        for part in self.parts(operand, n)? {
            if *part == Operand::Name("_") {
                regs.push(Reg::NONE);
                continue;
            }
            let (reg, kind) = self.target_of_any_width(part)?;
            if width.is_some_and(|width| width != kind) {
                return refuse("the registers of a vector have different widths");
            }
            if regs.contains(&reg) {
                return refuse(format!("{} is written twice", shown(part)));
            }
            width = Some(kind);
            regs.push(reg);
        }
        match width {
            Some(width) => Ok((regs, width)),
            None => refuse("a vector of sinks only"),
        }
    }

    /// `n` source values of one width.
    pub fn sources(&mut self, operand: &Operand<'a>, n: usize, kind: Kind) -> Lowered<Vec<Reg>> {
        self.parts(operand, n)?.iter().map(|part| self.source(part, kind)).collect()
    }

    /// Appends registers to the kernel's lists.
    pub fn list(&mut self, regs: &[Reg]) -> Regs {
        let start = self.lists.len() as u32;
        self.lists.extend_from_slice(regs);
        Regs { start, len: regs.len() as u8 }
    }

    /// `[base+offset]` in any space except `.param`.
    pub fn address(&mut self, operand: &Operand<'a>) -> Lowered<Address> {
        let Operand::Address(base, offset) = operand else {
            return refuse(format!("expected an address in brackets, found {}", shown(operand)));
        };
        let Ok(offset) = i32::try_from(*offset) else {
            return refuse(format!("the offset {offset} of an address does not fit in 32 bits"));
        };
        let base = match base {
            Base::Zero => self.names.constant(Constant::Bits64(0))?,
            Base::Name(name) => match self.named(name)? {
                Named::Register(reg) => reg,
                Named::Predicate(_) => return refuse(format!("`{name}` is a predicate, not an address")),
                Named::Parameter(_) | Named::Slot(_) => {
                    return refuse(format!("`{name}` is a parameter: only `ld.param` reads it"));
                }
                variable => self.variable_address(variable, 0, Kind::Bits64)?,
            },
        };
        let wide = match self.names.kind(base) {
            Kind::Bits64 => true,
            Kind::Bits32 => false,
            Kind::Bits16 => return refuse("an address in a 16-bit register"),
        };
        Ok(Address { base, offset, wide })
    }

    /// The row that contains the address of a variable in its own space, in the requested width.
    pub fn variable_address(&mut self, variable: Named, offset: u32, kind: Kind) -> Lowered<Reg> {
        let constant = match (variable, kind) {
            (Named::Shared(start), Kind::Bits32) => Constant::Shared32(start.wrapping_add(offset)),
            (Named::Shared(start), Kind::Bits64) => Constant::Shared64(start.wrapping_add(offset)),
            (Named::Local(start), Kind::Bits32) => Constant::Local32(start.wrapping_add(offset)),
            (Named::Local(start), Kind::Bits64) => Constant::Local64(start.wrapping_add(offset)),
            (Named::Global(index), Kind::Bits64) => Constant::Symbol(index, offset),
            (Named::Global(_), _) => return refuse("the address of a global variable takes a 64-bit register"),
            _ => return refuse("this operand has no address that fits into a register"),
        };
        self.names.constant(constant)
    }

    /// The variable whose address `mov` reads; None for other operands.
    pub fn variable(&mut self, operand: &Operand<'a>) -> Lowered<Option<(Named, u32)>> {
        let (name, offset) = match operand {
            Operand::Name(name) => (name, 0),
            Operand::Offset(name, offset) => (name, *offset),
            _ => return Ok(None),
        };
        let Ok(offset) = u32::try_from(offset) else { return refuse(format!("{name}{offset:+} is out of range")) };
        Ok(match self.names.find(name)? {
            Some(named @ (Named::Shared(_) | Named::Local(_) | Named::Global(_) | Named::Parameter(_))) => {
                Some((named, offset))
            }
            _ => None,
        })
    }
}

/// The value of a literal at this width; None for other operands.
fn literal(operand: &Operand, kind: Kind) -> Lowered<Option<Constant>> {
    let bits = match (operand, kind) {
        (Operand::Integer(value), Kind::Bits64) => return Ok(Some(Constant::Bits64(*value as u64))),
        // The assembler keeps the low bits for either sign: 4294967295 and -1 are the same 32 bits.
        (Operand::Integer(value), Kind::Bits32) if fits(*value, 32) => *value as u32,
        (Operand::Integer(value), Kind::Bits16) if fits(*value, 16) => *value as u16 as u32,
        (Operand::Float(bits), Kind::Bits32) => *bits,
        (Operand::Double(bits), Kind::Bits64) => return Ok(Some(Constant::Bits64(*bits))),
        // ISA 4.5.2: a decimal number is a double and is converted to the type of the instruction.
        (Operand::Double(bits), Kind::Bits32) => (f64::from_bits(*bits) as f32).to_bits(),
        (Operand::Integer(_) | Operand::Float(_) | Operand::Double(_), _) => {
            return refuse(format!("{} does not fit the {} bits of the operand", shown(operand), bits_of(kind)));
        }
        _ => return Ok(None),
    };
    Ok(Some(Constant::Bits32(bits)))
}

/// Whether a value fits into `bits` bits, signed or unsigned.
fn fits(value: i64, bits: u32) -> bool {
    value >= -(1 << (bits - 1)) && value < 1 << bits
}

pub fn bits_of(kind: Kind) -> u32 {
    match kind {
        Kind::Bits16 => 16,
        Kind::Bits32 => 32,
        Kind::Bits64 => 64,
    }
}

fn wrong_width<T>(operand: &Operand, found: Kind, expected: Kind) -> Lowered<T> {
    refuse(format!("{} has {} bits, the instruction takes {}", shown(operand), bits_of(found), bits_of(expected)))
}

/// An operand in PTX syntax.
pub fn shown(operand: &Operand) -> String {
    let all = |parts: &[Operand]| parts.iter().map(shown).collect::<Vec<_>>().join(", ");
    match operand {
        Operand::Name(name) => format!("`{name}`"),
        Operand::Not(name) => format!("`!{name}`"),
        Operand::Pair(first, second) => format!("`{first}|{second}`"),
        Operand::Integer(value) => format!("{value}"),
        Operand::Float(bits) => format!("0f{bits:08X}"),
        Operand::Double(bits) => format!("0d{bits:016X}"),
        Operand::Vector(parts) => format!("{{{}}}", all(parts)),
        Operand::List(parts) => format!("({})", all(parts)),
        Operand::Address(Base::Name(name), offset) => format!("[{name}{offset:+}]"),
        Operand::Address(Base::Zero, offset) => format!("[{offset}]"),
        Operand::Offset(name, offset) => format!("`{name}{offset:+}`"),
    }
}
