//! `generate`: completions of one prompt, with their token ids and log-probabilities.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::device::{DeviceArgs, with_backend};
use super::pretrained::{self, Pretrained};
use crate::data::Message;
use crate::model::{Activations, Batch, KvPool, Qwen3};
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::rollout::{Engine, EngineLimits, FinishReason, PromptGroup, SampleRequest};
use crate::tensor::file::write_atomically;
use crate::tokenizer::{RenderOptions, Tokenizer};

/// Complete a prompt.
///
/// The prompt is taken as it is; with --chat it is the user's turn in the model's own chat template. Temperature 0 takes
/// the most probable token at every position. Log-probabilities are of softmax(logits / temperature) over the whole
/// vocabulary, before top-k, top-p and min-p.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Hugging Face directory of a Qwen3: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The prompt.
    #[arg(long, required_unless_present = "prompt_file", conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// File that holds the prompt.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Take the prompt as the user's turn of a chat.
    #[arg(long)]
    pub chat: bool,
    /// With --chat: let the model think before it answers.
    #[arg(long, requires = "chat")]
    pub thinking: bool,
    /// 0: the most probable token; 1: the model's own distribution.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the k most probable tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Keep the most probable tokens up to this mass; 1: all.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the best; 0: all.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Completions to draw.
    #[arg(long, default_value_t = 1)]
    pub samples: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// One JSON line a completion: prompt_ids, token_ids, text, logprobs, finish_reason.
    #[arg(long)]
    pub json: bool,
    /// Also write the prompt's logits, {"ids": […], "logits": [[…], …]}: for comparing with other programs.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    prompt_ids: &'a [u32],
    token_ids: &'a [u32],
    text: String,
    logprobs: &'a [f32],
    finish_reason: FinishReason,
}

/// Completes the prompt and prints the completions. Ctrl-C ends it early.
pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let stop = super::stop_flag()?;
    super::on_threads(args.threads, || with_backend!(args.device.device, backend => generate(backend, args, &stop)))
}

fn generate<B: Backend>(backend: &B, args: &GenerateArgs, stop: &AtomicBool) -> anyhow::Result<()> {
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, min_p: args.min_p };
    sampling.validate().map_err(anyhow::Error::msg)?;
    ensure!(args.samples > 0 && args.max_new_tokens > 0, "--samples and --max-new-tokens must be 1 or more");
    let Pretrained { config, weights, tokenizer } = pretrained::load(&args.model)?;
    let prompt = prompt_ids(args, &tokenizer)?;
    ensure!(!prompt.is_empty(), "the prompt has no tokens");
    let needed = prompt.len() + args.max_new_tokens;
    let limit = config.context();
    ensure!(
        needed <= limit,
        "{} prompt tokens + {} new exceed the model's context of {limit}",
        prompt.len(),
        args.max_new_tokens
    );
    let model = Qwen3::new(backend, config, &weights, needed)?;
    drop(weights);
    if let Some(file) = &args.logits {
        write_logits(&model, &prompt, file)?;
    }
    let stream = Stream::new(args.seed);
    let group = PromptGroup {
        samples: (0..args.samples).map(|i| SampleRequest { sampling, stream: stream.fold(i as u64) }).collect(),
        stop: tokenizer.eos_ids().to_vec(),
        max_new_tokens: args.max_new_tokens,
        prompt,
    };
    let running = args.samples.min(64);
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(group.prompt.len(), args.max_new_tokens, running))?;
    let completions = engine.generate(&model, std::slice::from_ref(&group), Some(stop), |_| {})?;
    for completion in &completions[0] {
        let text = tokenizer.decode(&completion.tokens, true);
        if args.json {
            let line = Line {
                prompt_ids: &group.prompt,
                token_ids: &completion.tokens,
                text,
                logprobs: &completion.logprobs,
                finish_reason: completion.finish_reason,
            };
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!("{text}");
        }
    }
    Ok(())
}

fn prompt_ids(args: &GenerateArgs, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?
        }
        (None, None) => bail!("give --prompt or --prompt-file"),
    };
    if !args.chat {
        return Ok(tokenizer.encode(&text)?);
    }
    let options = RenderOptions { add_generation_prompt: true, enable_thinking: Some(args.thinking) };
    Ok(tokenizer.encode_chat(&[Message::user(tokenizer.escape(&text))], &options)?)
}

/// Logits of every row of the prompt.
fn write_logits<B: Backend>(model: &Qwen3<B>, prompt: &[u32], file: &std::path::Path) -> anyhow::Result<()> {
    let (b, tokens, vocab) = (&model.backend, prompt.len(), model.config.vocab_size);
    let mut batch = Batch::default();
    batch.push_sequence(prompt);
    let mut pool = KvPool::new(b, &model.config, tokens)?;
    let mut acts = Activations::for_inference(b, &model.config, tokens)?;
    model.forward(&batch, &mut pool, &mut acts)?;
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let rows = b.upload(&rows)?;
    let mut logits = b.zeros::<f32>(tokens * vocab)?;
    model.logits(&acts, tokens, b.view(&rows, 0..tokens), b.view_mut(&mut logits, 0..tokens * vocab))?;
    let logits = b.download(b.view(&logits, 0..tokens * vocab))?;
    let rows: Vec<&[f32]> = logits.chunks(vocab).collect();
    let text = serde_json::to_vec(&json!({ "ids": prompt, "logits": rows }))?;
    write_atomically(file, &text).with_context(|| format!("{}: cannot be written", file.display()))
}
