//! `demo`: the main job from nothing, on this machine — synthetic data, a tokenizer, a tiny Qwen3 with random weights,
//! SFT on a teacher's judgements, which have errors, RL with the Preference-Aware Reward, and evaluation on held-out pairs.

mod compare;
pub mod controls;
mod learn;
mod sentences;
mod suite;

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;

use super::device::{DeviceArgs, with_backend};
use super::{flag, interrupt};
use crate::config::{SEED, SHARE, Settings, THREADS};
use crate::file::say;
use crate::judge::JudgeMode;
use crate::optimizer::Decay;
use crate::setting::{Assignment, Valid, overlay};
use crate::train::run_folder::{Claim, Intent};

/// Watch a judge learn, from random weights, on this machine.
///
/// Makes a synthetic preference suite (four tasks whose answers a program grades), trains a tiny Qwen3 first on the judgements
/// of a teacher that makes one systematic error a task (SFT), then on preference pairs alone (GRPO with the Preference-Aware
/// Reward), evaluates it on held-out pairs after each stage, and writes a report to open in a browser. An earlier demo in the
/// same folder is replaced; anything else there is refused. There are no checkpoints: a demo that is stopped starts again.
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
    /// Share of the teacher's judgements that make its task's systematic error [default: 0.8].
    ///
    /// Chat: mistakes in the last two places are overlooked. Math: an answer that begins right is believed to its end. Code: the
    /// letters a to f are always believed. Safety: that harmful requests must be refused is forgotten.
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub teacher_error: Option<f64>,
    /// Share of the teacher's scores that are drawn at random [default: 0.1].
    #[arg(long, allow_negative_numbers = true, value_parser = flag::<f64>(SHARE))]
    pub score_noise: Option<f64>,
    /// After both stages, train the controls too: RL on labels drawn at random (constant and graded reward), on inverted
    /// labels, and both stages with a teacher that makes no systematic error. Each leaves a folder under OUT/controls, and
    /// the table has a row for each; it takes about four times as long.
    #[arg(long, conflicts_with = "from")]
    pub controls: bool,
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
    s.sft.steps = 400;
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
    let assignments = args.assignments()?;
    let mut read = overlay(&s, None, std::env::vars_os(), &assignments)?;
    if read.settings.judge.mode == JudgeMode::Pairwise {
        // Two responses take more room.
        (s.model.context, s.rl.max_prompt_tokens, s.rl.max_new_tokens) = (512, 128, 160);
        read = overlay(&s, None, std::env::vars_os(), &assignments)?;
    }
    let s = read;
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
        said.extend(self.teacher_error.map(|share| Assignment::flag("--teacher-error", "data.teacher_error", share)));
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
        || with_backend!(device, backend => learn::run(backend, args, claim, &settings, &stop)),
    )
}
