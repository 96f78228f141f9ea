//! `sft`: supervised fine-tuning on conversations, or on the chosen responses of preference pairs.

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
use super::pretrained::Trained;
use super::train_args::{Start, TrainArgs};
use super::{interrupt, pretrained};
use crate::config::Settings;
use crate::file::say;
use crate::judge::Judge;
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::plan::stages;
use crate::setting::{Assignment, Valid};
use crate::train::dataset::SftDataset;
use crate::train::run::{CheckpointPolicy, Look, train};
use crate::train::run_folder::{Claim, RunRecord, inputs};
use crate::train::sft::{SFT, SftTrainer};
use crate::train::{Guard, Learner};

/// Fine-tune a Qwen3 on what assistants said.
///
/// Rows are {"messages": [{"role", "content"}, …]}, or with --target chosen preference pairs in any known format. The
/// loss is on the assistant's tokens alone, the closing end-of-turn token included. The run's folder holds metrics,
/// checkpoints and the trained model; Ctrl-C and SIGTERM save and stop, `sft --resume --out DIR` goes on with the same bits.
#[derive(Debug, Args)]
pub struct SftArgs {
    #[command(flatten)]
    pub train: TrainArgs,
    /// What to learn: `messages` (conversations) or `chosen` (the chosen side of pairs).
    #[arg(long)]
    pub target: Option<String>,
}

/// Fine-tunes on conversations, or with `--print-config` prints the resolved settings as TOML.
pub fn run(args: &SftArgs) -> anyhow::Result<()> {
    let target = args.target.iter().map(|target| Assignment::flag("--target", "sft.target", target.as_str()));
    let Some(Start { settings, claim, stop }) = args.train.start("sft", target.collect())? else { return Ok(()) };
    let device = args.train.device.device;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => train_sft(backend, args, claim, &settings, &stop)),
    )
}

fn train_sft<B: Backend>(
    backend: &B,
    args: &SftArgs,
    claim: Claim,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let fitted = Fitted::new(backend, args.train.device.device, settings, &source.config, stages::sft)?;
    let settings = &fitted.settings;
    let context = settings.model.context.min(source.config.context());
    ensure!(settings.eval.share == 0.0, "eval.share: holds pairs of rl out; give sft its held-out pairs as eval.data");
    let judge = pretrained::judge_settings(settings)?;
    let dataset = SftDataset::load(settings, &source.tokenizer, context)?;
    held_out::fits_context(settings, context)?;
    // What is learnt may be no judging at all: only held-out pairs need a judge.
    let looking = settings.eval.every > 0;
    let judging = looking.then(|| Judge::new(judge.clone(), source.tokenizer.clone())).transpose()?;
    let held_out = match &judging {
        Some(judge) => HeldOutPairs::load(settings, judge, Vec::new(), SFT.key, stop)?,
        None => None,
    };
    let record = RunRecord::new(SFT.key, args.train.device.device.kind(), inputs(settings)?);
    claim.check(&record, settings)?;

    let mut model =
        source.weights.model(&source.config, |weights| Qwen3::new(backend, source.config.clone(), weights, context))?;
    drop(source.weights);
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let tokens = settings.sft.micro_batch_tokens;
    let recompute = settings.memory.recompute.asked().unwrap_or_default();
    let mut learner = Learner::recomputing(model, settings.part(|s| &s.sft.adamw), tokens, recompute)
        .with_context(|| format!("a learner for sft.micro_batch_tokens = {tokens} cannot be made"))?;
    let began = Beginning::of(&learner.model)?;
    let mut progress = claim.restore(&mut learner, settings.sft.steps)?;
    if let Some(table) = backend.memory_table() {
        say!("{table}");
    }
    interrupt::defer();
    let mut folder = claim.begin(&record, settings, progress)?;
    let mut guard = Guard::new(folder.path().to_path_buf(), settings.run.patience);
    let mut trainer =
        SftTrainer { learner: &mut learner, source: &dataset, settings: settings.part(|s| &s.sft), guard: &mut guard };
    let policy = CheckpointPolicy::new(&settings.part(|s| &s.run));
    let judging =
        |pairs| HeldOut::new(pairs, &folder, fitted.limits().expect("held-out pairs are judged by an engine"));
    let mut look = held_out.map(judging).transpose()?;
    let looking = look.as_mut().map(|look| look as &mut dyn Look<B>);
    let outcome = train(&mut trainer, &mut folder, &mut progress, policy, looking, stop);
    ended(outcome, &folder, progress.step, &SFT)?;
    say!("{}", fitted.high_water(&backend.ledger()));
    let summary = Map::from_iter([
        ("stage".into(), json!(SFT.key)),
        ("wall_s".into(), json!(start.elapsed().as_secs_f64())),
        ("seed".into(), json!(settings.run.seed)),
        ("steps".into(), json!(progress.step)),
        ("examples".into(), json!(dataset.examples.len())),
        ("skipped_rows".into(), json!(dataset.skipped)),
        ("too_long".into(), json!(dataset.too_long)),
        ("memory".into(), fitted.summary(&backend.ledger())),
        ("held_out".into(), held_out::summary(&look)),
        ("stages".into(), Value::Object(Map::new())),
        ("environment".into(), json!(Environment::detect())),
    ]);
    let export = |path: &Path, model: &Qwen3<B>| {
        let trained = Trained {
            model,
            description: &source.description,
            dtype: settings.run.export_dtype,
            tokenizer: &source.tokenizer,
            tokenizer_files: &source.tokenizer_files,
            judge: &judge,
        };
        pretrained::export(path, &trained)
    };
    conclude(&folder, &learner, &began, &SFT, summary, |path| export(path, &learner.model))?;
    held_out::export_best(&folder, &mut learner, &look, progress.step, export)
}
