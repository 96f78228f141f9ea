//! From Jinja as transformers runs it to Jinja as minijinja runs it, before a template is compiled.
//!
//! `{% generation %}` … `{% endgeneration %}`, a tag of transformers that marks what the assistant wrote, becomes a `{% with %}`
//! block: it has a scope of its own and renders its body. `{% print a %}` becomes `{{ a }}` in a block, and `{{ a, b }}` a tuple.
//! Operators that make what a template wants as large as it wants become calls: `a % b`, which formats text in Python, of
//! [`REMAINDER`], `a * b` of [`PRODUCT`], `a ~ b ~ c` of [`CONCATENATION`]; and `a in b`, which Python refuses of a number and a
//! text, becomes one of [`CONTAINED`]. `+a` becomes `- -a`. What a loop goes over goes through [`ITEMS`], for its length to be
//! known, and what `{% set %}` stores through [`BOUNDED`]: in loops it could nest without end. Texts get minijinja's escapes in
//! place of Python's, and line breaks become `\n`. All else is left as it is, byte for byte.
//!
//! What minijinja would render otherwise is refused by its name.

use super::TokenizerError;
use super::literal::translated;

/// The function that stands for the operator `%`.
pub(super) const REMAINDER: &str = "__remainder__";

/// The function that stands for the operator `*`.
pub(super) const PRODUCT: &str = "__product__";

/// The function that stands for the operator `~`, however often.
pub(super) const CONCATENATION: &str = "__concatenation__";

/// The function that stands for the operator `in`.
pub(super) const CONTAINED: &str = "__contained__";

/// The function that makes a list of what a loop goes over.
pub(super) const ITEMS: &str = "__items__";

/// The function that checks what a variable is set to.
pub(super) const BOUNDED: &str = "__bounded__";

/// What translating the operators of a template may cost: each is a pass over the tokens of its tag.
const WORK_MAX: usize = 50_000_000;

/// Signs and words of an expression that nest, at most: the parser calls itself for each.
const NESTED_MAX: usize = 1000;

/// Branches of the `if` blocks that are open at a time, at most: the parser calls itself for each.
const BRANCHES_MAX: usize = 500;

/// Refuses a template that cannot be translated.
pub fn check_tags(source: &str) -> Result<(), TokenizerError> {
    translate(source).map(drop)
}

fn refused<T>(reason: String) -> Result<T, TokenizerError> {
    Err(TokenizerError::Template(reason))
}

/// Translates a template. Text that is no template stays what it is, for the compiler to refuse.
pub(super) fn translate(source: &str) -> Result<String, TokenizerError> {
    // Jinja knows one kind of line break.
    let unified = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(unified.len());
    let (mut rest, mut raw, mut work, mut blocks) = (unified.as_str(), false, 0, Blocks::default());
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
                blocks.enter(tag)?;
            }
            let length = match (&tag[..2], tag_word(tag)) {
                ("{%", "generation") => rename(tag, "generation", "with", &mut out),
                ("{%", "endgeneration") => rename(tag, "endgeneration", "endwith", &mut out),
                ("{%", _) => translate_tag(tag, "%}", &mut out, &mut work, &blocks)?,
                _ => translate_tag(tag, "}}", &mut out, &mut work, &blocks)?,
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

/// The blocks that are open.
#[derive(Default)]
struct Blocks<'a> {
    open: Vec<&'a str>,
    /// For every open `if`, how many branches it has.
    branches: Vec<usize>,
}

impl<'a> Blocks<'a> {
    /// Goes through a tag. Refuses what minijinja knows and Jinja does not, or does otherwise: `break` and `continue` in a block
    /// with a scope of its own inside of their loop, where minijinja would jump without leaving it, and escaping.
    fn enter(&mut self, tag: &'a str) -> Result<(), TokenizerError> {
        const SCOPES: [&str; 9] =
            ["for", "with", "generation", "filter", "macro", "call", "block", "autoescape", "set"];
        let word = tag_word(tag);
        let body = &tag[..tag.find("%}").unwrap_or(tag.len())];
        match (word.strip_prefix("end"), word) {
            (Some("if"), _) => drop(self.branches.pop()),
            (Some(ended), _) => {
                self.open.truncate(self.open.iter().rposition(|open| *open == ended).unwrap_or(self.open.len()))
            }
            (None, "do") => return refused("{% do %} is not a tag of chat templates".to_string()),
            (None, "autoescape") if !body.contains("false") && !body.contains("False") => {
                return refused("{% autoescape %} with anything but false is not supported".to_string());
            }
            (None, "if") => self.branches.push(0),
            (None, "elif") => {
                self.branches.last_mut().into_iter().for_each(|count| *count += 1);
                if self.branches.iter().sum::<usize>() > BRANCHES_MAX {
                    return refused(format!("more than {BRANCHES_MAX} branches of an if are not supported"));
                }
            }
            (None, "set") if body.contains('=') => {}
            (None, _) if SCOPES.contains(&word) => self.open.push(word),
            (None, _) => {}
        }
        match self.open.last() {
            Some(block) if ["break", "continue"].contains(&word) && *block != "for" => {
                refused(format!("{{% {word} %}} in a block of {block} inside of the loop is not supported"))
            }
            _ => Ok(()),
        }
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
fn translate_tag(
    tag: &str,
    end: &str,
    out: &mut String,
    work: &mut usize,
    blocks: &Blocks,
) -> Result<usize, TokenizerError> {
    let mut tokens = Vec::new();
    let mut at = 2;
    let (mut depth, mut operators) = (0_usize, 0_usize);
    while at < tag.len() && !(depth == 0 && tag[at..].starts_with(end)) {
        let token = &tag[at..at + token_length(&tag[at..])];
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            // `%}` closes a tag wherever it stands.
            "%" if end == "%}" && tag[at..].starts_with(end) => break,
            "%" | "*" | "~" | "in" => operators += 1,
            _ => {}
        }
        tokens.push(if token.starts_with(['\'', '"']) { translated(token)? } else { token.to_string() });
        at += token.len();
    }
    check_nesting(&tokens)?;
    *work = work.saturating_add(operators.saturating_mul(tokens.len()));
    if *work > WORK_MAX {
        return refused("it has too many operators in tags that are too long".to_string());
    }
    let word = if end == "%}" { tag_word(tag) } else { "" };
    if blocks.open.contains(&"macro") {
        check_macro(&tokens)?;
    }
    if ["macro", "with"].contains(&word) {
        check_assignments(&tokens, word)?;
    }
    out.push_str(&tag[..2]);
    let printed = word == "print" && print_inside(&mut tokens, out);
    replace_plus(&mut tokens);
    replace_all(&mut tokens, &["%", "*"], ends_product);
    replace_concatenations(&mut tokens);
    if word == "for" {
        list_items(&mut tokens);
    }
    replace_all(&mut tokens, &["in"], ends_comparison);
    list_recursion(&mut tokens);
    if word == "set" {
        bound_value(&mut tokens);
    }
    if printed {
        print_each(&mut tokens);
    } else if end == "}}" {
        make_tuple(&mut tokens);
    }
    let sign = if printed { tokens.pop_if(|token| ["-", "+"].contains(&token.as_str())) } else { None };
    tokens.iter().for_each(|token| out.push_str(token));
    if printed {
        out.push_str("}}{% endif ");
        out.push_str(&sign.unwrap_or_default());
    }
    Ok(at)
}

/// Refuses expressions that nest more deeply than the parser can follow. Items of a list stand beside each other.
fn check_nesting(tokens: &[String]) -> Result<(), TokenizerError> {
    let (mut count, mut opened) = (0_usize, Vec::new());
    for token in tokens {
        match token.as_str() {
            "(" | "[" | "{" => {
                count += 1;
                opened.push(count);
            }
            ")" | "]" | "}" => count = opened.pop().unwrap_or(count),
            "," | ":" => count = opened.last().copied().unwrap_or(0),
            "not" | "and" | "or" | "if" | "else" | "is" | "in" => count += 1,
            token if token.starts_with(|c: char| c.is_alphanumeric() || c.is_whitespace() || "_'\"".contains(c)) => {}
            _ => count += 1,
        }
        if count > NESTED_MAX {
            return refused(format!("it has an expression of more than {NESTED_MAX} operators and brackets"));
        }
    }
    Ok(())
}

/// Refuses what minijinja leaves undefined in a macro.
fn check_macro(tokens: &[String]) -> Result<(), TokenizerError> {
    for (at, token) in tokens.iter().enumerate() {
        let is_field = before(tokens, at).is_some_and(|dot| tokens[dot] == ".");
        if ["varargs", "kwargs"].contains(&token.as_str()) && !is_field {
            return refused(format!("{token} in a macro is not supported"));
        }
    }
    Ok(())
}

/// Refuses values of `macro` and `with` that use names of the same tag: the defaults of a macro see them in Jinja and not in
/// minijinja, those of `with` the other way round.
fn check_assignments(tokens: &[String], word: &str) -> Result<(), TokenizerError> {
    let (mut names, mut depth, mut in_value): (Vec<&str>, usize, bool) = (Vec::new(), 0, false);
    let base = usize::from(word == "macro");
    for (at, token) in tokens.iter().enumerate() {
        let is_name = token.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let is_field = before(tokens, at).is_some_and(|dot| tokens[dot] == ".");
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "," if depth == base => in_value = false,
            "=" if depth == base => in_value = true,
            name if in_value && is_name && !is_field && names.contains(&name) => {
                return refused(format!("a value in {{% {word} %}} that uses {name} of the same tag is not supported"));
            }
            name if !in_value && is_name && depth == base && name != word => names.push(name),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the beginning of a block around what `{% print … %}` prints, and leaves that.
fn print_inside(tokens: &mut Vec<String>, out: &mut String) -> bool {
    let Some(at) = tokens.iter().position(|token| token == "print") else { return false };
    let sign: String = tokens.drain(..=at).filter(|token| ["-", "+"].contains(&token.as_str())).collect();
    out.push_str(&sign);
    out.push_str(" if true %}{{");
    true
}

/// `{% print a, b %}` prints one after the other.
fn print_each(tokens: &mut [String]) {
    let mut from = 0;
    while let Some(comma) = outside_brackets(tokens, from, &[","]) {
        tokens[comma] = "}}{{".to_string();
        from = comma + 1;
    }
}

/// Puts several values of a `{{` tag into brackets.
fn make_tuple(tokens: &mut Vec<String>) {
    if outside_brackets(tokens, 0, &[","]).is_none() {
        return;
    }
    let start = usize::from(tokens.first().is_some_and(|token| ["-", "+"].contains(&token.as_str())));
    let end = trimmed(tokens, start, tokens.len());
    tokens.insert(end, ")".to_string());
    tokens.insert(start, "(".to_string());
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
        c if c.is_alphanumeric() || c == '_' => {
            let length = run(|c| c.is_alphanumeric() || c == '_');
            let (word, rest) = text.split_at(length);
            // The exponent of a number has a sign: 1e-5.
            let exponent = c.is_ascii_digit() && word.ends_with(['e', 'E']) && !word.starts_with("0x");
            let digits = rest.strip_prefix(['-', '+']).filter(|_| exponent).unwrap_or_default();
            let count = digits.bytes().take_while(u8::is_ascii_digit).count();
            if count > 0 { length + 1 + count } else { length }
        }
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

/// Replaces operators everywhere.
fn replace_all(tokens: &mut Vec<String>, operators: &[&str], ends: fn(&[String], usize) -> bool) {
    let mut from = 0;
    while let Some(at) = tokens[from..].iter().position(|token| operators.contains(&token.as_str())) {
        from += at;
        replace(tokens, from, ends);
        from += 1;
    }
}

/// Replaces every chain of `~` by one call: one call in the other would nest.
fn replace_concatenations(tokens: &mut Vec<String>) {
    let mut from = 0;
    while let Some(at) = tokens[from..].iter().position(|token| token == "~") {
        from += at;
        let start = operand_start(tokens, from, ends_product);
        tokens[from] = ",".to_string();
        let mut end = operand_end(tokens, from, ends_product);
        while tokens.get(end).is_some_and(|token| token == "~") {
            tokens[end] = ",".to_string();
            end = operand_end(tokens, end, ends_product);
        }
        insert_call(tokens, start, from, end, CONCATENATION);
        from += 1;
    }
}

/// Where the operand before the operator at `operator` begins.
fn operand_start(tokens: &[String], operator: usize, ends: fn(&[String], usize) -> bool) -> usize {
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
    start
}

/// Where the operand after the operator at `at` ends.
fn operand_end(tokens: &[String], at: usize, ends: fn(&[String], usize) -> bool) -> usize {
    let (mut end, mut depth, mut begun) = (at + 1, 0_usize, false);
    while end < tokens.len() {
        match tokens[end].as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => break,
            ")" | "]" | "}" => depth -= 1,
            "*" | "/" | "//" | "%" if depth == 0 && ["%", "*"].contains(&tokens[at].as_str()) => break,
            token if depth == 0 && ends(tokens, end) && (begun || !["+", "-"].contains(&token)) => break,
            _ => {}
        }
        begun |= !tokens[end].trim().is_empty();
        end += 1;
    }
    end
}

/// Puts the call of a function around operands whose operators have become commas.
fn insert_call(tokens: &mut Vec<String>, mut start: usize, operator: usize, end: usize, function: &str) {
    tokens.insert(end, ")".to_string());
    // The white space before an operand stays before the call: `{{- a` and `set x = a` need it.
    while start < operator && tokens[start].trim().is_empty() {
        start += 1;
    }
    // Two tokens: brackets are counted.
    tokens.splice(start..start, [function.to_string(), "(".to_string()]);
}

/// Replaces the operator at `at` by a call: its left operand is all before it, its right operand all after it, up to a token that
/// ends it. Of a chain of comparisons (`a < b in c`), of a test (`is in`) and of arguments (`f(*a)`) it stays what it is.
fn replace(tokens: &mut Vec<String>, at: usize, ends: fn(&[String], usize) -> bool) {
    let negated = before(tokens, at).filter(|&word| tokens[word] == "not" && tokens[at] == "in");
    let operator = negated.unwrap_or(at);
    let start = operand_start(tokens, operator, ends);
    let end = operand_end(tokens, at, ends);
    let compares = |at: usize| matches!(tokens[at].as_str(), "<" | ">" | "==" | "!=" | "<=" | ">=" | "in");
    let tested = before(tokens, operator).is_some_and(|word| tokens[word] == "is");
    if tokens[at] == "in" && (tested || (start > 0 && compares(start - 1)) || (end < tokens.len() && compares(end))) {
        return;
    }
    let opened = before(tokens, at).is_none_or(|before| ["(", ","].contains(&tokens[before].as_str()));
    if tokens[at] == "*" && opened {
        return;
    }
    let function = match tokens[at].as_str() {
        "%" => REMAINDER,
        "*" => PRODUCT,
        _ => CONTAINED,
    };
    tokens[at] = ",".to_string();
    if negated.is_some() {
        tokens[operator].clear();
    }
    let not = if negated.is_some() { "not " } else { "" };
    insert_call(tokens, start, operator, end, &format!("{not}{function}"));
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
        tokens[over] = format!("in {ITEMS}");
        put_in_brackets(tokens, over + 1, end);
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
            tokens.splice(at + 2..at + 2, [ITEMS.to_string(), "(".to_string()]);
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
        tokens[equals] = format!("= {BOUNDED}");
        put_in_brackets(tokens, equals + 1, end);
    }
}

/// Makes tokens the one argument of a call: several values are a tuple.
fn put_in_brackets(tokens: &mut Vec<String>, start: usize, end: usize) {
    let count = if outside_brackets(&tokens[start..end], 0, &[","]).is_some() { 2 } else { 1 };
    tokens.splice(end..end, vec![")".to_string(); count]);
    tokens.splice(start..start, vec!["(".to_string(); count]);
}

/// Whether the token at `at` cannot be part of an operand of `%`, `*` or `~`. A test belongs to its operand.
fn ends_product(tokens: &[String], at: usize) -> bool {
    let tested = |at: usize| before(tokens, at).filter(|&word| tokens[word] == "is");
    let of_test = match tokens[at].as_str() {
        "is" => true,
        "not" => tested(at).is_some(),
        "in" => tested(before(tokens, at).filter(|&word| tokens[word] == "not").unwrap_or(at)).is_some(),
        _ => false,
    };
    !of_test && ends_operand(&tokens[at]) && !is_sign(tokens, at)
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
            ("{{- a + b * c % d|f - e -}}", "{{- a + R(P(b , c ), d|f )- e -}}"),
            ("{{ a % b % c }}", "{{ R(R(a , b ), c )}}"),
            ("{{ -a % -b }}", "{{ R(-a , -b )}}"),
            ("{{ a - b % c }}", "{{ a - R(b , c )}}"),
            ("{{ x + a % b % c }}", "{{ x + R(R(a , b ), c )}}"),
            ("{{ f(a % b, [c % d]) }}", "{{ f(R(a , b), [R(c , d)]) }}"),
            ("{% if i % 2 == 0 and j%3 %}", "{% if R(i , 2 )== 0 and R(j,3 )%}"),
            ("{%- set x = '%s' % y %}", "{%- set x = B( R('%s' , y ))%}"),
            ("{% set a.b=1, 2 -%}", "{% set a.b= B((1, 2)) -%}"),
            ("{% set x -%}{% set y | upper %}{% set z = %}", "{% set x -%}{% set y | upper %}{% set z = %}"),
            ("{{ 'a' ~ b % c ~ d }}", "{{ T('a' , R(b , c ), d )}}"),
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
            ("{%for x in 1, 2%}{{ loop(x) }}{{ a.loop(x) }}", "{%for x in I(( 1, 2))%}{{ loop(I(x)) }}{{ a.loop(x) }}"),
            ("{{ f(*a, 2 * b, *c) }}", "{{ f(*a, P(2 , b), *c) }}"),
            ("{{- a ~ b * 2 ~ -c -}}", "{{- T(a , P(b , 2 ), -c )-}}"),
            ("{{ (a ~ b) ~ (c ~ d)[0] + e }}", "{{ T((T(a , b)) , (T(c , d))[0] )+ e }}"),
            ("{{ a is string ~ b is not none ~ c is in d }}", "{{ T(a is string , b is not none , c is in d )}}"),
            ("{{ a, b ~ c, }}{{- 1, 2 -}}", "{{( a, T(b , c),) }}{{-( 1, 2) -}}"),
            (
                "{%- print a, b +%}\n{% print c %}",
                "{%- if true %}{{ a}}{{ b }}{% endif +%}\n{% if true %}{{ c }}{% endif %}",
            ),
            ("{{ 1e-5 % 2.5E+3 - 1 }}", "{{ R(1e-5 , 2.5E+3 )- 1 }}"),
            ("{{ '\\x41' }}", "{{ 'A' }}"),
            ("{{ +1 - +a }}{{+ a +}}", "{{ - -1 - - -a }}{{+ a +}}"),
            ("{% set x | f(a=1) %}", "{% set x | f(a=1) %}"),
        ] {
            assert_eq!(
                translate(source)
                    .unwrap()
                    .replace(REMAINDER, "R")
                    .replace(PRODUCT, "P")
                    .replace(CONCATENATION, "T")
                    .replace(BOUNDED, "B")
                    .replace(CONTAINED, "C")
                    .replace(ITEMS, "I"),
                expected
            );
        }
        // As many as there are, beside each other; not one in the other.
        let many = format!("{{{{ [{}] }}}}{}", "a % 2, ".repeat(2000), "{{ a * b }}".repeat(5000));
        assert!(translate(&many).is_ok());
        assert!(translate(&format!("{{{{ {}1 }}}}", "1 + ".repeat(NESTED_MAX + 1))).is_err());
        assert!(translate(&format!("{{{{ [{}] }}}}", "a % 2, ".repeat(100_000))).is_err());
        assert!(translate(&format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(BRANCHES_MAX + 1))).is_err());
    }
}
