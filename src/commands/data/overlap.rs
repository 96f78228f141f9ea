//! Prompts that a benchmark has too, found by the runs of words that they share.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::data::row_reader::RowReader;
use crate::data::{DataError, sources};

/// Fields in which benchmarks keep their prompts.
const PROMPT_FIELDS: [&str; 10] = [
    "prompt",
    "question",
    "instruction",
    "input",
    "context",
    "turns",
    "messages",
    "conversations",
    "problem",
    "context_messages",
];

/// Runs of words of the prompts of benchmarks, by their hashes.
pub struct Benchmarks {
    words: usize,
    runs: HashSet<u64>,
    /// Prompts that are shorter than a run, as a whole.
    short: HashSet<u64>,
}

impl Benchmarks {
    /// Reads the prompts of files in whatever form they are. `words` make a run. An error if a file holds none.
    pub fn read(inputs: &[PathBuf], words: usize) -> Result<Self, DataError> {
        let mut found = Self { words, runs: HashSet::new(), short: HashSet::new() };
        for file in sources::resolve(inputs)? {
            let before = found.len();
            RowReader::default().read(&file, &mut |row, _, _| {
                if let Ok(row) = row {
                    prompts_of(&row.value, &mut |prompt| found.add(prompt));
                }
                Ok(())
            })?;
            if found.len() == before {
                let reason = format!("has no prompts; expected one of the fields {}", PROMPT_FIELDS.join(", "));
                return Err(DataError::Unreadable { path: file, reason });
            }
        }
        Ok(found)
    }

    fn len(&self) -> usize {
        self.runs.len() + self.short.len()
    }

    fn add(&mut self, prompt: &str) {
        let words = words_of(prompt);
        match words.len() {
            0 => {}
            length if length < self.words => drop(self.short.insert(hash(&words))),
            _ => self.runs.extend(words.windows(self.words).map(hash)),
        }
    }

    /// Whether a text shares a run of words with a prompt, or is one.
    pub fn have(&self, text: &str) -> bool {
        let words = words_of(text);
        match words.len() < self.words {
            true => !words.is_empty() && self.short.contains(&hash(&words)),
            false => words.windows(self.words).any(|run| self.runs.contains(&hash(run))),
        }
    }
}

/// The texts of a row's prompt, however it is nested. Of a conversation the answers are left out: models write the same
/// phrases everywhere.
fn prompts_of(row: &Value, on_prompt: &mut dyn FnMut(&str)) {
    let Some(row) = row.as_object() else { return };
    for name in PROMPT_FIELDS {
        row.get(name).into_iter().for_each(|value| texts_of(value, on_prompt));
    }
}

fn texts_of(value: &Value, on_prompt: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => on_prompt(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, on_prompt)),
        Value::Object(turn) => {
            let role = turn.get("role").or_else(|| turn.get("from")).and_then(Value::as_str);
            if matches!(role, Some("user" | "human")) {
                let content = turn.get("content").or_else(|| turn.get("value"));
                content.into_iter().for_each(|content| texts_of(content, on_prompt));
            }
        }
        _ => {}
    }
}

/// Words in small letters, without what stands between them.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn hash(words: &[String]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(word.as_bytes()).update(b" ");
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_run_of_words_is_found_whatever_stands_between_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.jsonl");
        let rows = [
            r#"{"prompt": "One two, three four FIVE six."}"#,
            r#"{"messages": [{"role": "user", "content": "Short"}, {"role": "assistant", "content": "a b c d e f g"}]}"#,
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        let benchmarks = Benchmarks::read(std::slice::from_ref(&path), 4).unwrap();
        for (text, expected) in [
            ("well: TWO three\nfour -- five", true),
            ("two three five six", false),
            ("short!", true),
            ("short short", false),
            ("a b c d e f g", false),
            ("", false),
        ] {
            assert_eq!(benchmarks.have(text), expected, "{text}");
        }
        std::fs::write(&path, "{\"a\": \"b\"}").unwrap();
        let said = Benchmarks::read(&[path], 4).err().unwrap().to_string();
        assert!(said.contains("bench.jsonl: has no prompts"), "{said}");
    }
}
