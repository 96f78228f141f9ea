//! The suite as files, for the commands that read JSONL.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::{Example, Suite};
use crate::file::write_atomically;

/// Rows of each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub sft: u64,
    pub train: u64,
    pub test: u64,
}

/// Writes `sft.jsonl` (`messages` rows), `train_pairs.jsonl` and `test_pairs.jsonl` into `folder`, which must exist.
/// `judge_prompt` makes the user's message of an SFT example.
pub fn write_jsonl(
    suite: &Suite,
    folder: &Path,
    counts: Counts,
    judge_prompt: impl Fn(&Example) -> String,
) -> io::Result<()> {
    let conversation = |index| {
        let sft = suite.sft(index).map_err(io::Error::other)?;
        Ok(sft.conversation(judge_prompt(&sft.example)))
    };
    write_rows(&folder.join("sft.jsonl"), (0..counts.sft).map(conversation))?;
    write_rows(&folder.join("train_pairs.jsonl"), (0..counts.train).map(|index| Ok(suite.train_pair(index))))?;
    write_test_pairs(suite, &folder.join("test_pairs.jsonl"), counts.test)
}

/// Writes the first so many test pairs.
pub fn write_test_pairs(suite: &Suite, path: &Path, count: u64) -> io::Result<()> {
    write_rows(path, (0..count).map(|index| Ok(suite.test_pair(index))))
}

fn write_rows<T: Serialize>(path: &Path, rows: impl Iterator<Item = io::Result<T>>) -> io::Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, &row?)?;
        text.push(b'\n');
    }
    write_atomically(path, &text)
}
