//! What `sft` and `rl` have in common: their command line, and how it becomes settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;

use super::device::DeviceArgs;
use super::{flag, interrupt, pretrained};
use crate::config::{ExportDtype, SEED, Settings, THREADS};
use crate::file::{console, say};
use crate::model::Qwen3Config;
use crate::ops::Backend;
use crate::ops::linear::LinearSizes;
use crate::setting::{Assignment, Overlay, Valid, commented, overlay};
use crate::train::run_folder::{Claim, Intent, settings_of};

/// Settings come from the defaults, then --config, then PATARM_CFG_* variables, then --set, then the flags here. Every one is
/// checked, also those of the other stage, before anything is read.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Training rows: JSON lines, a JSON array (either also by gzip or zstd), Parquet, a folder of such files, or a data set of
    /// the hub (OWNER/NAME:SPLIT); several are one data set. `data inspect` shows what is in them.
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
    /// The type that the trained model's weights are written as, instead of the one that they were read as.
    #[arg(long)]
    pub dtype: Option<ExportDtype>,
    /// Go on with the run in the folder (--out), from its latest checkpoint or, without one, from its beginning. Settings,
    /// data and model are the run's own; what is given beside it comes on top. Changes of speed and length are recorded in the
    /// run's config.toml and config-history.jsonl; changes of what is learnt are refused.
    #[arg(long)]
    pub resume: bool,
    /// With --resume: go on although data, model, reference, rewards or other settings of what is learnt are not the run's.
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
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

/// What a training run starts with.
pub struct Start {
    pub settings: Valid<Settings>,
    pub claim: Claim,
    /// Set by the first signal to stop.
    pub stop: Arc<AtomicBool>,
}

impl TrainArgs {
    /// The settings that all sources together give, checked. `stage` names the run's folder where nothing else does.
    fn settings(&self, stage: &str, flags: Vec<Assignment>) -> anyhow::Result<Valid<Settings>> {
        let mut assignments = self.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
        assignments.extend(self.flags());
        assignments.extend(flags);
        let mut s = self.overlay(&Settings::default(), &assignments)?;
        if s.settings.run.out.is_empty() {
            s.settings.run.out = format!("runs/{stage}");
        }
        let out = s.settings.run.out.clone();
        if self.resume {
            s = self.overlay(&settings_of(Path::new(&out))?, &assignments)?;
            s.settings.run.out = out;
            return Ok(s.valid()?);
        }
        // A judge that is trained on keeps its way of judging unless it is told otherwise, so its directory gives the defaults.
        if let Some(judge) = pretrained::way_of(&s.settings)? {
            let mut defaults = Settings::default();
            (defaults.reward.verdict, defaults.model.thinking) = (judge.verdict, judge.thinking);
            defaults.judge = judge.form();
            s = self.overlay(&defaults, &assignments)?;
            s.settings.run.out = out;
        }
        Ok(s.valid()?)
    }

    /// What the run of `command` starts with, its folder taken and signals watched; `None` where the settings were to be printed
    /// and are. `flags` are those that the command alone has.
    pub fn start(&self, command: &'static str, flags: Vec<Assignment>) -> anyhow::Result<Option<Start>> {
        let settings = self.settings(command, flags)?;
        if self.print_config {
            console::print(&commented(&settings))?;
            return Ok(None);
        }
        settings.notes().iter().for_each(|note| say!("note: {note}"));
        let intent = match self.resume {
            true => Intent::Resume { accept_changes: self.accept_changes },
            false => Intent::New,
        };
        // Watched first: a signal then finds nothing made, or removes it.
        let stop = interrupt::watch()?;
        let claim = Claim::new(Path::new(&settings.run.out), command, intent)?;
        Ok(Some(Start { settings, claim, stop }))
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
        flags.extend(self.dtype.map(|dtype| Assignment::flag("--dtype", "run.export_dtype", dtype.name())));
        flags
    }
}

/// The settings with what depends on the device resolved, before any weight is read: `run.lm_head_chunk_rows` is what is asked
/// for (a resumed run asks for what it was begun with), or else what suits the device's total memory.
pub fn for_device<B: Backend>(
    backend: &B,
    settings: &Valid<Settings>,
    model: &Qwen3Config,
) -> anyhow::Result<Valid<Settings>> {
    let sizes = LinearSizes { out_features: model.vocab_size, in_features: model.hidden_size };
    let rows = match settings.run.lm_head_chunk_rows {
        0 => backend.lm_head_chunk_rows(sizes),
        asked => asked,
    };
    backend.lm_head_check_chunk(rows, sizes).with_context(|| format!("run.lm_head_chunk_rows = {rows} cannot work"))?;
    Ok(settings.changed(|settings| settings.run.lm_head_chunk_rows = rows)?)
}
