//! Methods of Python's texts, lists and mappings, and filters and tests of Jinja, where minijinja's differ or are missing.

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::python::{repr_of, str_of};

/// The longest text that padding may make.
const WIDTH_MAX: usize = 1 << 16;

/// Adds the filters and tests.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("string", |value: Value| str_of(&value));
    environment.add_filter("default", or_default);
    environment.add_filter("d", or_default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("e", escape_html);
    environment.add_filter("escape", escape_html);
    environment.add_filter("attr", attr);
    environment
        .add_filter("wordcount", |text: String| text.split(|c: char| !is_word(c)).filter(|w| !w.is_empty()).count());
    environment
        .add_filter("center", |text: String, width: Option<usize>| padded(&text, width.unwrap_or(80), ' ', Pad::Both));
    environment.add_filter("indent", indent);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_test("in", is_in);
    environment.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
}

/// `item in container`. In a text Python looks for texts alone.
pub(super) fn is_in(state: &State, item: Value, container: Value) -> Result<bool, Error> {
    let (kind, holder) = (item.kind(), container.kind());
    match holder {
        ValueKind::String if kind != ValueKind::String => Err(fault(&format!("in: {kind} cannot be in a text"))),
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain => {
            Err(fault(&format!("in: nothing can be in {holder}")))
        }
        ValueKind::Map if matches!(kind, ValueKind::Seq | ValueKind::Map) => {
            Err(fault(&format!("in: {kind} cannot be a key")))
        }
        _ => Ok(minijinja::tests::is_in(state, &item, &container)?),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn or_default(value: Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let other = argument(0, "default_value")?.unwrap_or_else(|| Value::from(""));
    let empty_too = argument(1, "boolean")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    Ok(if value.is_undefined() || (empty_too && !value.is_true()) { other } else { value })
}

fn int(value: Value, other: Option<Value>) -> Value {
    let parsed = match value.as_str().map(str::trim) {
        Some(text) => text.parse::<i64>().ok().or_else(|| text.parse::<f64>().ok().map(|float| float as i64)),
        None if value.kind() == ValueKind::Bool => Some(i64::from(value.is_true())),
        None => i64::try_from(value.clone()).ok().or_else(|| f64::try_from(value).ok().map(|float| float as i64)),
    };
    parsed.map_or_else(|| other.unwrap_or_else(|| Value::from(0)), Value::from)
}

fn float(value: Value, other: Option<Value>) -> Value {
    let parsed = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value).ok(),
    };
    parsed.map_or_else(|| other.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

fn escape_html(value: Value) -> Result<String, Error> {
    let text = str_of(&value)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(text.replace('\'', "&#39;").replace('"', "&#34;"))
}

fn indent(text: String, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let width = argument(0, "width")?.unwrap_or_else(|| Value::from(4));
    let margin = match width.as_str() {
        Some(text) => text.to_string(),
        None => padded("", usize::try_from(width)?, ' ', Pad::After)?,
    };
    let first = argument(1, "first")?.is_some_and(|value| value.is_true());
    let blank = argument(2, "blank")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        out.push_str(if index == 0 { "" } else { "\n" });
        if (index > 0 || first) && (blank || !line.is_empty() || index == 0) {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// A text with `%XX` for bytes that cannot stand in a path; pairs, or the items of a mapping, as a query.
fn urlencode(value: Value) -> Result<String, Error> {
    if value.kind() == ValueKind::String || value.try_iter().is_err() || value.is_none() {
        return Ok(quote(&str_of(&value)?, true));
    }
    let mut parts = Vec::new();
    for item in value.try_iter()? {
        let (key, other) = match value.kind() {
            ValueKind::Map => (item.clone(), value.get_item(&item)?),
            _ => match &item.try_iter()?.collect::<Vec<Value>>()[..] {
                [key, other] => (key.clone(), other.clone()),
                _ => return Err(fault("urlencode: expected pairs")),
            },
        };
        parts.push(format!("{}={}", quote(&str_of(&key)?, false), quote(&str_of(&other)?, false)));
    }
    Ok(parts.join("&"))
}

fn quote(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            b' ' if !is_path => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn truncate(text: String, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let number = |value: Option<Value>, other: usize| value.map_or(Ok(other), usize::try_from);
    let length = number(argument(0, "length")?, 255)?;
    let cut_words = argument(1, "killwords")?.is_some_and(|value| value.is_true());
    let end = argument(2, "end")?.map_or(Ok("...".to_string()), |value| str_of(&value))?;
    let leeway = number(argument(3, "leeway")?.filter(|value| !value.is_none()), 5)?;
    named.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if cut_words { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

/// Python's attributes: a mapping's fields are none.
fn attr(value: Value, name: String) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map { Ok(Value::UNDEFINED) } else { value.get_attr(&name) }
}

/// Methods of Python: ours, and else those of minijinja's `pycompat`.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.kind(), value.as_str()) {
        (_, Some(text)) => text_method(text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" && args.is_empty() => Some(value.clone()),
        (ValueKind::Number, _) if method == "is_integer" => {
            Some(Value::from(f64::try_from(value.clone()).is_ok_and(|float| float.fract() == 0.0)))
        }
        _ => None,
    };
    match found {
        Some(found) => Ok(found),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "copy" => Some(list.clone()),
        "index" => {
            let (item,): (Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|other| other == item);
            Some(Value::from(at.ok_or_else(|| fault("the list has no such item"))?))
        }
        _ => None,
    })
}

fn fault(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || -> Result<&str, Error> { from_args::<(&str,)>(args).map(|(text,)| text) };
    Ok(Some(match method {
        "split" | "rsplit" => split(text, args, method == "rsplit")?,
        "splitlines" if args.is_empty() => split_lines(text),
        "format" => {
            check_fields(text)?;
            return Ok(None);
        }
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            let mut texts = Vec::new();
            for item in items.try_iter()? {
                texts.push(item.as_str().ok_or_else(|| fault("join: expected texts"))?.to_string());
            }
            Value::from(texts.join(text))
        }
        "swapcase" => Value::from(text.chars().map(swap_case).collect::<String>()),
        "casefold" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "istitle" => Value::from(text.chars().any(char::is_alphabetic) && title(text) == text),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "isidentifier" => {
            Value::from(!text.starts_with(|c: char| c.is_numeric()) && !text.is_empty() && text.chars().all(is_word))
        }
        "partition" => {
            let separator = one()?;
            let parts = text.split_once(separator).map(|(a, b)| [a, separator, b]);
            Value::from(Tuple::from(parts.unwrap_or([text, "", ""]).map(Value::from)))
        }
        "rpartition" => {
            let separator = one()?;
            let parts = text.rsplit_once(separator).map(|(a, b)| [a, separator, b]);
            Value::from(Tuple::from(parts.unwrap_or(["", "", text]).map(Value::from)))
        }
        "index" | "rindex" => {
            let at = if method == "index" { text.find(one()?) } else { text.rfind(one()?) };
            Value::from(text[..at.ok_or_else(|| fault("substring not found"))?].chars().count())
        }
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "center" | "ljust" | "rjust" | "zfill" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let fill = fill.and_then(|fill| fill.chars().next()).unwrap_or(if method == "zfill" { '0' } else { ' ' });
            let pad = match method {
                "center" => Pad::Both,
                "ljust" => Pad::After,
                _ => Pad::Before,
            };
            Value::from(match text.strip_prefix('-').filter(|_| method == "zfill") {
                Some(digits) => format!("-{}", padded(digits, width.saturating_sub(1), fill, pad)?),
                None => padded(text, width, fill, pad)?,
            })
        }
        _ => return Ok(None),
    }))
}

#[derive(Clone, Copy)]
enum Pad {
    Before,
    After,
    Both,
}

fn padded(text: &str, width: usize, fill: char, pad: Pad) -> Result<String, Error> {
    if width > WIDTH_MAX {
        return Err(fault("a text cannot be padded to so many characters"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let before = match pad {
        Pad::Before => missing,
        Pad::After => 0,
        // Python puts the odd one before the text where the width is odd too.
        Pad::Both => missing / 2 + (missing & width & 1),
    };
    let run = |count: usize| std::iter::repeat_n(fill, count);
    Ok(run(before).chain(text.chars()).chain(run(missing - before)).collect())
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// Every letter after a non-letter is upper case, the others are lower case.
fn title(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}

fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let separator: Option<Value> = positional.first().cloned().or(named.get("sep")?).filter(|value| !value.is_none());
    let limit: Option<i64> = match positional.get(1) {
        Some(limit) => Some(i64::try_from(limit.clone())?),
        None => named.get("maxsplit")?,
    };
    named.assert_all_used()?;
    let limit = limit.filter(|limit| *limit >= 0).map_or(usize::MAX, |limit| limit as usize);
    let mut parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| fault("split: the separator must be text"))?;
            if separator.is_empty() {
                return Err(fault("split: the separator is empty"));
            }
            let count = limit.saturating_add(1);
            if from_right { text.rsplitn(count, separator).collect() } else { text.splitn(count, separator).collect() }
        }
        None => split_white_space(text, limit, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words, at most `limit` of them cut off; the rest keeps its inner white space. From the right the last word comes first.
fn split_white_space(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if parts.len() == limit {
            // The rest keeps the white space at the text's end.
            let start = rest.as_ptr() as usize - text.as_ptr() as usize;
            parts.push(if from_right { &text[..start + rest.len()] } else { &text[start..] });
            break;
        }
        let at = if from_right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let (part, left) = match at.map(|at| rest.split_at(at)) {
            None => (rest, ""),
            Some((before, after)) if from_right => (after.trim_start(), before.trim_end()),
            Some((before, after)) => (before, after.trim_start()),
        };
        parts.push(part);
        rest = left;
    }
    parts
}

fn split_lines(text: &str) -> Value {
    let unified = text.replace("\r\n", "\n").replace('\r', "\n");
    let body = unified.strip_suffix('\n').unwrap_or(&unified);
    if unified.is_empty() { Value::from(Vec::<Value>::new()) } else { body.split('\n').map(Value::from).collect() }
}

/// Refuses a width or a precision that would fill the memory, or that an argument gives.
fn check_width(spec: &str) -> Result<(), Error> {
    let digits = spec.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if digits > 4 || spec.contains('*') {
        return Err(fault("a width or a precision of a format must have at most 4 digits"));
    }
    Ok(())
}

/// The same for `str.format`: in fields, which may not hold fields.
fn check_fields(template: &str) -> Result<(), Error> {
    for field in template.replace("{{", "").split('{').skip(1) {
        let spec = field.split('}').next().unwrap_or_default();
        check_width(spec)?;
        let name = spec.split(':').next().unwrap_or_default();
        if let Some((_, conversion)) = name.split_once('!') {
            return Err(fault(&format!("str.format: the conversion !{conversion} is not supported")));
        }
        if !field.contains('}') {
            return Err(fault("a field of a format that is not closed, or that holds another"));
        }
    }
    Ok(())
}

/// `template % args` of texts: as C's `printf`, and `%r`.
pub(super) fn percent(template: &str, right: Value) -> Result<Value, Error> {
    let mut args: Vec<Value> = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right] };
    let (mut plain, mut rest, mut index) = (String::with_capacity(template.len()), template, 0);
    while let Some(at) = rest.find('%') {
        let spec = &rest[at + 1..];
        let length = spec.find(|c: char| c.is_alphabetic() || c == '%' || c == '(').unwrap_or(spec.len());
        let kind = spec[length..].chars().next();
        check_width(&spec[..length])?;
        plain.push_str(&rest[..=at + length]);
        rest = &spec[length..];
        match kind {
            Some('r' | 'a') => {
                if let Some(arg) = args.get_mut(index) {
                    *arg = Value::from(repr_of(arg)?);
                }
                plain.push('s');
                rest = &rest[1..];
            }
            // Python cuts the fraction off.
            Some('d' | 'i' | 'u') => {
                if let Some(arg) =
                    args.get_mut(index).filter(|arg| arg.kind() == ValueKind::Number && !arg.is_integer())
                {
                    *arg = int(arg.clone(), None);
                }
            }
            Some('%') => {
                plain.push('%');
                rest = &rest[1..];
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    plain.push_str(rest);
    minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, &plain, &args).map(Value::from)
}
