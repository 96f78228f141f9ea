//! `sft`: supervised fine-tuning on conversations, or on the chosen responses of preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::device::with_backend;
use super::pretrained::{self, Trained};
use super::report::CONTENTS;
use super::train_args::{TrainArgs, for_device};
use crate::config::Settings;
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::train::dataset::SftDataset;
use crate::train::run::{CheckpointPolicy, Outcome, train};
use crate::train::run_folder::open_run;
use crate::train::sft::{SFT, SftPlan, SftTrainer};
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
    let mut settings = args.train.settings("sft")?;
    if let Some(target) = &args.target {
        settings.sft.target.clone_from(target);
    }
    if args.train.print_config {
        print!("{}", toml::to_string(&settings)?);
        return Ok(());
    }
    let stop = super::stop_flag()?;
    let device = args.train.device.device;
    super::on_threads(
        settings.run.threads,
        || with_backend!(device, backend => train_sft(backend, args, &settings, &stop)),
    )
}

fn train_sft<B: Backend>(backend: &B, args: &SftArgs, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let settings = &for_device(backend, settings, args.train.resume, &source.config)?;
    let context = settings.model.context.min(source.config.context());
    let judge = pretrained::judge_settings(settings)?;
    let dataset = SftDataset::load(settings, &source.tokenizer, context)?;

    let weights = source.weights.read(&source.config)?;
    let mut model = Qwen3::new(backend, source.config, &weights, context)?;
    drop(weights);
    model.lm_head_chunk_rows = settings.run.lm_head_chunk_rows;
    let mut learner = Learner::new(model, settings.sft.adamw, settings.sft.micro_batch_tokens)?;
    let out = Path::new(&settings.run.out);
    let (mut folder, mut progress) = open_run(out, SFT.key, settings, args.train.resume, &mut learner)?;
    if let Some(table) = backend.memory_table() {
        eprintln!("{table}");
    }
    let plan = SftPlan {
        steps: settings.sft.steps,
        examples_per_step: settings.sft.examples_per_step,
        schedule: settings.sft.schedule(),
    };
    let mut guard = Guard::new(out.to_path_buf(), settings.run.patience);
    let mut trainer = SftTrainer { learner: &mut learner, source: &dataset, plan, guard: &mut guard };
    let policy = CheckpointPolicy::new(&settings.run);
    if train(&mut trainer, &mut folder, &mut progress, policy, stop)? == Outcome::Stopped {
        bail!("stopped after step {}; go on with --resume", progress.step);
    }
    let trained = Trained {
        model: &learner.model,
        description: &source.description,
        dtype: settings.run.export_dtype,
        tokenizer: &source.tokenizer,
        tokenizer_files: &source.tokenizer_files,
        judge: &judge,
    };
    pretrained::export(&out.join("model"), &trained)?;
    let report = folder.finish(
        &json!({
            "stage": "sft", "wall_s": start.elapsed().as_secs_f64(), "seed": settings.run.seed, "steps": progress.step,
            "examples": dataset.examples.len(), "skipped_rows": dataset.skipped, "too_long": dataset.too_long,
            "stages": {}, "environment": Environment::detect(),
        }),
        &CONTENTS,
    )?;
    println!("The trained model: {}. The report: {}", out.join("model").display(), report.display());
    Ok(())
}
