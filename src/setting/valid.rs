//! Sections of settings, and the proof that one was checked.

use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Rule;
use super::overlay::shown;

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Lines of its doc comment.
    pub doc: &'static [&'static str],
    pub of: Of,
}

/// What a key holds.
#[derive(Debug)]
pub enum Of {
    /// `single`: the number is an f32.
    Value {
        rule: Rule,
        single: bool,
    },
    Section(&'static [Key]),
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Refused,
    /// Refused where its first key was set by hand, by a variable or an argument; said where it comes from a default, or from a
    /// file, which may hold every key.
    RefusedByHand,
    /// Works, but is rarely what is meant.
    Noted,
}

/// What is wrong with a value, or with several of them together.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub severity: Severity,
    /// Full names of the keys, the one to change first.
    pub keys: Vec<String>,
    pub reason: String,
}

impl Finding {
    /// A finding on some keys of a section.
    pub fn new(severity: Severity, keys: &[&str], reason: impl Into<String>) -> Self {
        Self { severity, keys: keys.iter().map(|key| key.to_string()).collect(), reason: reason.into() }
    }

    /// The same, seen from the section that holds this one under `key`.
    pub fn inside(mut self, key: &str) -> Self {
        self.keys.iter_mut().for_each(|inner| *inner = format!("{key}.{inner}"));
        self
    }
}

/// What must hold between the values of a section; each one alone is held to its rule.
pub trait Relations {
    /// What does not hold.
    fn relations(&self) -> Vec<Finding> {
        Vec::new()
    }
}

/// A section of settings; [`super::section!`] writes this.
pub trait Section: Relations + Clone + Serialize + DeserializeOwned {
    const KEYS: &'static [Key];

    /// What does not hold between its values, and those of the sections inside it.
    fn findings(&self) -> Vec<Finding>;
}

/// Settings all of which were checked. Only the check makes one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Valid<T>(T);

impl<T> Deref for Valid<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Section + Default> Default for Valid<T> {
    fn default() -> Self {
        Self::new(T::default()).expect("the defaults of a section are valid")
    }
}

impl<T: Section> Valid<T> {
    /// Checks every value, then what must hold between them. The error is the first thing that is refused.
    pub fn new(settings: T) -> Result<Self, Refusal> {
        let table =
            Table::try_from(&settings).map_err(|error| Refusal { keys: Vec::new(), reason: error.to_string() })?;
        check(&table, T::KEYS, "")?;
        match settings.findings().into_iter().find(|finding| finding.severity == Severity::Refused) {
            Some(finding) => Err(Refusal::of(&finding, &table)),
            None => Ok(Self(settings)),
        }
    }

    /// A section of valid settings is valid.
    pub fn part<P: Section>(&self, of: impl FnOnce(&T) -> &P) -> Valid<P> {
        Valid(of(&self.0).clone())
    }

    /// The settings after a change, checked again.
    pub fn changed(&self, change: impl FnOnce(&mut T)) -> Result<Self, Refusal> {
        let mut settings = self.0.clone();
        change(&mut settings);
        Self::new(settings)
    }

    /// What works, but is rarely what is meant.
    pub fn notes(&self) -> Vec<String> {
        let table = Table::try_from(&self.0).unwrap_or_default();
        self.0.findings().iter().map(|finding| Refusal::of(finding, &table).to_string()).collect()
    }
}

/// Why settings are not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The keys at fault, the one to change first.
    pub keys: Vec<String>,
    /// Names the keys and their values.
    pub reason: String,
}

impl Refusal {
    pub(super) fn of(finding: &Finding, table: &Table) -> Self {
        let named = |key: &String| match find(table, key) {
            Some(value) if !value.is_table() => format!("`{key}` = {}", plain(value)),
            _ => format!("`{key}`"),
        };
        let keys: Vec<String> = finding.keys.iter().map(named).collect();
        Self { keys: finding.keys.clone(), reason: format!("{}: {}", keys.join(", "), finding.reason) }
    }
}

/// Text of a value; an f32 that was widened to f64 is shown as it was typed.
fn plain(value: &Value) -> String {
    let single = value.as_float().is_some_and(|x| f64::from(x as f32) == x);
    shown(value, single)
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, rest)) => find(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// Holds every value of a table to its rule.
fn check(table: &Table, keys: &[Key], section: &str) -> Result<(), Refusal> {
    for key in keys {
        let name = format!("{section}{}", key.name);
        match (&key.of, table.get(key.name)) {
            (Of::Section(keys), Some(Value::Table(inner))) => check(inner, keys, &format!("{name}."))?,
            (Of::Value { rule, single }, Some(value)) => {
                let refused = |reason| Refusal { reason: format!("`{name}`: {reason}"), keys: vec![name.clone()] };
                rule.check(value.clone(), *single).map_err(refused)?;
            }
            // An absent value is an option that is not set.
            (_, _) => {}
        }
    }
    Ok(())
}
