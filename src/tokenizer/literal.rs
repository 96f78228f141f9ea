//! Text literals of templates: written with the escapes of Python, read with those of minijinja.

use super::TokenizerError;

fn fault(token: &str, reason: &str) -> TokenizerError {
    let shown: String = token.chars().take(80).collect();
    TokenizerError::Template(format!("the text {shown} {reason}"))
}

/// A literal with its quotes, as minijinja reads the same text.
pub(super) fn translated(token: &str) -> Result<String, TokenizerError> {
    let quote = token.chars().next().filter(|quote| token.len() > 1 && token.ends_with(*quote));
    let Some(quote) = quote.filter(|_| token.contains('\\')) else { return Ok(token.to_string()) };
    let mut out = String::with_capacity(token.len());
    out.push(quote);
    for c in unescape(token)?.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    Ok(out)
}

/// The text that a literal means to Python. Jinja writes characters beyond ASCII as escapes first, so that a backslash before
/// one of them is followed by digits.
fn unescape(token: &str) -> Result<String, TokenizerError> {
    let mut out = String::with_capacity(token.len());
    let mut rest = &token[1..token.len() - 1];
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars();
        let kind = chars.next().ok_or_else(|| fault(token, "is not closed"))?;
        let after = chars.as_str();
        let plain = match kind {
            '\n' => Some(""),
            '\\' => Some("\\"),
            '\'' => Some("'"),
            '"' => Some("\""),
            'a' => Some("\u{7}"),
            'b' => Some("\u{8}"),
            'f' => Some("\u{c}"),
            'n' => Some("\n"),
            'r' => Some("\r"),
            't' => Some("\t"),
            'v' => Some("\u{b}"),
            _ => None,
        };
        rest = after;
        if let Some(plain) = plain {
            out.push_str(plain);
            continue;
        }
        match kind {
            'x' | 'u' | 'U' => {
                let digits = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                out.push(coded(token, rest.get(..digits), 16)?);
                rest = &rest[digits..];
            }
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let from = token.len() - 1 - rest.len() - 1;
                out.push(coded(token, token.get(from..=from + more), 8)?);
                rest = &rest[more..];
            }
            'N' => return Err(fault(token, "has the escape \\N{…}, a character by its name, which is not supported")),
            c if c.is_ascii() => out.extend(['\\', c]),
            c => out.push_str(&match u32::from(c) {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn coded(token: &str, digits: Option<&str>, base: u32) -> Result<char, TokenizerError> {
    let digits = digits.filter(|digits| digits.chars().all(|digit| digit.is_digit(base)));
    let code = digits.and_then(|digits| u32::from_str_radix(digits, base).ok());
    code.and_then(char::from_u32).ok_or_else(|| fault(token, "has an escape that is no character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_mean_what_they_mean_to_python() {
        for (literal, text) in [
            (r"'\U0001F600\x41\u00e9\101\7\0'", "😀Aé A\u{7}\0".replace(' ', "")),
            (r"'\a\b\f\v\t\r\n'", "\u{7}\u{8}\u{c}\u{b}\t\r\n".to_string()),
            (r"'\q\d\/\400\18'", "\\q\\d\\/Ā\u{1}8".to_string()),
            (r"'\é\日'", r"\xe9\u65e5".to_string()),
            ("'a\\\nb'", "ab".to_string()),
        ] {
            assert_eq!(unescape(literal).unwrap(), text, "{literal}");
        }
        assert_eq!(translated(r#""\"\'\\""#).unwrap(), r#""\"'\\""#);
        assert_eq!(translated("'plain é'").unwrap(), "'plain é'");
        for (literal, reason) in [
            (r"'\N{BULLET}'", "by its name"),
            (r"'\ud83d\ude00'", "no character"),
            (r"'\xg1'", "no character"),
            (r"'\u12'", "no character"),
            (r"'\U00110000'", "no character"),
            (r"'\x+1'", "no character"),
        ] {
            assert!(translated(literal).unwrap_err().to_string().contains(reason), "{literal}");
        }
    }
}
