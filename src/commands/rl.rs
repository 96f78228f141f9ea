//! `rl`: GRPO on the Preference-Aware Reward, from preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::json;

use super::device::with_backend;
use super::pretrained::{self, PretrainedSource, Trained};
use super::report::CONTENTS;
use super::train_args::{TrainArgs, for_device};
use crate::config::Settings;
use crate::judge::Judge;
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::rollout::{Engine, EngineLimits};
use crate::train::dataset::PairDataset;
use crate::train::rl::{RlContext, RlPlan, RlTrainer};
use crate::train::rl_report::RL;
use crate::train::run::{CheckpointPolicy, Outcome, train};
use crate::train::run_folder::open_run;
use crate::train::{Guard, Learner, Scorer};

/// Train a judge from preference pairs: GRPO on the Preference-Aware Reward.
///
/// The model judges both responses of every pair several times; a judgement of the chosen response is rewarded for
/// scoring above the rejected side's mean, and the mirror image. Pairs may come in any known format. Start from a model
/// that `sft` has taught the judgement's format. Ctrl-C saves and stops, --resume goes on with the same bits.
#[derive(Debug, Args)]
pub struct RlArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// TOML file of the judge's prompt and primary rubrics; without it those that the model's directory carries (judge.toml),
    /// else the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<String>,
}

/// Trains by RL on preference pairs, or with `--print-config` prints the resolved settings as TOML.
pub fn run(args: &RlArgs) -> anyhow::Result<()> {
    let mut settings = args.train.settings("rl")?;
    if let Some(rubrics) = &args.rubrics {
        settings.data.rubrics.clone_from(rubrics);
    }
    if args.train.print_config {
        print!("{}", toml::to_string(&settings)?);
        return Ok(());
    }
    check(&settings)?;
    let stop = super::stop_flag()?;
    let device = args.train.device.device;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => train_rl(backend, args, &settings, &stop)),
    )
}

fn train_rl<B: Backend>(backend: &B, args: &RlArgs, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let settings = &for_device(backend, settings, args.train.resume, &source.config)?;
    let PretrainedSource { config, tokenizer, weights, description, tokenizer_files } = source;
    let context = settings.model.context.min(config.context());
    let s = &settings.rl;
    let needed = s.max_prompt_tokens + s.max_new_tokens;
    ensure!(
        needed <= context,
        "rl.max_prompt_tokens + rl.max_new_tokens = {needed} exceed the context of {context}: lower them or raise \
         model.context (the model's own limit is {})",
        config.context()
    );
    let judge = Judge::new(pretrained::judge_settings(settings)?, tokenizer)?;
    let pairs = PairDataset::load(settings, &judge)?;

    let weights = weights.read(&config)?;
    let mut model = Qwen3::new(backend, config, &weights, context)?;
    drop(weights);
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let reference = if s.policy.kl_coefficient > 0.0 { Some(model.frozen()?) } else { None };
    let mut learner = Learner::new(model, s.adamw, s.micro_batch_tokens)?;
    let out = Path::new(&settings.run.out);
    let (mut folder, mut progress) = open_run(out, RL.key, settings, args.train.resume, &mut learner)?;
    let limits = EngineLimits::for_lengths(s.max_prompt_tokens, s.max_new_tokens, s.max_running);
    let mut engine = Engine::new(&learner.model, limits)?;
    let mut scorer = Scorer::new(&learner.model, learner.capacity())?;
    let mut guard = Guard::new(out.to_path_buf(), settings.run.patience);
    if let Some(table) = backend.memory_table() {
        eprintln!("{table}");
    }
    let plan = RlPlan {
        settings: s,
        reward: &settings.reward,
        judge: &judge,
        schedule: s.schedule(),
        seed: settings.run.seed,
        stop: Some(stop),
    };
    let context = RlContext {
        learner: &mut learner,
        reference: reference.as_ref(),
        engine: &mut engine,
        scorer: &mut scorer,
        guard: &mut guard,
    };
    let mut trainer = RlTrainer { context, source: &pairs, plan };
    let policy = CheckpointPolicy::new(&settings.run);
    if train(&mut trainer, &mut folder, &mut progress, policy, stop)? == Outcome::Stopped {
        bail!("stopped after step {}; go on with --resume", progress.step);
    }
    let trained = Trained {
        model: &learner.model,
        description: &description,
        dtype: settings.run.export_dtype,
        tokenizer: judge.tokenizer(),
        tokenizer_files: &tokenizer_files,
        judge: judge.settings(),
    };
    pretrained::export(&out.join("model"), &trained)?;
    let report = folder.finish(
        &json!({
            "stage": "rl", "wall_s": start.elapsed().as_secs_f64(), "seed": settings.run.seed, "steps": progress.step,
            "pairs": pairs.pairs.len(), "skipped_rows": pairs.skipped, "too_long": pairs.too_long,
            "stages": {}, "environment": Environment::detect(),
        }),
        &CONTENTS,
    )?;
    println!("The trained judge: {}. The report: {}", out.join("model").display(), report.display());
    Ok(())
}

/// Settings that no run can start with.
fn check(settings: &Settings) -> anyhow::Result<()> {
    let s = &settings.rl;
    for (name, value) in [
        ("rl.pairs_per_step", s.pairs_per_step),
        ("rl.rollouts", s.rollouts),
        ("rl.max_new_tokens", s.max_new_tokens),
        ("rl.max_prompt_tokens", s.max_prompt_tokens),
        ("rl.max_running", s.max_running),
    ] {
        ensure!(value > 0, "{name} must be 1 or more");
    }
    ensure!(s.temperature > 0.0, "rl.temperature must be above 0: equal judgements teach nothing");
    s.sampling().validate().map_err(|reason| anyhow::anyhow!("rl: {reason}"))?;
    settings.reward.validate().map_err(|reason| anyhow::anyhow!("reward: {reason}"))
}
