//! What `sft` and `rl` have in common: their command line, and how it becomes settings.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use super::device::DeviceArgs;
use crate::config::{Settings, resolve};
use crate::data::{LoadOptions, OnBadRow, Skipped};

/// Settings come from the defaults, then --config, then PATARM_CFG_* variables, then --set, then the flags here.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Training rows: JSONL or a JSON array; several files are one data set.
    #[arg(long = "data", value_name = "FILE", num_args = 1..)]
    pub data: Vec<String>,
    /// Hugging Face directory of a Qwen3: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Random weights of a named shape instead (nano, mini, 0.6b … 32b); needs --tokenizer.
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
    #[arg(long)]
    pub seed: Option<u64>,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Count bad rows and go on, instead of stopping at the first.
    #[arg(long)]
    pub skip_bad: bool,
    /// Print the resolved settings as TOML and stop.
    #[arg(long)]
    pub print_config: bool,
}

impl TrainArgs {
    /// The settings that all sources together give; `stage` names the run's folder where nothing else does.
    pub fn settings(&self, stage: &str) -> anyhow::Result<Settings> {
        let mut s = resolve(&Settings::default(), self.config.as_deref(), std::env::vars(), &self.set)?;
        let flags = [
            (&mut s.model.path, &self.model),
            (&mut s.model.init, &self.init),
            (&mut s.model.tokenizer, &self.tokenizer),
            (&mut s.run.out, &self.out),
        ];
        for (setting, flag) in flags {
            if let Some(value) = flag {
                setting.clone_from(value);
            }
        }
        if !self.data.is_empty() {
            s.data.train.clone_from(&self.data);
        }
        if s.run.out.is_empty() {
            s.run.out = format!("runs/{stage}");
        }
        s.run.seed = self.seed.unwrap_or(s.run.seed);
        s.run.threads = self.threads.unwrap_or(s.run.threads);
        s.data.skip_bad |= self.skip_bad;
        Ok(s)
    }
}

/// Files of training rows; there must be some.
pub fn files(settings: &Settings) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(!settings.data.train.is_empty(), "no training rows: give --data FILE, or data.train in the configuration");
    Ok(settings.data.train.iter().map(PathBuf::from).collect())
}

pub fn load_options(settings: &Settings) -> LoadOptions {
    LoadOptions {
        default_task: settings.data.task.clone(),
        on_bad_row: if settings.data.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse },
    }
}

/// Says what was left out, on stderr.
pub fn report_skipped(skipped: &Skipped, too_long: usize, limit: usize) {
    if skipped.count > 0 {
        eprintln!("{} bad rows were skipped, for example:", skipped.count);
        skipped.reasons.iter().for_each(|reason| eprintln!("  {reason}"));
    }
    if too_long > 0 {
        eprintln!("{too_long} rows of more than {limit} tokens were kept out");
    }
}
