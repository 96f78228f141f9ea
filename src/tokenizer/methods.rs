//! Methods of Python's lists and mappings, and filters, tests and functions of Jinja, where minijinja's differ or are missing.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::cost::{is_lazy, items_of, pay};
use super::format::percent;
use super::objects::{Generator, View, cycler, joiner, range};
use super::python::{str_of, whole, whole_of};
use super::text::{Pad, capitalized, digit_of, is_space, padded, replaced, text_method};

/// Adds the filters, tests and functions, and removes those that Jinja does not have.
pub(super) fn add(environment: &mut Environment<'static>) {
    add_filters_of_texts(environment);
    add_filters_of_lists(environment);
    environment.add_filter("default", or_default);
    environment.add_filter("d", or_default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("attr", attr);
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: Value| {
        value.is_undefined()
            || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
            || is_lazy(&value)
    });
    environment.add_test("in", is_in);
    environment.add_test("callable", |value: Value| value.is_undefined() || value.kind() == ValueKind::Plain);
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", joiner);
    environment.add_function("range", range);
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
    ["lines", "bool", "chain", "zip", "split", "pprint"].iter().for_each(|name| environment.remove_filter(name));
    ["safe", "startingwith", "endingwith"].iter().for_each(|name| environment.remove_test(name));
    environment.remove_global("debug");
}

/// The filters that begin with the text of whatever they are given.
fn add_filters_of_texts(environment: &mut Environment<'static>) {
    environment.add_filter("string", |state: &State, value: Value| str_of(state, &value));
    environment
        .add_filter("upper", |state: &State, value: Value| Ok::<_, Error>(str_of(state, &value)?.to_uppercase()));
    environment
        .add_filter("lower", |state: &State, value: Value| Ok::<_, Error>(str_of(state, &value)?.to_lowercase()));
    environment
        .add_filter("capitalize", |state: &State, value: Value| Ok::<_, Error>(capitalized(&str_of(state, &value)?)));
    environment.add_filter("title", title);
    environment.add_filter("trim", |state: &State, value: Value, chars: Option<Value>| {
        let text = str_of(state, &value)?;
        let Some(chars) = chars.filter(|chars| !chars.is_none()) else {
            return Ok::<_, Error>(text.trim_matches(is_space).to_string());
        };
        let chars: Vec<char> = chars.as_str().ok_or_else(|| fault("trim: expected a text"))?.chars().collect();
        Ok(text.trim_matches(&chars[..]).to_string())
    });
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("format", |state: &State, value: Value, positional: Rest<Value>, named: Kwargs| {
        let names: Vec<String> = named.args().map(str::to_string).collect();
        let pairs: Result<Vec<(String, Value)>, Error> =
            names.into_iter().map(|name| named.get(&name).map(|value| (name, value))).collect();
        let values = match pairs? {
            pairs if pairs.is_empty() => Value::from(minijinja::value::Tuple::from(positional.0)),
            pairs => Value::from_pairs(pairs),
        };
        percent(state, &str_of(state, &value)?, &values)
    });
    environment.add_filter("e", escape_html);
    environment.add_filter("escape", escape_html);
    environment.add_filter("forceescape", |state: &State, value: Value| escaped(&str_of(state, &value)?));
    environment.add_filter("safe", |state: &State, value: Value| {
        Ok::<_, Error>(Value::from_safe_string(str_of(state, &value)?))
    });
    environment.add_filter("wordcount", |state: &State, value: Value| {
        let text = str_of(state, &value)?;
        Ok::<_, Error>(text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count())
    });
    environment.add_filter("center", |state: &State, value: Value, width: Option<usize>| {
        padded(state, &str_of(state, &value)?, width.unwrap_or(80), ' ', Pad::Both)
    });
    environment.add_filter("indent", indent);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", |state: &State, value: Value| {
        Ok::<_, Error>(minijinja_contrib::filters::striptags(str_of(state, &value)?))
    });
}

/// The filters whose result Python makes item by item.
fn add_filters_of_lists(environment: &mut Environment<'static>) {
    type More = Rest<ValueOrKwargs>;
    environment.add_filter("map", |state: &mut State, value: Value, more: More| {
        filters::map(state, value, more).map(Generator::of)
    });
    environment.add_filter("select", |state: &mut State, value: Value, test: Option<String>, more: More| {
        filters::select(state, value, test.map(Into::into), more).map(Generator::of)
    });
    environment.add_filter("reject", |state: &mut State, value: Value, test: Option<String>, more: More| {
        filters::reject(state, value, test.map(Into::into), more).map(Generator::of)
    });
    environment.add_filter(
        "selectattr",
        |state: &mut State, value: Value, name: String, test: Option<String>, more: More| {
            filters::selectattr(state, value, name.into(), test.map(Into::into), more).map(Generator::of)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &mut State, value: Value, name: String, test: Option<String>, more: More| {
            filters::rejectattr(state, value, name.into(), test.map(Into::into), more).map(Generator::of)
        },
    );
    environment.add_filter("unique", |state: &State, value: Value, named: Kwargs| {
        generator(state, &filters::unique(state, value, named)?)
    });
    environment.add_filter("batch", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        generator(state, &filters::batch(state, value, count, fill.filter(|fill| !fill.is_none()))?)
    });
    environment.add_filter("slice", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        generator(state, &filters::slice(state, value, count, fill.filter(|fill| !fill.is_none()))?)
    });
    environment.add_filter("items", |state: &State, value: Value| generator(state, &filters::items(&value)?));
    environment.add_filter("reverse", |state: &State, value: Value| match value.kind() {
        ValueKind::String => filters::reverse(&value),
        _ => Ok(Generator::of(items_of(state, &value)?.into_iter().rev().collect())),
    });
    environment.add_filter("length", length);
    environment.add_filter("count", length);
}

fn generator(state: &State, items: &Value) -> Result<Value, Error> {
    Ok(Generator::of(items_of(state, items)?))
}

fn length(value: Value) -> Result<usize, Error> {
    match value.downcast_object_ref::<Generator>() {
        Some(_) => Err(fault("what map, select and their like return has no length: put | list before it")),
        None => filters::length(&value),
    }
}

/// The beginning of every word in upper case, where words begin after white space, dashes and opening brackets.
fn title(state: &State, value: Value) -> Result<String, Error> {
    let text = str_of(state, &value)?;
    let (mut out, mut begins) = (String::with_capacity(text.len()), true);
    for c in text.chars() {
        let separates = is_space(c) || "-({[<".contains(c);
        if begins && !separates {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = separates;
    }
    Ok(out)
}

fn replace(state: &State, value: Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?).filter(|value| !value.is_none()))
    };
    let (old, new) = (argument(0, "old")?, argument(1, "new")?);
    let count = argument(2, "count")?.map(i64::try_from).transpose()?;
    named.assert_all_used()?;
    let (Some(old), Some(new)) = (old, new) else { return Err(fault("replace: expected two texts")) };
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    replaced(state, &str_of(state, &value)?, &str_of(state, &old)?, &str_of(state, &new)?, count)
}

fn join(state: &mut State, value: Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let separator = positional.first().cloned().or(named.get("d")?).unwrap_or_else(|| Value::from(""));
    let attribute: Option<Value> = positional.get(1).cloned().or(named.get("attribute")?);
    named.assert_all_used()?;
    let value = match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => {
            let named = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[value, Value::from(named)])?
        }
        None => value,
    };
    let (separator, mut out) = (str_of(state, &separator)?, String::new());
    for (index, item) in items_of(state, &value)?.iter().enumerate() {
        let text = str_of(state, item)?;
        pay(state, separator.len())?;
        out.push_str(if index == 0 { "" } else { &separator });
        out.push_str(&text);
    }
    Ok(out)
}

/// `dict(…)`: a mapping or pairs, and named values.
fn dict(state: &State, value: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    match value {
        None => {}
        Some(value) if value.kind() == ValueKind::Map => {
            for key in items_of(state, &value)? {
                let item = value.get_item(&key)?;
                pairs.push((key, item));
            }
        }
        Some(value) => {
            for pair in items_of(state, &value)? {
                match &items_of(state, &pair)?[..] {
                    [key, item] => pairs.push((key.clone(), item.clone())),
                    _ => return Err(fault("dict: expected pairs")),
                }
            }
        }
    }
    let names: Vec<String> = named.args().map(str::to_string).collect();
    for name in names {
        let value = named.get(&name)?;
        pairs.push((Value::from(name), value));
    }
    Ok(Value::from_pairs(pairs))
}

/// `namespace(…)`, of what `dict` takes.
fn namespace(state: &State, value: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let values = [dict(state, value, named)?];
    let (values,): (Option<ValueOrKwargs>,) = from_args(&values)?;
    minijinja::functions::namespace(values)
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

/// `int(value)`, as far as it has 128 bits.
fn int(value: Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let other = argument(0, "default")?.unwrap_or_else(|| Value::from(0));
    let base = argument(1, "base")?.map(u32::try_from).transpose()?.unwrap_or(10);
    named.assert_all_used()?;
    let cut = |float: f64| match whole_of(float) {
        Some(number) => Ok(integer(number)),
        None => Err(fault("int: the number has more than 127 bits, or is none")),
    };
    match value.as_str() {
        Some(text) => match (parse_int(text, base)?, parse_float(text)) {
            (Some(number), _) => Ok(integer(number)),
            (None, Some(float)) if float.is_finite() => cut(float),
            _ => Ok(other),
        },
        None => match (whole(&value), f64::try_from(value.clone())) {
            (Some(number), _) => Ok(integer(number)),
            (None, Ok(float)) if value.kind() == ValueKind::Number => cut(float),
            _ => Ok(other),
        },
    }
}

/// A number in the smallest form, so that equal ones are equal keys.
pub(super) fn integer(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// `int(text, base)`; `None` if the text is no integer.
fn parse_int(text: &str, base: u32) -> Result<Option<i128>, Error> {
    if base == 1 || base > 36 {
        return Err(fault("int: the base must be 0 or from 2 to 36"));
    }
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, of)| {
        (base == 0 || base == *of) && digits.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    let (digits, base) = match prefixed {
        Some((_, base)) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), base),
        // Without a prefix, zeros in front are no part of a number.
        None if base == 0 && digits.starts_with('0') && digits.contains(|c| !"0_".contains(c)) => return Ok(None),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    let mut number = 0_i128;
    for c in digits.chars() {
        let Some(digit) = digit_of(c).or_else(|| c.to_digit(36)).filter(|digit| *digit < base) else { return Ok(None) };
        number = number
            .checked_mul(i128::from(base))
            .and_then(|number| number.checked_add(i128::from(digit)))
            .ok_or_else(|| fault("int: the number has more than 127 bits"))?;
    }
    Ok(Some(if negative { -number } else { number }))
}

/// Digits without the single underscores between them; `None` if there are others, or no digits.
fn without_underscores(digits: &str) -> Option<String> {
    let wrong = digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    (!wrong).then(|| digits.replace('_', ""))
}

/// `float(text)`; `None` if the text is no number.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let beside = |at: usize| {
        text[..at].ends_with(|c: char| c.is_numeric()) && text[at + 1..].starts_with(|c: char| c.is_numeric())
    };
    if text.match_indices('_').any(|(at, _)| !beside(at)) {
        return None;
    }
    let ascii = |c: char| digit_of(c).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c);
    text.replace('_', "").chars().map(ascii).collect::<String>().parse().ok()
}

fn float(value: Value, other: Option<Value>) -> Value {
    let parsed = match value.as_str() {
        Some(text) => parse_float(text),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value).ok(),
    };
    parsed.map_or_else(|| other.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

/// What is safe stays as it is.
fn escape_html(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    escaped(&str_of(state, &value)?)
}

fn escaped(text: &str) -> Result<Value, Error> {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;")))
}

fn indent(state: &State, text: Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let text = str_of(state, &text)?;
    let width = argument(0, "width")?.unwrap_or_else(|| Value::from(4));
    let margin = match width.as_str() {
        Some(text) => text.to_string(),
        None => padded(state, "", usize::try_from(width)?, ' ', Pad::After)?,
    };
    let first = argument(1, "first")?.is_some_and(|value| value.is_true());
    let blank = argument(2, "blank")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    pay(state, text.split('\n').count().saturating_mul(margin.len()).saturating_add(text.len()))?;
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
fn urlencode(state: &State, value: Value) -> Result<String, Error> {
    if value.kind() == ValueKind::String || value.try_iter().is_err() || value.is_none() {
        return Ok(quote(&str_of(state, &value)?, true));
    }
    let mut parts = Vec::new();
    for item in items_of(state, &value)? {
        let (key, other) = match value.kind() {
            ValueKind::Map => (item.clone(), value.get_item(&item)?),
            _ => match &items_of(state, &item)?[..] {
                [key, other] => (key.clone(), other.clone()),
                _ => return Err(fault("urlencode: expected pairs")),
            },
        };
        parts.push(format!("{}={}", quote(&str_of(state, &key)?, false), quote(&str_of(state, &other)?, false)));
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

fn truncate(state: &State, text: Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(positional.get(index).cloned().or(named.get(name)?))
    };
    let text = str_of(state, &text)?;
    let number = |value: Option<Value>, other: usize| value.map_or(Ok(other), usize::try_from);
    let length = number(argument(0, "length")?, 255)?;
    let cut_words = argument(1, "killwords")?.is_some_and(|value| value.is_true());
    let end = argument(2, "end")?.map_or(Ok("...".to_string()), |value| str_of(state, &value))?;
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

/// Methods of Python. One that is not here is refused by its name.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.kind(), value.as_str()) {
        (_, Some(text)) => text_method(state, text, method, args)?,
        (ValueKind::Seq, _) => list_method(state, value, method, args)?,
        _ if is_lazy(value) => list_method(state, &Value::from(items_of(state, value)?), method, args)?,
        (ValueKind::Map, _) => map_method(state, value, method, args)?,
        (ValueKind::Number, _) if method == "is_integer" => {
            let () = from_args(args)?;
            Some(Value::from(f64::try_from(value.clone()).is_ok_and(|float| float.fract() == 0.0)))
        }
        (ValueKind::Number, _) if method == "bit_length" => {
            let () = from_args(args)?;
            whole(value).map(|number| Value::from(128 - number.unsigned_abs().leading_zeros()))
        }
        _ => None,
    };
    found.ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
}

fn list_method(state: &State, list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "copy" if !list.is_tuple() => {
            let () = from_args(args)?;
            Some(list.clone())
        }
        "count" => {
            let (item,): (Value,) = from_args(args)?;
            Some(Value::from(items_of(state, list)?.iter().filter(|other| **other == item).count()))
        }
        "index" => {
            let (item, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let items = items_of(state, list)?;
            let bound = |at: i64| {
                let at = if at < 0 { at.saturating_add_unsigned(items.len() as u64).max(0) } else { at };
                usize::try_from(at).unwrap_or(usize::MAX).min(items.len())
            };
            let (start, end) = (bound(start.unwrap_or(0)), bound(end.unwrap_or(i64::MAX)));
            let at = items.iter().take(end).skip(start).position(|other| *other == item);
            Some(Value::from(start + at.ok_or_else(|| fault("the list has no such item"))?))
        }
        _ => None,
    })
}

fn map_method(state: &State, map: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method == "get" {
        let (key, other): (Value, Option<Value>) = from_args(args)?;
        if matches!(key.kind(), ValueKind::Map) || (key.kind() == ValueKind::Seq && !key.is_tuple()) {
            return Err(fault("get: a list or a mapping cannot be a key"));
        }
        let found = map.as_object().and_then(|object| object.get_value(&key));
        return Ok(Some(found.unwrap_or_else(|| other.unwrap_or_else(|| Value::from(())))));
    }
    let pair = |key: Value| -> Result<Value, Error> {
        let item = map.get_item(&key)?;
        Ok(if method == "values" { item } else { Value::from(minijinja::value::Tuple::from([key, item])) })
    };
    let (name, items) = match method {
        "copy" => {
            let () = from_args(args)?;
            return Ok(Some(map.clone()));
        }
        "keys" => ("dict_keys", items_of(state, map)?),
        "values" => ("dict_values", items_of(state, map)?.into_iter().map(pair).collect::<Result<_, _>>()?),
        "items" => ("dict_items", items_of(state, map)?.into_iter().map(pair).collect::<Result<_, _>>()?),
        _ => return Ok(None),
    };
    let () = from_args(args)?;
    Ok(Some(Value::from_object(View { name, items })))
}

fn fault(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}
