//! `judge`: scores of responses by a trained judge.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use super::device::{DeviceArgs, with_backend};
use super::model_dir::{self, ModelDir};
use super::train_args::report_skipped;
use crate::data::judge::JudgePrompt;
use crate::data::{LoadOptions, Message, OnBadRow, Response, load_responses};
use crate::log::Progress as Bar;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::reward::VerdictRules;
use crate::rollout::{Engine, EngineLimits, Member, PromptGroup};
use crate::tensor::file::write_atomically;
use crate::tokenizer::{RenderOptions, Tokenizer};
use crate::train::judgements::{JudgePlan, read};

/// Score responses with a judge.
///
/// Rows are {"prompt": text or messages, "response": text}, with optional `task` and `id`. Every response is judged
/// --votes times; its score is the mean over the votes that have one, and null where none has. A vote that failed is
/// named (malformed, out_of_range, truncated, missing), never counted as a number.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// Hugging Face directory of the judge.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// JSONL files of responses.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub input: Vec<PathBuf>,
    /// Where the scores go, a JSON line a response; `-`: standard output.
    #[arg(long, default_value = "-")]
    pub output: String,
    /// Judgements of each response.
    #[arg(long, default_value_t = 1)]
    pub votes: usize,
    /// 0 for the most probable judgement (then more than one vote adds nothing).
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f32,
    #[arg(long, default_value_t = 2048)]
    pub max_new_tokens: usize,
    /// Longer prompts are kept out and counted.
    #[arg(long, default_value_t = 4096)]
    pub max_prompt_tokens: usize,
    /// TOML file of the judge's prompt and primary rubrics; without it the built-in ones.
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<PathBuf>,
    /// Task of rows that name none.
    #[arg(long, default_value = "chat")]
    pub default_task: String,
    /// Count bad rows and go on.
    #[arg(long)]
    pub skip_bad: bool,
    /// Let the judge think before it writes.
    #[arg(long)]
    pub thinking: bool,
    /// Write the judgements' texts too.
    #[arg(long)]
    pub texts: bool,
    /// Judgements that are written at the same time, at most; changes memory and speed alone.
    #[arg(long, default_value_t = 64)]
    pub max_running: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// One judgement.
#[derive(Serialize)]
struct Vote {
    verdict: &'static str,
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// One line of the output.
#[derive(Serialize)]
struct Row {
    id: u64,
    task: String,
    /// Mean over the votes that have a score.
    score: Option<f64>,
    /// Votes that have a score.
    valid: usize,
    votes: Vec<Vote>,
    /// Why the response was not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

pub fn run(args: &JudgeArgs) -> anyhow::Result<()> {
    let stop = super::stop_flag()?;
    super::on_threads(args.threads, || with_backend!(args.device.device, backend => judge(backend, args, &stop)))
}

fn judge<B: Backend>(backend: &B, args: &JudgeArgs, stop: &AtomicBool) -> anyhow::Result<()> {
    for (name, value) in [
        ("--votes", args.votes),
        ("--max-new-tokens", args.max_new_tokens),
        ("--max-prompt-tokens", args.max_prompt_tokens),
        ("--max-running", args.max_running),
    ] {
        ensure!(value > 0, "{name} must be 1 or more");
    }
    let sampling = Sampling::temperature(args.temperature);
    sampling.validate().map_err(anyhow::Error::msg)?;
    let on_bad_row = if args.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
    let options = LoadOptions { default_task: args.default_task.clone(), on_bad_row };
    let loaded = load_responses(&args.input, &options)?;
    let ModelDir { config, weights, tokenizer } = model_dir::load(&args.model)?;
    let (needed, limit) = (args.max_prompt_tokens + args.max_new_tokens, config.max_position_embeddings);
    ensure!(
        needed <= limit,
        "--max-prompt-tokens + --max-new-tokens = {needed} exceed the model's context of {limit}: lower them"
    );
    let prompts = Prompts::new(args, &tokenizer, &loaded.rows)?;
    report_skipped(&loaded.skipped, loaded.rows.len() - prompts.groups.len(), args.max_prompt_tokens);

    let model = Qwen3::new(backend, config, &weights, needed)?;
    drop(weights);
    let longest = prompts.groups.iter().map(|group| group.prompt.len()).max().unwrap_or(1);
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(longest, args.max_new_tokens, args.max_running))?;
    let (mut bar, mut done) = (Bar::new("judge", (prompts.groups.len() * args.votes) as u64, 0), 0);
    let completions = engine.generate(&model, &prompts.groups, Some(stop), |ended| {
        done += ended as u64;
        bar.update(done, &[]);
    })?;
    bar.finish();
    let rules = VerdictRules::default();
    let plan = JudgePlan {
        tokenizer: &tokenizer,
        rules: &rules,
        sampling,
        votes: args.votes,
        max_new_tokens: args.max_new_tokens,
        stream: Stream::new(args.seed),
    };
    let mut judged = completions.into_iter();
    let rows: Vec<Row> = loaded
        .rows
        .into_iter()
        .zip(prompts.lengths)
        .map(|(response, length)| {
            if length > args.max_prompt_tokens {
                return skipped(response, length, args.max_prompt_tokens);
            }
            let votes = judged.next().into_iter().flatten().map(|completion| vote(&plan, completion, args.texts));
            row(response, votes.collect())
        })
        .collect();
    write_rows(&args.output, &rows)?;
    summarize(&rows);
    Ok(())
}

/// The judge's prompts for responses that fit, and the length of every response's prompt.
struct Prompts {
    groups: Vec<PromptGroup>,
    lengths: Vec<usize>,
}

impl Prompts {
    fn new(args: &JudgeArgs, tokenizer: &Tokenizer, responses: &[Response]) -> anyhow::Result<Self> {
        let judge = JudgePrompt::load(args.rubrics.as_deref())?;
        let options = RenderOptions { add_generation_prompt: true, enable_thinking: Some(args.thinking) };
        let (mut groups, mut lengths) = (Vec::new(), Vec::new());
        for response in responses {
            let escape = |m: &Message| Message::new(m.role.as_str(), tokenizer.escape(&m.content));
            let prompt: Vec<Message> = response.prompt.iter().map(escape).collect();
            let messages = judge.messages(&response.task, &prompt, &tokenizer.escape(&response.response))?;
            let ids =
                tokenizer.encode_chat(&messages, &options).with_context(|| format!("response {}", response.id))?;
            lengths.push(ids.len());
            if ids.len() <= args.max_prompt_tokens {
                let stream = Stream::new(args.seed).fold(response.id);
                let sampling = Sampling::temperature(args.temperature);
                groups.push(PromptGroup {
                    prompt: ids,
                    members: (0..args.votes).map(|i| Member { sampling, stream: stream.fold(i as u64) }).collect(),
                    stop: tokenizer.eos_ids().to_vec(),
                    max_new_tokens: args.max_new_tokens,
                });
            }
        }
        Ok(Self { groups, lengths })
    }
}

fn vote(plan: &JudgePlan<'_>, completion: crate::rollout::Completion, texts: bool) -> Vote {
    let judged = read(plan, completion);
    Vote {
        verdict: judged.verdict.failure().map_or("score", |failure| failure.name()),
        score: judged.verdict.score(),
        text: texts.then_some(judged.text),
    }
}

fn row(response: Response, votes: Vec<Vote>) -> Row {
    let scores: Vec<f64> = votes.iter().filter_map(|vote| vote.score).collect();
    let score = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    Row { id: response.id, task: response.task, score, valid: scores.len(), votes, skipped: None }
}

fn skipped(response: Response, length: usize, limit: usize) -> Row {
    let reason = format!("its prompt has {length} tokens, more than {limit}");
    Row { skipped: Some(reason), ..row(response, Vec::new()) }
}

fn write_rows(output: &str, rows: &[Row]) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    if output == "-" {
        return std::io::stdout().write_all(&text).context("standard output cannot be written");
    }
    write_atomically(output.as_ref(), &text).with_context(|| format!("{output}: cannot be written"))
}

/// How it went, on stderr.
fn summarize(rows: &[Row]) {
    let votes: usize = rows.iter().map(|row| row.votes.len()).sum();
    let valid: usize = rows.iter().map(|row| row.valid).sum();
    let scores: Vec<f64> = rows.iter().filter_map(|row| row.score).collect();
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    eprintln!(
        "{} responses, {} with a score (mean {mean:.2}); {valid} of {votes} votes had a verdict",
        rows.len(),
        scores.len()
    );
}
