//! `judge`: scores of responses by a trained judge.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::ensure;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::{DeviceArgs, with_backend};
use super::flag;
use super::pretrained::{self, Pretrained};
use super::rows::{RowArgs, fingerprint_of_input, fingerprint_of_model, kind_of_device};
use crate::config::{RUNNING, SEED, THREADS, TOKENS};
use crate::data::{LoadOptions, OnBadRow, Response, RowId, Tasks, load_responses, shown_prompt};
use crate::file::{RowOutput, counted, say};
use crate::judge::{Judge, JudgeError, JudgeRequest, JudgeSampling, JudgeSettings, Judged, PromptFile};
use crate::log::{StageBar, fixed};
use crate::model::{Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::rollout::{Engine, EngineLimits};
use crate::setting::{Assignment, Valid, count, number, resolve};
use crate::train::dataset::{report_default_tasks, report_routed_tasks, report_skipped};

/// Score responses with a judge.
///
/// Rows are {"prompt": text or messages, "response": text}, with optional `task` and `id`. Every response is judged
/// --votes times; its score is the mean over the votes that have one, and null where none has. A vote that failed is
/// named (malformed, out_of_range, truncated, missing, not_finite) and never counted as a number: `failed` counts them by
/// reason, `failed_share` is their share of the votes. A response whose votes fail more often than others' may be written to
/// that end: look at the share before you trust the score. Prompt, rubrics, score range and thinking are those that the
/// judge was trained with: its directory carries them in judge.toml.
///
/// Rows are written as they finish. After Ctrl-C, a kill or a full disk the same command with --resume goes on, and ends
/// with the same bytes.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// Hugging Face directory of the judge.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Files of responses: JSON lines, a JSON array (either also by gzip or zstd) or Parquet, a folder of them, or a data set of
    /// the hub (OWNER/NAME:SPLIT).
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub rows: RowArgs,
    /// Judgements of each response.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = flag::<usize>(count(1, 10_000)))]
    pub votes: usize,
    /// 0 for the most probable judgement (then more than one vote adds nothing).
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = flag::<f32>(number(0.0, 1000.0)))]
    pub temperature: f32,
    #[arg(long, default_value_t = 2048, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_new_tokens: usize,
    /// Longer prompts are kept out and counted.
    #[arg(long, default_value_t = 4096, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub max_prompt_tokens: usize,
    /// TOML file of the judge's prompt and primary rubrics, instead of those that the judge's directory carries (judge.toml).
    #[arg(long, value_name = "FILE")]
    pub rubrics: Option<PathBuf>,
    /// Task of rows that name none. auto: the one that their source or their prompt points to, or else chat.
    #[arg(long, default_value = Tasks::AUTO)]
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
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub max_running: usize,
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<u64>(SEED))]
    pub seed: u64,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<usize>(THREADS))]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The verdicts of a vote that has a score, and of one for which the model could not compute.
const SCORE: &str = "score";
const NOT_FINITE: &str = "not_finite";

/// One judgement.
#[derive(Serialize)]
struct Vote {
    verdict: &'static str,
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// The votes of a response in numbers.
#[derive(Serialize, Deserialize)]
struct Scored {
    /// Mean over the votes that have a score.
    score: Option<f64>,
    /// Votes that have a score.
    valid: usize,
    /// The other votes, by the reason why they have none.
    failed: BTreeMap<String, usize>,
    /// Their share of all votes; null for a response that was not judged.
    failed_share: Option<f64>,
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
    #[serde(flatten)]
    scored: Scored,
    votes: Vec<Vote>,
    /// Why the response was not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// Judges every response of the input and writes a row for each, as it finishes. Ctrl-C ends it early.
pub fn run(args: &JudgeArgs) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> = args.input.iter().chain(&args.rubrics).cloned().collect();
    let output = args.rows.open(&inputs, &args.model)?;
    let stop = super::stop_flag()?;
    super::on_threads(
        args.threads,
        || with_backend!(args.device.device, backend => judge(backend, args, output, &stop)),
    )
}

fn judge<B: Backend>(backend: &B, args: &JudgeArgs, output: RowOutput, stop: &AtomicBool) -> anyhow::Result<()> {
    let how = JudgeSampling {
        sampling: Sampling::temperature(args.temperature),
        votes: args.votes,
        max_new_tokens: args.max_new_tokens,
        stream: Stream::new(args.seed),
    };
    how.sampling.validate().map_err(|reason| anyhow::anyhow!("--{}", reason.replace('_', "-")))?;
    let Job { judge, config, weights, responses, prompts, ids, files } = Job::read(args)?;
    let made_with = match output.is_file() {
        true => made_with(args, &judge, fingerprint_of_model(&config, &weights), &responses, &prompts, &files)?,
        false => Value::Null,
    };
    let fits = |index: &usize| prompts[*index].len() <= args.max_prompt_tokens;
    let longest = (0..prompts.len()).filter(fits).map(|index| prompts[index].len()).max().unwrap_or(1);
    let model = Qwen3::new(backend, config, &weights, args.max_prompt_tokens + args.max_new_tokens)?;
    drop(weights);
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(longest, args.max_new_tokens, args.max_running))?;

    let mut summary = Summary::default();
    let mut writer = output.begin(&made_with, &ids, 1, |row| summary.add_written(row))?;
    let (open, too_long): (Vec<usize>, Vec<usize>) = (0..prompts.len()).filter(|i| !writer.has(*i)).partition(fits);
    let mut written = Ok(());
    for index in too_long {
        let row = skipped(&responses[index], &files[index], prompts[index].len(), args.max_prompt_tokens);
        summary.add(&row.scored);
        written = written.and_then(|()| writer.put(index, line(&row)));
    }
    let request = |index: &usize| JudgeRequest { prompt: &prompts[*index], stream: stream(&how, &responses[*index]) };
    let requests: Vec<JudgeRequest<'_>> = if written.is_ok() { open.iter().map(request).collect() } else { Vec::new() };
    let (mut bar, mut done) = (StageBar::new("judge", (requests.len() * args.votes) as u64, 0), 0);
    let ended = judge.judge_each(&mut engine, &model, &how, &requests, Some(stop), |request, votes| {
        done += votes.len() as u64;
        bar.update(done, &[]);
        let index = open[request];
        let row = row(&responses[index], &files[index], votes.into_iter().map(|vote| read(vote, args.texts)).collect());
        summary.add(&row.scored);
        written = writer.put(index, line(&row));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    bar.finish();
    args.rows.conclude(prompts.len(), writer, written, ended)?;
    summary.say()
}

/// What is read before the model is put on its device. Index for index, a response, its prompt and its id.
struct Job {
    judge: Judge,
    config: Qwen3Config,
    weights: Vec<f32>,
    responses: Vec<Response>,
    prompts: Vec<Vec<u32>>,
    ids: Vec<Value>,
    /// Named where there are several: the ids of two files may be the same.
    files: Vec<Option<String>>,
}

impl Job {
    fn read(args: &JudgeArgs) -> anyhow::Result<Self> {
        let settings = judge_settings(args)?;
        let on_bad_row = if args.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
        let tasks = Tasks::given(&args.default_task, settings.prompt.tasks.keys().cloned());
        let options = LoadOptions { tasks, on_bad_row, format: None };
        let loaded = load_responses(&args.input, &options)?;
        let Pretrained { config, weights, tokenizer } = pretrained::load(&args.model)?;
        let (needed, limit) = (args.max_prompt_tokens + args.max_new_tokens, config.context());
        ensure!(
            needed <= limit,
            "--max-prompt-tokens + --max-new-tokens = {needed} exceed the model's context of {limit}: lower them"
        );
        let judge = Judge::new(settings, tokenizer)?;
        let loaded = loaded.try_map(|r: Response| {
            let prompt = judge.encode(&r.task, &shown_prompt(&r.prompt, &r.arguments), &r.response)?;
            Ok::<_, JudgeError>((r, prompt))
        })?;
        report_routed_tasks(loaded.rows.iter().map(|(response, _)| (response.task.as_str(), response.task_by)));
        report_default_tasks(&judge, loaded.rows.iter().map(|(response, _)| response.task.as_str()));
        let too_long = loaded.rows.iter().filter(|(_, prompt)| prompt.len() > args.max_prompt_tokens).count();
        report_skipped(&loaded.skipped, too_long, args.max_prompt_tokens);
        let several = args.input.len() > 1;
        let files = loaded.locations.iter().map(|at| several.then(|| at.path.display().to_string())).collect();
        let (responses, prompts): (Vec<Response>, _) = loaded.rows.into_iter().unzip();
        let ids = responses.iter().map(|response| response.id.given()).collect();
        Ok(Self { judge, config, weights, responses, prompts, ids, files })
    }
}

/// The random numbers of a response depend on its id alone, and not on the rows around it.
fn stream(how: &JudgeSampling, response: &Response) -> Stream {
    how.stream.fold(response.id.key())
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(
    args: &JudgeArgs,
    judge: &Judge,
    model: String,
    responses: &[Response],
    prompts: &[Vec<u32>],
    files: &[Option<String>],
) -> anyhow::Result<Value> {
    // Rows name their file where there are several. A run of rows of one file: its name and its length.
    let files = files.iter().any(Option::is_some).then(|| -> Vec<(&Option<String>, usize)> {
        files.chunk_by(|a, b| a == b).map(|rows| (&rows[0], rows.len())).collect()
    });
    Ok(json!({
        "command": "judge",
        "files": files,
        "model": model,
        "input": fingerprint_of_input(responses.iter().map(|r| &r.id).zip(prompts.iter().map(Vec::as_slice))),
        "judge": serde_json::to_value(judge.settings())?,
        "stop": judge.tokenizer().eos_ids(),
        "votes": args.votes,
        "temperature": args.temperature,
        "max_new_tokens": args.max_new_tokens,
        "max_prompt_tokens": args.max_prompt_tokens,
        "seed": args.seed,
        "texts": args.texts,
        "device": kind_of_device(args.device.device),
    }))
}

/// The way of judging: what the judge's directory carries, under what the command line says; the differences are said.
fn judge_settings(args: &JudgeArgs) -> anyhow::Result<Valid<JudgeSettings>> {
    let carried = JudgeSettings::read(&args.model)?;
    // A directory that is not there is named when it is opened.
    if carried.is_none() && args.model.is_dir() {
        let folder = args.model.display();
        say!(
            "note: {folder} has no judge.toml: judged with the built-in rules, and the prompt of --rubrics or the built-in one"
        );
    }
    let start = carried.clone().map_or_else(JudgeSettings::built_in, Ok)?;
    let mut assignments = args.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
    assignments.extend(args.thinking.map(|thinking| Assignment::flag("--thinking", "thinking", thinking)));
    let mut used = resolve(&*start, None, std::iter::empty(), &assignments)?;
    if let Some(file) = &args.rubrics {
        let prompt = PromptFile::load(Some(file))?;
        used = used.changed(|used| used.prompt = prompt)?;
    }
    pretrained::say_differences(&args.model, carried.as_deref(), &used);
    Ok(used)
}

/// `None`: the model's logits were not finite.
fn read(judged: Option<Judged>, texts: bool) -> Vote {
    let Some(judged) = judged else { return Vote { verdict: NOT_FINITE, score: None, text: None } };
    Vote {
        verdict: judged.verdict.failure().map_or(SCORE, |failure| failure.name()),
        score: judged.verdict.score(),
        text: texts.then_some(judged.text),
    }
}

fn row(response: &Response, file: &Option<String>, votes: Vec<Vote>) -> Row {
    let (id, task) = (response.id.clone(), response.task.clone());
    Row { id, file: file.clone(), task, scored: Scored::new(&votes), votes, skipped: None }
}

fn skipped(response: &Response, file: &Option<String>, length: usize, limit: usize) -> Row {
    let reason = format!("its prompt has {length} tokens, more than {limit}");
    Row { skipped: Some(reason), ..row(response, file, Vec::new()) }
}

fn line(row: &Row) -> String {
    serde_json::to_string(row).expect("texts and numbers are JSON") + "\n"
}

impl Scored {
    fn new(votes: &[Vote]) -> Self {
        let scores: Vec<f64> = votes.iter().filter_map(|vote| vote.score).collect();
        let mut failed = BTreeMap::new();
        votes.iter().filter(|vote| vote.verdict != SCORE).for_each(|vote| {
            *failed.entry(vote.verdict.to_string()).or_default() += 1;
        });
        let failures: usize = failed.values().sum();
        Self {
            // Adding 0 makes a mean of -0 a 0.
            score: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64 + 0.0),
            valid: scores.len(),
            failed,
            failed_share: (!votes.is_empty()).then(|| failures as f64 / votes.len() as f64),
        }
    }
}

/// How all responses went, those of an earlier run included.
#[derive(Default)]
struct Summary {
    responses: usize,
    scored: usize,
    sum: f64,
    valid: usize,
    failed: BTreeMap<String, usize>,
}

impl Summary {
    fn add(&mut self, scored: &Scored) {
        self.responses += 1;
        self.scored += usize::from(scored.score.is_some());
        self.sum += scored.score.unwrap_or(0.0);
        self.valid += scored.valid;
        for (name, count) in &scored.failed {
            *self.failed.entry(name.clone()).or_default() += count;
        }
    }

    /// A row that was written before.
    fn add_written(&mut self, row: &Value) {
        if let Ok(scored) = Scored::deserialize(row) {
            self.add(&scored);
        }
    }

    fn text(&self) -> String {
        let failures: usize = self.failed.values().sum();
        let votes = self.valid + failures;
        let mean = match self.scored {
            0 => String::new(),
            n => format!(" (mean {})", fixed(self.sum / n as f64, 2)),
        };
        let failed: Vec<String> = self.failed.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let failed = match failures {
            0 => String::new(),
            _ => format!("; {:.1} % failed: {}", 100.0 * failures as f64 / votes as f64, failed.join(", ")),
        };
        let Self { responses, scored, valid, .. } = self;
        let (responses, votes) = (counted(*responses, "response"), counted(votes, "vote"));
        format!("{responses}, {scored} with a score{mean}; {valid} of {votes} had a verdict{failed}")
    }

    /// Says it on stderr. An error if the model cannot compute at all.
    fn say(&self) -> anyhow::Result<()> {
        say!("{}", self.text());
        let not_finite = self.failed.get(NOT_FINITE).copied().unwrap_or(0);
        let votes = self.valid + self.failed.values().sum::<usize>();
        ensure!(
            votes == 0 || not_finite < votes,
            "the model's logits are not finite for any vote: its weights are damaged"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(verdict: &'static str, score: Option<f64>) -> Vote {
        Vote { verdict, score, text: None }
    }

    #[test]
    fn failed_votes_are_counted_by_reason_and_a_mean_is_never_minus_zero() {
        let votes = [vote(SCORE, Some(-0.0)), vote("truncated", None), vote("truncated", None), vote(NOT_FINITE, None)];
        let scored = Scored::new(&votes);
        let expected = r#"{"score":0.0,"valid":1,"failed":{"not_finite":1,"truncated":2},"failed_share":0.75}"#;
        assert_eq!(serde_json::to_string(&scored).unwrap(), expected);
        let unjudged = r#"{"score":null,"valid":0,"failed":{},"failed_share":null}"#;
        assert_eq!(serde_json::to_string(&Scored::new(&[])).unwrap(), unjudged);

        let mut summary = Summary::default();
        summary.add_written(&serde_json::to_value(&scored).unwrap());
        summary.add(&Scored::new(&[vote(SCORE, Some(-0.001))]));
        summary.add(&Scored::new(&[]));
        let text = "3 responses, 2 with a score (mean 0.00); 2 of 5 votes had a verdict; 60.0 % failed: 1 not_finite, \
                    2 truncated";
        assert_eq!(summary.text(), text);
        assert!(summary.say().is_ok());
        assert_eq!(Summary::default().text(), "0 responses, 0 with a score; 0 of 0 votes had a verdict");

        let mut damaged = Summary::default();
        damaged.add(&Scored::new(&[vote(NOT_FINITE, None)]));
        assert!(damaged.say().unwrap_err().to_string().contains("not finite"));
    }
}
