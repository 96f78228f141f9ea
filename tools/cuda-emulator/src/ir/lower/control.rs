//! Branches, exits and traps; labels and the braces that scope them.

use std::collections::HashMap;

use super::Lowering;
use super::calls::RETURN;
use super::operands::exactly;
use crate::forms::Kind;
use crate::ir::error::{Lowered, Refusal, refuse};
use crate::ir::{Instruction, Op};
use crate::ptx::{Operand, Statement};

/// Labels of a body. Inline assembly repeats the same labels inside its braces, so each label belongs to a scope.
#[derive(Default)]
pub struct Labels<'a> {
    /// The parent of each scope except the outermost one, number 0.
    parents: Vec<usize>,
    current: usize,
    defined: HashMap<(usize, &'a str), u32>,
    tables: HashMap<(usize, &'a str), &'a [&'a str]>,
    /// Unresolved branches: instruction, label, scope.
    waiting: Vec<(usize, &'a str, usize)>,
}

impl<'a> Labels<'a> {
    pub fn open(&mut self) {
        self.parents.push(self.current);
        self.current = self.parents.len();
    }

    pub fn close(&mut self) {
        self.current = self.parent(self.current).unwrap_or(0);
    }

    fn parent(&self, scope: usize) -> Option<usize> {
        scope.checked_sub(1).map(|index| self.parents[index])
    }

    pub fn define(&mut self, name: &'a str, at: u32) -> Lowered<()> {
        match self.defined.insert((self.current, name), at) {
            None => Ok(()),
            Some(_) => refuse(format!("the label `{name}` is defined twice")),
        }
    }

    pub fn define_table(&mut self, name: &'a str, labels: &'a [&'a str]) -> Lowered<()> {
        match self.tables.insert((self.current, name), labels) {
            None => Ok(()),
            Some(_) => refuse(format!("the table `{name}` is defined twice")),
        }
    }

    /// The value of a name in a scope or in the scopes around it.
    fn find<T: Copy>(&self, map: &HashMap<(usize, &'a str), T>, name: &'a str, scope: usize) -> Lowered<T> {
        let mut scope = Some(scope);
        while let Some(here) = scope {
            if let Some(found) = map.get(&(here, name)) {
                return Ok(*found);
            }
            scope = self.parent(here);
        }
        refuse(format!("the label `{name}` is not defined"))
    }

    /// Resolves the branches and returns the concatenated jump tables.
    pub fn resolve(&self, code: &mut [Instruction]) -> Lowered<Vec<u32>> {
        let mut targets = Vec::new();
        for (at, name, scope) in &self.waiting {
            match &mut code[*at].op {
                Op::Branch { target, .. } => *target = self.find(&self.defined, name, *scope)?,
                Op::BranchTable { first, count, .. } => {
                    let labels = self.find(&self.tables, name, *scope)?;
                    *first = targets.len() as u32;
                    *count = labels.len() as u32;
                    for label in labels {
                        targets.push(self.find(&self.defined, label, *scope)?);
                    }
                }
                _ => return refuse("only branches wait for labels"),
            }
        }
        Ok(targets)
    }
}

impl<'a> Lowering<'a> {
    pub fn control(&mut self, s: &'a Statement<'a>) -> Lowered<()> {
        let op = match s.opcode {
            "bra" | "bra.uni" => {
                let [Operand::Name(label)] = exactly(s)? else { return refuse("a branch goes to a label") };
                self.labels.waiting.push((self.code.len(), label, self.labels.current));
                Op::Branch { target: 0, reconvergence: u32::MAX }
            }
            "brx.idx" | "brx.idx.uni" => {
                let [index, Operand::Name(table)] = exactly(s)? else {
                    return refuse("`brx.idx` takes an index and a table of labels");
                };
                let index = self.source(index, Kind::Bits32)?;
                self.labels.waiting.push((self.code.len(), table, self.labels.current));
                Op::BranchTable { index, first: 0, count: 0, reconvergence: u32::MAX }
            }
            "ret" | "ret.uni" if self.depth > 0 => {
                let [] = exactly(s)?;
                self.labels.waiting.push((self.code.len(), RETURN, self.labels.current));
                Op::Branch { target: 0, reconvergence: u32::MAX }
            }
            "ret" | "ret.uni" | "exit" => {
                let [] = exactly(s)?;
                Op::Exit
            }
            "trap" => {
                let [] = exactly(s)?;
                Op::Trap
            }
            "nanosleep.u32" => {
                let [duration] = exactly(s)?;
                self.source(duration, Kind::Bits32)?;
                Op::Nothing
            }
            "call" | "call.uni" => return self.call(s),
            _ => return Err(Refusal::UnknownForm),
        };
        self.emit(op);
        Ok(())
    }
}
