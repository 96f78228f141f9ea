//! `rl`: GRPO on the Preference-Aware Reward, from preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;

use super::device::with_backend;
use super::pretrained::{self, PretrainedSource};
use super::report::CONTENTS;
use super::train_args::{TrainArgs, files, for_device, load_options, report_skipped};
use crate::config::Settings;
use crate::data::load_pairs;
use crate::data::order::Order;
use crate::judge::{Judge, JudgePair};
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::random::{Purpose, Stream};
use crate::rollout::{Engine, EngineLimits};
use crate::train::rl::{PairSource, RlMachines, RlPlan};
use crate::train::stages::{Ending, Saving, run_rl};
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
        || with_backend!(device, backend => reinforce(backend, args, &settings, &stop)),
    )
}

fn reinforce<B: Backend>(backend: &B, args: &RlArgs, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let settings = &for_device(backend, settings, args.train.resume, &source.config)?;
    let weights = source.weights()?;
    let PretrainedSource { config, tokenizer, .. } = source;
    let context = settings.model.context.min(config.max_position_embeddings);
    let s = &settings.rl;
    let needed = s.max_prompt_tokens + s.max_new_tokens;
    ensure!(
        needed <= context,
        "rl.max_prompt_tokens + rl.max_new_tokens = {needed} exceed the context of {context}: lower them or raise \
         model.context (the model's own limit is {})",
        config.max_position_embeddings
    );
    let judge = Judge::new(pretrained::judge_settings(settings)?, tokenizer)?;
    let pairs = Pairs::load(settings, &judge)?;

    let mut model = Qwen3::new(backend, config, &weights, context)?;
    drop(weights);
    model.head_chunk_rows = settings.run.head_chunk_rows;
    let reference = if s.policy.kl_coefficient > 0.0 { Some(model.frozen()?) } else { None };
    let mut learner = Learner::new(model, s.adamw, s.micro_batch_tokens)?;
    let out = Path::new(&settings.run.out);
    let (mut run, mut progress) = super::sft::open_run(out, "rl", settings, args.train.resume, &mut learner)?;
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
    let mut machines = RlMachines {
        learner: &mut learner,
        reference: reference.as_ref(),
        engine: &mut engine,
        scorer: &mut scorer,
        guard: &mut guard,
    };
    let saving = Saving {
        every: Some(settings.run.checkpoint_every),
        keep: settings.run.keep_checkpoints,
        seed: settings.run.seed,
    };
    if run_rl(&mut machines, &pairs, &plan, &mut run, &mut progress, saving, stop)? == Ending::Stopped {
        bail!("stopped after step {}; go on with --resume", progress.step);
    }
    pretrained::export(&out.join("model"), &learner.model, judge.tokenizer(), judge.settings())?;
    let report = run.finish(
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

/// Pairs with their prompts, in a resumable order.
struct Pairs {
    pairs: Vec<JudgePair>,
    order: Order,
    skipped: usize,
    too_long: usize,
}

impl Pairs {
    fn load(settings: &Settings, judge: &Judge) -> anyhow::Result<Self> {
        let loaded = load_pairs(&files(settings)?, &load_options(settings))?;
        let flips = Stream::new(settings.run.seed).fold(Purpose::Flip as u64);
        let (mut pairs, mut too_long) = (Vec::new(), 0);
        for mut pair in loaded.rows {
            if f64::from(flips.fold(pair.id).uniform(0)) < settings.data.flip {
                std::mem::swap(&mut pair.chosen, &mut pair.rejected);
            }
            let id = pair.id;
            let pair = judge.encode_pair(pair).with_context(|| format!("pair {id}"))?;
            if pair.prompts.iter().any(|prompt| prompt.len() > settings.rl.max_prompt_tokens) {
                too_long += 1;
            } else {
                pairs.push(pair);
            }
        }
        report_skipped(&loaded.skipped, too_long, settings.rl.max_prompt_tokens);
        let (count, wanted) = (pairs.len(), settings.rl.pairs_per_step);
        ensure!(
            count >= wanted,
            "{count} usable pairs are fewer than rl.pairs_per_step = {wanted}: lower it, give more pairs, or raise \
             rl.max_prompt_tokens"
        );
        let order = Order::new(count, settings.run.seed);
        Ok(Self { pairs, order, skipped: loaded.skipped.count, too_long })
    }
}

impl PairSource for Pairs {
    fn pair(&self, cursor: u64) -> JudgePair {
        self.pairs[self.order.row(cursor)].clone()
    }
}
