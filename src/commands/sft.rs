//! `sft`: supervised fine-tuning on conversations, or on the chosen responses of preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::device::with_backend;
use super::pretrained;
use super::report::CONTENTS;
use super::train_args::{TrainArgs, for_device};
use crate::config::Settings;
use crate::file::{console, say};
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::setting::{Assignment, Valid};
use crate::train::dataset::SftDataset;
use crate::train::run::{CheckpointPolicy, Outcome, train};
use crate::train::run_folder::open_run;
use crate::train::sft::{SFT, SftTrainer};
use crate::train::{Guard, Learner};

/// Fine-tune a Qwen3 on what assistants said.
///
/// Rows are {"messages": [{"role", "content"}, …]}, or with --target chosen preference pairs in any known format. The
/// loss is on the assistant's tokens alone, the closing end-of-turn token included. The run's folder holds metrics,
/// checkpoints and the trained model; Ctrl-C saves and stops, --resume goes on with the same bits.
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
    let settings = args.train.settings("sft", target.collect())?;
    if args.train.printed(&settings)? {
        return Ok(());
    }
    let stop = super::stop_flag()?;
    let device = args.train.device.device;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => train_sft(backend, args, &settings, &stop)),
    )
}

fn train_sft<B: Backend>(
    backend: &B,
    args: &SftArgs,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let settings = &for_device(backend, settings, args.train.resume, &source.config)?;
    let context = settings.model.context.min(source.config.max_position_embeddings);
    let judge = pretrained::judge_settings(settings)?;
    let dataset = SftDataset::load(settings, &source.tokenizer, context)?;

    let weights = source.weights.read(&source.config)?;
    let mut model = Qwen3::new(backend, source.config, &weights, context)?;
    drop(weights);
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let tokens = settings.sft.micro_batch_tokens;
    let mut learner = Learner::new(model, settings.part(|s| &s.sft.adamw), tokens)
        .with_context(|| format!("a learner for sft.micro_batch_tokens = {tokens} cannot be made"))?;
    let out = Path::new(&settings.run.out);
    let (mut folder, mut progress) = open_run(out, SFT.key, settings, args.train.resume, &mut learner)?;
    if let Some(table) = backend.memory_table() {
        say!("{table}");
    }
    let mut guard = Guard::new(out.to_path_buf(), settings.run.patience);
    let mut trainer =
        SftTrainer { learner: &mut learner, source: &dataset, settings: settings.part(|s| &s.sft), guard: &mut guard };
    let policy = CheckpointPolicy::new(&settings.part(|s| &s.run));
    if train(&mut trainer, &mut folder, &mut progress, policy, stop)? == Outcome::Stopped {
        bail!("stopped after step {}; go on with --resume", progress.step);
    }
    pretrained::export(&out.join("model"), &learner.model, &source.tokenizer, &judge)?;
    let report = folder.finish(
        &json!({
            "stage": "sft", "wall_s": start.elapsed().as_secs_f64(), "seed": settings.run.seed, "steps": progress.step,
            "examples": dataset.examples.len(), "skipped_rows": dataset.skipped, "too_long": dataset.too_long,
            "stages": {}, "environment": Environment::detect(),
        }),
        &CONTENTS,
    )?;
    let model = out.join("model");
    Ok(console::print_line(format_args!("The trained model: {}. The report: {}", model.display(), report.display()))?)
}
