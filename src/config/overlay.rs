//! Resolves settings from their sources: defaults < file < environment < `--set`.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Prefix of environment variables: `PATARM_CFG_RL__STEPS=10` sets `rl.steps`.
const PREFIX: &str = "PATARM_CFG_";

/// An invalid setting, and where it came from.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {reason}")]
pub struct ConfigError {
    pub origin: String,
    pub reason: String,
}

fn error(origin: &str, reason: impl ToString) -> ConfigError {
    ConfigError { origin: origin.to_string(), reason: reason.to_string() }
}

/// Resolves settings. Later sources override earlier ones: `defaults`, a TOML file, the environment, `key=value` assignments.
pub fn resolve<T: Serialize + DeserializeOwned>(
    defaults: &T,
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    assignments: &[String],
) -> Result<T, ConfigError> {
    let mut table = Table::try_from(defaults).map_err(|e| error("defaults", e))?;
    if let Some(path) = file {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| error(&origin, format!("cannot be read: {e}")))?;
        let typed: Table = text.parse().map_err(|e: toml::de::Error| error(&origin, e))?;
        merge(&mut table, typed, "", &origin)?;
    }
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        assign(&mut table, &key, &value, &name)?;
    }
    for assignment in assignments {
        let origin = format!("--set {assignment}");
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| error(&origin, "expected key=value, for example rl.learning_rate=1e-6"))?;
        assign(&mut table, key.trim(), value.trim(), &origin)?;
    }
    let origin = file.map_or("settings".into(), |path| format!("settings (file {})", path.display()));
    Value::Table(table).try_into().map_err(|e: toml::de::Error| error(&origin, e.message()))
}

/// Overrides the values in `table` with those in `typed`; every key must be known.
fn merge(table: &mut Table, typed: Table, path: &str, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in typed {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(known) = table.get_mut(&key) else {
            return Err(error(origin, unknown(&full, &key, table)));
        };
        match (known, value) {
            (Value::Table(inner), Value::Table(typed)) => merge(inner, typed, &full, origin)?,
            (known, value) => *known = fit(known, value, &full, origin)?,
        }
    }
    Ok(())
}

/// Checks that a value has the type of the default; an integer is accepted for a float.
fn fit(known: &Value, value: Value, key: &str, origin: &str) -> Result<Value, ConfigError> {
    match (known, value) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (known, value) if known.same_type(&value) => Ok(value),
        (known, value) => {
            let (expected, got) = (known.type_str(), value.type_str());
            Err(error(origin, format!("`{key}` must be a {expected} (its default is {known}), got the {got} {value}")))
        }
    }
}

/// Sets one key from text, which is parsed as TOML if possible and is a string otherwise.
fn assign(table: &mut Table, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
    let (sections, last) = match key.rsplit_once('.') {
        Some((sections, last)) => (sections.split('.').collect(), last),
        None => (Vec::new(), key),
    };
    let mut inner_table = table;
    for section in sections {
        let suggestion = unknown(key, section, inner_table);
        match inner_table.get_mut(section) {
            Some(Value::Table(inner)) => inner_table = inner,
            _ => return Err(error(origin, suggestion)),
        }
    }
    let Some(known) = inner_table.get(last) else {
        return Err(error(origin, unknown(key, last, inner_table)));
    };
    let value = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .filter(|value| known.same_type(value) || !known.is_str())
        .unwrap_or_else(|| Value::String(text.to_string()));
    let value = fit(known, value, key, origin)?;
    inner_table.insert(last.to_string(), value);
    Ok(())
}

fn unknown(full: &str, key: &str, table: &Table) -> String {
    // If several are equally near, `min_by` returns the first; keys are sorted, so `beta1` comes before `beta2`.
    let distance = |known: &str| 1.0 - strsim::jaro_winkler(known, key);
    let nearest = table.keys().map(|known| (distance(known), known)).min_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((distance, known)) if distance < 0.3 => format!("unknown key `{full}`: did you mean `{known}`?"),
        _ => {
            let known: Vec<_> = table.keys().map(String::as_str).collect();
            format!("unknown key `{full}`: known keys here are {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn resolved(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let set: Vec<_> = set.iter().map(|s| s.to_string()).collect();
        resolve(&Settings::default(), Some(&path), environment, &set).map_err(|e| e.to_string())
    }

    #[test]
    fn later_sources_win_and_everything_else_keeps_its_default() {
        let file = "[rl]\nsteps = 1\nrollouts = 4\nlearning_rate = 1\n[data]\ntrain = [\"a.jsonl\"]";
        let settings = resolved(file, &[("PATARM_CFG_RL__STEPS", "2"), ("HOME", "/")], &["rl.steps=3", "run.out=x y"]);
        let settings = settings.unwrap();
        assert_eq!((settings.rl.steps, settings.rl.rollouts, settings.rl.learning_rate), (3, 4, 1.0));
        assert_eq!((settings.run.out.as_str(), settings.data.train), ("x y", vec!["a.jsonl".to_string()]));
        assert_eq!(settings.rl.adamw, Settings::default().rl.adamw);
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_name() {
        let message = resolved("[rl]\nlearning_rat = 1e-6", &[], &[]).unwrap_err();
        assert!(
            message.contains("config.toml")
                && message.contains("rl.learning_rat")
                && message.contains("`learning_rate`"),
            "{message}"
        );
        let message = resolved("", &[], &["rl.adamw.betaone=1"]).unwrap_err();
        assert!(message.contains("did you mean `beta1`"), "{message}");
        let message = resolved("", &[("PATARM_CFG_SFTT__STEPS", "1")], &[]).unwrap_err();
        assert!(message.contains("PATARM_CFG_SFTT__STEPS") && message.contains("`sft`"), "{message}");
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_the_default() {
        let message = resolved("[rl]\nsteps = \"many\"", &[], &[]).unwrap_err();
        assert!(message.contains("`rl.steps`") && message.contains("integer") && message.contains("300"), "{message}");
        assert!(resolved("", &[], &["rl.steps=-1"]).is_err());
        assert!(resolved("", &[], &["rl.aggregation=median"]).unwrap_err().contains("median"));
    }
}
