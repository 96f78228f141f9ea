//! The keys of a JSON object, read by type: what is missing is the caller's to fill, what has another type is refused by name.

use serde_json::{Map, Value};

/// An object, and what its keys are called in messages.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub map: &'a Map<String, Value>,
    /// Before each key: empty at the top, `rope_scaling.` inside.
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys of `map`, which messages call `prefix` and the key.
    pub fn new(map: &'a Map<String, Value>, prefix: &'a str) -> Self {
        Self { map, prefix }
    }

    /// The name of a key in messages.
    pub fn name(&self, key: &str) -> String {
        format!("`{}{key}`", self.prefix)
    }

    /// Whether a key is there, and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// A value that `parse` takes; an error otherwise. `None` where there is none, but null is a value.
    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        let wrong = || format!("{} must be {expected}, got {}", self.name(key), short(value));
        parse(value).map(Some).ok_or_else(wrong)
    }

    /// A whole number, 0 or more.
    pub fn count(&self, key: &str) -> Result<Option<usize>, String> {
        self.read(key, "a whole number", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.read(key, "a number", |value| value.as_f64().filter(|x| x.is_finite()))
    }

    /// A finite number; null is as good as none.
    pub fn number_or_null(&self, key: &str) -> Result<Option<f64>, String> {
        if self.has(key) { self.number(key) } else { Ok(None) }
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.read(key, "a string", Value::as_str)
    }

    /// An object; null is as good as none.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, String> {
        if self.has(key) { self.read(key, "an object", Value::as_object) } else { Ok(None) }
    }

    /// A list of strings; null is as good as none.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, String> {
        let texts = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        if self.has(key) { self.read(key, "a list of strings", texts) } else { Ok(None) }
    }

    /// An error unless a token id is a whole number, a list of them where there may be several, or null.
    pub fn check_token_ids(&self, key: &str, several: bool) -> Result<(), String> {
        let id = Value::is_i64;
        let good = |value: &Value| {
            value.is_null() || id(value) || several && value.as_array().is_some_and(|ids| ids.iter().all(id))
        };
        let expected = if several { "a token id, a list of them, or null" } else { "a token id or null" };
        self.read(key, expected, |value| good(value).then_some(())).map(|_| ())
    }
}

/// A value as messages show it.
pub fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
