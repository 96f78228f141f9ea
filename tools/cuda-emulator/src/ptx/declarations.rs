//! Variables: space, alignment, type, name, array, initialiser.

use super::lexer::Token;
use super::parser::Parser;
use super::tokens::Parsed;
use super::{Operand, Space, Variable};

/// Size of a type in bytes. None for other words and for `.pred`, which has no size.
fn type_bytes(ty: &str) -> Option<u32> {
    Some(match ty {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

pub fn space(word: &str) -> Option<Space> {
    Some(match word {
        ".param" => Space::Param,
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// `.param .align 8 .b8 name[16]`, `.param .u64 .ptr .global .align 16 name`.
    pub fn parameter(&mut self) -> Parsed<Variable<'a>> {
        if self.tokens.peek() == Some(Token::Word(".reg")) {
            return self.tokens.error("parameters in registers belong to functions, and calls are not supported");
        }
        let mut declared = self.variable_type(false)?;
        if declared.space != Space::Param {
            return self.tokens.error("a parameter is declared with `.param`");
        }
        self.name_and_size(&mut declared)?;
        Ok(declared)
    }

    /// `.shared .align 4 .b8 a[64], b[64];` with an initialiser for each.
    pub fn variables(&mut self, external: bool) -> Parsed<Vec<Variable<'a>>> {
        let mut declared = Vec::new();
        let first = self.variable_type(external)?;
        loop {
            let mut variable = Variable { initial: Vec::new(), ..first };
            self.name_and_size(&mut variable)?;
            if self.tokens.accept(b'=') {
                self.initialiser(&mut variable)?;
            }
            declared.push(variable);
            if !self.tokens.accept(b',') {
                self.tokens.expect(b';')?;
                return Ok(declared);
            }
        }
    }

    /// Everything before the name.
    fn variable_type(&mut self, external: bool) -> Parsed<Variable<'a>> {
        let line = self.tokens.line();
        let Some(space) = space(self.tokens.word("a state space")?) else {
            return self.tokens.error("expected a state space such as `.shared`");
        };
        let (mut element, mut align, mut pointer, mut vector) = (None, None, false, 1);
        while let Some(Token::Word(word)) = self.tokens.peek() {
            match word {
                ".align" => {
                    self.tokens.next();
                    let value = self.tokens.count32("an alignment")?;
                    if !value.is_power_of_two() || value > 1 << 20 {
                        return self.tokens.error(format!("the alignment {value} is not a power of two up to 2^20"));
                    }
                    // After `.ptr`, the alignment is that of the memory the pointer points to.
                    if !pointer {
                        align = Some(value);
                    }
                    continue;
                }
                ".ptr" => pointer = true,
                ".global" | ".shared" | ".local" | ".const" if pointer => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                _ => match type_bytes(word) {
                    Some(bytes) if element.is_none() => {
                        element = Some(bytes);
                        pointer |= space == Space::Param && matches!(word, ".u64" | ".b64");
                    }
                    _ if word.starts_with('.') => {
                        return self
                            .tokens
                            .error(format!("`{word}` in the declaration of a variable is not supported"));
                    }
                    _ => break,
                },
            }
            self.tokens.next();
        }
        let Some(element) = element else { return self.tokens.expected("the type of a variable") };
        let element = element * vector;
        let align = align.unwrap_or(element);
        Ok(Variable { space, name: "", element, align, count: Some(1), pointer, external, initial: vec![], line })
    }

    /// `name`, `name[4]`, `name[2][3]`, `name[]`.
    fn name_and_size(&mut self, variable: &mut Variable<'a>) -> Parsed<()> {
        variable.line = self.tokens.line();
        variable.name = self.tokens.word("the name of a variable")?;
        while self.tokens.accept(b'[') {
            if self.tokens.accept(b']') {
                variable.count = None;
                break;
            }
            let count = self.tokens.count("the size of an array")?;
            let total = variable.count.unwrap_or(1).checked_mul(count).filter(|n| *n <= 1 << 40);
            let Some(total) = total else { return self.tokens.error("the array is too large") };
            variable.count = Some(total);
            self.tokens.expect(b']')?;
        }
        Ok(())
    }

    /// `= 5`, `= {1, 2, {3}}`: appends the bytes of each element; nested braces only group.
    fn initialiser(&mut self, variable: &mut Variable<'a>) -> Parsed<()> {
        let mut open = 0_usize;
        loop {
            if self.tokens.accept(b'{') {
                open += 1;
                continue;
            }
            if open > 0 && self.tokens.accept(b'}') {
                open -= 1;
            } else if let Some(Token::Word(name)) = self.tokens.peek() {
                let owner = variable.name;
                return self
                    .tokens
                    .error(format!("{owner} holds the address of {name}: not supported in initialisers"));
            } else {
                let literal = self.tokens.literal()?;
                self.initial_element(variable, literal)?;
            }
            if open == 0 {
                break;
            }
            self.tokens.accept(b',');
        }
        let given = variable.initial.len() as u64;
        if variable.count.is_none() {
            variable.count = Some(given / variable.element as u64);
        }
        if given > variable.bytes() {
            let message = format!("{} has {} bytes and an initialiser of {given}", variable.name, variable.bytes());
            return self.tokens.error(message);
        }
        Ok(())
    }

    fn initial_element(&self, variable: &mut Variable<'a>, literal: Operand<'_>) -> Parsed<()> {
        let bits = match literal {
            Operand::Integer(value) => value as u64,
            Operand::Float(bits) if variable.element == 4 => bits as u64,
            Operand::Double(bits) if variable.element == 8 => bits,
            _ => return self.tokens.error(format!("an initial value of {} has the wrong type", variable.name)),
        };
        let Some(bytes) = bits.to_le_bytes().get(..variable.element as usize).map(<[u8]>::to_vec) else {
            return self.tokens.error(format!("{}: initialisers of vectors are not supported", variable.name));
        };
        variable.initial.extend(bytes);
        Ok(())
    }
}
