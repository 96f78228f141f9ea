//! `demo`: the main job from nothing, on this machine — synthetic data, a tokenizer, a tiny Qwen3 with random weights,
//! SFT on a noisy teacher's judgements, RL with the Preference-Aware Reward, and evaluation on held-out pairs.

mod compare;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::device::{DeviceArgs, with_backend};
use super::report::{CONTENTS, UNTRAINED};
use super::train_args::for_device;
use super::{flag, pretrained};
use crate::config::{SEED, SHARE, Settings, THREADS};
use crate::eval::PairReport;
use crate::eval::pairs::VOTES;
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::optimizer::Decay;
use crate::report::results;
use crate::setting::{Assignment, Valid, resolve};
use crate::train::rl_report::RL;
use crate::train::run::Outcome;
use crate::train::run_folder::RunFolder;
use crate::train::sft::SFT;
use crate::train::{Guard, Learner};
use suite::DemoSuite;

/// Watch a judge learn, from random weights, on this machine.
///
/// Makes a synthetic preference suite (four tasks whose answers a program grades), trains a tiny Qwen3 first on a noisy
/// teacher's judgements (SFT), then on preference pairs alone (GRPO with the Preference-Aware Reward), evaluates it on
/// held-out pairs after each stage, and writes a report to open in a browser.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of data, weights and sampling: the same seed gives the same numbers.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<u64>(SEED))]
    pub seed: u64,
    /// Folder of the run [default: runs/demo, or RUN/compare with --from].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<usize>(THREADS))]
    pub threads: usize,
    /// Few steps: to see that everything works, not to learn.
    #[arg(long)]
    pub quick: bool,
    /// Share of RL pairs whose labels are swapped at random; at 0.5 they carry nothing.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub flip: f64,
    /// Share of the teacher's scores that are drawn at random.
    #[arg(long, default_value_t = 0.3, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub score_noise: f64,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Check a device against the CPU instead: takes the judges that an earlier demo has left in this folder, trains some
    /// steps from them on --device, and compares rollouts, rewards and accuracy with the CPU's.
    #[arg(long, value_name = "RUN")]
    pub from: Option<PathBuf>,
    /// Overrides a setting, for example `--set rl.steps=100`; config.toml in the run's folder lists them all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Folders of a run: the judge after both stages, and the one that RL started from.
const MODEL: &str = "model";
const SFT_MODEL: &str = "model-sft";

/// The demo's own defaults.
fn settings(args: &DemoArgs) -> anyhow::Result<Valid<Settings>> {
    let mut s = Settings::default();
    s.run.seed = args.seed;
    s.run.threads = args.threads;
    s.run.out = args.out.as_deref().unwrap_or(Path::new("runs/demo")).display().to_string();
    s.run.checkpoint_every = 0;
    s.model.init = "nano".into();
    s.model.context = 256;
    s.data.flip = args.flip;
    s.sft.steps = 250;
    s.sft.examples_per_step = 32;
    s.sft.learning_rate = 2e-3;
    s.sft.warmup = 50;
    s.sft.micro_batch_tokens = 4096;
    s.rl.steps = 200;
    s.rl.pairs_per_step = 32;
    s.rl.rollouts = 8;
    s.rl.learning_rate = 1.2e-4;
    s.rl.decay = Decay::Linear;
    s.rl.policy.kl_coefficient = 0.03;
    s.rl.max_prompt_tokens = 96;
    s.rl.max_new_tokens = 96;
    s.rl.max_running = 256;
    s.rl.micro_batch_tokens = 4096;
    s.eval.pairs = 320;
    if args.quick {
        (s.sft.steps, s.rl.steps, s.rl.pairs_per_step, s.eval.pairs) = (12, 2, 8, 16);
    }
    let set = args.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
    Ok(resolve(&s, None, std::env::vars_os(), &set)?)
}

/// Learns from random weights, or with `--from` holds the device to an earlier demo's models.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let (settings, device) = (settings(args)?, args.device.device);
    if !args.quick {
        settings.notes().iter().for_each(|note| eprintln!("note: {note}"));
    }
    let stop = super::stop_flag()?;
    super::on_threads(settings.run.threads, || match &args.from {
        None => with_backend!(device, backend => learn(backend, args, &settings, &stop)),
        Some(run) => with_backend!(device, backend => compare::run(backend, args, run, &stop)),
    })
}

fn learn<B: Backend>(
    backend: &B,
    args: &DemoArgs,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let suite = DemoSuite::new(args.score_noise, settings, None)?;
    suite.check(settings)?;
    let out = Path::new(&settings.run.out);
    prepare_folder(out)?;
    let (config, weights) = suite.model(settings)?;
    let settings = &for_device(backend, settings, false, &config)?;
    let mut run = RunFolder::create(out, settings)?;

    let mut model = Qwen3::new(backend, config, &weights, settings.model.context)?;
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let mut stages = Stages::new();
    stages.add(UNTRAINED, suite.evaluate(&model, settings, VOTES, stop)?);

    let mut learner = Learner::new(model, settings.part(|s| &s.sft.adamw), settings.sft.micro_batch_tokens)?;
    let mut guard = Guard::new(out.to_path_buf(), settings.run.patience);
    if suite.run_sft(&mut learner, settings, &mut run, &mut guard, stop)? == Outcome::Stopped {
        return stopped(out);
    }
    pretrained::export(&out.join(SFT_MODEL), &learner.model, suite.judge.tokenizer(), suite.judge.settings())?;
    stages.add(SFT.key, suite.evaluate(&learner.model, settings, VOTES, stop)?);

    let reference = learner.model.frozen()?;
    let policy = learner.model;
    let mut learner = Learner::new(policy, settings.part(|s| &s.rl.adamw), settings.rl.micro_batch_tokens)?;
    if suite.run_rl(&mut learner, &reference, settings, &mut run, &mut guard, stop)? == Outcome::Stopped {
        return stopped(out);
    }
    stages.add(RL.key, suite.evaluate(&learner.model, settings, VOTES, stop)?);

    let folder = out.join(MODEL);
    pretrained::export(&folder, &learner.model, suite.judge.tokenizer(), suite.judge.settings())?;
    let summary = Summary {
        wall_s: start.elapsed().as_secs_f64(),
        seed: args.seed,
        flip: args.flip,
        score_noise: args.score_noise,
        stages: stages.0,
        environment: serde_json::to_value(Environment::detect())?,
    };
    let report = run.finish(&summary, &CONTENTS)?;
    print_results(&summary, &report, &folder)
}

/// A demo's folder may hold an earlier demo, which the new one replaces; anything else is left alone.
fn prepare_folder(out: &Path) -> anyhow::Result<()> {
    if !out.join("metrics.jsonl").exists() {
        return Ok(());
    }
    for name in ["metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "config.toml", "environment.json"] {
        let file = out.join(name);
        if file.exists() {
            std::fs::remove_file(&file).with_context(|| format!("{}: cannot be replaced", file.display()))?;
        }
    }
    Ok(())
}

fn stopped(out: &Path) -> anyhow::Result<()> {
    anyhow::bail!("stopped; what was measured so far is in {}", out.display())
}

/// The stages' reports, by name.
struct Stages(serde_json::Map<String, serde_json::Value>);

impl Stages {
    fn new() -> Self {
        Self(serde_json::Map::new())
    }

    fn add(&mut self, name: &str, report: PairReport) {
        self.0.insert(name.into(), json!(report));
    }
}

/// summary.json
#[derive(Serialize)]
struct Summary {
    wall_s: f64,
    seed: u64,
    flip: f64,
    score_noise: f64,
    stages: serde_json::Map<String, serde_json::Value>,
    environment: serde_json::Value,
}

fn print_results(summary: &Summary, report: &Path, model: &Path) -> anyhow::Result<()> {
    let record = match serde_json::to_value(summary)? {
        serde_json::Value::Object(record) => record,
        other => anyhow::bail!("a summary is an object, got {other}"),
    };
    println!("{}", results::text_table(&CONTENTS, &record));
    println!("{:.0} s. The trained judge: {}. The report: {}", summary.wall_s, model.display(), report.display());
    Ok(())
}
