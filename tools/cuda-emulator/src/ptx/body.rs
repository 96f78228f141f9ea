//! Bodies of kernels: labels, declarations, statements.

use std::collections::HashMap;

use super::lexer::Token;
use super::parser::Parser;
use super::tokens::Parsed;
use super::{Base, Guard, Item, Location, Operand, Registers, Statement};

/// File, line and column of a `.loc`.
pub type Position = (u32, u32, u32);

/// The location of the last `.loc`, and the latest index of each position, for `inlined_at`.
#[derive(Default)]
struct Here {
    location: Option<u32>,
    known: HashMap<Position, u32>,
}

impl<'a> Parser<'a> {
    /// Parses from `{` to its `}`.
    pub fn body(&mut self) -> Parsed<Vec<Item<'a>>> {
        self.tokens.expect(b'{')?;
        let mut items = Vec::new();
        let (mut open, mut here) = (1_usize, Here::default());
        while open > 0 {
            match self.tokens.peek() {
                None => return self.tokens.expected("`}` at the end of the body"),
                Some(Token::Sign(b'{')) => {
                    self.tokens.next();
                    open += 1;
                    items.push(Item::Open);
                }
                Some(Token::Sign(b'}')) => {
                    self.tokens.next();
                    open -= 1;
                    items.push(Item::Close);
                }
                Some(Token::Sign(b';')) => self.tokens.expect(b';')?,
                Some(Token::Word(".loc")) => {
                    let (position, inlined_at) = self.location()?;
                    self.enter(&mut here, position, inlined_at);
                }
                Some(Token::Word(".pragma")) => self.pragma()?,
                Some(Token::Word(".reg")) => self.registers(&mut items)?,
                Some(Token::Word(word)) if super::declarations::space(word).is_some() => {
                    items.extend(self.variables(false)?.into_iter().map(Item::Variable));
                }
                Some(Token::Word(name)) if self.tokens.peek_second() == Some(Token::Sign(b':')) => {
                    let line = self.tokens.line();
                    self.tokens.next();
                    self.tokens.next();
                    items.push(self.label(name, line)?);
                }
                _ => {
                    let statement = self.statement(here.location)?;
                    items.push(Item::Statement(statement));
                }
            }
        }
        // The closing brace of the body itself opens no scope.
        items.pop();
        Ok(items)
    }

    /// `.loc file line column [, function_name label[+n], inlined_at file line column]`: the position and the position
    /// of the inlined call.
    pub fn location(&mut self) -> Parsed<(Position, Option<Position>)> {
        self.tokens.next();
        let position = self.position()?;
        let mut inlined_at = None;
        while self.tokens.accept(b',') {
            match self.tokens.word("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.tokens.word("a label")?;
                    if self.tokens.accept(b'+') {
                        self.tokens.count("an offset")?;
                    }
                }
                "inlined_at" => inlined_at = Some(self.position()?),
                _ => return self.tokens.error("expected `function_name` or `inlined_at` before this"),
            }
        }
        Ok((position, inlined_at))
    }

    fn position(&mut self) -> Parsed<Position> {
        let mut number = || self.tokens.count32("a number of `.loc`");
        Ok((number()?, number()?, number()?))
    }

    fn enter(&mut self, here: &mut Here, position: Position, at: Option<Position>) {
        let (file, line, _) = position;
        // Line 0 is the compiler's "no particular line". The last known line is a better guess.
        if line == 0 {
            return;
        }
        let inlined_at = at.and_then(|at| here.known.get(&at).copied());
        let location = Location { file, line, inlined_at };
        let last = here.known.get(&position).copied();
        if let Some(last) = last.filter(|&last| self.module.locations.get(last as usize) == Some(&location)) {
            here.location = Some(last);
            return;
        }
        let index = self.module.locations.len() as u32;
        self.module.locations.push(location);
        here.known.insert(position, index);
        here.location = Some(index);
    }

    /// `.reg .b32 %r<8>, x;`.
    fn registers(&mut self, items: &mut Vec<Item<'a>>) -> Parsed<()> {
        self.tokens.next();
        let ty = self.tokens.word("the type of a register")?;
        loop {
            let line = self.tokens.line();
            let name = self.tokens.word("the name of a register")?;
            let mut count = None;
            if self.tokens.accept(b'<') {
                count = Some(self.tokens.count32("a number of registers")?);
                self.tokens.expect(b'>')?;
            }
            items.push(Item::Registers(Registers { ty, name, count, line }));
            if !self.tokens.accept(b',') {
                return self.tokens.expect(b';');
            }
        }
    }

    /// Parses what follows `name:`.
    fn label(&mut self, name: &'a str, line: u32) -> Parsed<Item<'a>> {
        if !self.tokens.accept_word(".branchtargets") {
            return Ok(Item::Label { name, line });
        }
        let mut labels = Vec::new();
        loop {
            labels.push(self.tokens.word("a label")?);
            if !self.tokens.accept(b',') {
                self.tokens.expect(b';')?;
                return Ok(Item::BranchTargets { name, labels });
            }
        }
    }

    fn statement(&mut self, location: Option<u32>) -> Parsed<Statement<'a>> {
        let line = self.tokens.line();
        let mut guard = None;
        if self.tokens.accept(b'@') {
            let negated = self.tokens.accept(b'!');
            guard = Some(Guard { predicate: self.tokens.word("a predicate")?, negated });
        }
        let opcode = self.tokens.word("an instruction")?;
        if opcode.starts_with(['.', '%']) {
            return Err(super::SyntaxError { line, message: format!("`{opcode}` is not supported inside a body") });
        }
        let mut operands = Vec::new();
        if self.tokens.peek() != Some(Token::Sign(b';')) {
            operands.push(self.operand(true)?);
            while self.tokens.accept(b',') {
                operands.push(self.operand(true)?);
            }
        }
        self.tokens.expect(b';')?;
        Ok(Statement { guard, opcode, operands, location, line })
    }

    /// `nests`: may itself be a vector or a list.
    fn operand(&mut self, nests: bool) -> Parsed<Operand<'a>> {
        match self.tokens.peek() {
            Some(Token::Sign(b'{')) if nests => Ok(Operand::Vector(self.operands_until(b'}')?)),
            Some(Token::Sign(b'(')) if nests => Ok(Operand::List(self.operands_until(b')')?)),
            Some(Token::Sign(b'[')) => self.address(),
            Some(Token::Sign(b'!')) => {
                self.tokens.next();
                Ok(Operand::Not(self.tokens.word("a predicate")?))
            }
            Some(Token::Sign(b'-') | Token::Number(_)) => self.tokens.literal(),
            Some(Token::Word(name)) => {
                self.tokens.next();
                match self.tokens.peek() {
                    Some(Token::Sign(b'|')) => {
                        self.tokens.next();
                        Ok(Operand::Pair(name, self.tokens.word("a second result")?))
                    }
                    Some(Token::Sign(b'+' | b'-')) => Ok(Operand::Offset(name, self.offset()?)),
                    _ => Ok(Operand::Name(name)),
                }
            }
            _ => self.tokens.expected("an operand"),
        }
    }

    /// From the opening to the closing character.
    fn operands_until(&mut self, close: u8) -> Parsed<Vec<Operand<'a>>> {
        self.tokens.next();
        let mut operands = Vec::new();
        if self.tokens.accept(close) {
            return Ok(operands);
        }
        loop {
            operands.push(self.operand(false)?);
            if !self.tokens.accept(b',') {
                self.tokens.expect(close)?;
                return Ok(operands);
            }
        }
    }

    /// `[%rd1]`, `[%rd1+-4]`, `[name+8]`, `[64]`.
    fn address(&mut self) -> Parsed<Operand<'a>> {
        self.tokens.next();
        let (base, offset) = match self.tokens.peek() {
            Some(Token::Word(name)) => {
                self.tokens.next();
                (Base::Name(name), self.offset()?)
            }
            _ => (Base::Zero, self.signed()?),
        };
        if self.tokens.peek() == Some(Token::Sign(b',')) {
            return self.tokens.error("addresses with coordinates (textures, tensor maps) are not supported");
        }
        self.tokens.expect(b']')?;
        Ok(Operand::Address(base, offset))
    }

    /// `+4`, `-4`, `+-4` or nothing.
    fn offset(&mut self) -> Parsed<i64> {
        match self.tokens.peek() {
            Some(Token::Sign(b'+')) => {
                self.tokens.next();
                self.signed()
            }
            Some(Token::Sign(b'-')) => self.signed(),
            _ => Ok(0),
        }
    }

    fn signed(&mut self) -> Parsed<i64> {
        match self.tokens.literal()? {
            Operand::Integer(value) => Ok(value),
            _ => self.tokens.error("an offset is an integer"),
        }
    }
}
