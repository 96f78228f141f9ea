//! `generate`: completions of one prompt or of a file of prompts, with their token ids and log-probabilities.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::{ArgGroup, Args};
use serde::Serialize;
use serde_json::{Value, json};

use super::device::{DeviceArgs, with_backend};
use super::fitted::engine_limits;
use super::flag;
use super::pretrained::{self, Pretrained, WeightSource};
use super::rows::{RowArgs, fingerprint_of_input, fingerprint_of_model, kind_of_device};
use crate::config::{RUNNING, SEED, THREADS, TOKENS};
use crate::data::{
    LoadOptions, OnBadRow, Prompt, PromptText, RowId, Tasks, TemplateArguments, load_prompts, turns_of_prompt,
};
use crate::file::{RowOutput, counted, say, write_atomically};
use crate::log::StageBar;
use crate::model::{Activations, Batch, KvPool, Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::rollout::{Completion, Ended, Engine, NotFinite, PromptGroup, SampleRequest};
use crate::setting::{above, count, number};
use crate::tokenizer::{RenderOptions, Tokenizer};
use crate::train::dataset::report_skipped;

/// Complete a prompt, or every prompt of a file.
///
/// A prompt is taken as it is; with --chat it is the user's turn in the model's own chat template, or the turns of a
/// transcript ("Human: … Assistant: …"). Temperature 0 takes
/// the most probable token at every position. Log-probabilities are of softmax(logits / temperature) over the whole
/// vocabulary, before top-k, top-p and min-p.
///
/// Rows of --input are {"prompt": text or messages}, with an optional `id`. Each completion becomes a JSON line, as it
/// finishes; after Ctrl-C, a kill or a full disk the same command with --resume goes on, and ends with the same bytes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["prompt", "prompt_file", "input"])))]
pub struct GenerateArgs {
    /// Hugging Face directory of a Qwen3: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The prompt.
    #[arg(long)]
    pub prompt: Option<String>,
    /// File that holds the prompt.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Files of prompts: JSON lines, a JSON array (either also by gzip or zstd) or Parquet, a folder of them, or a data set of
    /// the hub (OWNER/NAME:SPLIT).
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Take the prompt as the user's turn of a chat, or as the turns of a transcript. Messages in rows of --input are turns
    /// anyway.
    #[arg(long)]
    pub chat: bool,
    /// Go on with the assistant's turn that the messages of a row end with; without it such rows are refused.
    #[arg(long)]
    pub continue_final_message: bool,
    /// In a chat: let the model think before it answers.
    #[arg(long)]
    pub thinking: bool,
    /// 0: the most probable token; 1: the model's own distribution.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = flag::<f32>(number(0.0, 1000.0)))]
    pub temperature: f32,
    /// Keep the k most probable tokens; 0: all.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<u32>(count(0, u32::MAX as i64)))]
    pub top_k: u32,
    /// Keep the most probable tokens up to this mass; 1: all.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = flag::<f32>(above(0.0, 1.0)))]
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the best; 0: all.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = flag::<f32>(number(0.0, 1.0)))]
    pub min_p: f32,
    #[arg(long, default_value_t = 256, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_new_tokens: usize,
    /// Longer prompts of --input are kept out and counted.
    #[arg(long, default_value_t = 4096, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_prompt_tokens: usize,
    /// Completions to draw of each prompt.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub samples: usize,
    /// With --input: count bad rows and go on.
    #[arg(long)]
    pub skip_bad: bool,
    /// Completions that are written at the same time, at most; changes memory and speed alone.
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub max_running: usize,
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<u64>(SEED))]
    pub seed: u64,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<usize>(THREADS))]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// One JSON line a completion, as with --input: prompt_ids, token_ids, text, logprobs, finish_reason.
    #[arg(long)]
    pub json: bool,
    /// Also write the prompt's logits, {"ids": […], "logits": [[…], …]}: for comparing with other programs.
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub logits: Option<PathBuf>,
}

/// A completion as a JSON line.
#[derive(Serialize)]
struct Line<'a> {
    /// Of rows of `--input`: as it came, with the number of the completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RowId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<usize>,
    prompt_ids: &'a [u32],
    token_ids: &'a [u32],
    text: String,
    logprobs: &'a [f32],
    /// `stop`, `length`, or `not_finite` where the model could not compute; null where the prompt was too long.
    finish_reason: Value,
    /// Why there is no completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// Completes the prompts and writes the completions. Ctrl-C ends it early.
pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    ensure!(!args.rows.resume || !args.input.is_empty(), "--resume goes on with rows of --input: there are none");
    ensure!(args.chat || !args.thinking || !args.input.is_empty(), "--thinking is for a chat: give --chat too");
    ensure!(
        !args.continue_final_message || !args.input.is_empty(),
        "--continue-final-message goes on with messages in rows of --input: there are none"
    );
    let mut inputs: Vec<PathBuf> = args.input.iter().chain(&args.prompt_file).cloned().collect();
    if let Some(file) = &args.logits {
        args.rows.try_other("--logits", file, &inputs, Some(&args.model))?;
        inputs.push(file.clone());
    }
    let output = args.rows.open(&inputs, Some(&args.model))?;
    let stop = super::stop_flag()?;
    super::on_threads(
        args.threads,
        || with_backend!(args.device.device, backend => generate(backend, args, output, &stop)),
    )
}

fn generate<B: Backend>(backend: &B, args: &GenerateArgs, output: RowOutput, stop: &AtomicBool) -> anyhow::Result<()> {
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, min_p: args.min_p };
    sampling.validate().map_err(|reason| anyhow::anyhow!("--{}", reason.replace('_', "-")))?;
    let Job { config, weights, tokenizer, prompts } = Job::read(args)?;
    let ids: Vec<Value> = prompts.iter().map(|prompt| prompt.id.given()).collect();
    let made_with = match output.is_file() {
        true => made_with(args, fingerprint_of_model(&config, &weights)?, &tokenizer, &prompts),
        false => Value::Null,
    };
    let fits = |prompt: &TokenPrompt| args.input.is_empty() || prompt.tokens.len() <= args.max_prompt_tokens;
    let longest = prompts.iter().filter(|prompt| fits(prompt)).map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
    let context = longest + args.max_new_tokens;
    let running = (args.samples * prompts.len()).min(args.max_running);
    let sizes = [longest, args.max_new_tokens, running];
    let limits = engine_limits(backend, args.device.device, &config, context, sizes)?;
    let model = weights.model(&config, |weights| Qwen3::for_inference(backend, config.clone(), weights, context))?;
    drop(weights);
    if let Some(file) = &args.logits {
        write_logits(&model, &prompts[0].tokens, file)?;
    }
    let mut engine = Engine::new(&model, limits)?;

    let mut writer = output.begin(&made_with, &ids, args.samples, |_| {})?;
    let (open, too_long): (Vec<usize>, Vec<usize>) =
        (0..prompts.len()).filter(|i| !writer.has(*i)).partition(|i| fits(&prompts[*i]));
    let mut written = Ok(());
    for index in too_long {
        let lines = (0..args.samples).map(|sample| skipped_line(args, &prompts[index], sample)).collect();
        written = written.and_then(|()| writer.put(index, lines));
    }
    let group = |index: &usize| PromptGroup {
        samples: (0..args.samples)
            .map(|i| SampleRequest { sampling, stream: prompts[*index].stream.fold(i as u64) })
            .collect(),
        stop: tokenizer.eos_ids().to_vec(),
        max_new_tokens: args.max_new_tokens,
        prompt: prompts[*index].tokens.clone(),
    };
    let groups: Vec<PromptGroup> = if written.is_ok() { open.iter().map(group).collect() } else { Vec::new() };
    let (mut done, mut not_finite) = (0, 0);
    let mut bar = (!args.input.is_empty()).then(|| StageBar::new("generate", (groups.len() * args.samples) as u64, 0));
    let mut ended: Vec<Vec<Option<String>>> = vec![vec![None; args.samples]; groups.len()];
    let engine = engine.generate_each(&model, &groups, Some(stop), |Ended { group, sample, completion }| {
        done += 1;
        bar.iter_mut().for_each(|bar| bar.update(done, &[]));
        not_finite += u64::from(completion.is_err());
        ended[group][sample] = Some(text_of(args, &tokenizer, &prompts[open[group]], sample, completion));
        if ended[group].iter().all(Option::is_some) {
            written = writer.put(open[group], ended[group].drain(..).flatten().collect());
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    drop(bar);
    args.rows.conclude(prompts.len(), writer, written, engine)?;
    if not_finite > 0 {
        say!("{not_finite} of {} have none: the model's logits were not finite", counted(done, "completion"));
    }
    // A line says so of each; plain text has no place for it.
    let lost = if prints_json(args) { not_finite == done && done > 0 } else { not_finite > 0 };
    ensure!(!lost, "the model's logits are not finite: its weights are damaged, or the prompt drives it out of range");
    Ok(())
}

/// A prompt as tokens.
struct TokenPrompt {
    id: RowId,
    tokens: Vec<u32>,
    /// Folded with the number of the completion.
    stream: Stream,
}

/// What is read before the model is put on its device.
struct Job {
    config: Qwen3Config,
    weights: WeightSource,
    tokenizer: Tokenizer,
    prompts: Vec<TokenPrompt>,
}

impl Job {
    fn read(args: &GenerateArgs) -> anyhow::Result<Self> {
        let on_bad_row = if args.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
        let options = LoadOptions { tasks: Tasks::always(""), on_bad_row, format: None };
        let loaded = match args.input.is_empty() {
            true => None,
            false => Some(load_prompts(&args.input, &options, args.chat)?),
        };
        let alone = match (&args.prompt, &args.prompt_file) {
            (None, Some(file)) => {
                std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?
            }
            (text, _) => text.clone().unwrap_or_default(),
        };
        let Pretrained { config, weights, tokenizer } = pretrained::load(&args.model)?;
        let limit = config.context();
        let stream = Stream::new(args.seed);
        let Some(loaded) = loaded else {
            let text = match args.chat {
                true => PromptText::Chat(turns_of_prompt(&alone).map_err(anyhow::Error::msg)?),
                false => PromptText::Plain(alone),
            };
            let tokens = tokens_of(args, &tokenizer, &text, &TemplateArguments::new())?;
            ensure!(!tokens.is_empty(), "the prompt has no tokens");
            let (length, new) = (tokens.len(), args.max_new_tokens);
            ensure!(length + new <= limit, "{length} prompt tokens + {new} new exceed the model's context of {limit}");
            return Ok(Self {
                config,
                weights,
                tokenizer,
                prompts: vec![TokenPrompt { id: Value::Null.into(), tokens, stream }],
            });
        };
        let needed = args.max_prompt_tokens + args.max_new_tokens;
        ensure!(
            needed <= limit,
            "--max-prompt-tokens + --max-new-tokens = {needed} exceed the model's context of {limit}: lower them"
        );
        let loaded = loaded.try_map(|row: Prompt| {
            let tokens = tokens_of(args, &tokenizer, &row.text, &row.arguments).map_err(|error| error.to_string())?;
            if tokens.is_empty() {
                return Err("the prompt has no tokens".to_string());
            }
            Ok(TokenPrompt { stream: stream.fold(row.id.key()), id: row.id, tokens })
        })?;
        let prompts = loaded.rows;
        let too_long = prompts.iter().filter(|prompt| prompt.tokens.len() > args.max_prompt_tokens).count();
        report_skipped(&loaded.skipped, too_long, args.max_prompt_tokens);
        Ok(Self { config, weights, tokenizer, prompts })
    }
}

fn tokens_of(
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    text: &PromptText,
    arguments: &TemplateArguments,
) -> anyhow::Result<Vec<u32>> {
    let options = RenderOptions {
        add_generation_prompt: !args.continue_final_message,
        enable_thinking: Some(args.thinking),
        continue_final_message: args.continue_final_message,
    };
    let messages = match text {
        PromptText::Plain(text) => return Ok(tokenizer.encode(text)?),
        PromptText::Chat(messages) => messages,
    };
    let role = messages.last().map_or("nobody", |turn| turn.role.as_str());
    ensure!(
        args.continue_final_message || role != "assistant",
        "the messages end with a turn of the assistant; give --continue-final-message to go on with it, or drop the turn"
    );
    ensure!(
        !args.continue_final_message || role == "assistant",
        "--continue-final-message goes on with a turn of the assistant, but the last turn is of {role}"
    );
    Ok(tokenizer.encode_outside(messages, arguments, &options)?)
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(args: &GenerateArgs, model: String, tokenizer: &Tokenizer, prompts: &[TokenPrompt]) -> Value {
    json!({
        "command": "generate",
        "model": model,
        "input": fingerprint_of_input(prompts.iter().map(|prompt| (&prompt.id, prompt.tokens.as_slice()))),
        "stop": tokenizer.eos_ids(),
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "max_new_tokens": args.max_new_tokens,
        "max_prompt_tokens": args.max_prompt_tokens,
        "samples": args.samples,
        "seed": args.seed,
        "device": kind_of_device(args.device.device),
    })
}

fn prints_json(args: &GenerateArgs) -> bool {
    args.json || !args.input.is_empty()
}

/// What is written of a completion, with its newline. Plain text has nothing for one that there is not.
fn text_of(
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    prompt: &TokenPrompt,
    sample: usize,
    completion: Result<Completion, NotFinite>,
) -> String {
    let (tokens, logprobs, finish_reason) = match &completion {
        Ok(completion) => (&completion.tokens[..], &completion.logprobs[..], json!(completion.finish_reason)),
        Err(NotFinite { .. }) => (&[][..], &[][..], json!("not_finite")),
    };
    let text = tokenizer.decode(tokens, true);
    if !prints_json(args) {
        return if completion.is_ok() { text + "\n" } else { String::new() };
    }
    json_line(&Line { token_ids: tokens, text, logprobs, finish_reason, ..empty_line(args, prompt, sample) })
}

fn skipped_line(args: &GenerateArgs, prompt: &TokenPrompt, sample: usize) -> String {
    let reason = format!("the prompt has {} tokens, more than {}", prompt.tokens.len(), args.max_prompt_tokens);
    json_line(&Line { skipped: Some(reason), ..empty_line(args, prompt, sample) })
}

/// A line without a completion.
fn empty_line<'a>(args: &GenerateArgs, prompt: &'a TokenPrompt, sample: usize) -> Line<'a> {
    let of_input = !args.input.is_empty();
    Line {
        id: of_input.then_some(&prompt.id),
        sample: of_input.then_some(sample),
        prompt_ids: &prompt.tokens,
        token_ids: &[],
        text: String::new(),
        logprobs: &[],
        finish_reason: Value::Null,
        skipped: None,
    }
}

fn json_line(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("texts and numbers are JSON") + "\n"
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
