//! Fields of a JSON row: looking them up, and naming in messages what was found instead. Rows have no null fields: a null
//! column counts as absent ([`present`]).

use serde_json::{Map, Value};

/// A row.
pub(super) type Object = Map<String, Value>;

/// A row or a message without its null fields: files of columns write null for what a row does not have.
pub(super) fn present(mut object: Object) -> Object {
    object.retain(|_, value| !value.is_null());
    object
}

/// A field that must be there.
pub(super) fn field<'a>(row: &'a Object, name: &str) -> Result<&'a Value, String> {
    row.get(name).ok_or_else(|| format!("{name}: is missing; found {}", keys(row)))
}

/// A field that must be text.
pub(super) fn text<'a>(row: &'a Object, name: &str) -> Result<&'a str, String> {
    field(row, name).and_then(|value| text_of(value, name))
}

/// A field that must be text if it is there.
pub(super) fn optional_text<'a>(row: &'a Object, name: &str) -> Result<Option<&'a str>, String> {
    row.get(name).map(|value| text_of(value, name)).transpose()
}

fn text_of<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{name}: expected text, got {}", kind(value)))
}

/// A list that may be given as JSON text, as files of columns do with lists of objects.
pub(super) fn list(value: &Value, name: &str) -> Result<Vec<Value>, String> {
    let parsed =
        value.as_str().map(|text| if text.trim().is_empty() { Ok(Value::Array(Vec::new())) } else { json(text) });
    match parsed.transpose().map_err(|error| format!("{name}: is text that is no JSON: {error}"))? {
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(format!("{name}: expected a list, got {} as text", kind(&other))),
        None => match value {
            Value::Array(items) => Ok(items.clone()),
            other => Err(format!("{name}: expected a list, got {}", kind(other))),
        },
    }
}

/// JSON in text.
pub(super) fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// A whole number: files of columns write one as 1.0 where other rows of its column have none.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
    value.as_i64().or_else(|| float().map(|number| number as i64))
}

/// A value as JSON, for messages; a long one is cut.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().nth(40).is_some() => {
            format!("{:?}…", text.chars().take(40).collect::<String>())
        }
        Value::Array(_) | Value::Object(_) => kind(value).to_string(),
        value => value.to_string(),
    }
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The field names of a row, for messages; a row with very many is cut.
pub(super) fn keys(row: &Object) -> String {
    let names: Vec<&str> = row.keys().map(String::as_str).take(12).collect();
    if names.is_empty() { "no fields".to_string() } else { names.join(", ") }
}
