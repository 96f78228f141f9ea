//! `rl`: GRPO on the Preference-Aware Reward, from preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use super::device::with_backend;
use super::ending::{Beginning, conclude, ended};
use super::fitted::Fitted;
use super::held_out::{self, HeldOut, HeldOutPairs};
use super::interrupt;
use super::pretrained::{self, PretrainedSource, Trained};
use super::train_args::{Start, TrainArgs};
use crate::config::{RlSettings, Settings};
use crate::file::say;
use crate::judge::Judge;
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::plan::stages;
use crate::rollout::Engine;
use crate::setting::{Assignment, Valid};
use crate::train::dataset::PairDataset;
use crate::train::rl::{RlContext, RlPlan, RlTrainer};
use crate::train::rl_report::RL;
use crate::train::run::{CheckpointPolicy, Look, train};
use crate::train::run_folder::{Claim, RunRecord, inputs};
use crate::train::{Guard, Learner, Scorer};

/// Train a judge from preference pairs: GRPO on the Preference-Aware Reward.
///
/// The model judges both responses of every pair several times; a judgement of the chosen response is rewarded for
/// scoring above the rejected side's mean, and the mirror image. Pairs may come in any known format. Start from a model
/// that `sft` has taught the judgement's format. Ctrl-C and SIGTERM save and stop, `rl --resume --out DIR` goes on with the
/// same bits.
#[derive(Debug, Args)]
pub struct RlArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// TOML file of the judge's prompts and primary rubrics, or a whole one like a judge.toml; without it those that the model's
    /// directory carries (judge.toml), else the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<String>,
}

/// Trains by RL on preference pairs, or with `--print-config` prints the resolved settings as TOML.
pub fn run(args: &RlArgs) -> anyhow::Result<()> {
    let rubrics = args.rubrics.iter().map(|file| Assignment::flag("--rubrics", "data.rubrics", file.as_str()));
    let Some(Start { settings, claim, stop }) = args.train.start("rl", rubrics.collect())? else { return Ok(()) };
    let device = args.train.device.device;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => train_rl(backend, args, claim, &settings, &stop)),
    )
}

fn train_rl<B: Backend>(
    backend: &B,
    args: &RlArgs,
    claim: Claim,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let fitted = Fitted::new(backend, args.train.device.device, settings, &source.config, stages::rl)?;
    let settings = &fitted.settings;
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
    fits_micro_batch(&pairs, s)?;
    held_out::fits_context(settings, context)?;
    let held_out = HeldOutPairs::load(settings, &judge, pairs.held_out.clone(), RL.key, stop)?;
    let record = RunRecord::new(RL.key, args.train.device.device.kind(), inputs(settings)?);
    claim.check(&record, settings)?;

    let mut model = weights.model(&config, |weights| Qwen3::new(backend, config.clone(), weights, context))?;
    drop(weights);
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let reference = if s.policy.kl_coefficient > 0.0 { Some(model.frozen()?) } else { None };
    let (adamw, recompute) = (settings.part(|s| &s.rl.adamw), settings.memory.recompute.asked().unwrap_or_default());
    let mut learner = Learner::recomputing(model, adamw, s.micro_batch_tokens, recompute)
        .with_context(|| format!("a learner for rl.micro_batch_tokens = {} cannot be made", s.micro_batch_tokens))?;
    let began = Beginning::of(&learner.model)?;
    let mut progress = claim.restore(&mut learner, s.steps)?;
    if fitted.shares() {
        learner.release();
    }
    let limits = fitted.limits().expect("rl generates");
    let mut engine = Engine::new(&learner.model, limits).with_context(|| {
        let (prompt, new) = (s.max_prompt_tokens, s.max_new_tokens);
        format!("no room for rl.max_running = {} completions of {prompt} + {new} tokens: lower it", s.max_running)
    })?;
    if fitted.shares() {
        engine.release();
    }
    let mut scorer = Scorer::new(&learner.model, learner.capacity())?;
    if fitted.shares() {
        scorer.release();
    }
    if let Some(table) = backend.memory_table() {
        say!("{table}");
    }
    interrupt::defer();
    let mut folder = claim.begin(&record, settings, progress)?;
    let mut guard = Guard::new(folder.path().to_path_buf(), settings.run.patience);
    let plan = RlPlan {
        settings: settings.part(|s| &s.rl),
        reward: settings.part(|s| &s.reward),
        judge: &judge,
        seed: settings.run.seed,
        share: fitted.shares(),
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
    let policy = CheckpointPolicy::new(&settings.part(|s| &s.run));
    let judging =
        |pairs| HeldOut::new(pairs, &folder, fitted.limits().expect("held-out pairs are judged by an engine"));
    let mut look = held_out.map(judging).transpose()?;
    let looking = look.as_mut().map(|look| look as &mut dyn Look<B>);
    let outcome = train(&mut trainer, &mut folder, &mut progress, policy, looking, stop);
    ended(outcome, &folder, progress.step, &RL)?;
    say!("{}", fitted.high_water(&backend.ledger()));
    let summary = Map::from_iter([
        ("stage".into(), json!(RL.key)),
        ("wall_s".into(), json!(start.elapsed().as_secs_f64())),
        ("seed".into(), json!(settings.run.seed)),
        ("steps".into(), json!(progress.step)),
        ("pairs".into(), json!(pairs.pairs.len())),
        ("skipped_rows".into(), json!(pairs.skipped)),
        ("too_long".into(), json!(pairs.too_long)),
        ("memory".into(), fitted.summary(&backend.ledger())),
        ("held_out".into(), held_out::summary(&look)),
        ("stages".into(), Value::Object(Map::new())),
        ("environment".into(), json!(Environment::detect())),
    ]);
    let export = |path: &Path, model: &Qwen3<B>| {
        let trained = Trained {
            model,
            description: &description,
            dtype: settings.run.export_dtype,
            tokenizer: judge.tokenizer(),
            tokenizer_files: &tokenizer_files,
            judge: judge.settings(),
        };
        pretrained::export(path, &trained)
    };
    conclude(&folder, &learner, &began, &RL, summary, |path| export(path, &learner.model))?;
    held_out::export_best(&folder, &mut learner, &look, progress.step, export)
}

/// The longest prompt with the longest answer must fit one micro-batch: an update could not take them otherwise.
fn fits_micro_batch(pairs: &PairDataset, settings: &RlSettings) -> anyhow::Result<()> {
    let longest = pairs.pairs.iter().flat_map(|pair| &pair.prompts).map(Vec::len).max().unwrap_or(0);
    // The last token of a judgement is only predicted.
    let (needed, capacity) = (longest + settings.max_new_tokens - 1, settings.micro_batch_tokens);
    ensure!(
        needed <= capacity,
        "a prompt of {longest} tokens and rl.max_new_tokens = {} are {needed} tokens, which do not fit into \
         rl.micro_batch_tokens = {capacity}: raise it, or lower rl.max_prompt_tokens or rl.max_new_tokens",
        settings.max_new_tokens
    );
    Ok(())
}
