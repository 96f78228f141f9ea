//! Fields of a JSON row: looking them up, and naming in messages what was found instead.

use serde_json::{Map, Value};

/// A row.
pub(super) type Object = Map<String, Value>;

/// A field that must be there.
pub(super) fn field<'a>(row: &'a Object, name: &str) -> Result<&'a Value, String> {
    row.get(name).ok_or_else(|| format!("{name}: is missing; found {}", keys(row)))
}

/// A field that must be text.
pub(super) fn text<'a>(row: &'a Object, name: &str) -> Result<&'a str, String> {
    let value = field(row, name)?;
    value.as_str().ok_or_else(|| format!("{name}: expected text, got {}", kind(value)))
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
