//! The settings that a judge was trained with and therefore must judge with: `judge.toml` in its directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{JudgePrompt, JudgePromptError, PromptFile, VerdictRules};
use crate::file::write_atomically;

/// The file name, beside config.json and the weights.
pub const JUDGE_FILE: &str = "judge.toml";
/// Increased when the meaning of a key changes.
const FORMAT: u32 = 1;

/// What one judgement is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeMode {
    /// One response, which gets a score.
    #[default]
    Pointwise,
}

/// Everything but the tokenizer that determines how a response becomes a prompt and a completion becomes a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    format: u32,
    pub mode: JudgeMode,
    /// Whether the model may think before it writes (Qwen3's `enable_thinking`).
    pub thinking: bool,
    pub verdict: VerdictRules,
    pub prompt: PromptFile,
}

/// Why a `judge.toml` cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum JudgeFileError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
}

impl JudgeSettings {
    /// Settings of today's file format, for a judge that sees one response at a time.
    pub fn new(prompt: PromptFile, verdict: VerdictRules, thinking: bool) -> Self {
        Self { format: FORMAT, mode: JudgeMode::Pointwise, thinking, verdict, prompt }
    }

    /// The built-in prompt and rules, for a model without a `judge.toml`.
    pub fn built_in() -> Result<Self, JudgePromptError> {
        Ok(Self::new(PromptFile::load(None)?, VerdictRules::default(), false))
    }

    /// Reads `judge.toml` from a model's directory; `None` if there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, JudgeFileError> {
        let path = folder.join(JUDGE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JudgeFileError::Io { path, error }),
        };
        let invalid = |reason: String| JudgeFileError::Invalid { path: path.clone(), reason };
        let settings: Self = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        settings.validate().map_err(invalid)?;
        Ok(Some(settings))
    }

    /// Checks the settings.
    pub fn validate(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("has format {}, but this program reads format {FORMAT}", self.format));
        }
        self.verdict.validate().map_err(|reason| format!("verdict: {reason}"))?;
        JudgePrompt::new(&self.prompt).map(drop).map_err(|error| error.to_string())
    }

    /// Writes `judge.toml` into a model's directory.
    pub fn write(&self, folder: &Path) -> Result<(), JudgeFileError> {
        let path = folder.join(JUDGE_FILE);
        let body = toml::to_string_pretty(self)
            .map_err(|error| JudgeFileError::Invalid { path: path.clone(), reason: error.to_string() })?;
        let text =
            format!("# How this judge was trained to judge. `patarm-train judge` and `rl` read this file.\n\n{body}");
        write_atomically(&path, text.as_bytes()).map_err(|error| JudgeFileError::Io { path, error })
    }

    /// The differences from other settings, to be printed, such as `verdict.max: 5.0 there, 10.0 here`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |settings: &Self| Table::try_from(settings).unwrap_or_default();
        let mut found = Vec::new();
        compare("", &table(self), &table(other), &mut found);
        found
    }
}

fn compare(path: &str, ours: &Table, theirs: &Table, found: &mut Vec<String>) {
    let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (ours.get(key), theirs.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => compare(&full, a, b, found),
            (a, b) if a == b => {}
            (Some(Value::String(_) | Value::Table(_)) | None, _) | (_, None) => {
                found.push(format!("{full} differs"));
            }
            (Some(a), Some(b)) => found.push(format!("{full}: {a} there, {b} here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> JudgeSettings {
        let verdict = VerdictRules { max: 5.0, ..VerdictRules::default() };
        JudgeSettings::new(PromptFile::load(None).unwrap(), verdict, true)
    }

    #[test]
    fn settings_survive_a_write_and_a_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(JudgeSettings::read(folder.path()).unwrap().is_none());
        strict().write(folder.path()).unwrap();
        assert_eq!(JudgeSettings::read(folder.path()).unwrap(), Some(strict()));
    }

    #[test]
    fn invalid_settings_are_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        strict().write(folder.path()).unwrap();
        let path = folder.path().join(JUDGE_FILE);
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, part) in [
            ("format = 1", "format = 2", "has format 2"),
            ("max = 5.0", "max = 0.0", "verdict: scores need min < max"),
            ("{{ response }}", "", "must show {{ response }}"),
            ("thinking", "thinkin", "thinkin"),
            ("\"pointwise\"", "\"listwise\"", "listwise"),
        ] {
            std::fs::write(&path, good.replace(from, to)).unwrap();
            let message = JudgeSettings::read(folder.path()).unwrap_err().to_string();
            assert!(message.contains("judge.toml") && message.contains(part), "{from}: {message}");
        }
    }

    #[test]
    fn differences_are_named() {
        let mut other = JudgeSettings::built_in().unwrap();
        assert!(strict().differences(&strict()).is_empty());
        assert_eq!(
            strict().differences(&other),
            ["thinking: true there, false here", "verdict.max: 5.0 there, 10.0 here"]
        );
        other.prompt.tasks.get_mut("chat").unwrap().rubrics.push('!');
        other.prompt.system = Some("You judge.".into());
        let found = strict().differences(&other);
        assert!(found.contains(&"prompt.tasks.chat.rubrics differs".into()), "{found:?}");
        assert!(found.contains(&"prompt.system differs".into()), "{found:?}");
    }
}
