//! Statements → instructions, by exact match of opcode, modifiers and operand widths.
//!
//! An instruction with only register operands is a line of the table in [`crate::forms`] and needs no code here. The
//! others are handled by family: the file named after the family has the tables.

mod arithmetic;
mod atomics;
mod calls;
mod carry;
mod collectives;
mod control;
mod memory;
mod modifiers;
mod moves;
mod names;
mod operands;
mod set;
mod tensor;

pub use names::{Named, Virtual};

use std::collections::HashMap;

use self::calls::Slot;
use self::control::Labels;
use self::names::Names;
use super::error::{Lowered, refuse};
use super::{Guard, Instruction, Op, Parameter, Reg};
use crate::forms::{Operands, Run};
use crate::ptx::{Item, Space, Statement, Variable};

/// The state while a kernel's body is lowered.
pub struct Lowering<'a> {
    names: Names<'a>,
    labels: Labels<'a>,
    code: Vec<Instruction>,
    lists: Vec<Reg>,
    parameters: Vec<Parameter>,
    /// Registers whose current value was loaded from a parameter: index and offset.
    loaded: HashMap<Reg, (u32, u32)>,
    /// Offsets of the body's `.shared` and `.local` variables, in declaration order.
    offsets: std::vec::IntoIter<u32>,
    /// The carry flag, if an instruction has used it.
    carry: Option<Reg>,
    /// `.param` variables of bodies.
    slots: Vec<Slot>,
    /// Number of inlined functions around the current item.
    depth: u32,
    guard: Guard,
    line: u32,
}

/// A lowered body, still with virtual registers.
pub struct Body {
    pub code: Vec<Instruction>,
    pub lists: Vec<Reg>,
    pub targets: Vec<u32>,
    pub virtuals: Vec<Virtual>,
    pub predicates: u32,
    pub parameters: Vec<Parameter>,
}

/// The inputs for lowering a body.
pub struct Surroundings<'a> {
    /// Module-scope names and parameters.
    pub names: Vec<(&'a str, Named)>,
    pub parameters: Vec<Parameter>,
    pub offsets: Vec<u32>,
}

impl<'a> Lowering<'a> {
    pub fn new(surroundings: Surroundings<'a>) -> Lowered<Self> {
        let mut names = Names::default();
        names.open();
        for (name, named) in surroundings.names {
            names.declare(name, named)?;
        }
        names.open();
        Ok(Lowering {
            names,
            labels: Labels::default(),
            code: Vec::new(),
            lists: Vec::new(),
            parameters: surroundings.parameters,
            loaded: HashMap::new(),
            offsets: surroundings.offsets.into_iter(),
            carry: None,
            slots: Vec::new(),
            depth: 0,
            guard: Guard::ALWAYS,
            line: 0,
        })
    }

    /// Lowers the next item; `line` is the index of its source line.
    pub fn item(&mut self, item: &'a Item<'a>, line: u32) -> Lowered<()> {
        self.line = line;
        match item {
            Item::Open => {
                self.names.open();
                self.labels.open();
                Ok(())
            }
            Item::Close => {
                self.names.close();
                self.labels.close();
                Ok(())
            }
            Item::Registers(registers) => self.names.declare_registers(registers),
            Item::Variable(variable) => self.variable_in_body(variable),
            Item::Label { name, .. } => self.labels.define(name, self.code.len() as u32),
            Item::BranchTargets { name, labels } => self.labels.define_table(name, labels),
            Item::Statement(statement) => {
                self.guard = self.guard_of(statement)?;
                self.statement(statement)
            }
        }
    }

    /// Completes the body after the last item.
    pub fn finish(mut self) -> Lowered<Body> {
        // A body may end without `ret`.
        self.guard = Guard::ALWAYS;
        self.emit(Op::Exit);
        let targets = self.labels.resolve(&mut self.code)?;
        Ok(Body {
            code: self.code,
            lists: self.lists,
            targets,
            predicates: self.names.predicates(),
            virtuals: self.names.virtuals,
            parameters: self.parameters,
        })
    }

    fn guard_of(&mut self, statement: &'a Statement<'a>) -> Lowered<Guard> {
        match statement.guard {
            None => Ok(Guard::ALWAYS),
            Some(guard) => Ok(Guard { predicate: self.predicate_read(guard.predicate)?, negated: guard.negated }),
        }
    }

    fn emit(&mut self, op: Op) {
        self.code.push(Instruction { op, guard: self.guard, line: self.line });
    }

    fn compute(&mut self, run: Run, operands: Operands) {
        self.emit(Op::Compute { run, operands });
    }

    /// A variable declared in the body.
    fn variable_in_body(&mut self, variable: &'a Variable<'a>) -> Lowered<()> {
        let named = match variable.space {
            Space::Shared if self.depth > 0 => {
                return refuse(format!("`{}`: shared variables of functions are not supported", variable.name));
            }
            Space::Shared => Named::Shared(self.offsets.next().unwrap_or(0)),
            Space::Local => Named::Local(self.offsets.next().unwrap_or(0)),
            Space::Param => self.new_slot(),
            Space::Global | Space::Const => {
                return refuse(format!("`{}`: variables of a body are `.shared` or `.local`", variable.name));
            }
        };
        self.names.declare(variable.name, named)
    }

    /// Dispatches by mnemonic.
    fn statement(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let (mnemonic, modifiers) = modifiers::Modifiers::split(s.opcode);
        match mnemonic {
            "ld" | "ldu" => self.load(s, modifiers),
            "st" => self.store(s, modifiers),
            "atom" => self.atomic(s, modifiers, true),
            "red" => self.atomic(s, modifiers, false),
            "cvta" => self.convert_address(s),
            "prefetch" | "prefetchu" => self.prefetch(s),
            "cp" => self.copy_async(s, modifiers),
            "mov" => self.mov(s),
            "cvt" => self.convert(s),
            "setp" => self.compare(s),
            "set" => self.set(s),
            _ if carry::uses_carry(s.opcode) => self.with_carry(s),
            "selp" => self.select(s),
            "and" | "or" | "xor" | "not" if s.opcode.ends_with(".pred") => self.predicate_logic(s),
            "bra" | "brx" | "ret" | "exit" | "trap" | "call" | "nanosleep" => self.control(s),
            "bar" | "barrier" | "membar" | "fence" => self.barrier(s),
            "shfl" | "vote" | "match" | "redux" | "activemask" => self.collective(s),
            "ldmatrix" | "stmatrix" => self.matrix_access(s),
            "mma" => self.mma(s),
            _ => self.form(s),
        }
    }
}
