//! Resolves settings from their sources: defaults < file < environment < `--set` < flags.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::rule::toml_text;
use super::valid::Refusal;
use super::{Finding, Key, Of, Rule, Section, Severity, Valid};

/// Prefix of environment variables: `PATARM_CFG_RL__STEPS=10` sets `rl.steps`.
const PREFIX: &str = "PATARM_CFG_";
/// Bytes of the largest file of settings. A device or a data set given by mistake is not read to its end.
const FILE_MAX: u64 = 4 << 20;

/// An invalid setting, and where it came from: a file and its line, a variable, an argument.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {reason}")]
pub struct SettingError {
    pub origin: String,
    pub reason: String,
}

fn error(origin: &str, reason: impl ToString) -> SettingError {
    SettingError { origin: origin.to_string(), reason: reason.to_string() }
}

/// One key with its value, and who says so.
#[derive(Clone, Debug)]
pub struct Assignment {
    origin: String,
    key: String,
    given: Given,
}

/// A value as it was given.
#[derive(Clone, Debug)]
enum Given {
    /// Parsed as TOML if possible, and a text otherwise.
    Text(String),
    Value(Value),
}

impl Assignment {
    /// `--set KEY=VALUE`.
    pub fn set(assignment: &str) -> Result<Self, SettingError> {
        let shown: String = assignment.chars().take(100).collect();
        let origin = format!("--set {shown}{}", if shown.len() < assignment.len() { "…" } else { "" });
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(error(&origin, "expected key=value, for example rl.learning_rate=1e-6"));
        };
        Ok(Self { key: key.trim().into(), given: Given::Text(value.trim().into()), origin })
    }

    /// What a flag of its own says of a key.
    pub fn flag(flag: &str, key: &str, value: impl Into<Value>) -> Self {
        Self { origin: flag.into(), key: key.into(), given: Given::Value(value.into()) }
    }
}

/// Settings from their sources, each value held to its rule.
pub struct Overlay<T> {
    pub settings: T,
    /// Where the value of a key came from, by its full name; defaults are absent.
    origins: BTreeMap<String, String>,
    /// Keys that a variable or an argument set.
    by_hand: BTreeSet<String>,
}

/// Lays the sources over `defaults`, later ones over earlier ones: a TOML file, the environment, assignments.
pub fn overlay<T: Section>(
    defaults: &T,
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    assignments: &[Assignment],
) -> Result<Overlay<T>, SettingError> {
    let table = Table::try_from(defaults).map_err(|e| error("defaults", e))?;
    let mut target = Target { defaults: table.clone(), table, origins: BTreeMap::new() };
    if let Some(path) = file {
        let text = read(path)?;
        let name = path.display().to_string();
        let line = |at: usize| {
            format!("{name}:{}", 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count())
        };
        let document = DeTable::parse(&text).map_err(|e| syntax(&e, &text, line))?;
        target.merge(T::KEYS, &mut Vec::new(), document.into_inner(), &line)?;
    }
    let mut by_hand = BTreeSet::new();
    for assignment in variables(environment)?.iter().chain(assignments) {
        by_hand.insert(assignment.key.clone());
        let path: Vec<&str> = assignment.key.split('.').collect();
        target.assign(T::KEYS, &path, &assignment.given, &assignment.origin)?;
    }
    let origin = file.map_or("settings".into(), |path| path.display().to_string());
    let settings = Value::Table(target.table).try_into().map_err(|e: toml::de::Error| error(&origin, e.message()))?;
    Ok(Overlay { settings, origins: target.origins, by_hand })
}

/// Resolves settings from their sources, and checks them together.
pub fn resolve<T: Section>(
    defaults: &T,
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    assignments: &[Assignment],
) -> Result<Valid<T>, SettingError> {
    overlay(defaults, file, environment, assignments)?.valid()
}

impl<T: Section> Overlay<T> {
    /// Whether a source says anything of a key, or of a section.
    pub fn is_set(&self, key: &str) -> bool {
        self.origins_of(key).next().is_some()
    }

    /// The origins of a key and of those inside it.
    fn origins_of(&self, key: &str) -> impl Iterator<Item = (&String, &String)> {
        let inside = format!("{key}.");
        self.origins.iter().filter(move |(set, _)| *set == key || set.starts_with(&inside))
    }

    /// Checks what must hold between the values.
    pub fn valid(self) -> Result<Valid<T>, SettingError> {
        let refused =
            |finding: &&Finding| finding.severity == Severity::RefusedByHand && self.by_hand.contains(&finding.keys[0]);
        if let Some(finding) = self.settings.findings().iter().find(refused) {
            let table = Table::try_from(&self.settings).unwrap_or_default();
            return Err(self.refused(&Refusal::of(finding, &table)));
        }
        Valid::new(self.settings.clone()).map_err(|refusal| self.refused(&refusal))
    }

    /// A refusal with the places that its keys were set at.
    fn refused(&self, refusal: &Refusal) -> SettingError {
        let mut origins: Vec<&str> =
            refusal.keys.iter().flat_map(|key| self.origins_of(key)).map(|(_, origin)| origin.as_str()).collect();
        origins.dedup();
        let origin = if origins.is_empty() { "settings".to_string() } else { origins.join(", ") };
        error(&origin, &refusal.reason)
    }
}

/// The variables that set a key, in the order of their names.
fn variables(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Assignment>, SettingError> {
    let mut found: BTreeMap<String, Assignment> = BTreeMap::new();
    let mut ours: Vec<_> =
        environment.filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())).collect();
    ours.sort();
    for (name, value) in ours {
        let origin = name.to_string_lossy().into_owned();
        let not_text = |what: &str| error(&origin, format!("the variable's {what} is not UTF-8"));
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            return Err(not_text(if name.to_str().is_none() { "name" } else { "value" }));
        };
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let assignment = Assignment { origin: origin.clone(), key: key.clone(), given: Given::Text(value.to_string()) };
        if let Some(other) = found.insert(key.clone(), assignment) {
            return Err(error(&origin, format!("`{key}` is set by {} too: unset one of them", other.origin)));
        }
    }
    Ok(found.into_values().collect())
}

/// The text of a file of settings.
fn read(path: &Path) -> Result<String, SettingError> {
    let origin = path.display().to_string();
    let cannot = |e: std::io::Error| error(&origin, format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(error(&origin, format!("has more than {} MiB: it is no file of settings", FILE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        error(&format!("{origin}:{line}"), "is not UTF-8 text")
    })
}

/// An error of TOML itself, with its line.
fn syntax(e: &toml::de::Error, text: &str, line: impl Fn(usize) -> String) -> SettingError {
    let mut start = e.span().map_or(0, |span| span.start).min(text.len());
    let begin = |start: usize| text[..start].rfind('\n').map_or(0, |at| at + 1);
    // What is not closed is missed at the end of the file: the last line that says something is shown.
    if text[begin(start)..].trim().is_empty() {
        start = text.trim_end().len();
    }
    let typed: String = text[begin(start)..].lines().next().unwrap_or("").trim().chars().take(100).collect();
    error(&line(start), format!("is not TOML: {}, in `{typed}`", e.message()))
}

/// The settings while sources are laid over them.
struct Target {
    defaults: Table,
    table: Table,
    origins: BTreeMap<String, String>,
}

impl Target {
    /// Overrides values with those of a file; every key must be known.
    fn merge<'a>(
        &mut self,
        keys: &'static [Key],
        path: &mut Vec<String>,
        typed: DeTable<'a>,
        line: &impl Fn(usize) -> String,
    ) -> Result<(), SettingError> {
        for (name, value) in typed {
            let origin = line(name.span().start);
            path.push(name.get_ref().to_string());
            let known = keys.iter().find(|key| key.name == name.get_ref());
            if let (Some(Key { of: Of::Section(inner), .. }), DeValue::Table(_)) = (known, value.get_ref()) {
                let DeValue::Table(table) = value.into_inner() else { unreachable!("it is a table") };
                self.merge(inner, path, table, line)?;
            } else {
                // An unknown key is refused whatever it holds.
                let value = known.map_or(Ok(Value::Boolean(false)), |_| plain(value));
                let value = value.map_err(|e| error(&origin, format!("`{}`: {e}", path.join("."))))?;
                let whole: Vec<&str> = path.iter().map(String::as_str).collect();
                self.assign_at(keys, &whole, path.len() - 1, &Given::Value(value), &origin)?;
            }
            path.pop();
        }
        Ok(())
    }

    /// Sets the key at the end of `path`.
    fn assign(&mut self, keys: &'static [Key], path: &[&str], given: &Given, origin: &str) -> Result<(), SettingError> {
        self.assign_at(keys, path, 0, given, origin)
    }

    /// Sets the key at the end of `path`, whose first `depth` names lead to the section of `keys`.
    fn assign_at(
        &mut self,
        keys: &'static [Key],
        path: &[&str],
        depth: usize,
        given: &Given,
        origin: &str,
    ) -> Result<(), SettingError> {
        let (name, last, full) = (path[depth], depth + 1 == path.len(), path.join("."));
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            return Err(error(origin, unknown(&full, name, keys.iter().map(|key| key.name))));
        };
        match &key.of {
            Of::Section(inner) if !last => self.assign_at(inner, path, depth + 1, given, origin),
            Of::Section(inner) => {
                let Value::Table(typed) = given.value(&Rule::Table) else {
                    let known: Vec<_> = inner.iter().map(|key| key.name).collect();
                    return Err(error(
                        origin,
                        format!("`{full}` is a section, not a key: its keys are {}", known.join(", ")),
                    ));
                };
                for (name, value) in typed {
                    let path = [path, &[name.as_str()]].concat();
                    self.assign_at(inner, &path, depth + 1, &Given::Value(value), origin)?;
                }
                Ok(())
            }
            Of::Value { rule: Rule::Table, .. } if !last => self.assign_inside(path, given, origin),
            Of::Value { .. } if !last => Err(error(origin, unknown(&full, path[depth + 1], std::iter::empty()))),
            Of::Value { rule, single } => {
                let default =
                    find(&self.defaults, path).map(|value| format!("; its default is {}", shown(value, *single)));
                let refused = |reason| error(origin, format!("`{full}`: {reason}{}", default.unwrap_or_default()));
                let value = rule.check(given.value(rule), *single).map_err(refused)?;
                self.origins.insert(full, origin.to_string());
                section(&mut self.table, &path[..depth]).insert(name.into(), value);
                Ok(())
            }
        }
    }

    /// Sets a key of a table that has no declared keys: it must be there, and keep its type.
    fn assign_inside(&mut self, path: &[&str], given: &Given, origin: &str) -> Result<(), SettingError> {
        let (name, sections) = path.split_last().expect("a path has a name");
        let mut table = &mut self.table;
        for section in sections {
            let known: Vec<String> = table.keys().cloned().collect();
            match table.get_mut(*section) {
                Some(Value::Table(inner)) => table = inner,
                _ => return Err(error(origin, unknown(&path.join("."), section, known.iter().map(String::as_str)))),
            }
        }
        let Some(known) = table.get(*name) else {
            return Err(error(origin, unknown(&path.join("."), name, table.keys().map(String::as_str))));
        };
        let value = given.value(if known.is_str() { &Rule::Text } else { &Rule::Table });
        if !known.same_type(&value) {
            let (expected, got) = (known.type_str(), value.type_str());
            return Err(error(origin, format!("`{}`: expected a {expected}, got the {got} {value}", path.join("."))));
        }
        table.insert(name.to_string(), value);
        self.origins.insert(path.join("."), origin.to_string());
        Ok(())
    }
}

impl Given {
    /// The value for a key of this rule.
    fn value(&self, rule: &Rule) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Text(text) => match text.parse::<Value>() {
                Ok(value) if value.is_str() || !rule.is_text() => value,
                _ => Value::String(text.clone()),
            },
        }
    }
}

/// A value without its place in the file.
fn plain(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    // TOML's integers have 64 bits; a larger one is near enough as a float to be refused by its rule.
    if let DeValue::Integer(n) = value.get_ref()
        && i64::from_str_radix(n.as_str(), n.radix()).is_err()
    {
        return Ok(Value::Float(match n.radix() {
            10 => n.as_str().parse().unwrap_or(f64::INFINITY),
            radix => u128::from_str_radix(n.as_str(), radix).map_or(f64::INFINITY, |n| n as f64),
        }));
    }
    Value::deserialize(value.into_deserializer()).map_err(|e: toml::de::Error| e.message().to_string())
}

/// A value as it is written in a file; `single`: of an f32.
pub(super) fn shown(value: &Value, single: bool) -> String {
    match value {
        Value::Float(x) if single => toml_text(&Value::Float((*x as f32).to_string().parse().unwrap_or(*x))),
        value => toml_text(value),
    }
}

fn find<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (name, sections) = path.split_last()?;
    sections.iter().try_fold(table, |table, name| table.get(*name)?.as_table())?.get(*name)
}

/// The table of a section, which is made if all its keys were absent.
fn section<'a>(table: &'a mut Table, path: &[&str]) -> &'a mut Table {
    path.iter().fold(table, |table, name| {
        let inner = table.entry(name.to_string()).or_insert_with(|| Value::Table(Table::new()));
        inner.as_table_mut().expect("a section is a table")
    })
}

fn unknown<'a>(full: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    // If several are equally near, `min_by` returns the first.
    let distance = |known: &str| 1.0 - strsim::jaro_winkler(known, name);
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|known| (distance(known), known)).min_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((distance, known)) if distance < 0.3 => format!("unknown key `{full}`: did you mean `{known}`?"),
        Some(_) => format!("unknown key `{full}`: known keys here are {}", known.join(", ")),
        None => format!(
            "unknown key `{full}`: there are no keys below `{}`",
            full.strip_suffix(&format!(".{name}")).unwrap_or("")
        ),
    }
}
