//! `data convert`: rows of any kind as JSON lines of our own form.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;

use super::input::InputArgs;
use super::reasons::{Reasons, place};
use super::record::Record;
use crate::data::{RowId, Streamed};
use crate::file::{WholeFile, counted, say, try_writing};

/// Turn rows of any format and any kind of file into JSON lines of our own form.
///
/// Pairs become {"id", "task", "source", "prompt", "chosen", "rejected", "gap"}, conversations {"id", "messages"}, responses
/// {"id", "task", "prompt", "response"}; the prompt is a list of messages, and a field that a row does not have is left out. Ids
/// stay as they are; where one comes a second time, it becomes ID#2.
///
/// The file is there whole or not at all, also after Ctrl-C. Bad rows end the command unless --skip-bad is given.
///
///   patarm-train data convert train-*.parquet --output train.jsonl
///   patarm-train data convert ultrafeedback.parquet --output - | head -3
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where rows go, and what becomes of bad ones.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Where the rows go; `-`: standard output.
    #[arg(long, value_name = "FILE")]
    pub output: String,
    /// Replace an --output that exists already.
    #[arg(long)]
    pub overwrite: bool,
    /// Count bad rows and go on, instead of stopping at the first.
    #[arg(long)]
    pub skip_bad: bool,
}

impl OutputArgs {
    /// Begins a file of rows, which must be none of `inputs`.
    pub fn begin(&self, output: &str, inputs: &[PathBuf]) -> anyhow::Result<WholeFile> {
        if output != "-" {
            let exists = try_writing(Path::new(output)).with_context(|| format!("{output}: cannot be written"))?;
            ensure!(!exists || self.overwrite, "{output}: exists already; --overwrite replaces it");
        }
        Ok(WholeFile::create(output, inputs)?)
    }
}

/// Writes the rows of all files.
pub fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let files = args.input.files()?;
    let mut output = args.output.begin(&args.output.output, &files)?;
    let stop = crate::commands::stop_flag()?;
    let mut ids = Ids::default();
    let (mut rows, mut reasons) = (0_u64, Reasons::default());
    each_usable(args, &files, &stop, &mut reasons, &mut |record| {
        rows += 1;
        Ok(output.put(&record.line(&ids.name(record.id())))?)
    })?;
    if reasons.count > 0 {
        say!("left out: {}", counted(reasons.count, "bad row"));
        reasons.lines().iter().for_each(|line| say!("  {line}"));
    }
    ensure!(rows > 0, "no row can be used as {}, so nothing is written", args.input.kind.name());
    output.finish()?;
    say!("{} written", counted(rows, "row"));
    Ok(())
}

fn each_usable(
    args: &ConvertArgs,
    files: &[PathBuf],
    stop: &AtomicBool,
    reasons: &mut Reasons,
    on_record: &mut dyn FnMut(Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut ended = Ok(());
    args.input.stream(files, &mut |row, _, location| {
        ended = match row {
            _ if stop.load(Ordering::Relaxed) => Err(anyhow::anyhow!("stopped; nothing is written")),
            Streamed::Records(records) => records.into_iter().try_for_each(&mut *on_record),
            Streamed::Bad(reason) | Streamed::Alone(reason) => {
                reasons.add(&reason, location);
                match args.output.skip_bad {
                    true => Ok(()),
                    false => Err(anyhow::anyhow!("{}: {reason}; --skip-bad leaves such rows out", place(location))),
                }
            }
        };
        if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    ended
}

/// The ids of rows that come from several files into one: each is used once.
#[derive(Default)]
pub struct Ids(HashMap<[u8; 16], u32>);

impl Ids {
    /// The row's own id, if none before it has it.
    pub fn name(&mut self, id: &RowId) -> RowId {
        if self.count(id.json()) == 1 {
            return id.clone();
        }
        loop {
            let count = self.0[&hash(id.json())];
            let name = Value::from(format!("{id}#{count}"));
            if self.count(&name.to_string()) == 1 {
                return RowId::from(name);
            }
            self.count(id.json());
        }
    }

    /// How often an id has been asked for, this time included.
    fn count(&mut self, json: &str) -> u32 {
        let count = self.0.entry(hash(json)).or_default();
        *count += 1;
        *count
    }
}

fn hash(json: &str) -> [u8; 16] {
    *blake3::hash(json.as_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_given_once_and_keeps_its_spelling() {
        let mut ids = Ids::default();
        let mut name =
            |json: &str| ids.name(&RowId::from(serde_json::from_str::<Value>(json).unwrap())).json().to_string();
        let given = ["7", "7", "\"7#3\"", "7", "\"7\"", "\"7\"", "\"7#2\""].map(&mut name);
        assert_eq!(given, ["7", "\"7#2\"", "\"7#3\"", "\"7#4\"", "\"7\"", "\"7#5\"", "\"7#2#3\""]);
    }
}
