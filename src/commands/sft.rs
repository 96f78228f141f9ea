//! `sft`: supervised fine-tuning on conversations, or on the chosen responses of preference pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;

use super::device::with_backend;
use super::pretrained;
use super::report::CONTENTS;
use super::train_args::{TrainArgs, files, for_device, load_options, report_skipped};
use crate::checkpoint;
use crate::config::Settings;
use crate::data::order::Order;
use crate::data::{Conversation, load_conversations, load_pairs, pairs_to_conversations};
use crate::log::Environment;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::tokenizer::Tokenizer;
use crate::train::run_folder::RunFolder;
use crate::train::sft::{Example, ExampleSource, Progress, SftPlan};
use crate::train::stages::{Ending, Saving, run_sft};
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
        || with_backend!(device, backend => fine_tune(backend, args, &settings, &stop)),
    )
}

fn fine_tune<B: Backend>(backend: &B, args: &SftArgs, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let source = pretrained::from_settings(&settings.model, settings.run.seed)?;
    let settings = &for_device(backend, settings, args.train.resume, &source.config)?;
    let weights = source.weights()?;
    let context = settings.model.context.min(source.config.max_position_embeddings);
    let judge = pretrained::judge_settings(settings)?;
    let lessons = Lessons::load(settings, &source.tokenizer, context)?;

    let mut model = Qwen3::new(backend, source.config, &weights, context)?;
    drop(weights);
    model.head_chunk_rows = settings.run.head_chunk_rows;
    let mut learner = Learner::new(model, settings.sft.adamw, settings.sft.micro_batch_tokens)?;
    let out = Path::new(&settings.run.out);
    let (mut run, mut progress) = open_run(out, "sft", settings, args.train.resume, &mut learner)?;
    if let Some(table) = backend.memory_table() {
        eprintln!("{table}");
    }
    let plan = SftPlan {
        steps: settings.sft.steps,
        examples_per_step: settings.sft.examples_per_step,
        schedule: settings.sft.schedule(),
    };
    let mut guard = Guard::new(out.to_path_buf(), settings.run.patience);
    let saving = Saving {
        every: Some(settings.run.checkpoint_every),
        keep: settings.run.keep_checkpoints,
        seed: settings.run.seed,
    };
    let ending = run_sft(&mut learner, &lessons, &plan, &mut run, &mut guard, &mut progress, saving, stop)?;
    if ending == Ending::Stopped {
        bail!("stopped after step {}; go on with --resume", progress.step);
    }
    pretrained::export(&out.join("model"), &learner.model, &source.tokenizer, &judge)?;
    let report = run.finish(
        &json!({
            "stage": "sft", "wall_s": start.elapsed().as_secs_f64(), "seed": settings.run.seed, "steps": progress.step,
            "examples": lessons.examples.len(), "skipped_rows": lessons.skipped, "too_long": lessons.too_long,
            "stages": {}, "environment": Environment::detect(),
        }),
        &CONTENTS,
    )?;
    println!("The trained model: {}. The report: {}", out.join("model").display(), report.display());
    Ok(())
}

/// Encoded conversations in a resumable order.
struct Lessons {
    examples: Vec<Example>,
    order: Order,
    skipped: usize,
    too_long: usize,
}

impl Lessons {
    fn load(settings: &Settings, tokenizer: &Tokenizer, context: usize) -> anyhow::Result<Self> {
        let (files, options) = (files(settings)?, load_options(settings));
        let (conversations, skipped): (Vec<Conversation>, _) = match settings.sft.target.as_str() {
            "messages" => {
                let loaded = load_conversations(&files, &options)?;
                (loaded.rows, loaded.skipped)
            }
            "chosen" => {
                let loaded = load_pairs(&files, &options)?;
                (pairs_to_conversations(&loaded.rows), loaded.skipped)
            }
            other => bail!("sft.target must be `messages` or `chosen`, got `{other}`"),
        };
        let limit = settings.sft.max_length.min(context).min(settings.sft.micro_batch_tokens);
        let (mut examples, mut too_long) = (Vec::new(), 0);
        for conversation in &conversations {
            let encoded = tokenizer
                .encode_supervised(&conversation.messages, settings.model.thinking)
                .with_context(|| format!("row {}", conversation.id))?;
            if encoded.ids.len() > limit {
                too_long += 1;
            } else {
                examples.push(Example { ids: encoded.ids, mask: encoded.mask });
            }
        }
        report_skipped(&skipped, too_long, limit);
        ensure!(!examples.is_empty(), "no row has at most {limit} tokens: raise sft.max_length or model.context");
        let order = Order::new(examples.len(), settings.run.seed);
        Ok(Self { examples, order, skipped: skipped.count, too_long })
    }
}

impl ExampleSource for Lessons {
    fn example(&self, cursor: u64) -> Example {
        self.examples[self.order.row(cursor)].clone()
    }
}

/// Starts a run's folder, or goes on from its latest checkpoint.
pub(super) fn open_run<B: Backend>(
    out: &Path,
    stage: &str,
    settings: &Settings,
    resume: bool,
    learner: &mut Learner<B>,
) -> anyhow::Result<(RunFolder, Progress)> {
    if !resume {
        return Ok((RunFolder::create(out, settings)?, Progress::default()));
    }
    let root = out.join("checkpoints");
    let folder =
        checkpoint::latest(&root).with_context(|| format!("{}: holds no checkpoint to resume from", root.display()))?;
    let state = checkpoint::load(&folder, learner)?;
    ensure!(state.stage == stage, "{}: is a checkpoint of `{}`, not of `{stage}`", folder.display(), state.stage);
    let (seed, asked) = (state.seed, settings.run.seed);
    ensure!(seed == asked, "{}: was made with seed {seed}, and this run has seed {asked}", folder.display());
    eprintln!("resuming after step {} ({})", state.progress.step, folder.display());
    Ok((RunFolder::resume(out, stage, state.progress.step)?, state.progress))
}
