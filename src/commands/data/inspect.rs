//! `data inspect`: what is in files of rows.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::content::ContentHash;
use super::histogram::{COLUMNS, Histogram};
use super::input::InputArgs;
use super::reasons::{Reasons, place};
use super::record::Record;
use crate::data::{Format, Location, Message, Streamed};
use crate::file::{console, counted};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// See what is in files of rows before you train on them.
///
/// Counts rows, those that can be used, and the others by reason, with the place of the first of each; tasks and sources;
/// lengths of prompts and answers; rows that say the same; pairs that say the opposite of another. Then three rows to read:
/// numbers do not show what a look at the text does.
///
///   patarm-train data inspect train.parquet
///   patarm-train data inspect a.jsonl.gz b.jsonl.zst --tokenizer models/Qwen3-0.6B
///   patarm-train data inspect sft.jsonl --as conversations --json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct InspectArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Directory of a tokenizer (a model's will do): lengths in tokens too.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Print JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// How many rows are shown.
const SAMPLES: usize = 3;
/// The most tasks and sources that are told apart.
const NAMES_MAX: usize = 1000;

/// Prints what it finds. Bad rows are counted and are no error; a file that breaks off is one.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::from_dir).transpose()?;
    let files = args.input.files()?;
    let mut found = Found::default();
    let mut failed = None;
    let ended = args.input.stream(&files, &mut |row, fields, location| {
        failed = found.add(row, fields, location, tokenizer.as_ref()).err();
        if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    // What a broken file held is worth knowing too.
    if args.json {
        let text = serde_json::to_string_pretty(&found.json(&files))?;
        console::print_line(text)?;
    } else {
        console::print(&console::without_controls(&found.text(&files, args)))?;
    }
    failed.map_or(Ok(()), Err)?;
    Ok(ended?)
}

#[derive(Default)]
struct Found {
    rows: u64,
    /// Records that can be used: a row may give several.
    usable: u64,
    reasons: Reasons,
    formats: BTreeMap<&'static str, u64>,
    tasks: BTreeMap<String, u64>,
    sources: BTreeMap<String, u64>,
    /// By part of a row and unit.
    lengths: BTreeMap<(&'static str, &'static str), Histogram>,
    /// In the order of the first row.
    parts: Vec<&'static str>,
    contents: HashSet<ContentHash>,
    prompts: HashSet<ContentHash>,
    duplicates: u64,
    opposites: u64,
    samples: Vec<Sample>,
}

/// A row that is shown.
struct Sample {
    /// The rows with the smallest numbers are shown: as good as drawn, and the same every time.
    number: u64,
    place: String,
    texts: Vec<(String, String)>,
}

impl Found {
    fn add(
        &mut self,
        row: Streamed<Record>,
        fields: Option<&Map<String, Value>>,
        location: &Location,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), TokenizerError> {
        let records = match row {
            Streamed::Alone(reason) => {
                self.reasons.add(&reason, location);
                return Ok(());
            }
            Streamed::Bad(reason) => {
                self.reasons.add(&reason, location);
                Vec::new()
            }
            Streamed::Records(records) => records,
        };
        self.rows += 1;
        let format = fields.and_then(Format::of).map_or("(unknown)", Format::name);
        *self.formats.entry(format).or_default() += 1;
        records.iter().try_for_each(|record| self.add_record(record, location, tokenizer))
    }

    fn add_record(
        &mut self,
        record: &Record,
        location: &Location,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), TokenizerError> {
        self.usable += 1;
        count_name(&mut self.tasks, record.task());
        count_name(&mut self.sources, record.set());
        self.add_content(record, location);
        let prompt: Vec<String> = record.prompt().iter().map(Message::text).collect();
        let answers = record.answers();
        for (part, text) in prompt_and_answers(&prompt, &answers) {
            let characters = text.iter().map(|text| text.chars().count()).sum();
            self.add_length(part, "characters", characters);
            if let Some(tokenizer) = tokenizer {
                let tokens = text.iter().map(|text| Ok(tokenizer.encode(text)?.len())).sum::<Result<_, _>>()?;
                self.add_length(part, "tokens", tokens);
            }
        }
        Ok(())
    }

    fn add_length(&mut self, part: &'static str, unit: &'static str, length: usize) {
        if !self.parts.contains(&part) {
            self.parts.push(part);
        }
        self.lengths.entry((part, unit)).or_default().add(length);
    }

    fn add_content(&mut self, record: &Record, location: &Location) {
        let content = record.content_hash();
        self.prompts.insert(record.prompt_hash());
        if !self.contents.insert(content) {
            self.duplicates += 1;
            return;
        }
        self.opposites += u64::from(record.opposite_hash().is_some_and(|hash| self.contents.contains(&hash)));
        let number = content.number("sample", 0);
        let at = self.samples.partition_point(|sample| sample.number < number);
        if at < SAMPLES {
            self.samples.insert(at, Sample { number, place: place(location), texts: shown(record) });
            self.samples.truncate(SAMPLES);
        }
    }

    fn text(&self, files: &[PathBuf], args: &InspectArgs) -> String {
        let (rows, files) = (counted(self.rows, "row"), counted(files.len(), "file"));
        let (usable, kind, bad) = (self.usable, args.input.kind.name(), counted(self.reasons.count, "bad row"));
        let mut lines = vec![format!("{rows} in {files}: {usable} usable {kind}, {bad}")];
        lines.extend(self.reasons.lines().into_iter().map(|line| format!("  {line}")));
        let formats = self.formats.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        for (name, counts) in [("formats", &formats), ("tasks", &self.tasks), ("sources", &self.sources)] {
            if !counts.is_empty() {
                lines.push(format!("{name}: {}", names(counts)));
            }
        }
        if usable > 0 {
            lines.push(format!("different prompts: {}", self.prompts.len()));
            lines.push(format!("{kind} that say only what an earlier one says: {}", self.duplicates));
        }
        if self.opposites > 0 {
            lines
                .push(format!("{kind} that prefer what an earlier one of the same prompt rejects: {}", self.opposites));
        }
        lines.extend(self.table());
        for sample in &self.samples {
            lines.push(format!("\n{}", sample.place));
            lines.extend(sample.texts.iter().map(|(name, text)| format!("  {name}: {}", text.replace('\n', "\n    "))));
        }
        lines.join("\n") + "\n"
    }

    /// The lengths as a table.
    fn table(&self) -> Vec<String> {
        let head = ["length".to_string()].into_iter().chain(COLUMNS.map(String::from)).collect();
        let mut rows: Vec<Vec<String>> = vec![head];
        for unit in ["characters", "tokens"] {
            for part in &self.parts {
                let Some(histogram) = self.lengths.get(&(*part, unit)) else { continue };
                rows.push([format!("{part}, {unit}")].into_iter().chain(histogram.columns()).collect());
            }
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate();
            let cell = |(column, (cell, width)): (usize, (&String, &usize))| match column {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            };
            cells.map(cell).collect::<Vec<_>>().join("  ")
        };
        if rows.len() > 1 { rows.iter().map(line).collect() } else { Vec::new() }
    }

    fn json(&self, files: &[PathBuf]) -> Value {
        let mut lengths = Map::new();
        for ((part, unit), histogram) in &self.lengths {
            lengths.entry(*part).or_insert_with(|| json!({}))[*unit] = histogram.json();
        }
        let sample = |sample: &Sample| {
            let texts: Map<String, Value> =
                sample.texts.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
            json!({"place": sample.place, "texts": texts})
        };
        json!({
            "files": files,
            "rows": self.rows,
            "usable": self.usable,
            "bad": self.reasons.count,
            "reasons": self.reasons.json(),
            "formats": self.formats,
            "tasks": self.tasks,
            "sources": self.sources,
            "prompts": self.prompts.len(),
            "duplicates": self.duplicates,
            "opposites": self.opposites,
            "lengths": lengths,
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    }
}

/// The texts of a row by the names of its parts.
fn prompt_and_answers<'a>(
    prompt: &'a [String],
    answers: &'a [(&'static str, String)],
) -> impl Iterator<Item = (&'static str, &'a [String])> {
    [("prompt", prompt)].into_iter().chain(answers.iter().map(|(name, text)| (*name, std::slice::from_ref(text))))
}

/// A hostile file may have as many tasks as rows.
fn count_name(counts: &mut BTreeMap<String, u64>, name: Option<&str>) {
    let Some(name) = name else { return };
    let name = cut(name, 200);
    let is_room = counts.len() < NAMES_MAX || counts.contains_key(&name);
    *counts.entry(if is_room { name } else { "(others)".to_string() }).or_default() += 1;
}

/// Names with their counts, the most frequent first.
fn names(counts: &BTreeMap<String, u64>) -> String {
    const SHOWN: usize = 12;
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut shown: Vec<String> = sorted.iter().take(SHOWN).map(|(name, count)| format!("{name} {count}")).collect();
    if sorted.len() > SHOWN {
        shown.push(format!("and {} more", sorted.len() - SHOWN));
    }
    shown.join(", ")
}

/// The turns and answers of a row, cut to what can be read at a glance.
fn shown(record: &Record) -> Vec<(String, String)> {
    const CHARACTERS: usize = 600;
    const TURNS: usize = 6;
    let turns = record.prompt();
    let left_out = turns.len().saturating_sub(TURNS);
    let mut texts: Vec<(String, String)> = Vec::new();
    if left_out > 0 {
        texts.push(("…".to_string(), counted(left_out, "earlier turn")));
    }
    texts.extend(turns[left_out..].iter().map(|turn| (cut(&turn.role, 20), cut(&turn.text(), CHARACTERS))));
    texts.extend(record.answers().into_iter().map(|(name, text)| (name.to_string(), cut(&text, CHARACTERS))));
    texts
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
