//! Names in a kernel's body (registers, predicates, variables) and the constants of operands.

use std::collections::HashMap;

use crate::forms::Kind;
use crate::ir::error::{Lowered, refuse};
use crate::ir::{Constant, Pred, Reg, Special};
use crate::ptx::Registers;

/// A virtual register: `Reg(n)` means entry n until `ir::registers` assigns rows.
#[derive(Clone, Copy, Debug)]
pub struct Virtual {
    pub kind: Kind,
    /// The constant value of the row; None for a real register.
    pub constant: Option<Constant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Register(Reg),
    Predicate(Pred),
    /// Offset in shared memory.
    Shared(u32),
    /// Offset in local memory.
    Local(u32),
    /// Index into the module's symbols.
    Global(u32),
    /// Index into the parameters.
    Parameter(u32),
    /// A `.param` variable of a body: index into the slots.
    Slot(u32),
}

#[derive(Clone, Copy)]
enum Width {
    Predicate,
    Value(Kind),
}

/// The names declared between two braces.
#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Named>,
    /// `%r<739>`: prefix, count, width.
    counted: Vec<(&'a str, u32, Width)>,
}

#[derive(Default)]
pub struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    pub virtuals: Vec<Virtual>,
    constants: HashMap<Constant, Reg>,
    /// Number of predicates; number 0 is [`Pred::TRUE`].
    predicates: u16,
}

/// Limit on the registers of a kernel, far above what nvcc emits.
const MOST_REGISTERS: usize = 1 << 20;

impl<'a> Names<'a> {
    pub fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub fn close(&mut self) {
        self.scopes.pop();
    }

    /// Number of predicates, including [`Pred::TRUE`].
    pub fn predicates(&self) -> u32 {
        self.predicates as u32 + 1
    }

    pub fn declare(&mut self, name: &'a str, named: Named) -> Lowered<()> {
        let Some(scope) = self.scopes.last_mut() else { return refuse("a declaration outside all scopes") };
        match scope.names.insert(name, named) {
            None => Ok(()),
            Some(_) => refuse(format!("`{name}` is declared twice")),
        }
    }

    pub fn declare_registers(&mut self, registers: &Registers<'a>) -> Lowered<()> {
        let width = match registers.ty {
            ".pred" => Width::Predicate,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Width::Value(Kind::Bits16),
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => Width::Value(Kind::Bits32),
            ".b64" | ".u64" | ".s64" | ".f64" => Width::Value(Kind::Bits64),
            other => return refuse(format!("registers of type `{other}` are not supported")),
        };
        match registers.count {
            None => {
                let named = self.new_named(width)?;
                self.declare(registers.name, named)
            }
            Some(count) => {
                let Some(scope) = self.scopes.last_mut() else { return refuse("registers outside all scopes") };
                scope.counted.push((registers.name, count, width));
                Ok(())
            }
        }
    }

    fn new_named(&mut self, width: Width) -> Lowered<Named> {
        Ok(match width {
            Width::Value(kind) => Named::Register(self.new_register(kind)?),
            Width::Predicate if self.predicates < u16::MAX - 1 => {
                self.predicates += 1;
                Named::Predicate(Pred(self.predicates))
            }
            Width::Predicate => return refuse("more predicates than the emulator can number"),
        })
    }

    /// A new predicate without a name.
    pub fn new_predicate(&mut self) -> Lowered<Pred> {
        match self.new_named(Width::Predicate)? {
            Named::Predicate(predicate) => Ok(predicate),
            _ => refuse("the new name is not a predicate"),
        }
    }

    /// A new register without a name.
    pub fn new_register(&mut self, kind: Kind) -> Lowered<Reg> {
        self.new_virtual(Virtual { kind, constant: None })
    }

    fn new_virtual(&mut self, new: Virtual) -> Lowered<Reg> {
        if self.virtuals.len() >= MOST_REGISTERS {
            return refuse(format!("the kernel uses more than {MOST_REGISTERS} registers"));
        }
        self.virtuals.push(new);
        Ok(Reg(self.virtuals.len() as u32 - 1))
    }

    /// The row that contains this constant.
    pub fn constant(&mut self, constant: Constant) -> Lowered<Reg> {
        if let Some(known) = self.constants.get(&constant) {
            return Ok(*known);
        }
        let reg = self.new_virtual(Virtual { kind: constant.kind(), constant: Some(constant) })?;
        self.constants.insert(constant, reg);
        Ok(reg)
    }

    /// None for an undeclared name.
    pub fn find(&mut self, name: &'a str) -> Lowered<Option<Named>> {
        for at in (0..self.scopes.len()).rev() {
            let scope = &self.scopes[at];
            if let Some(named) = scope.names.get(name) {
                return Ok(Some(*named));
            }
            let counted = scope.counted.iter().find(|(prefix, count, _)| {
                name.strip_prefix(prefix).and_then(number).is_some_and(|number| number < *count)
            });
            if let Some((_, _, width)) = counted {
                let named = self.new_named(*width)?;
                self.scopes[at].names.insert(name, named);
                return Ok(Some(named));
            }
        }
        Ok(None)
    }

    pub fn kind(&self, reg: Reg) -> Kind {
        self.virtuals[reg.0 as usize].kind
    }
}

/// Accepts `12` but not `012` or `+12`.
fn number(text: &str) -> Option<u32> {
    let canonical = text.len() == 1 || !text.starts_with('0');
    if canonical && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl Constant {
    pub fn kind(self) -> Kind {
        match self {
            Constant::Bits32(_) | Constant::Special(_) | Constant::Shared32(_) | Constant::Local32(_) => Kind::Bits32,
            Constant::Bits64(_) | Constant::Shared64(_) | Constant::Local64(_) | Constant::Symbol(..) => Kind::Bits64,
        }
    }
}

/// Special registers whose value is constant while a warp runs (PTX ISA 10).
pub const SPECIAL: &[(&str, Special)] = &[
    ("%tid.x", Special::ThreadIndex(0)),
    ("%tid.y", Special::ThreadIndex(1)),
    ("%tid.z", Special::ThreadIndex(2)),
    ("%ntid.x", Special::BlockSize(0)),
    ("%ntid.y", Special::BlockSize(1)),
    ("%ntid.z", Special::BlockSize(2)),
    ("%ctaid.x", Special::BlockIndex(0)),
    ("%ctaid.y", Special::BlockIndex(1)),
    ("%ctaid.z", Special::BlockIndex(2)),
    ("%nctaid.x", Special::GridSize(0)),
    ("%nctaid.y", Special::GridSize(1)),
    ("%nctaid.z", Special::GridSize(2)),
    ("%laneid", Special::Lane),
    ("%warpid", Special::Warp),
    ("%nwarpid", Special::WarpCount),
    ("%lanemask_eq", Special::LaneMaskEqual),
    ("%lanemask_lt", Special::LaneMaskLess),
    ("%lanemask_le", Special::LaneMaskLessEqual),
    ("%lanemask_gt", Special::LaneMaskGreater),
    ("%lanemask_ge", Special::LaneMaskGreaterEqual),
    ("%smid", Special::Multiprocessor),
    ("%nsmid", Special::MultiprocessorCount),
    ("%dynamic_smem_size", Special::DynamicSharedBytes),
    ("%total_smem_size", Special::TotalSharedBytes),
];
