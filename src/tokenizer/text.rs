//! Methods of Python's `str`. A method that is not here is refused by its name.

use minijinja::value::{Kwargs, Rest, Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};

use super::cost::{ITEM_BYTES, items_of, pay};
use super::format::format_text;
use super::python::is_printable;

fn fault(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// Calls a method of a text; `None` if there is none of this name.
pub(super) fn text_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if let Some(found) = question(text, method) {
        let () = from_args(args)?;
        return Ok(Some(Value::from(found)));
    }
    let one = || -> Result<&str, Error> { from_args::<(&str,)>(args).map(|(text,)| text) };
    let changed = |text: String| -> Result<Option<Value>, Error> {
        let () = from_args(args)?;
        Ok(Some(Value::from(text)))
    };
    let trimmed = || -> Result<Option<Vec<char>>, Error> {
        let (chars,): (Option<Value>,) = from_args(args)?;
        let Some(chars) = chars.filter(|chars| !chars.is_none()) else { return Ok(None) };
        let chars = chars.as_str().ok_or_else(|| fault(format!("{method}: expected a text")))?;
        Ok(Some(chars.chars().collect()))
    };
    Ok(Some(match method {
        "upper" => return changed(text.to_uppercase()),
        "lower" => return changed(text.to_lowercase()),
        "casefold" => return changed(text.chars().map(fold).collect()),
        "title" => return changed(title(text)),
        "capitalize" => return changed(capitalized(text)),
        "swapcase" => return changed(text.chars().map(swap_case).collect()),
        "strip" => {
            let chars = trimmed()?;
            Value::from(text.trim_matches(|c| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c))))
        }
        "lstrip" => {
            let chars = trimmed()?;
            let inside = |c| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c));
            Value::from(text.trim_start_matches(inside))
        }
        "rstrip" => {
            let chars = trimmed()?;
            Value::from(
                text.trim_end_matches(|c| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(&c))),
            )
        }
        "split" | "rsplit" => split(state, text, args, method == "rsplit")?,
        "splitlines" => {
            let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
            let keeps: Option<Value> = positional.first().cloned().or(named.get("keepends")?);
            named.assert_all_used()?;
            split_lines(state, text, keeps.is_some_and(|keeps| keeps.is_true()))?
        }
        "format" => Value::from(format_text(state, text, args)?),
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            join(state, text, &items)?
        }
        "replace" => replace(state, text, args)?,
        "partition" => {
            let separator = filled(one()?)?;
            let parts = text.split_once(separator).map(|(a, b)| [a, separator, b]);
            Value::from(Tuple::from(parts.unwrap_or([text, "", ""]).map(Value::from)))
        }
        "rpartition" => {
            let separator = filled(one()?)?;
            let parts = text.rsplit_once(separator).map(|(a, b)| [a, separator, b]);
            Value::from(Tuple::from(parts.unwrap_or(["", "", text]).map(Value::from)))
        }
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "startswith" | "endswith" => Value::from(is_at_end(text, args, method == "startswith")?),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args)?,
        "center" | "ljust" | "rjust" | "zfill" => justify(state, text, method, args)?,
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            expand_tabs(state, text, size.unwrap_or(8))?
        }
        _ => return Ok(None),
    }))
}

/// The methods that say what a text consists of.
fn question(text: &str, method: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    Some(match method {
        "isalpha" => all(is_letter),
        "isalnum" => all(|c| is_letter(c) || is_numeric(c)),
        "isdecimal" => all(|c| digit_of(c).is_some()),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_space),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(is_printable),
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c)),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c)),
        "istitle" => text.chars().any(|c| c.is_uppercase() || is_title(c)) && title(text) == text,
        "isidentifier" => {
            let starts = |c: char| is_letter(c) || c == '_';
            text.starts_with(starts) && text.chars().all(|c| starts(c) || digit_of(c).is_some())
        }
        _ => return None,
    })
}

/// White space as Python knows it: four control characters more than Unicode's property.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Rust counts numbers that are letters (Ⅷ) and some marks as alphabetic; Python does not.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric() && !matches!(u32::from(c), 0x24b6..=0x24e9)
}

/// The first of every run of ten decimal digits.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Ranges of digits that are not decimal: raised, lowered and circled ones.
const DIGITS: [(u32, u32); 20] = [
    (0xb2, 0xb3),
    (0xb9, 0xb9),
    (0x1369, 0x1371),
    (0x19da, 0x19da),
    (0x2070, 0x2070),
    (0x2074, 0x2079),
    (0x2080, 0x2089),
    (0x2460, 0x2468),
    (0x2474, 0x247c),
    (0x2488, 0x2490),
    (0x24ea, 0x24ea),
    (0x24f5, 0x24fd),
    (0x24ff, 0x24ff),
    (0x2776, 0x277e),
    (0x2780, 0x2788),
    (0x278a, 0x2792),
    (0x10a40, 0x10a43),
    (0x10e60, 0x10e68),
    (0x11052, 0x1105a),
    (0x1f100, 0x1f10a),
];

/// Chinese characters that mean a number.
const NUMERALS: &str = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零";

/// The value of a decimal digit of any script.
pub(super) fn digit_of(c: char) -> Option<u32> {
    let code = u32::from(c);
    let before = ZEROS.partition_point(|zero| *zero <= code);
    let digit = code - ZEROS.get(before.checked_sub(1)?)?;
    (digit < 10).then_some(digit)
}

fn is_digit(c: char) -> bool {
    let code = u32::from(c);
    digit_of(c).is_some() || DIGITS.iter().any(|(from, to)| (*from..=*to).contains(&code))
}

fn is_numeric(c: char) -> bool {
    c.is_numeric() || (!c.is_ascii() && NUMERALS.contains(c))
}

/// Letters that are both cases in one: ǅ.
fn is_title(c: char) -> bool {
    matches!(u32::from(c), 0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f88..=0x1f8f | 0x1f98..=0x1f9f | 0x1fa8..=0x1faf)
        || matches!(u32::from(c), 0x1fbc | 0x1fcc | 0x1ffc)
}

/// The form at the beginning of a word.
fn title_case(c: char) -> String {
    match u32::from(c) {
        0x1c4..=0x1c6 => "ǅ".to_string(),
        0x1c7..=0x1c9 => "ǈ".to_string(),
        0x1ca..=0x1cc => "ǋ".to_string(),
        0x1f1..=0x1f3 => "ǲ".to_string(),
        // Georgian has upper case for whole words alone.
        0x10d0..=0x10ff => c.to_string(),
        _ if is_title(c) => c.to_string(),
        _ => {
            let mut upper = c.to_uppercase();
            let first: String = upper.next().into_iter().collect();
            first + &upper.flat_map(char::to_lowercase).collect::<String>()
        }
    }
}

/// The form in which letters of any case are compared.
fn fold(c: char) -> String {
    match u32::from(c) {
        0x131 | 0x13a0..=0x13f5 => c.to_string(),
        0x13f8..=0x13fd | 0xab70..=0xabbf => c.to_uppercase().collect(),
        _ => c.to_uppercase().flat_map(char::to_lowercase).collect(),
    }
}

fn swap_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

/// Every letter after what is no letter of a case is upper case, the others are lower case.
fn title(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&title_case(c));
        }
        inside = c.is_lowercase() || c.is_uppercase() || is_title(c);
    }
    out
}

/// The first letter upper case, the others lower case.
pub(super) fn capitalized(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    title_case(first) + &text[first.len_utf8()..].to_lowercase()
}

fn filled(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(fault("the separator is empty")) } else { Ok(separator) }
}

fn split(state: &State, text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
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
            let count = limit.saturating_add(1);
            let separator = filled(separator)?;
            pay(state, text.matches(separator).count().min(limit).saturating_mul(ITEM_BYTES))?;
            if from_right { text.rsplitn(count, separator).collect() } else { text.splitn(count, separator).collect() }
        }
        None => {
            pay(state, text.split(is_space).count().min(limit).saturating_mul(ITEM_BYTES))?;
            split_white_space(text, limit, from_right)
        }
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words, at most `limit` of them cut off; the rest keeps its inner white space. From the right the last word comes first.
fn split_white_space(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == limit {
            // The rest keeps the white space at the text's end.
            let start = rest.as_ptr() as usize - text.as_ptr() as usize;
            parts.push(if from_right { &text[..start + rest.len()] } else { &text[start..] });
            break;
        }
        let at = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let (part, left) = match at.map(|at| rest.split_at(at)) {
            None => (rest, ""),
            Some((before, after)) if from_right => {
                (after.trim_start_matches(is_space), before.trim_end_matches(is_space))
            }
            Some((before, after)) => (before, after.trim_start_matches(is_space)),
        };
        parts.push(part);
        rest = left;
    }
    parts
}

fn split_lines(state: &State, text: &str, keeps_ends: bool) -> Result<Value, Error> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    pay(state, text.matches(ENDS).count().saturating_mul(ITEM_BYTES))?;
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ENDS) {
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") { 2 } else { end };
        lines.push(Value::from(&rest[..if keeps_ends { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    Ok(Value::from(lines))
}

fn join(state: &State, separator: &str, items: &Value) -> Result<Value, Error> {
    let items = items_of(state, items)?;
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.as_str().ok_or_else(|| fault("join: expected texts"))?;
        pay(state, separator.len() + text.len())?;
        out.push_str(if index == 0 { "" } else { separator });
        out.push_str(text);
    }
    Ok(Value::from(out))
}

fn replace(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    replaced(state, text, old, new, count).map(Value::from)
}

/// A text with its first `count` occurrences of `old` replaced.
pub(super) fn replaced(state: &State, text: &str, old: &str, new: &str, count: usize) -> Result<String, Error> {
    let found = text.matches(old).count().min(count);
    pay(state, found.saturating_mul(new.len()).saturating_add(text.len()))?;
    Ok(text.replacen(old, new, count))
}

/// The part of a text that `start` and `end`, counted in characters, leave, and how many characters are before it; `None` if it
/// starts after the end.
fn window<'a>(text: &'a str, start: Option<&Value>, end: Option<&Value>) -> Result<Option<(&'a str, usize)>, Error> {
    if start.is_none() && end.is_none() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count();
    let bound = |value: Option<&Value>, other: usize| -> Result<usize, Error> {
        let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(other) };
        let at = i64::try_from(value.clone())?;
        let at = if at < 0 { at.saturating_add_unsigned(length as u64).max(0) } else { at };
        Ok(usize::try_from(at).unwrap_or(usize::MAX))
    };
    let (start, end) = (bound(start, 0)?, bound(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    Ok(Some((&text[byte(start)..byte(end)], start)))
}

/// `startswith` and `endswith`: of a text or of one of a tuple, in a part of the text.
fn is_at_end(text: &str, args: &[Value], at_start: bool) -> Result<bool, Error> {
    let (sought, start, end): (Value, Option<Value>, Option<Value>) = from_args(args)?;
    let window = window(text, start.as_ref(), end.as_ref())?;
    let found = |sought: &Value| {
        let sought =
            sought.as_str().ok_or_else(|| fault("startswith and endswith look for a text, or a tuple of texts"))?;
        Ok(window.is_some_and(|(part, _)| if at_start { part.starts_with(sought) } else { part.ends_with(sought) }))
    };
    if !sought.is_tuple() {
        return found(&sought);
    }
    for one in sought.try_iter()? {
        if found(&one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (sought, start, end): (&str, Option<Value>, Option<Value>) = from_args(args)?;
    let window = window(text, start.as_ref(), end.as_ref())?;
    if method == "count" {
        return Ok(Value::from(window.map_or(0, |(part, _)| part.matches(sought).count())));
    }
    let at = window.and_then(|(part, before)| {
        let at = if method.starts_with('r') { part.rfind(sought) } else { part.find(sought) };
        Some(before + part[..at?].chars().count())
    });
    match at {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(fault("substring not found")),
    }
}

fn justify(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let width = usize::try_from(width).unwrap_or(0);
    if method == "zfill" {
        let signs = usize::from(text.starts_with(['-', '+']));
        let (sign, digits) = text.split_at(signs);
        let zeros = padded(state, digits, width.saturating_sub(signs), '0', Pad::Before)?;
        return Ok(Value::from(format!("{sign}{zeros}")));
    }
    let mut chars = fill.unwrap_or(" ").chars();
    let (Some(fill), None) = (chars.next(), chars.next()) else {
        return Err(fault(format!("{method}: the text to fill with must be one character")));
    };
    let pad = match method {
        "center" => Pad::Both,
        "ljust" => Pad::After,
        _ => Pad::Before,
    };
    padded(state, text, width, fill, pad).map(Value::from)
}

#[derive(Clone, Copy)]
pub(super) enum Pad {
    Before,
    After,
    Both,
}

pub(super) fn padded(state: &State, text: &str, width: usize, fill: char, pad: Pad) -> Result<String, Error> {
    pay(state, width.saturating_mul(fill.len_utf8()).saturating_add(text.len()))?;
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

fn expand_tabs(state: &State, text: &str, size: usize) -> Result<Value, Error> {
    pay(state, text.matches('\t').count().saturating_mul(size).saturating_add(text.len()))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if "\n\r".contains(c) { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(out))
}
