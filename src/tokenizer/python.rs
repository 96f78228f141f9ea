//! Values of templates as Python writes them: `str`, `repr` and `json.dumps`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::cost::{WRITTEN, left, pay};
use super::objects::{Generator, Range, View, is_python_iterator};

/// Lists in lists, at most; Python has a limit of the same kind.
pub(super) const DEPTH_MAX: usize = 200;

/// `str(value)`; an undefined value is empty text, as in Jinja. The text is paid for.
pub(super) fn str_of(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            pay(state, text.len())?;
            Ok(text.to_string())
        }
        _ => repr_of(state, value),
    }
}

/// `repr(value)`.
pub(super) fn repr_of(state: &State, value: &Value) -> Result<String, Error> {
    let mut writer = ReprWriter { limit: left(state) / WRITTEN, out: String::new() };
    writer.write(value, 0)?;
    pay(state, writer.out.len().saturating_mul(WRITTEN))?;
    Ok(writer.out)
}

/// `ascii(value)`.
pub(super) fn ascii_of(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in repr_of(state, value)?.chars() {
        if c.is_ascii() { out.push(c) } else { out.push_str(&escaped(c)) }
    }
    Ok(out)
}

/// A whole number or a truth value, as Python counts with it; `None` if it has more than 128 bits.
pub(super) fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// A float with its fraction cut off; `None` if it has more than 127 bits, or is no number.
pub(super) fn whole_of(float: f64) -> Option<i128> {
    (float.abs() < 1e38).then_some(float as i128)
}

struct ReprWriter {
    /// The longest text that can be paid for: a list may hold another many times.
    limit: usize,
    out: String,
}

impl ReprWriter {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX || self.out.len() > self.limit {
            return Err(too_large());
        }
        match value.kind() {
            ValueKind::Undefined => self.out.push_str("Undefined"),
            ValueKind::None => self.out.push_str("None"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => write_str_repr(value.as_str().unwrap_or_default(), &mut self.out),
            ValueKind::Seq | ValueKind::Iterable => self.write_items(value, depth)?,
            ValueKind::Map if is_a(value, "Namespace") || is_a(value, "Loop") => {
                return Err(no_text("a namespace or a loop, which is an object of Jinja"));
            }
            ValueKind::Map => {
                self.out.push('{');
                for (index, key) in value.try_iter()?.enumerate() {
                    self.out.push_str(if index == 0 { "" } else { ", " });
                    self.write(&key, depth + 1)?;
                    self.out.push_str(": ");
                    self.write(&value.get_item(&key)?, depth + 1)?;
                }
                self.out.push('}');
            }
            _ => return Err(no_text("a function, a macro or an object of Jinja")),
        }
        Ok(())
    }

    fn write_items(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if value.downcast_object_ref::<Generator>().is_some() {
            return Err(no_text("what map, select and their like return: put | list after it"));
        }
        if let Some(range) = value.downcast_object_ref::<Range>() {
            self.out.push_str(&range.repr());
            return Ok(());
        }
        let tuple = value.is_tuple() || is_a(value, "GroupTuple");
        let view = value.downcast_object_ref::<View>().map(|view| view.name);
        let (open, close) = match view {
            Some(_) => ("([", "])"),
            None if tuple => ("(", ")"),
            None => ("[", "]"),
        };
        self.out.push_str(view.unwrap_or_default());
        self.out.push_str(open);
        let mut count = 0;
        for item in value.try_iter()?.checked() {
            self.out.push_str(if count == 0 { "" } else { ", " });
            self.write(&item?, depth + 1)?;
            count += 1;
        }
        self.out.push_str(if tuple && count == 1 { "," } else { "" });
        self.out.push_str(close);
        Ok(())
    }
}

/// Whether a value is an object of minijinja's type of this name.
fn is_a(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with(&format!("::{name}")))
}

/// Python writes these with an address, which differs from run to run.
fn no_text(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a text is made of {what}"))
}

pub(super) fn too_large() -> Error {
    let reason = format!("a value is nested more than {DEPTH_MAX} deep, or is a longer text than a rendering may make");
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// A number; a float has the shortest digits that mean it, and an exponent where Python writes one.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_repr(float),
        _ => value.to_string(),
    }
}

pub(super) fn float_repr(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() { "nan".into() } else { format!("{}inf", if float < 0.0 { "-" } else { "" }) };
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let fixed = format!("{float}");
        return if fixed.contains('.') { fixed } else { fixed + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn write_str_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&escaped(c)),
        }
    }
    out.push(quote);
}

fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// `str.isprintable`. Rust's `escape_debug` knows the same classes; after a letter it leaves combining marks alone.
pub(super) fn is_printable(c: char) -> bool {
    c.is_ascii_graphic()
        || c == ' '
        || (!c.is_ascii() && !['a', c].iter().collect::<String>().escape_debug().any(|e| e == '\\'))
}

/// How `json.dumps` writes.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// What one level of nesting is indented by.
    pub indent: Option<String>,
    /// Between items, and after keys.
    pub separators: Option<(String, String)>,
    pub sort_keys: bool,
}

/// `json.dumps(value)`.
pub(super) fn dumps(state: &State, value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let (item, key) = match &style.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if style.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = JsonWriter { style, item, key, limit: left(state) / WRITTEN, out: String::new() };
    writer.write(value, 0)?;
    pay(state, writer.out.len().saturating_mul(WRITTEN))?;
    Ok(writer.out)
}

struct JsonWriter<'a> {
    style: &'a JsonStyle,
    item: &'a str,
    key: &'a str,
    limit: usize,
    out: String,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX || self.out.len() > self.limit {
            return Err(too_large());
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.out.push_str(&scalar(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable if is_list(value) => {
                self.out.push('[');
                let mut count = 0;
                for item in value.try_iter()? {
                    self.separate(count, depth + 1);
                    self.write(&item, depth + 1)?;
                    count += 1;
                }
                self.close(count, depth, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.out.push('{');
                for (index, key) in keys.iter().enumerate() {
                    self.separate(index, depth + 1);
                    match key.kind() {
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => self.write_text(&scalar(key)),
                        ValueKind::String => self.write_text(key.as_str().unwrap_or_default()),
                        kind => return Err(no_json(kind)),
                    }
                    self.out.push_str(self.key);
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.len(), depth, '}');
            }
            kind => return Err(no_json(kind)),
        }
        Ok(())
    }

    fn separate(&mut self, index: usize, depth: usize) {
        self.out.push_str(if index == 0 { "" } else { self.item });
        self.new_line(depth);
    }

    fn close(&mut self, count: usize, depth: usize, bracket: char) {
        if count > 0 {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn write_text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Ranges, views of mappings and generators are no lists to `json.dumps`.
fn is_list(value: &Value) -> bool {
    !is_python_iterator(value) && value.downcast_object_ref::<Range>().is_none()
}

fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_string(),
        ValueKind::Bool => (if value.is_true() { "true" } else { "false" }).to_string(),
        _ => match number(value).as_str() {
            "nan" => "NaN".to_string(),
            "inf" => "Infinity".to_string(),
            "-inf" => "-Infinity".to_string(),
            number => number.to_string(),
        },
    }
}

fn no_json(kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} has no JSON form"))
}
