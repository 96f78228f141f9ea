//! A cursor over a list of tokens, and the numbers in them.

use super::lexer::{self, Located, Token};
use super::{Operand, SyntaxError};

/// The tokens of a text and how far they have been read.
pub struct Tokens<'a> {
    all: Vec<Located<'a>>,
    at: usize,
}

pub type Parsed<T> = Result<T, SyntaxError>;

impl<'a> Tokens<'a> {
    pub fn of(text: &'a str) -> Parsed<Self> {
        Ok(Tokens { all: lexer::tokens(text)?, at: 0 })
    }

    pub fn peek(&self) -> Option<Token<'a>> {
        self.all.get(self.at).map(|located| located.token)
    }

    /// The token after the next one.
    pub fn peek_second(&self) -> Option<Token<'a>> {
        self.all.get(self.at + 1).map(|located| located.token)
    }

    /// Line of the next token; at the end, of the last one.
    pub fn line(&self) -> u32 {
        self.all.get(self.at).or(self.all.last()).map_or(1, |located| located.line)
    }

    pub fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    pub fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(SyntaxError { line: self.line(), message: message.into() })
    }

    /// An error: the next token is not what the grammar expects.
    pub fn expected<T>(&self, what: &str) -> Parsed<T> {
        let found = match self.peek() {
            None => "the end of the text".to_string(),
            Some(Token::Sign(sign)) => format!("`{}`", sign as char),
            Some(Token::Text(text)) => format!("{text:?}"),
            Some(Token::Word(text) | Token::Number(text)) => format!("`{text}`"),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    /// Consumes the character if it is next.
    pub fn accept(&mut self, sign: u8) -> bool {
        let is_next = self.peek() == Some(Token::Sign(sign));
        self.at += is_next as usize;
        is_next
    }

    pub fn accept_word(&mut self, word: &str) -> bool {
        let is_next = self.peek() == Some(Token::Word(word));
        self.at += is_next as usize;
        is_next
    }

    pub fn expect(&mut self, sign: u8) -> Parsed<()> {
        if self.accept(sign) { Ok(()) } else { self.expected(&format!("`{}`", sign as char)) }
    }

    pub fn word(&mut self, what: &str) -> Parsed<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    /// An unsigned number.
    pub fn count(&mut self, what: &str) -> Parsed<u64> {
        match self.peek() {
            Some(Token::Number(text)) => match integer(text) {
                Some(value) => {
                    self.at += 1;
                    Ok(value)
                }
                None => self.expected(what),
            },
            _ => self.expected(what),
        }
    }

    pub fn count32(&mut self, what: &str) -> Parsed<u32> {
        let line = self.line();
        u32::try_from(self.count(what)?).map_err(|_| SyntaxError { line, message: format!("{what} is too large") })
    }

    /// A literal, with or without a minus: an integer, `0f…`, `0d…` or a decimal fraction.
    pub fn literal<'t>(&mut self) -> Parsed<Operand<'t>> {
        let negative = self.accept(b'-');
        let Some(Token::Number(text)) = self.peek() else { return self.expected("a number") };
        let value = match number(text) {
            Some(value) => value,
            None => return self.expected("a number"),
        };
        self.at += 1;
        Ok(match value {
            Operand::Integer(value) if negative => Operand::Integer(value.wrapping_neg()),
            Operand::Float(bits) if negative => Operand::Float(bits ^ (1 << 31)),
            Operand::Double(bits) if negative => Operand::Double(bits ^ (1 << 63)),
            value => value,
        })
    }

    /// Skips to the `}` that closes the `{` read before.
    pub fn skip_braces(&mut self) -> Parsed<()> {
        let mut open = 1_usize;
        while open > 0 {
            match self.next() {
                Some(Token::Sign(b'{')) => open += 1,
                Some(Token::Sign(b'}')) => open -= 1,
                Some(_) => {}
                None => return self.expected("`}`"),
            }
        }
        Ok(())
    }
}

/// PTX ISA 4.5.1: decimal, `0x…`, octal `0…`, `0b…`, each with an optional `U`.
fn integer(text: &str) -> Option<u64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // from_str_radix would accept a sign.
    if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// PTX ISA 4.5.2 for `0f` and `0d`: the bits of the number as exactly 8 or 16 hexadecimal digits.
fn number<'t>(text: &str) -> Option<Operand<'t>> {
    match text.as_bytes() {
        [b'0', b'f' | b'F', digits @ ..] if digits.len() == 8 => {
            u32::from_str_radix(&text[2..], 16).ok().map(Operand::Float)
        }
        [b'0', b'd' | b'D', digits @ ..] if digits.len() == 16 => {
            u64::from_str_radix(&text[2..], 16).ok().map(Operand::Double)
        }
        _ if text.contains('.') => text.parse().ok().map(|value: f64| Operand::Double(value.to_bits())),
        _ => integer(text).map(|value| Operand::Integer(value as i64)),
    }
}
