//! What `sft` and `rl` have in common: their command line, and how it becomes settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use super::device::DeviceArgs;
use super::pretrained;
use crate::config::{ExportDtype, Settings, resolve};
use crate::model::Qwen3Config;
use crate::ops::Backend;
use crate::ops::linear::LinearSizes;

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
    /// The type that the trained model's weights are written as, instead of the one that they were read as.
    #[arg(long)]
    pub dtype: Option<ExportDtype>,
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
        let mut s = self.resolve(&Settings::default())?;
        // A judge that is trained on keeps its way of judging unless it is told otherwise, so its directory gives the defaults.
        if let Some(judge) = pretrained::carried(&s.model)? {
            let mut defaults = Settings::default();
            (defaults.reward.verdict, defaults.model.thinking) = (judge.verdict, judge.thinking);
            s = self.resolve(&defaults)?;
        }
        if s.run.out.is_empty() {
            s.run.out = format!("runs/{stage}");
        }
        Ok(s)
    }

    /// File, environment, `--set` and flags over `defaults`.
    fn resolve(&self, defaults: &Settings) -> anyhow::Result<Settings> {
        let mut s = resolve(defaults, self.config.as_deref(), std::env::vars(), &self.set)?;
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
        s.run.seed = self.seed.unwrap_or(s.run.seed);
        s.run.export_dtype = self.dtype.unwrap_or(s.run.export_dtype);
        s.run.threads = self.threads.unwrap_or(s.run.threads);
        s.data.skip_bad |= self.skip_bad;
        Ok(s)
    }
}

/// The settings with what depends on the device resolved, before any weight is read: `run.lm_head_chunk_rows` is what the
/// config.toml of a resumed run says, or else what is asked for, or else what suits the device's total memory.
pub fn for_device<B: Backend>(
    backend: &B,
    settings: &Settings,
    resume: bool,
    model: &Qwen3Config,
) -> anyhow::Result<Settings> {
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
    let mut settings = settings.clone();
    settings.run.lm_head_chunk_rows = rows;
    Ok(settings)
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
