//! From Jinja as transformers runs it to Jinja as minijinja runs it, before a template is compiled.
//!
//! `{% generation %}` … `{% endgeneration %}`, a tag of transformers that marks what the assistant wrote, becomes a `{% with %}`
//! block: it has a scope of its own and renders its body. `a % b`, which formats text in Python, becomes a call of
//! [`REMAINDER`]. What `{% set %}` stores goes through [`BOUNDED`]: in loops it could nest without end. Line breaks become
//! `\n`. All else is left as it is, byte for byte: texts, comments, raw blocks, strings.

use super::TokenizerError;

/// The function that stands for the operator `%`.
pub(super) const REMAINDER: &str = "__remainder__";

/// The function that checks what a variable is set to.
pub(super) const BOUNDED: &str = "__bounded__";

/// Operators `%` in one template, at most: each costs a pass over the tokens of its tag.
const REMAINDERS_MAX: usize = 1000;

/// Translates a template. Text that is no template stays what it is, for the compiler to refuse.
pub(super) fn translate(source: &str) -> Result<String, TokenizerError> {
    // Jinja knows one kind of line break.
    let unified = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(unified.len());
    let (mut rest, mut raw, mut remainders) = (unified.as_str(), false, 0);
    while let Some(start) = rest.find('{') {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        // What is not translated is copied: comments, raw blocks, and a brace that begins nothing.
        let copied = match (tag.as_bytes().get(1), raw) {
            (Some(b'#'), false) => tag.find("#}").map_or(tag.len(), |end| end + 2),
            (Some(b'%'), _) if tag_word(tag) == if raw { "endraw" } else { "raw" } => {
                raw = !raw;
                2
            }
            (Some(b'%' | b'{'), false) => 0,
            _ => 1,
        };
        out.push_str(&tag[..copied]);
        rest = &tag[copied..];
        if copied == 0 {
            let length = match (&tag[..2], tag_word(tag)) {
                ("{%", "generation") => rename(tag, "generation", "with", &mut out),
                ("{%", "endgeneration") => rename(tag, "endgeneration", "endwith", &mut out),
                ("{%", _) => translate_tag(tag, "%}", &mut out, &mut remainders)?,
                _ => translate_tag(tag, "}}", &mut out, &mut remainders)?,
            };
            rest = &tag[length..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The first word of a `{%` tag.
fn tag_word(tag: &str) -> &str {
    let body = tag[2..].trim_start_matches(['-', '+']).trim_start();
    &body[..body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())]
}

/// Writes the beginning of a tag, with another word in place of its first; returns how much of the tag that was.
fn rename(tag: &str, word: &str, other: &str, out: &mut String) -> usize {
    let at = tag.find(word).unwrap_or(0);
    out.push_str(&tag[..at]);
    out.push_str(other);
    at + word.len()
}

/// Writes a whole tag and returns its length.
fn translate_tag(tag: &str, end: &str, out: &mut String, remainders: &mut usize) -> Result<usize, TokenizerError> {
    let mut tokens = Vec::new();
    let mut at = 2;
    let (mut depth, mut here) = (0_usize, 0);
    while at < tag.len() && !(depth == 0 && tag[at..].starts_with(end)) {
        let token = &tag[at..at + token_length(&tag[at..])];
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            // `%}` closes a tag wherever it stands.
            "%" if end == "%}" && tag[at..].starts_with(end) => break,
            "%" => here += 1,
            _ => {}
        }
        tokens.push(token.to_string());
        at += token.len();
    }
    *remainders += here;
    if *remainders > REMAINDERS_MAX {
        return Err(TokenizerError::Template(format!("it has more than {REMAINDERS_MAX} operators %")));
    }
    for _ in 0..here {
        replace_first(&mut tokens);
    }
    if end == "%}" && tag_word(tag) == "set" {
        bound_value(&mut tokens);
    }
    out.push_str(&tag[..2]);
    tokens.iter().for_each(|token| out.push_str(token));
    Ok(at)
}

/// The length of the token that `text` begins with: a string, a word or number, white space, or one or two other characters.
fn token_length(text: &str) -> usize {
    let first = text.chars().next().expect("text is not empty");
    let run = |inside: fn(char) -> bool| text.find(|c| !inside(c)).unwrap_or(text.len());
    match first {
        '\'' | '"' => {
            let mut escaped = false;
            for (at, c) in text.char_indices().skip(1) {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    c if c == first => return at + 1,
                    _ => {}
                }
            }
            text.len()
        }
        c if c.is_alphanumeric() || c == '_' => run(|c| c.is_alphanumeric() || c == '_'),
        c if c.is_whitespace() => run(char::is_whitespace),
        _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| text.starts_with(operator)) => 2,
        c => c.len_utf8(),
    }
}

/// Replaces the first operator `%` by a call of [`REMAINDER`]: its left operand is all that `*`, `/` and `%` join before it,
/// its right operand what follows up to the next operator.
fn replace_first(tokens: &mut Vec<String>) {
    let Some(operator) = tokens.iter().position(|token| token == "%") else { return };
    let (mut start, mut depth) = (operator, 0_usize);
    while start > 0 {
        match tokens[start - 1].as_str() {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" if depth == 0 => break,
            "(" | "[" | "{" => depth -= 1,
            token if depth == 0 && ends_operand(token) && !is_sign(tokens, start - 1) => break,
            _ => {}
        }
        start -= 1;
    }
    let (mut end, mut depth, mut begun) = (operator + 1, 0_usize, false);
    while end < tokens.len() {
        match tokens[end].as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => break,
            ")" | "]" | "}" => depth -= 1,
            "*" | "/" | "//" | "%" if depth == 0 => break,
            token if depth == 0 && ends_operand(token) && (begun || !["+", "-"].contains(&token)) => break,
            _ => {}
        }
        begun |= !tokens[end].trim().is_empty();
        end += 1;
    }
    tokens[operator] = ",".to_string();
    tokens.insert(end, ")".to_string());
    // The white space before an operand stays before the call: `{{- a` and `set x = a` need it.
    while start < operator && tokens[start].trim().is_empty() {
        start += 1;
    }
    tokens.insert(start, format!("{REMAINDER}("));
}

/// Puts the value of a `set` tag into a call of [`BOUNDED`].
fn bound_value(tokens: &mut Vec<String>) {
    let Some(equals) = tokens.iter().position(|token| token == "=") else { return };
    // A sign at the very end belongs to the tag: `-%}`.
    let mut end = tokens.len();
    while end > equals + 1
        && (tokens[end - 1].trim().is_empty()
            || (end == tokens.len() && ["-", "+"].contains(&tokens[end - 1].as_str())))
    {
        end -= 1;
    }
    if end > equals + 1 {
        tokens.insert(end, ")".to_string());
        tokens[equals] = format!("= {BOUNDED}(");
    }
}

/// Whether a token cannot be part of an operand of `%`: a weaker operator, or a word of the language.
fn ends_operand(token: &str) -> bool {
    matches!(
        token,
        "+" | "-"
            | "~"
            | ","
            | "="
            | ":"
            | "<"
            | ">"
            | "=="
            | "!="
            | "<="
            | ">="
            | "in"
            | "not"
            | "is"
            | "and"
            | "or"
            | "if"
            | "else"
            | "elif"
            | "set"
            | "for"
            | "print"
            | "do"
            | "with"
            | "call"
            | "filter"
    )
}

/// Whether the token at `index` is `-` or `+` in front of an operand and not between two.
fn is_sign(tokens: &[String], index: usize) -> bool {
    let before = tokens[..index].iter().rev().find(|token| !token.trim().is_empty());
    ["+", "-"].contains(&tokens[index].as_str())
        && index > 0
        && before.is_none_or(|token| {
            ends_operand(token) || ["(", "[", "{", "*", "/", "//", "%", "**"].contains(&token.as_str())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_scopes_with_their_white_space_control() {
        let source = "{%- generation -%}a{%+ endgeneration +%}{% generation_x %}{{ generation }}";
        assert_eq!(translate(source).unwrap(), "{%- with -%}a{%+ endwith +%}{% generation_x %}{{ generation }}");
    }

    #[test]
    fn texts_comments_raw_blocks_and_strings_stay() {
        for source in [
            "5 % 3 {# {% generation %} 5 % 3 #} %",
            "{% raw %}{% generation %}{{ a % b }}{% endraw %}",
            "{%- raw -%}{{ 5 % 3 }}{% end %}{%- endraw -%}",
            "{{ '%} 5 % 3 }}' }}{% if x == \"{% generation %}\\\"%\" %}{% endif %}",
            "{{",
            "{%",
            "{#",
            "{{ 'a",
            "{",
            "}}",
            "{{ {'a': {'b': 1}} }}",
            "{% raw",
            "é{é}é{{é}}",
        ] {
            assert_eq!(translate(source).unwrap(), source);
        }
    }

    #[test]
    fn remainders_become_calls_with_pythons_precedence() {
        for (source, expected) in [
            ("{{ a % b }}", "{{ R(a , b )}}"),
            ("{{ a.b[1] % (c, d) }}", "{{ R(a.b[1] , (c, d) )}}"),
            ("{{- a + b * c % d|f - e -}}", "{{- a + R(b * c , d|f )- e -}}"),
            ("{{ a % b % c }}", "{{ R(R(a , b ), c )}}"),
            ("{{ -a % -b }}", "{{ R(-a , -b )}}"),
            ("{{ a - b % c }}", "{{ a - R(b , c )}}"),
            ("{{ f(a % b, [c % d]) }}", "{{ f(R(a , b), [R(c , d)]) }}"),
            ("{% if i % 2 == 0 and j%3 %}", "{% if R(i , 2 )== 0 and R(j,3 )%}"),
            ("{%- set x = '%s' % y %}", "{%- set x = B( R('%s' , y ))%}"),
            ("{% set a.b=1, 2 -%}", "{% set a.b= B(1, 2) -%}"),
            ("{% set x -%}{% set y | upper %}{% set z = %}", "{% set x -%}{% set y | upper %}{% set z = %}"),
            ("{{ 'a' ~ b % c ~ d }}", "{{ 'a' ~ R(b , c )~ d }}"),
            ("{{ {'k': a % b} }}", "{{ {'k': R(a , b)} }}"),
            ("{{ (a % b) % c }}", "{{ R((R(a , b)) , c )}}"),
            ("{%if a%b%}x", "{%if R(a,b)%}x"),
        ] {
            assert_eq!(translate(source).unwrap().replace(REMAINDER, "R").replace(BOUNDED, "B"), expected);
        }
        assert!(translate(&"{{ a % b }}".repeat(REMAINDERS_MAX + 1)).is_err());
    }
}
