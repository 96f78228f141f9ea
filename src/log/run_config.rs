//! The settings of a run as its config.toml has them: what the page says of the numbers follows them.

use std::path::Path;

use toml::{Table, Value};

use crate::file::read_plain;

/// The settings of a run. Those of a file that is missing or damaged are unknown.
#[derive(Clone, Debug, Default)]
pub struct RunConfig(Table);

impl RunConfig {
    /// Of the text of a config.toml.
    pub fn parse(text: &str) -> Self {
        Self(text.parse().unwrap_or_default())
    }

    /// Of a config.toml.
    pub fn read(path: &Path) -> Self {
        read_plain(path).map(|bytes| Self::parse(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
    }

    /// A number by its full name, such as `reward.low`.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// A word by its full name, such as `reward.shape`.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.value(key)?.as_str()
    }

    fn value(&self, key: &str) -> Option<&Value> {
        let mut names = key.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_their_full_names() {
        let config = RunConfig::parse("[reward]\nlow = 1\nshape = \"constant\"\n[reward.verdict]\nmax = 5.5");
        assert_eq!([config.number("reward.low"), config.number("reward.verdict.max")], [Some(1.0), Some(5.5)]);
        assert_eq!(config.word("reward.shape"), Some("constant"));
        let unknown = ["reward", "reward.high", "reward.low.x", "rl.steps", "", "reward.shape"];
        assert_eq!(unknown.map(|key| config.number(key)), [None; 6]);
        assert_eq!(RunConfig::parse("[reward").number("reward.low"), None);
    }
}
