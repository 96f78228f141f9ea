//! From Jinja as transformers runs it to Jinja as minijinja runs it, before a template is compiled.
//!
//! `{% generation %}` … `{% endgeneration %}`, a tag of transformers that marks what the assistant wrote, becomes a `{% with %}`
//! block: it has a scope of its own and renders its body. `a % b`, which formats text in Python, becomes a call of
//! [`REMAINDER`], and `a in b`, which Python refuses of a number and a text, one of [`CONTAINED`]. `+a` becomes `- -a`. What a
//! loop goes over goes through [`ITEMS`], for its length to be known, and what `{% set %}` stores through [`BOUNDED`]: in loops
//! it could nest without end. Line breaks become `\n`. All else is left as it is, byte for byte: texts, comments, raw blocks,
//! strings.

use super::TokenizerError;

/// The function that stands for the operator `%`.
pub(super) const REMAINDER: &str = "__remainder__";

/// The function that stands for the operator `in`.
pub(super) const CONTAINED: &str = "__contained__";

/// The function that makes a list of what a loop goes over.
pub(super) const ITEMS: &str = "__items__";

/// The function that checks what a variable is set to.
pub(super) const BOUNDED: &str = "__bounded__";

/// Operators `%` and `in` in one template, at most: each costs a pass over the tokens of its tag.
const OPERATORS_MAX: usize = 1000;

/// Words and signs in one tag, at most: the parser calls itself for each that nests.
const TAG_TOKENS_MAX: usize = 1000;

/// Refuses a template whose tags are longer than any that a person writes.
pub fn check_tags(source: &str) -> Result<(), TokenizerError> {
    translate(source).map(drop)
}

/// Translates a template. Text that is no template stays what it is, for the compiler to refuse.
pub(super) fn translate(source: &str) -> Result<String, TokenizerError> {
    // Jinja knows one kind of line break.
    let unified = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(unified.len());
    let (mut rest, mut raw, mut operators, mut blocks) = (unified.as_str(), false, 0, Vec::new());
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
            if tag.starts_with("{%") {
                check_nesting(tag, &mut blocks)?;
            }
            let length = match (&tag[..2], tag_word(tag)) {
                ("{%", "generation") => rename(tag, "generation", "with", &mut out),
                ("{%", "endgeneration") => rename(tag, "endgeneration", "endwith", &mut out),
                ("{%", _) => translate_tag(tag, "%}", &mut out, &mut operators)?,
                _ => translate_tag(tag, "}}", &mut out, &mut operators)?,
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

/// Refuses `break` and `continue` in a block with a scope of its own inside of their loop: minijinja would jump without leaving
/// it. `blocks` are the blocks that are open.
fn check_nesting<'a>(tag: &'a str, blocks: &mut Vec<&'a str>) -> Result<(), TokenizerError> {
    const SCOPES: [&str; 9] = ["for", "with", "generation", "filter", "macro", "call", "block", "autoescape", "set"];
    let word = tag_word(tag);
    let body = &tag[..tag.find("%}").unwrap_or(tag.len())];
    match word.strip_prefix("end") {
        Some(ended) => blocks.truncate(blocks.iter().rposition(|open| *open == ended).unwrap_or(blocks.len())),
        None if word == "set" && body.contains('=') => {}
        None if SCOPES.contains(&word) => blocks.push(word),
        None => {}
    }
    match blocks.last() {
        Some(block) if ["break", "continue"].contains(&word) && *block != "for" => Err(TokenizerError::Template(
            format!("{{% {word} %}} in a block of {block} inside of the loop is not supported"),
        )),
        _ => Ok(()),
    }
}

/// Writes the beginning of a tag, with another word in place of its first; returns how much of the tag that was.
fn rename(tag: &str, word: &str, other: &str, out: &mut String) -> usize {
    let at = tag.find(word).unwrap_or(0);
    out.push_str(&tag[..at]);
    out.push_str(other);
    at + word.len()
}

/// Writes a whole tag and returns its length.
fn translate_tag(tag: &str, end: &str, out: &mut String, operators: &mut usize) -> Result<usize, TokenizerError> {
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
            "%" | "in" => here += 1,
            _ => {}
        }
        tokens.push(token.to_string());
        at += token.len();
    }
    if tokens.iter().filter(|token| !token.trim().is_empty()).count() > TAG_TOKENS_MAX {
        return Err(TokenizerError::Template(format!("it has a tag of more than {TAG_TOKENS_MAX} words and signs")));
    }
    *operators += here;
    if *operators > OPERATORS_MAX {
        return Err(TokenizerError::Template(format!("it has more than {OPERATORS_MAX} operators % and in")));
    }
    replace_plus(&mut tokens);
    replace_all(&mut tokens, "%", REMAINDER, ends_product);
    if end == "%}" && tag_word(tag) == "for" {
        list_items(&mut tokens);
    }
    replace_all(&mut tokens, "in", CONTAINED, ends_comparison);
    list_recursion(&mut tokens);
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

/// Replaces a plus in front of an operand, which minijinja does not know.
fn replace_plus(tokens: &mut [String]) {
    // A sign at the very beginning or end belongs to the tag.
    for at in 1..tokens.len().saturating_sub(1) {
        if tokens[at] == "+" && is_sign(tokens, at) {
            tokens[at] = "- -".to_string();
        }
    }
}

/// Replaces an operator everywhere.
fn replace_all(tokens: &mut Vec<String>, operator: &str, function: &str, ends: fn(&[String], usize) -> bool) {
    let mut from = 0;
    while let Some(at) = tokens[from..].iter().position(|token| token == operator) {
        from += at;
        replace(tokens, from, function, ends);
        from += 1;
    }
}

/// Replaces the operator at `at` by a call of `function`: its left operand is all before it, its right operand all after it, up
/// to a token that ends it. Of a chain of comparisons (`a < b in c`) and of a test (`is in`) it stays what it is.
fn replace(tokens: &mut Vec<String>, at: usize, function: &str, ends: fn(&[String], usize) -> bool) {
    let negated = before(tokens, at).filter(|&word| tokens[word] == "not" && tokens[at] == "in");
    let operator = negated.unwrap_or(at);
    let (mut start, mut depth) = (operator, 0_usize);
    while start > 0 {
        match tokens[start - 1].as_str() {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" if depth == 0 => break,
            "(" | "[" | "{" => depth -= 1,
            _ if depth == 0 && ends(tokens, start - 1) => break,
            _ => {}
        }
        start -= 1;
    }
    let (mut end, mut depth, mut begun) = (at + 1, 0_usize, false);
    while end < tokens.len() {
        match tokens[end].as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => break,
            ")" | "]" | "}" => depth -= 1,
            "*" | "/" | "//" | "%" if depth == 0 && tokens[at] == "%" => break,
            token if depth == 0 && ends(tokens, end) && (begun || !["+", "-"].contains(&token)) => break,
            _ => {}
        }
        begun |= !tokens[end].trim().is_empty();
        end += 1;
    }
    let compares = |at: usize| matches!(tokens[at].as_str(), "<" | ">" | "==" | "!=" | "<=" | ">=" | "in");
    let tested = before(tokens, operator).is_some_and(|word| tokens[word] == "is");
    if tokens[at] == "in" && (tested || (start > 0 && compares(start - 1)) || (end < tokens.len() && compares(end))) {
        return;
    }
    tokens[at] = ",".to_string();
    tokens.insert(end, ")".to_string());
    if negated.is_some() {
        tokens[operator].clear();
    }
    // The white space before an operand stays before the call: `{{- a` and `set x = a` need it.
    while start < operator && tokens[start].trim().is_empty() {
        start += 1;
    }
    let not = if negated.is_some() { "not " } else { "" };
    tokens.insert(start, format!("{not}{function}("));
}

/// The token before `at` that is not white space.
fn before(tokens: &[String], at: usize) -> Option<usize> {
    tokens[..at].iter().rposition(|token| !token.trim().is_empty())
}

/// Puts what a `for` tag goes over into a call of [`ITEMS`].
fn list_items(tokens: &mut Vec<String>) {
    let Some(over) = outside_brackets(tokens, 0, &["in"]) else { return };
    let mut end = outside_brackets(tokens, over + 1, &["if", "recursive"]).unwrap_or(tokens.len());
    end = trimmed(tokens, over + 1, end);
    if end > over + 1 {
        tokens.insert(end, ")".to_string());
        tokens[over] = format!("in {ITEMS}(");
    }
}

/// The same for `loop(…)`, which goes over something else in a recursive loop.
fn list_recursion(tokens: &mut Vec<String>) {
    let mut at = 0;
    while at + 2 < tokens.len() {
        let calls = tokens[at] == "loop" && tokens[at + 1] == "(";
        if calls
            && before(tokens, at).is_none_or(|dot| tokens[dot] != ".")
            && let Some(end) = outside_brackets(tokens, at + 2, &[")"]).filter(|end| *end > at + 2)
        {
            tokens.insert(end, ")".to_string());
            tokens[at + 1] = format!("({ITEMS}(");
        }
        at += 1;
    }
}

/// The first of `words` from `from` on that is in no bracket.
fn outside_brackets(tokens: &[String], from: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.as_str() {
            token if depth == 0 && words.contains(&token) => return Some(at),
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// `end` without the white space before it and, at the very end, the sign that belongs to the tag (`-%}`).
fn trimmed(tokens: &[String], start: usize, mut end: usize) -> usize {
    while end > start
        && (tokens[end - 1].trim().is_empty()
            || (end == tokens.len() && ["-", "+"].contains(&tokens[end - 1].as_str())))
    {
        end -= 1;
    }
    end
}

/// Puts the value of a `set` tag into a call of [`BOUNDED`].
fn bound_value(tokens: &mut Vec<String>) {
    let Some(equals) = outside_brackets(tokens, 0, &["="]) else { return };
    let end = trimmed(tokens, equals + 1, tokens.len());
    if end > equals + 1 {
        tokens.insert(end, ")".to_string());
        tokens[equals] = format!("= {BOUNDED}(");
    }
}

/// Whether the token at `at` cannot be part of an operand of `%`.
fn ends_product(tokens: &[String], at: usize) -> bool {
    ends_operand(&tokens[at]) && !is_sign(tokens, at)
}

/// Whether the token at `at` cannot be part of an operand of `in`, which arithmetic can be.
fn ends_comparison(tokens: &[String], at: usize) -> bool {
    match tokens[at].as_str() {
        "+" | "-" => at == 0 || at + 1 == tokens.len(),
        "recursive" => true,
        token => !["~", "is"].contains(&token) && ends_operand(token),
    }
}

/// Whether a token ends an operand of `%`: a weaker operator, or a word of the language.
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
            ("{{ a in b }}", "{{ C(a , b )}}"),
            ("{%- if a.b + 1 not in c[0] and d in 'e' -%}", "{%- if not C(a.b + 1  , c[0] )and C(d , 'e' )-%}"),
            ("{{- -a in b if c in d else e -}}", "{{- C(-a , b )if C(c , d )else e -}}"),
            ("{{ not a in (b in c) }}", "{{ not C(a , (C(b , c)) )}}"),
            ("{{ a is in b or a is not in c }}", "{{ a is in b or a is not in c }}"),
            ("{{ a == b in c }}{{ a in b in c }}", "{{ a == b in c }}{{ a in b in c }}"),
            ("{{ a % b in c }}", "{{ C(R(a , b ), c )}}"),
            ("{% set x = a in b %}", "{% set x = B( C(a , b ))%}"),
            ("{% for x in y if x in z recursive -%}", "{% for x in I( y) if C(x , z )recursive -%}"),
            ("{%- for a, (b, c) in d.items() -%}", "{%- for a, (b, c) in I( d.items()) -%}"),
            ("{%for x in 1, 2%}{{ loop(x) }}{{ a.loop(x) }}", "{%for x in I( 1, 2)%}{{ loop(I(x)) }}{{ a.loop(x) }}"),
            ("{{ +1 - +a }}{{+ a +}}", "{{ - -1 - - -a }}{{+ a +}}"),
            ("{% set x | f(a=1) %}", "{% set x | f(a=1) %}"),
        ] {
            assert_eq!(
                translate(source)
                    .unwrap()
                    .replace(REMAINDER, "R")
                    .replace(BOUNDED, "B")
                    .replace(CONTAINED, "C")
                    .replace(ITEMS, "I"),
                expected
            );
        }
        assert!(translate(&"{{ a % b }}".repeat(OPERATORS_MAX + 1)).is_err());
    }
}
