//! Text → tokens.

use super::SyntaxError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A name or an opcode, including dots and `::`: `%tid.x`, `ld.global.L1::no_allocate.f32`. A directive ends at its
    /// second dot: `.reg.b16` is `.reg` and `.b16`.
    Word(&'a str),
    /// Anything that begins with a digit: `9.0`, `0f3F800000`, `0x1FU`.
    Number(&'a str),
    /// A string in double quotes.
    Text(&'a str),
    /// Any other character.
    Sign(u8),
}

/// A token with its line number, counted from 1.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// A character that PTX does not allow, or a comment or string without an end.
pub fn tokens(text: &str) -> Result<Vec<Located<'_>>, SyntaxError> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(text.len() / 6);
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = end_of(bytes, at, |b| b == b'\n');
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let Some(length) = text[at + 2..].find("*/") else {
                    return Err(SyntaxError { line, message: "a comment that begins here does not end".into() });
                };
                line += lines_in(&bytes[at..at + 2 + length]);
                at += length + 4;
                continue;
            }
            b'"' => {
                at = end_of(bytes, at + 1, |b| b == b'"' || b == b'\n');
                if bytes.get(at) != Some(&b'"') {
                    return Err(SyntaxError { line, message: "a string that begins here does not end".into() });
                }
                at += 1;
                Token::Text(&text[start + 1..at - 1])
            }
            b'0'..=b'9' => {
                at = end_of(bytes, at, |b| !(b.is_ascii_alphanumeric() || b == b'.' || b == b'_'));
                Token::Number(&text[start..at])
            }
            b'.' => {
                at = end_of(bytes, at + 1, |b| !(b.is_ascii_alphanumeric() || b == b'_'));
                Token::Word(&text[start..at])
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'$' | b'%' => {
                at = end_of_word(bytes, at);
                Token::Word(&text[start..at])
            }
            b'!'..=b'~' => {
                at += 1;
                Token::Sign(byte)
            }
            _ => {
                let shown = text[at..].chars().next().unwrap_or_default();
                return Err(SyntaxError { line, message: format!("the character {shown:?} is not allowed in PTX") });
            }
        };
        found.push(Located { token, line });
    }
    Ok(found)
}

fn end_of(bytes: &[u8], from: usize, ends: impl Fn(u8) -> bool) -> usize {
    from + bytes[from..].iter().position(|&b| ends(b)).unwrap_or(bytes.len() - from)
}

/// Only a double colon belongs to a word (`.L1::no_allocate`); a single one ends a label.
fn end_of_word(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    loop {
        at = end_of(bytes, at, |b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.' | b'%')));
        if bytes[at..].starts_with(b"::") {
            at += 2;
        } else {
            return at;
        }
    }
}

fn lines_in(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u32
}
