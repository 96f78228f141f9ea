//! Python's two ways to fill a text in: `template % values` and `template.format(…)`.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

use super::cost::{left, pay};
use super::python::{ascii_of, repr_of, str_of, whole};

/// Digits after the point, at most.
const PRECISION_MAX: usize = 9999;

fn fault(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// How one value is written: `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    fn is_plain(&self) -> bool {
        let flags = self.fill.is_none() && self.align.is_none() && self.sign.is_none() && !self.alternate && !self.zero;
        flags && self.width == 0 && self.grouping.is_none() && self.precision.is_none() && self.kind.is_none()
    }

    /// Reads the part of a field of `str.format` that follows its colon.
    fn parse(text: &str) -> Result<Self, Error> {
        let unusable = || fault(format!("str.format: the format {text:?} is not one of Python's"));
        let mut spec = Self::default();
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let is_align = |c: Option<&char>| c.is_some_and(|c| "<>^=".contains(*c));
        if is_align(chars.get(1)) {
            (spec.fill, spec.align, at) = (Some(chars[0]), Some(chars[1]), 2);
        } else if is_align(chars.first()) {
            (spec.align, at) = (Some(chars[0]), 1);
        }
        spec.sign = chars.get(at).copied().filter(|c| "+- ".contains(*c));
        at += usize::from(spec.sign.is_some());
        spec.alternate = chars.get(at) == Some(&'#');
        at += usize::from(spec.alternate);
        spec.zero = chars.get(at) == Some(&'0');
        at += usize::from(spec.zero);
        spec.width = number(&chars, &mut at).unwrap_or(Some(0)).ok_or_else(unusable)?;
        spec.grouping = chars.get(at).copied().filter(|c| ",_".contains(*c));
        at += usize::from(spec.grouping.is_some());
        if chars.get(at) == Some(&'.') {
            at += 1;
            spec.precision = Some(number(&chars, &mut at).flatten().ok_or_else(unusable)?);
        }
        spec.kind = chars.get(at).copied();
        at += usize::from(spec.kind.is_some());
        if at < chars.len() || spec.precision.is_some_and(|digits| digits > PRECISION_MAX) {
            return Err(unusable());
        }
        Ok(spec)
    }
}

/// The number at `at`; `None` if there is no digit, `Some(None)` if it is too large.
fn number(chars: &[char], at: &mut usize) -> Option<Option<usize>> {
    let digits: String = chars[*at..].iter().take_while(|c| c.is_ascii_digit()).collect();
    *at += digits.len();
    (!digits.is_empty()).then(|| digits.parse().ok())
}

/// `format(value, spec)`.
fn format_value(state: &State, value: &Value, spec: &Spec) -> Result<String, Error> {
    let kind = spec.kind.unwrap_or(' ');
    match value.kind() {
        _ if spec.is_plain() => str_of(state, value),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if !" s".contains(kind) || spec.sign.is_some() || spec.alternate || spec.grouping.is_some() {
                return Err(fault(format!("str.format: the format {kind} is not one of texts")));
            }
            if spec.align == Some('=') {
                return Err(fault("str.format: = is not an alignment of texts"));
            }
            pad_text(state, &cut(text, spec.precision), spec, '<')
        }
        ValueKind::Bool | ValueKind::Number => {
            let integer = whole(value);
            match (kind, integer) {
                (' ' | 'd' | 'b' | 'o' | 'x' | 'X' | 'n', Some(number)) => format_integer(state, number, kind, spec),
                ('c', Some(number)) => {
                    let c = u32::try_from(number).ok().and_then(char::from_u32);
                    let c = c.ok_or_else(|| fault("str.format: a number that is no character"))?;
                    pad_text(state, &c.to_string(), spec, '<')
                }
                (' ' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%', _) => {
                    format_float(state, f64::try_from(value.clone())?, kind, spec)
                }
                _ => Err(fault(format!("str.format: the format {kind} is not one of this number"))),
            }
        }
        other => Err(fault(format!("str.format: a value of type {other} takes no format"))),
    }
}

fn cut(text: &str, characters: Option<usize>) -> String {
    characters.map_or_else(|| text.to_string(), |count| text.chars().take(count).collect())
}

fn format_integer(state: &State, number: i128, kind: char, spec: &Spec) -> Result<String, Error> {
    if spec.precision.is_some() {
        return Err(fault("str.format: an integer has no precision"));
    }
    let size = number.unsigned_abs();
    let (prefix, digits, group) = match kind {
        'b' => ("0b", format!("{size:b}"), 4),
        'o' => ("0o", format!("{size:o}"), 4),
        'x' => ("0x", format!("{size:x}"), 4),
        'X' => ("0X", format!("{size:X}"), 4),
        _ => ("", size.to_string(), 3),
    };
    if spec.grouping == Some(',') && group == 4 {
        return Err(fault(format!("str.format: a comma does not go with {kind}")));
    }
    let prefix = if spec.alternate { prefix } else { "" };
    pad_number(state, number < 0, prefix, &grouped(&digits, spec.grouping, group), spec)
}

/// Digits with a sign between groups, from the right; a fraction stays as it is.
fn grouped(digits: &str, sign: Option<char>, group: usize) -> String {
    let Some(sign) = sign else { return digits.to_string() };
    let end = digits.find(|c: char| !c.is_ascii_hexdigit() || ".eE".contains(c)).unwrap_or(digits.len());
    let end = if group == 4 { digits.len() } else { end };
    let mut out = String::new();
    for (at, c) in digits[..end].chars().enumerate() {
        if at > 0 && (end - at).is_multiple_of(group) {
            out.push(sign);
        }
        out.push(c);
    }
    out + &digits[end..]
}

fn format_float(state: &State, number: f64, kind: char, spec: &Spec) -> Result<String, Error> {
    let (number, percent) = if kind == '%' { (number * 100.0, "%") } else { (number, "") };
    let size = number.abs();
    let digits = match (kind, spec.precision) {
        (' ', None) => {
            let text = super::python::float_repr(size);
            text.strip_prefix('-').unwrap_or(&text).to_string()
        }
        (' ', Some(precision)) => general(size, precision.max(1), spec.alternate, true),
        _ => float_digits(size, kind, spec.precision.unwrap_or(6), spec.alternate),
    };
    let negative = number.is_sign_negative() && !number.is_nan();
    pad_number(state, negative, "", &(grouped(&digits, spec.grouping, 3) + percent), spec)
}

/// The digits of a number that is not negative.
fn float_digits(size: f64, kind: char, precision: usize, alternate: bool) -> String {
    let text = match kind.to_ascii_lowercase() {
        _ if !size.is_finite() => (if size.is_nan() { "nan" } else { "inf" }).to_string(),
        'e' => exponential(size, precision, alternate),
        'g' | 'n' => general(size, precision.max(1), alternate, false),
        _ => format!("{size:.precision$}") + if alternate && precision == 0 { "." } else { "" },
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn exponential(size: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if alternate && precision == 0 { "." } else { "" };
    format!("{digits}{point}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The shorter of both forms with so many digits. Without a kind, Python keeps a digit after the point.
fn general(size: f64, precision: usize, alternate: bool, keeps_point: bool) -> String {
    if !size.is_finite() {
        return float_digits(size, 'f', 0, false);
    }
    let text = format!("{size:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let limit = i32::try_from(precision).unwrap_or(i32::MAX) - i32::from(keeps_point);
    let trimmed = |digits: &str| match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => digits.to_string(),
    };
    if exponent < -4 || exponent >= limit.max(i32::from(keeps_point)) {
        let text = exponential(size, precision - 1, alternate);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let after = usize::try_from(i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent).unwrap_or(0);
    let digits = trimmed(&format!("{size:.after$}"));
    if keeps_point && !digits.contains('.') { digits + ".0" } else { digits }
}

fn pad_text(state: &State, text: &str, spec: &Spec, own: char) -> Result<String, Error> {
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    pad(state, text, spec.width, fill, spec.align.unwrap_or(own))
}

fn pad(state: &State, text: &str, width: usize, fill: char, align: char) -> Result<String, Error> {
    pay(state, width.saturating_mul(fill.len_utf8()).saturating_add(text.len()))?;
    let missing = width.saturating_sub(text.chars().count());
    let before = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    let run = |count: usize| std::iter::repeat_n(fill, count);
    Ok(run(before).chain(text.chars()).chain(run(missing - before)).collect())
}

/// A number with its sign, zeros between sign and digits where they are asked for.
fn pad_number(state: &State, negative: bool, prefix: &str, digits: &str, spec: &Spec) -> Result<String, Error> {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let inner = spec.align == Some('=') || (spec.align.is_none() && spec.zero);
    if !inner {
        return pad_text(state, &format!("{sign}{prefix}{digits}"), spec, '>');
    }
    if spec.grouping.is_some() && spec.zero && spec.width > 0 {
        return Err(fault("str.format: a width with zeros and a grouping is not supported"));
    }
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    let width = spec.width.saturating_sub(sign.len() + prefix.len());
    Ok(format!("{sign}{prefix}{}", pad(state, digits, width, fill, '>')?))
}

/// The arguments of `str.format`, and which of those without a name comes next.
struct Fields<'a> {
    positional: &'a [Value],
    named: &'a Kwargs,
    next: usize,
    numbered: Option<bool>,
}

impl Fields<'_> {
    /// The value of a field's name: `0`, `x`, nothing, with `.attribute` and `[index]` after it.
    fn value(&mut self, name: &str) -> Result<Value, Error> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let automatic = first.is_empty();
        let is_number = !automatic && first.bytes().all(|byte| byte.is_ascii_digit());
        if (automatic || is_number) && *self.numbered.get_or_insert(is_number) != is_number {
            return Err(fault("str.format: numbered fields and fields without a number are mixed"));
        }
        let mut value = if automatic || is_number {
            let index = if automatic { self.next } else { first.parse().unwrap_or(usize::MAX) };
            self.next += usize::from(automatic);
            let value = self.positional.get(index).cloned();
            value.ok_or_else(|| fault(format!("str.format: there is no value {index}")))?
        } else {
            let value: Option<Value> = if self.named.has(first) { Some(self.named.get(first)?) } else { None };
            value.ok_or_else(|| fault(format!("str.format: there is no value {first}")))?
        };
        while !rest.is_empty() {
            if let Some(indexed) = rest.strip_prefix('[') {
                let (key, after) = indexed.split_once(']').ok_or_else(|| fault("str.format: a [ is not closed"))?;
                let index = key.parse::<usize>().ok().map(Value::from);
                let found = value.get_item(&index.unwrap_or_else(|| Value::from(key)))?;
                if found.is_undefined() {
                    return Err(fault(format!("str.format: there is no item {key}")));
                }
                (value, rest) = (found, after);
            } else {
                let text = &rest[1..];
                let end = text.find(['.', '[']).unwrap_or(text.len());
                (value, rest) = (value.get_attr(&text[..end])?, &text[end..]);
            }
        }
        Ok(value)
    }
}

/// `template.format(…)`.
pub(super) fn format_text(state: &State, template: &str, args: &[Value]) -> Result<String, Error> {
    let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let mut fields = Fields { positional: &positional, named: &named, next: 0, numbered: None };
    let text = fill(state, template, &mut fields, 2);
    // Python passes over what no field asks for.
    named.args().for_each(|name| drop(named.get::<Value>(name)));
    text
}

fn fill(state: &State, template: &str, fields: &mut Fields, depth: usize) -> Result<String, Error> {
    if depth == 0 {
        return Err(fault("str.format: fields nest too deeply"));
    }
    let limit = left(state);
    let (mut out, mut rest) = (String::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        let end = if brace == "{" { field_end(rest) } else { None };
        let end = end.ok_or_else(|| fault("str.format: a brace has no partner"))?;
        out.push_str(&fill_field(state, &rest[..end], fields, depth)?);
        rest = &rest[end + 1..];
        if out.len() > limit {
            pay(state, out.len())?;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the field that begins `text` is closed.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn fill_field(state: &State, field: &str, fields: &mut Fields, depth: usize) -> Result<String, Error> {
    let (name, spec) = field.split_once(':').unwrap_or((field, ""));
    let (name, conversion) = name.split_once('!').map_or((name, None), |(name, kind)| (name, Some(kind)));
    let value = fields.value(name)?;
    let value = match conversion {
        None => value,
        Some("s") => Value::from(str_of(state, &value)?),
        Some("r") => Value::from(repr_of(state, &value)?),
        Some("a") => Value::from(ascii_of(state, &value)?),
        Some(other) => return Err(fault(format!("str.format: there is no conversion !{other}"))),
    };
    let spec = if spec.contains(['{', '}']) { fill(state, spec, fields, depth - 1)? } else { spec.to_string() };
    format_value(state, &value, &Spec::parse(&spec)?)
}

/// What fills a text in by `%`: values one after the other, or those of a mapping.
struct Values<'a> {
    args: &'a [Value],
    used: usize,
    mapping: Option<&'a Value>,
    /// Whether values may stay unused.
    open: bool,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self.args.get(self.used).cloned();
        self.used += 1;
        value.ok_or_else(|| fault("%: not enough values for the text"))
    }

    fn named(&mut self, key: &str) -> Result<Value, Error> {
        self.open = true;
        let mapping = self.mapping.ok_or_else(|| fault("%: a value with a name needs a mapping"))?;
        let value = mapping.get_item(&Value::from(key))?;
        if value.is_undefined() { Err(fault(format!("%: there is no value {key}"))) } else { Ok(value) }
    }

    /// A width or a precision: digits, or `*` for the next value.
    fn size(&mut self, chars: &[char], at: &mut usize) -> Result<Option<usize>, Error> {
        if chars.get(*at) != Some(&'*') {
            let size = number(chars, at);
            return size.map_or(Ok(None), |size| size.map(Some).ok_or_else(|| fault("%: a width is too large")));
        }
        *at += 1;
        let value = self.next()?;
        let size = value.as_usize().filter(|_| value.is_integer());
        size.map(Some).ok_or_else(|| fault("%: * needs an integer that is not negative"))
    }
}

/// `template % right`.
pub(super) fn percent(state: &State, template: &str, right: &Value) -> Result<String, Error> {
    let args: Vec<Value> = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
    // Lists count as mappings here, as in Python.
    let open = matches!(right.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) && !right.is_tuple();
    let mapping = Some(right).filter(|right| right.kind() == ValueKind::Map);
    let mut values = Values { args: &args, used: 0, mapping, open };
    let limit = left(state);
    let (mut out, mut rest) = (String::new(), template);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = percent_field(state, rest, &mut values, &mut out)?;
        if out.len() > limit {
            pay(state, out.len())?;
        }
    }
    if values.used < args.len() && !values.open {
        return Err(fault("%: not all values are used in the text"));
    }
    out.push_str(rest);
    Ok(out)
}

/// Writes the field that begins `text`, which follows a `%`; returns what comes after it.
fn percent_field<'a>(state: &State, text: &'a str, values: &mut Values, out: &mut String) -> Result<&'a str, Error> {
    const FIELD_MAX: usize = 64;
    let (mut named, mut rest) = (None, text);
    if let Some(after) = text.strip_prefix('(') {
        let (key, after) = after.split_once(')').ok_or_else(|| fault("%: a ( is not closed"))?;
        (named, rest) = (Some(values.named(key)?), after);
    }
    let chars: Vec<char> = rest.chars().take(FIELD_MAX).collect();
    let (mut spec, mut at) = (Spec { align: Some('>'), ..Spec::default() }, 0);
    while let Some(flag) = chars.get(at).filter(|c| "#0- +".contains(**c)) {
        match flag {
            '#' => spec.alternate = true,
            '0' => spec.zero = true,
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            _ => spec.sign = spec.sign.or(Some(' ')),
        }
        at += 1;
    }
    spec.width = values.size(&chars, &mut at)?.unwrap_or(0);
    if chars.get(at) == Some(&'.') {
        at += 1;
        spec.precision = Some(values.size(&chars, &mut at)?.unwrap_or(0));
    }
    at += usize::from(chars.get(at).is_some_and(|c| "hlL".contains(*c)));
    let kind = *chars.get(at).ok_or_else(|| fault("%: the format at the end of the text is not complete"))?;
    if spec.precision.is_some_and(|digits| digits > PRECISION_MAX) {
        return Err(fault(format!("%: a precision of more than {PRECISION_MAX}")));
    }
    if kind == '%' {
        out.push('%');
    } else {
        let value = named.map_or_else(|| values.next(), Ok)?;
        out.push_str(&percent_value(state, &value, kind, &spec)?);
    }
    Ok(&rest[chars[..=at].iter().map(|c| c.len_utf8()).sum()..])
}

fn percent_value(state: &State, value: &Value, kind: char, spec: &Spec) -> Result<String, Error> {
    let align = spec.align.unwrap_or('>');
    let text = |text: String| pad(state, &cut(&text, spec.precision), spec.width, ' ', align);
    let is_number = matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    match kind {
        's' => text(str_of(state, value)?),
        'r' => text(repr_of(state, value)?),
        'a' => text(ascii_of(state, value)?),
        'c' => {
            let code = whole(value).and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
            let one = value.as_str().filter(|text| text.chars().count() == 1);
            match code.map(String::from).or_else(|| one.map(str::to_string)) {
                Some(c) => pad(state, &c, spec.width, ' ', align),
                None => Err(fault("%c needs a character")),
            }
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' if is_number => {
            let float = f64::try_from(value.clone()).ok().filter(|float| float.is_finite());
            let cut_off = float.filter(|_| "diu".contains(kind)).and_then(super::python::whole_of);
            let number = whole(value).or(cut_off).ok_or_else(|| fault(format!("%{kind} needs an integer")))?;
            let size = number.unsigned_abs();
            let (prefix, digits) = match kind {
                'x' => ("0x", format!("{size:x}")),
                'X' => ("0X", format!("{size:X}")),
                'o' => ("0o", format!("{size:o}")),
                _ => ("", size.to_string()),
            };
            let digits = format!("{}{digits}", "0".repeat(spec.precision.unwrap_or(0).saturating_sub(digits.len())));
            percent_number(state, number < 0, if spec.alternate { prefix } else { "" }, &digits, spec)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' if is_number => {
            let number = f64::try_from(value.clone())?;
            let digits = float_digits(number.abs(), kind, spec.precision.unwrap_or(6), spec.alternate);
            percent_number(state, number.is_sign_negative() && !number.is_nan(), "", &digits, spec)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            Err(fault(format!("%{kind} needs a number, got {}", value.kind())))
        }
        other => Err(fault(format!("%: there is no format {other:?}"))),
    }
}

fn percent_number(state: &State, negative: bool, prefix: &str, digits: &str, spec: &Spec) -> Result<String, Error> {
    // Zeros fill up where the text is not moved to the left.
    let zero = spec.zero && spec.align == Some('>');
    let align = if zero { None } else { spec.align };
    pad_number(state, negative, prefix, digits, &Spec { align, zero, grouping: None, fill: None, ..*spec })
}
