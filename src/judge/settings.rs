//! The settings that a judge was trained with and therefore must judge with: `judge.toml` in its directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::form::{JudgeForm, JudgeMode, LengthBudget, RubricMode};
use super::verdict::JudgementFormat;
use super::{JudgePrompt, JudgePromptError, PromptFile, VerdictRules};
use crate::file::write_atomically;
use crate::setting::{
    Finding, Key, Of, Relations, Rule, Section, SettingError, Severity, Valid, count, one_of, overlay,
};

/// The file name, beside config.json and the weights.
pub const JUDGE_FILE: &str = "judge.toml";
/// Increased when the meaning of a key changes.
const FORMAT: u32 = 1;

/// Everything but the tokenizer that determines how a response becomes a prompt and a completion becomes a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    format: u32,
    pub mode: JudgeMode,
    #[serde(default)]
    pub rubrics: RubricMode,
    /// Whether the model may think before it writes (Qwen3's `enable_thinking`).
    pub thinking: bool,
    #[serde(default)]
    pub length: LengthBudget,
    pub verdict: VerdictRules,
    pub prompt: PromptFile,
}

impl Section for JudgeSettings {
    const KEYS: &'static [Key] = &[
        Key {
            name: "format",
            doc: &["Format of this file."],
            of: Of::Value { rule: count(0, i64::MAX), single: false },
        },
        Key {
            name: "mode",
            doc: &["What one judgement is about."],
            of: Of::Value { rule: one_of(JudgeMode::NAMES), single: false },
        },
        Key {
            name: "rubrics",
            doc: &["Whose rubrics count: the primary ones of the task, those that the judge writes, or both."],
            of: Of::Value { rule: one_of(RubricMode::NAMES), single: false },
        },
        Key {
            name: "thinking",
            doc: &["Whether the model may think before it writes (Qwen3's `enable_thinking`)."],
            of: Of::Value { rule: Rule::Flag, single: false },
        },
        Key { name: "length", doc: &["How much of a text the judge sees."], of: Of::Section(LengthBudget::KEYS) },
        Key { name: "verdict", doc: &["What counts as a verdict."], of: Of::Section(VerdictRules::KEYS) },
        Key {
            name: "prompt",
            doc: &["The judge's template and rubrics."],
            of: Of::Value { rule: Rule::Table, single: false },
        },
    ];

    fn findings(&self) -> Vec<Finding> {
        let verdict = self.verdict.findings().into_iter().map(|finding| finding.inside("verdict"));
        let length = self.length.findings().into_iter().map(|finding| finding.inside("length"));
        self.relations().into_iter().chain(verdict).chain(length).collect()
    }
}

impl Relations for JudgeSettings {
    fn relations(&self) -> Vec<Finding> {
        let refused = |key: &str, reason: String| vec![Finding::new(Severity::Refused, &[key], reason)];
        if self.format != FORMAT {
            return refused("format", format!("this program reads format {FORMAT}"));
        }
        match JudgePrompt::new(&self.prompt, &self.form()) {
            Err(error) => refused("prompt", error.to_string()),
            Ok(_) => Vec::new(),
        }
    }
}

/// Why a `judge.toml` cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum JudgeFileError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error(transparent)]
    Setting(#[from] SettingError),
}

impl JudgeSettings {
    /// Settings of today's file format.
    pub fn new(prompt: PromptFile, verdict: VerdictRules, thinking: bool, form: JudgeForm) -> Self {
        let JudgeForm { mode, rubrics, length } = form;
        Self { format: FORMAT, mode, rubrics, thinking, length, verdict, prompt }
    }

    /// The form of its judgements.
    pub fn form(&self) -> JudgeForm {
        JudgeForm { mode: self.mode, rubrics: self.rubrics, length: self.length }
    }

    /// How its judgements are read.
    pub fn judgement_format(&self) -> JudgementFormat {
        JudgementFormat { rules: self.verdict, mode: self.mode, rubrics: self.rubrics }
    }

    /// The built-in prompt and rules, for a model without a `judge.toml`.
    pub fn built_in() -> Result<Valid<Self>, JudgePromptError> {
        let settings = Self::new(PromptFile::load(None)?, VerdictRules::default(), false, JudgeForm::default());
        Valid::new(settings).map_err(|refusal| JudgePromptError::Invalid { file: None, reason: refusal.to_string() })
    }

    /// Reads `judge.toml` from a model's directory; `None` if there is none.
    pub fn read(folder: &Path) -> Result<Option<Valid<Self>>, JudgeFileError> {
        let path = folder.join(JUDGE_FILE);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JudgeFileError::Io { path, error }),
            Ok(_) => Self::read_whole(path).map(Some),
        }
    }

    /// Reads a file that somebody has written for a judge; `None` if it is a rubrics file, which says nothing of the rest.
    pub fn read_file(path: &Path) -> Result<Option<Valid<Self>>, JudgeFileError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| JudgeFileError::Io { path: path.to_owned(), error })?;
        // What is no TOML is named by whoever reads it as rubrics.
        let is_whole = text.parse::<Table>().is_ok_and(|table| table.contains_key("prompt"));
        is_whole.then(|| Self::read_whole(path.to_owned())).transpose()
    }

    fn read_whole(path: PathBuf) -> Result<Valid<Self>, JudgeFileError> {
        let invalid = |reason: String| JudgeFileError::Invalid { path: path.clone(), reason };
        let built_in = Self::built_in().map_err(|error| invalid(error.to_string()))?;
        let read = overlay(&*built_in, Some(&path), std::iter::empty(), &[])?;
        if let Some(key) = Self::REQUIRED.iter().find(|key| !read.is_set(key)) {
            return Err(invalid(format!("`{key}` is missing: the file is not whole")));
        }
        Ok(read.valid()?)
    }

    /// Keys that every `judge.toml` has: without them, it would be judged in another way than the judge was trained to.
    const REQUIRED: [&str; 4] = ["format", "mode", "thinking", "prompt"];

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
            (Some(Value::String(a)), Some(Value::String(b))) if [a, b].iter().all(|text| is_word(text)) => {
                found.push(format!("{full}: {a} there, {b} here"));
            }
            (Some(Value::String(_) | Value::Table(_)) | None, _) | (_, None) => {
                found.push(format!("{full} differs"));
            }
            (Some(a), Some(b)) => found.push(format!("{full}: {a} there, {b} here")),
        }
    }
}

/// Whether a text is the name of a mode or the like, and no template.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() < 40 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> JudgeSettings {
        let verdict = VerdictRules { max: 5.0, ..VerdictRules::default() };
        JudgeSettings::new(PromptFile::load(None).unwrap(), verdict, true, JudgeForm::default())
    }

    #[test]
    fn settings_survive_a_write_and_a_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(JudgeSettings::read(folder.path()).unwrap().is_none());
        strict().write(folder.path()).unwrap();
        assert_eq!(JudgeSettings::read(folder.path()).unwrap(), Some(Valid::new(strict()).unwrap()));
    }

    #[test]
    fn a_judge_file_has_all_and_a_rubrics_file_the_prompt_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = strict();
        (whole.mode, whole.rubrics, whole.length.response) = (JudgeMode::Pairwise, RubricMode::Generated, 900);
        whole.write(folder.path()).unwrap();
        let path = folder.path().join(JUDGE_FILE);
        assert_eq!(JudgeSettings::read_file(&path).unwrap().as_deref(), Some(&whole));
        assert_eq!(PromptFile::load(Some(&path)).unwrap(), whole.prompt);
        let rubrics = folder.path().join("rubrics.toml");
        std::fs::write(&rubrics, toml::to_string(&whole.prompt).unwrap()).unwrap();
        assert_eq!(JudgeSettings::read_file(&rubrics).unwrap(), None);
        std::fs::write(&path, "mode = \"pairwise\"\n[prompt]\ntemplate = \"\"").unwrap();
        let error = JudgeSettings::read_file(&path).unwrap_err().to_string();
        assert!(error.contains("judge.toml"), "{error}");
    }

    #[test]
    fn invalid_settings_are_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        strict().write(folder.path()).unwrap();
        let path = folder.path().join(JUDGE_FILE);
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, part) in [
            ("format = 1", "format = 2", "`format` = 2: this program reads format 1"),
            (
                "max = 5.0",
                "max = 0.0",
                "judge.toml:15: `verdict.min` = 1.0, `verdict.max` = 0.0: scores need min < max",
            ),
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
        let mut other = JudgeSettings::clone(&JudgeSettings::built_in().unwrap());
        assert!(strict().differences(&strict()).is_empty());
        assert_eq!(
            strict().differences(&other),
            ["thinking: true there, false here", "verdict.max: 5.0 there, 10.0 here"]
        );
        other.mode = JudgeMode::Pairwise;
        assert!(strict().differences(&other).contains(&"mode: pointwise there, pairwise here".into()));
        other.prompt.tasks.get_mut("chat").unwrap().rubrics.push('!');
        other.prompt.system = Some("You judge.".into());
        let found = strict().differences(&other);
        assert!(found.contains(&"prompt.tasks.chat.rubrics differs".into()), "{found:?}");
        assert!(found.contains(&"prompt.system differs".into()), "{found:?}");
    }
}
