//! Parses the modifiers of an opcode from left to right.

use crate::ir::error::{Lowered, Refusal};

/// The rest of an opcode after its mnemonic: `global.nc.v4.f32`.
pub struct Modifiers<'a> {
    rest: &'a str,
}

impl<'a> Modifiers<'a> {
    /// Splits `ld.global.f32` into `ld` and the modifiers `global.f32`.
    pub fn split(opcode: &'a str) -> (&'a str, Self) {
        let (mnemonic, rest) = opcode.split_once('.').unwrap_or((opcode, ""));
        (mnemonic, Modifiers { rest })
    }

    /// Consumes the next modifier if the table has it, and returns its value.
    pub fn take<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let (word, rest) = self.rest.split_once('.').unwrap_or((self.rest, ""));
        let (_, value) = table.iter().find(|(name, _)| *name == word)?;
        self.rest = rest;
        Some(*value)
    }

    /// Consumes the next modifier if it is one of these.
    pub fn skip(&mut self, words: &[&str]) -> bool {
        let (word, rest) = self.rest.split_once('.').unwrap_or((self.rest, ""));
        let is_next = !word.is_empty() && words.contains(&word);
        if is_next {
            self.rest = rest;
        }
        is_next
    }

    /// Consumes the last modifier, which must be in the table; nothing may follow.
    pub fn last<T: Copy>(&mut self, table: &[(&str, T)]) -> Lowered<T> {
        let value = self.take(table).ok_or(Refusal::UnknownForm)?;
        self.end()?;
        Ok(value)
    }

    /// An error if modifiers are left.
    pub fn end(&self) -> Lowered<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Refusal::UnknownForm) }
    }
}
