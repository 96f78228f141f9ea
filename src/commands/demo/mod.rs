//! `demo`: the main job from nothing, on this machine — synthetic data, a tokenizer, a tiny Qwen3 with random weights,
//! SFT on a noisy teacher's judgements, RL with the Preference-Aware Reward, and evaluation on held-out pairs.

mod compare;
mod suite;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::device::{DeviceArgs, with_backend};
use super::ending::{self, Beginning, Fault};
use super::report::{CONTENTS, UNTRAINED};
use super::train_args::for_device;
use super::{flag, interrupt};
use crate::checkpoint::Progress;
use crate::config::{SEED, SHARE, Settings, THREADS};
use crate::eval::PairReport;
use crate::eval::pairs::VOTES;
use crate::file::{console, say};
use crate::log::Environment;
use crate::log::charts::Stage;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::optimizer::Decay;
use crate::report::results;
use crate::rollout::EngineError;
use crate::setting::{Assignment, Valid, overlay};
use crate::train::rl_report::RL;
use crate::train::run::Outcome;
use crate::train::run_folder::{Claim, Intent, RunFolder, RunRecord};
use crate::train::sft::SFT;
use crate::train::{Guard, Learner};
use suite::DemoSuite;

/// Watch a judge learn, from random weights, on this machine.
///
/// Makes a synthetic preference suite (four tasks whose answers a program grades), trains a tiny Qwen3 first on a noisy
/// teacher's judgements (SFT), then on preference pairs alone (GRPO with the Preference-Aware Reward), evaluates it on
/// held-out pairs after each stage, and writes a report to open in a browser. An earlier demo in the same folder is replaced;
/// anything else there is refused. There are no checkpoints: a demo that is stopped starts again.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of data, weights and sampling: the same seed gives the same numbers [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<i64>(SEED))]
    pub seed: Option<i64>,
    /// Folder of the run [default: runs/demo, or RUN/compare with --from].
    #[arg(long)]
    pub out: Option<String>,
    /// Threads; 0: all cores. Changes speed alone [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<i64>(THREADS))]
    pub threads: Option<i64>,
    /// Few steps: to see that everything works, not to learn.
    #[arg(long)]
    pub quick: bool,
    /// Share of RL pairs whose labels are swapped at random; at 0.5 they carry nothing [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub flip: Option<f64>,
    /// Share of the teacher's scores that are drawn at random [default: 0.3].
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub score_noise: Option<f64>,
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
    s.run.out = "runs/demo".into();
    s.run.checkpoint_every = 0;
    s.model.init = "nano".into();
    s.model.context = 256;
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
    let s = overlay(&s, None, std::env::vars_os(), &args.assignments()?)?;
    for key in WITHOUT_USE {
        ensure!(!s.is_set(key), "{key}: a demo has no use for it: it makes its data, tokenizer and weights itself");
    }
    Ok(s.valid()?)
}

/// Settings that mean nothing to a demo, which has no data files, no checkpoints and one kind of model.
const WITHOUT_USE: [&str; 12] = [
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.export_dtype",
    "model.path",
    "model.tokenizer",
    "model.thinking",
    "data.train",
    "data.task",
    "data.rubrics",
    "data.skip_bad",
    "sft.target",
    "sft.max_length",
];

impl DemoArgs {
    /// What the command line says: `--set`, then the flags.
    fn assignments(&self) -> anyhow::Result<Vec<Assignment>> {
        let mut said = self.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
        said.extend(self.seed.map(|seed| Assignment::flag("--seed", "run.seed", seed)));
        said.extend(self.threads.map(|threads| Assignment::flag("--threads", "run.threads", threads)));
        said.extend(self.out.clone().map(|out| Assignment::flag("--out", "run.out", out)));
        said.extend(self.flip.map(|flip| Assignment::flag("--flip", "data.flip", flip)));
        said.extend(self.score_noise.map(|noise| Assignment::flag("--score-noise", "data.score_noise", noise)));
        Ok(said)
    }
}

/// The name of a demo in run.toml.
const COMMAND: &str = "demo";

/// Learns from random weights, or with `--from` holds the device to an earlier demo's models.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let (settings, device) = (settings(args)?, args.device.device);
    if !args.quick {
        settings.notes().iter().for_each(|note| say!("note: {note}"));
    }
    if let Some(from) = &args.from {
        let settings = compare::settings(args, from)?;
        let stop = interrupt::watch()?;
        let claim = Claim::new(Path::new(&settings.run.out), compare::COMMAND, Intent::Replace)?;
        let work = || with_backend!(device, backend => compare::run(backend, device, from, claim, &settings, &stop));
        return super::on_threads(settings.run.threads, work);
    }
    let stop = interrupt::watch()?;
    let claim = Claim::new(Path::new(&settings.run.out), COMMAND, Intent::Replace)?;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => learn(backend, args, claim, &settings, &stop)),
    )
}

fn learn<B: Backend>(
    backend: &B,
    args: &DemoArgs,
    claim: Claim,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let suite = DemoSuite::new(settings, None)?;
    suite.check(settings)?;
    let (config, weights) = suite.model(settings)?;
    let settings = &for_device(backend, settings, &config)?;
    let mut model = Qwen3::new(backend, config, &weights, settings.model.context)?;
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    interrupt::defer();
    let record = RunRecord::new(COMMAND, args.device.device.kind(), Vec::new());
    let mut run = claim.begin(&record, settings, Progress::default())?;
    match learn_stages(model, &suite, settings, args.quick, &mut run, stop) {
        Err(error) if is_stop(&error) => Err(stopped(run.path())),
        Err(error) => Err(ending::failed(error, &run, CONTENTS.stages)),
        learnt => learnt,
    }
}

/// Both stages, with an evaluation before, between and after them; then summary, report, and the table of results.
fn learn_stages<B: Backend>(
    model: Qwen3<B>,
    suite: &DemoSuite,
    settings: &Valid<Settings>,
    quick: bool,
    run: &mut RunFolder,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let (start, out) = (Instant::now(), run.path().to_path_buf());
    let mut stages = Stages::new();
    stages.add(UNTRAINED, suite.evaluate(&model, settings, VOTES, stop)?);

    let mut learner = Learner::new(model, settings.part(|s| &s.sft.adamw), settings.sft.micro_batch_tokens)?;
    let mut guard = Guard::new(out.clone(), settings.run.patience);
    let began = Beginning::of(&learner.model)?;
    if suite.run_sft(&mut learner, settings, run, &mut guard, stop)? == Outcome::Stopped {
        return Err(EngineError::Interrupted.into());
    }
    sound(&learner, &began, &SFT, quick)?;
    suite.export(&out.join(SFT_MODEL), &learner.model)?;
    stages.add(SFT.key, suite.evaluate(&learner.model, settings, VOTES, stop)?);

    let reference = learner.model.frozen()?;
    let policy = learner.model;
    let mut learner = Learner::new(policy, settings.part(|s| &s.rl.adamw), settings.rl.micro_batch_tokens)?;
    let began = Beginning::of(&learner.model)?;
    if suite.run_rl(&mut learner, &reference, settings, run, &mut guard, stop)? == Outcome::Stopped {
        return Err(EngineError::Interrupted.into());
    }
    sound(&learner, &began, &RL, quick)?;
    stages.add(RL.key, suite.evaluate(&learner.model, settings, VOTES, stop)?);

    let summary = Summary {
        wall_s: start.elapsed().as_secs_f64(),
        seed: settings.run.seed,
        flip: settings.data.flip,
        score_noise: settings.data.score_noise,
        stages: stages.0,
        environment: serde_json::to_value(Environment::detect())?,
    };
    let report = run.finish(&summary, &CONTENTS);
    let folder = out.join(MODEL);
    suite.export(&folder, &learner.model)?;
    ending::say_unhealthy(&out, CONTENTS.stages);
    print_results(&summary, &report?, &folder)
}

/// An error if a stage has learnt nothing, or has ruined the weights. The few steps of a quick demo need not learn: that is said.
fn sound<B: Backend>(learner: &Learner<B>, began: &Beginning, stage: &Stage, quick: bool) -> anyhow::Result<()> {
    match ending::fault(learner, began, stage)? {
        Some(fault @ Fault::Unchanged(_)) if quick => say!("note: {}: {fault}", stage.name),
        Some(fault) => anyhow::bail!("{}: {fault}", stage.name),
        None => {}
    }
    Ok(())
}

/// Whether an error says that an evaluation or a rollout was stopped from outside.
fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(EngineError::Interrupted)))
}

fn stopped(out: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "stopped; the numbers so far are kept in {} (`patarm-train report` draws them), and a demo has no checkpoints: the \
         same command replaces them and starts again",
        out.display()
    )
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
    let (table, seconds) = (results::text_table(&CONTENTS, &record), summary.wall_s);
    let (model, report) = (model.display(), report.display());
    console::print_line(format_args!("{table}\n{seconds:.0} s. The trained judge: {model}. The report: {report}"))?;
    Ok(())
}
