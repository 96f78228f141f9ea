//! What the commands that work through a file of rows share: where the rows go, and what a row depends on.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::device::DeviceChoice;
use crate::data::RowId;
use crate::file::{Existing, RowError, RowOutput, RowWriter, counted, is_same, try_writing};
use crate::model::weights::{LoadError, PIECE, Weights, read_arena};
use crate::model::{ParameterTable, Qwen3Config};

/// Where rows go.
#[derive(Clone, Debug, Args)]
pub struct RowArgs {
    /// Where the rows go; `-`: standard output. They are written as they finish, in the order of the input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub output: String,
    /// Go on with an --output that was not finished: its rows are kept, and only the rest is done. Input and settings must be
    /// those of before (FILE.resume, beside it, holds them).
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Begin an --output again that exists already, and replace whatever else the command writes.
    #[arg(long)]
    pub overwrite: bool,
}

impl RowArgs {
    /// Tries the output, before anything is loaded. It must be none of `inputs` and no file of the model's directory, if there is
    /// one.
    pub fn open(&self, inputs: &[PathBuf], model: Option<&Path>) -> Result<RowOutput, RowError> {
        let existing = match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        RowOutput::new(&self.output, existing, &with_files_of(model, inputs))
    }

    /// Tries other files that are written at once, each after its flag, by the same rules; what goes on with rows may write them
    /// again. No two of them may be one file.
    pub fn try_others<'a>(
        &self,
        others: impl Iterator<Item = (&'static str, &'a Path)>,
        inputs: &[PathBuf],
        model: Option<&Path>,
    ) -> anyhow::Result<()> {
        let mut taken: Vec<(&str, &Path)> = Vec::new();
        for (flag, file) in others {
            if let Some((other, _)) = taken.iter().find(|(_, taken)| is_same(taken, file)) {
                bail!("{flag} {}: is the same file as {other}", file.display());
            }
            self.try_other(flag, file, inputs, model)?;
            taken.push((flag, file));
        }
        Ok(())
    }

    /// Tries one such file.
    pub fn try_other(&self, flag: &str, file: &Path, inputs: &[PathBuf], model: Option<&Path>) -> anyhow::Result<()> {
        let shown = file.display();
        if let Some(input) = with_files_of(model, inputs).iter().find(|input| is_same(input, file)) {
            bail!("{flag} {shown}: is an input too ({})", input.display());
        }
        let exists = try_writing(file).with_context(|| format!("{flag} {shown}: cannot be written"))?;
        ensure!(!exists || self.overwrite || self.resume, "{flag} {shown}: exists already; --overwrite replaces it");
        Ok(())
    }

    /// How the work on `rows` rows ended: with what the writer met, or else with what the judge did. What is finished is kept.
    pub fn conclude(
        &self,
        rows: usize,
        writer: RowWriter,
        written: Result<(), RowError>,
        judged: Result<(), impl Into<anyhow::Error>>,
    ) -> anyhow::Result<()> {
        let (done, file) = (writer.finished(), writer.is_file());
        let ended = written.map_err(anyhow::Error::from).and(judged.map_err(Into::into));
        let ended = ended.and_then(|()| Ok(writer.finish()?));
        match file {
            true => ended.with_context(|| {
                let rows = counted(rows, "row");
                format!("kept in {}: {done} of {rows}; the same command with --resume goes on", self.output)
            }),
            false => ended,
        }
    }
}

/// What must not be written: the inputs and the files of the model's directory, if there is one.
fn with_files_of(model: Option<&Path>, inputs: &[PathBuf]) -> Vec<PathBuf> {
    let entries = model.map(std::fs::read_dir).into_iter().flatten().flatten();
    let files = entries.flatten().map(|entry| entry.path());
    inputs.iter().cloned().chain(files).collect()
}

/// Elements that are hashed at a time: 1 MiB.
const HASHED: usize = 1 << 18;

/// A number for everything that a model computes with: its shape and every weight.
pub fn fingerprint_of_model<W: Weights + ?Sized>(config: &Qwen3Config, weights: &W) -> Result<String, LoadError> {
    let table = ParameterTable::new(config);
    let len = table.arena_len();
    // A piece has a hash of its own, so that threads share the work; it is read by and by, so that they need little memory.
    let hash_of = |first: usize| {
        let (mut hasher, end) = (blake3::Hasher::new(), len.min(first + PIECE));
        let mut block = vec![0.0; HASHED];
        for start in (first..end).step_by(HASHED) {
            let range = start..end.min(start + HASHED);
            let values = &mut block[..range.len()];
            read_arena(weights, &table, range, values)?;
            hasher.update(bytemuck::cast_slice(values));
        }
        Ok(hasher.finalize())
    };
    let starts: Vec<usize> = (0..len).step_by(PIECE).collect();
    let hashes = starts.into_par_iter().map(hash_of).collect::<Result<Vec<_>, LoadError>>()?;
    let mut all = blake3::Hasher::new();
    all.update(config.to_json().to_string().as_bytes());
    for hash in hashes {
        all.update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

/// A number for what is to be worked on: the rows' ids and their prompts as tokens, in their order.
pub fn fingerprint_of_input<'a>(rows: impl Iterator<Item = (&'a RowId, &'a [u32])>) -> String {
    let mut all = blake3::Hasher::new();
    for (id, prompt) in rows {
        let id = id.json();
        all.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
        all.update(&(prompt.len() as u64).to_le_bytes()).update(bytemuck::cast_slice(prompt));
    }
    all.finalize().to_hex().to_string()
}

/// The device as far as it changes bits.
pub fn kind_of_device(device: DeviceChoice) -> Value {
    json!(device.to_string().split(':').next())
}
