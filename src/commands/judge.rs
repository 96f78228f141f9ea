//! `judge`: scores of responses by a trained judge.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use super::device::{DeviceArgs, with_backend};
use super::pretrained::{self, Pretrained};
use crate::config::resolve;
use crate::data::{LoadOptions, OnBadRow, Response, RowId, load_responses, shown_prompt};
use crate::judge::{Judge, JudgeError, JudgeRequest, JudgeSampling, JudgeSettings, Judged, PromptFile};
use crate::log::StageBar;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::rollout::{Engine, EngineLimits};
use crate::tensor::file::write_atomically;
use crate::train::dataset::{report_default_tasks, report_skipped};

/// Score responses with a judge.
///
/// Rows are {"prompt": text or messages, "response": text}, with optional `task` and `id`. Every response is judged
/// --votes times; its score is the mean over the votes that have one, and null where none has. A vote that failed is
/// named (malformed, out_of_range, truncated, missing), never counted as a number. Prompt, rubrics, score range and thinking
/// are those that the judge was trained with: its directory carries them in judge.toml.
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
    /// TOML file of the judge's prompt and primary rubrics, instead of those that the judge's directory carries (judge.toml).
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<PathBuf>,
    /// Task of rows that name none.
    #[arg(long, default_value = "chat")]
    pub default_task: String,
    /// Count bad rows and go on.
    #[arg(long)]
    pub skip_bad: bool,
    /// Whether the judge may think before it writes, instead of what its directory says.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub thinking: Option<bool>,
    /// Overrides a key of judge.toml, for example `--set verdict.max=5`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
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
    /// As it came; a row without one has its position over all files.
    id: RowId,
    /// The input file, where there are several: their ids may be the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
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

/// Judges every response of the input and writes a row for each. Ctrl-C ends it early.
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
    let how = JudgeSampling {
        sampling: Sampling::temperature(args.temperature),
        votes: args.votes,
        max_new_tokens: args.max_new_tokens,
        stream: Stream::new(args.seed),
    };
    how.sampling.validate().map_err(anyhow::Error::msg)?;
    let settings = judge_settings(args)?;
    let on_bad_row = if args.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
    let options = LoadOptions { default_task: args.default_task.clone(), on_bad_row };
    let loaded = load_responses(&args.input, &options)?;
    let Pretrained { config, weights, tokenizer } = pretrained::load(&args.model)?;
    let (needed, limit) = (args.max_prompt_tokens + args.max_new_tokens, config.max_position_embeddings);
    ensure!(
        needed <= limit,
        "--max-prompt-tokens + --max-new-tokens = {needed} exceed the model's context of {limit}: lower them"
    );
    let judge = Judge::new(settings, tokenizer)?;
    let loaded = loaded.try_map(|r: Response| {
        let prompt = judge.encode(&r.task, &shown_prompt(&r.prompt, &r.arguments), &r.response)?;
        Ok::<_, JudgeError>((r, prompt))
    })?;
    report_default_tasks(&judge, loaded.rows.iter().map(|(response, _)| response.task.as_str()));
    let fits = |prompt: &[u32]| prompt.len() <= args.max_prompt_tokens;
    let requests: Vec<JudgeRequest<'_>> = loaded
        .rows
        .iter()
        .filter(|(_, prompt)| fits(prompt))
        .map(|(response, prompt)| JudgeRequest { prompt, stream: how.stream.fold(response.id.key()) })
        .collect();
    report_skipped(&loaded.skipped, loaded.rows.len() - requests.len(), args.max_prompt_tokens);

    let model = Qwen3::new(backend, config, &weights, needed)?;
    drop(weights);
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(1);
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(longest, args.max_new_tokens, args.max_running))?;
    let (mut bar, mut done) = (StageBar::new("judge", (requests.len() * args.votes) as u64, 0), 0);
    let judged = judge.judge(&mut engine, &model, &how, &requests, Some(stop), |ended| {
        done += ended as u64;
        bar.update(done, &[]);
    })?;
    bar.finish();
    let mut judged = judged.into_iter();
    let several = args.input.len() > 1;
    let rows: Vec<Row> = loaded
        .rows
        .into_iter()
        .zip(loaded.locations)
        .map(|((response, prompt), location)| {
            let scored = match fits(&prompt) {
                true => row(response, judged.next().into_iter().flatten().map(|j| vote(j, args.texts)).collect()),
                false => skipped(response, prompt.len(), args.max_prompt_tokens),
            };
            Row { file: several.then(|| location.path.display().to_string()), ..scored }
        })
        .collect();
    write_rows(&args.output, &rows)?;
    summarize(&rows);
    Ok(())
}

/// The way of judging: what the judge's directory carries, under what the command line says; the differences are said.
fn judge_settings(args: &JudgeArgs) -> anyhow::Result<JudgeSettings> {
    let carried = JudgeSettings::read(&args.model)?;
    if carried.is_none() {
        let folder = args.model.display();
        eprintln!(
            "note: {folder} has no judge.toml: judged with the built-in rules, and the prompt of --rubrics or the built-in one"
        );
    }
    let start = carried.clone().map_or_else(JudgeSettings::built_in, Ok)?;
    let mut used = resolve(&start, None, std::iter::empty(), &args.set)?;
    if let Some(file) = &args.rubrics {
        used.prompt = PromptFile::load(Some(file))?;
    }
    used.thinking = args.thinking.unwrap_or(used.thinking);
    used.validate().map_err(anyhow::Error::msg)?;
    pretrained::say_differences(&args.model, carried.as_ref(), &used);
    Ok(used)
}

fn vote(judged: Judged, texts: bool) -> Vote {
    Vote {
        verdict: judged.verdict.failure().map_or("score", |failure| failure.name()),
        score: judged.verdict.score(),
        text: texts.then_some(judged.text),
    }
}

fn row(response: Response, votes: Vec<Vote>) -> Row {
    let scores: Vec<f64> = votes.iter().filter_map(|vote| vote.score).collect();
    let score = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    Row { id: response.id, file: None, task: response.task, score, valid: scores.len(), votes, skipped: None }
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
