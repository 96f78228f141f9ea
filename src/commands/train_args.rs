//! What `sft` and `rl` have in common: their command line, and how it becomes settings.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use super::device::DeviceArgs;
use super::{flag, pretrained};
use crate::config::{SEED, Settings, THREADS};
use crate::model::Qwen3Config;
use crate::ops::Backend;
use crate::ops::linear::LinearSizes;
use crate::setting::{Assignment, Overlay, Valid, commented, overlay};

/// Settings come from the defaults, then --config, then PATARM_CFG_* variables, then --set, then the flags here. Every one is
/// checked, also those of the other stage, before anything is read.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Training rows: JSONL or a JSON array; several files are one data set.
    #[arg(long = "data", value_name = "FILE", num_args = 1..)]
    pub data: Vec<String>,
    /// Hugging Face directory of a Qwen3: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Random weights of a named shape instead of a --model (nano, mini, 0.6b … 32b); needs --tokenizer.
    #[arg(long, value_name = "SHAPE")]
    pub init: Option<String>,
    /// Directory of the tokenizer, if it is not the model's.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<String>,
    /// Folder of the run.
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, for example `rl.learning_rate=1e-6`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the latest checkpoint in the run's folder.
    #[arg(long)]
    pub resume: bool,
    /// Seed of data order, random weights and sampling.
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<i64>(SEED))]
    pub seed: Option<i64>,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<i64>(THREADS))]
    pub threads: Option<i64>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Count bad rows and go on, instead of stopping at the first.
    #[arg(long)]
    pub skip_bad: bool,
    /// Print the resolved settings as TOML and stop: what each key means, the values it may have, its default. A file for
    /// --config.
    #[arg(long)]
    pub print_config: bool,
}

impl TrainArgs {
    /// The settings that all sources together give, checked. `stage` names the run's folder where nothing else does; `flags` are
    /// those that the stage alone has.
    pub fn settings(&self, stage: &str, flags: Vec<Assignment>) -> anyhow::Result<Valid<Settings>> {
        let mut assignments = self.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
        assignments.extend(self.flags());
        assignments.extend(flags);
        let mut s = self.overlay(&Settings::default(), &assignments)?;
        // A judge that is trained on keeps its way of judging unless it is told otherwise, so its directory gives the defaults.
        if let Some(judge) = pretrained::carried(&s.settings.model)? {
            let mut defaults = Settings::default();
            (defaults.reward.verdict, defaults.model.thinking) = (judge.verdict, judge.thinking);
            s = self.overlay(&defaults, &assignments)?;
        }
        if s.settings.run.out.is_empty() {
            s.settings.run.out = format!("runs/{stage}");
        }
        Ok(s.valid()?)
    }

    /// Prints the settings as a TOML file that explains itself, if that was asked for; otherwise says what about them is rarely
    /// meant.
    pub fn printed(&self, settings: &Valid<Settings>) -> anyhow::Result<bool> {
        if !self.print_config {
            settings.notes().iter().for_each(|note| eprintln!("note: {note}"));
            return Ok(false);
        }
        match std::io::stdout().write_all(commented(settings).as_bytes()) {
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
            written => written.map(|()| true).context("standard output cannot be written"),
        }
    }

    /// File, environment and assignments over `defaults`.
    fn overlay(&self, defaults: &Settings, assignments: &[Assignment]) -> anyhow::Result<Overlay<Settings>> {
        Ok(overlay(defaults, self.config.as_deref(), std::env::vars_os(), assignments)?)
    }

    /// What the flags here say.
    fn flags(&self) -> Vec<Assignment> {
        let texts = [
            ("--model", "model.path", &self.model),
            ("--init", "model.init", &self.init),
            ("--tokenizer", "model.tokenizer", &self.tokenizer),
            ("--out", "run.out", &self.out),
        ];
        let mut flags: Vec<Assignment> = texts
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Assignment::flag(flag, key, value.clone()?)))
            .collect();
        flags.extend(self.seed.map(|seed| Assignment::flag("--seed", "run.seed", seed)));
        flags.extend(self.threads.map(|threads| Assignment::flag("--threads", "run.threads", threads)));
        if !self.data.is_empty() {
            flags.push(Assignment::flag("--data", "data.train", self.data.clone()));
        }
        if self.skip_bad {
            flags.push(Assignment::flag("--skip-bad", "data.skip_bad", true));
        }
        flags
    }
}

/// The settings with what depends on the device resolved, before any weight is read: `run.lm_head_chunk_rows` is what the
/// config.toml of a resumed run says, or else what is asked for, or else what suits the device's total memory.
pub fn for_device<B: Backend>(
    backend: &B,
    settings: &Valid<Settings>,
    resume: bool,
    model: &Qwen3Config,
) -> anyhow::Result<Valid<Settings>> {
    let sizes = LinearSizes { out_features: model.vocab_size, in_features: model.hidden_size };
    let asked = settings.run.lm_head_chunk_rows;
    let begun = if resume { lm_head_chunk_of(Path::new(&settings.run.out))? } else { 0 };
    let rows = match (begun, asked) {
        (0, 0) => backend.lm_head_chunk_rows(sizes),
        (0, rows) | (rows, 0) => rows,
        (begun, asked) => {
            let out = &settings.run.out;
            ensure!(
                begun == asked,
                "run.lm_head_chunk_rows = {asked}: the run in {out} was begun with {begun}, and another value would change its \
                 sums; leave the setting out"
            );
            begun
        }
    };
    backend.lm_head_check_chunk(rows, sizes).with_context(|| format!("run.lm_head_chunk_rows = {rows} cannot work"))?;
    Ok(settings.changed(|settings| settings.run.lm_head_chunk_rows = rows)?)
}

/// `run.lm_head_chunk_rows` in the config.toml of a run's folder; 0 where it does not say.
fn lm_head_chunk_of(out: &Path) -> anyhow::Result<usize> {
    let path = out.join("config.toml");
    if !path.exists() {
        return Ok(0);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{}: is not TOML", path.display()))?;
    let Some(value) = table.get("run").and_then(|run| run.get("lm_head_chunk_rows")) else { return Ok(0) };
    let rows = value.as_integer().and_then(|rows| usize::try_from(rows).ok());
    rows.with_context(|| format!("{}: run.lm_head_chunk_rows = {value} is no number of rows", path.display()))
}
