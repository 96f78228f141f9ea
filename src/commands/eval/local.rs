//! A judge in a directory on the rows of a benchmark.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::ensure;
use serde::Deserialize;
use serde_json::{Value, json};

use super::row::{EvalRow, Tally};
use super::{EvalArgs, finish, try_outputs};
use crate::commands::device::with_backend;
use crate::commands::judging::{LoadedJudge, NOT_FINITE, Vote};
use crate::commands::rows::{fingerprint_of_model, kind_of_device};
use crate::eval::question::{Question, read_questions};
use crate::eval::{Answered, Benchmark};
use crate::file::{RowError, RowOutput, RowWriter, counted};
use crate::judge::{Judge, JudgeRequest, JudgeSampling, Judged};
use crate::log::StageBar;
use crate::model::{Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::random::Stream;
use crate::rollout::{Engine, EngineLimits};
use crate::train::dataset::{report_default_tasks, report_skipped};

/// Judges every response, writes a row a question, and prints the table. Ctrl-C ends it early.
pub fn run(args: &EvalArgs, model: &Path) -> anyhow::Result<()> {
    try_outputs(args, &[])?;
    let inputs: Vec<PathBuf> =
        args.data.iter().chain(&args.judging.rubrics).chain(&args.json).chain(&args.page).cloned().collect();
    // Without a file for them there are no rows: standard output is the table's.
    let output = if args.rows.output == "-" { None } else { Some(args.rows.open(&inputs, model)?) };
    ensure!(output.is_some() || !args.rows.resume, "--resume: goes on with the rows of an earlier --output FILE");
    let stop = crate::commands::stop_flag()?;
    let device = args.judging.device.device;
    let rows = crate::commands::on_threads(
        args.judging.threads,
        || with_backend!(device, backend => evaluate(backend, args, model, output, &stop)),
    )?;
    let (benchmark, rows) = rows;
    let answered: Vec<Answered> = rows.iter().map(|row| row.answered(0..args.judging.votes)).collect();
    let mut figures = benchmark.figures(&answered);
    let tally = Tally::of(benchmark, &rows, args.judging.votes);
    figures.notes.extend(notes(&tally));
    finish(args, &figures, &answered, Some(&tally), &model.display().to_string())?;
    let not_finite = tally.failed.get(NOT_FINITE).copied().unwrap_or(0);
    ensure!(
        tally.calls == 0 || not_finite < tally.calls,
        "the model's logits are not finite for any vote: its weights are damaged"
    );
    Ok(())
}

fn notes(tally: &Tally) -> Vec<String> {
    let failures: usize = tally.failed.values().sum();
    let failed: Vec<String> = tally.failed.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let failed = if failures == 0 { "none failed".into() } else { format!("{failures} failed: {}", failed.join(", ")) };
    let mut notes =
        vec![format!("{}, {} written; {failed}", counted(tally.calls, "judgement"), counted(tally.tokens, "token"))];
    if tally.skipped > 0 {
        notes.push(format!(
            "{} with a response whose prompt is too long: it has no verdict",
            counted(tally.skipped, "row")
        ));
    }
    if tally.votes_at.len() > 1 {
        let at = tally.votes_at.iter().map(|at| {
            format!("{} vote{} {:.2} %", at.votes, if at.votes == 1 { "" } else { "s" }, 100.0 * at.headline)
        });
        notes.push(format!("by the mean of {}", at.collect::<Vec<_>>().join(", ")));
    }
    notes
}

/// A response to be judged: its question and its number there, and the judge's prompt.
struct Asked {
    question: usize,
    response: usize,
    prompt: Vec<u32>,
}

/// What is read before the model is put on its device.
struct Job {
    benchmark: Benchmark,
    questions: Vec<Question>,
    judge: Judge,
    config: Qwen3Config,
    weights: Vec<f32>,
    /// By question, then by response.
    asked: Vec<Asked>,
}

fn job(args: &EvalArgs, model: &Path) -> anyhow::Result<Job> {
    let settings = args.judging.settings(model)?;
    let read = read_questions(&args.data, args.benchmark, &args.judging.load_options())?;
    let LoadedJudge { judge, config, weights } = args.judging.load(model, settings)?;
    let mut asked = Vec::new();
    for (index, question) in read.questions.iter().enumerate() {
        for (response, text) in question.responses.iter().enumerate() {
            asked.push(Asked {
                question: index,
                response,
                prompt: judge.encode(&question.task, &question.prompt, text)?,
            });
        }
    }
    report_default_tasks(&judge, read.questions.iter().map(|question| question.task.as_str()));
    report_skipped(&read.skipped, 0, 0);
    Ok(Job { benchmark: read.benchmark, questions: read.questions, judge, config, weights, asked })
}

fn evaluate<B: Backend>(
    backend: &B,
    args: &EvalArgs,
    model: &Path,
    output: Option<RowOutput>,
    stop: &AtomicBool,
) -> anyhow::Result<(Benchmark, Vec<EvalRow>)> {
    let how = args.judging.sampling()?;
    let Job { benchmark, questions, judge, config, weights, asked } = job(args, model)?;
    let made_with = made_with(args, &judge, fingerprint_of_model(&config, &weights), &questions, &asked)?;
    let limit = args.judging.max_prompt_tokens;
    let (fits, too_long): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|asked| asked.prompt.len() <= limit);
    let longest = fits.iter().map(|asked| asked.prompt.len()).max().unwrap_or(1);
    let model = Qwen3::new(backend, config, &weights, limit + args.judging.max_new_tokens)?;
    drop(weights);
    let limits = EngineLimits::for_lengths(longest, args.judging.max_new_tokens, args.judging.max_running);
    let mut engine = Engine::new(&model, limits)?;

    let mut work = Work::begin(benchmark, &questions, output, &made_with)?;
    let mut written = too_long.into_iter().try_for_each(|asked| work.skip(asked, limit));
    let fits: Vec<&Asked> = fits.into_iter().filter(|asked| work.open.contains_key(&asked.question)).collect();
    let mut requests: Vec<JudgeRequest<'_>> = Vec::new();
    for asked in fits.iter().filter(|_| written.is_ok()) {
        requests.push(JudgeRequest { prompt: &asked.prompt, stream: stream(&how, &questions[asked.question], asked) });
    }
    let (mut bar, mut done) = (StageBar::new("eval", (requests.len() * how.votes) as u64, 0), 0);
    let ended = judge.judge_each(&mut engine, &model, &how, &requests, Some(stop), |index, votes| {
        done += votes.len() as u64;
        bar.update(done, &[]);
        written = work.answer(fits[index], votes, args.judging.texts);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    bar.finish();
    match work.writer {
        Some(writer) => args.rows.conclude(questions.len(), writer, written, ended)?,
        None => ended?,
    }
    Ok((benchmark, work.rows.into_iter().flatten().collect()))
}

/// Questions on their way to rows.
struct Work<'a> {
    benchmark: Benchmark,
    questions: &'a [Question],
    /// Those whose responses are not all judged.
    open: HashMap<usize, Unfinished>,
    /// Those that are finished, now or by an earlier process, by question.
    rows: Vec<Option<EvalRow>>,
    writer: Option<RowWriter>,
}

impl<'a> Work<'a> {
    fn begin(
        benchmark: Benchmark,
        questions: &'a [Question],
        output: Option<RowOutput>,
        made_with: &Value,
    ) -> anyhow::Result<Self> {
        let mut rows: Vec<Option<EvalRow>> = vec![None; questions.len()];
        let ids: Vec<Value> = questions.iter().map(|question| Value::from(question.case.id.as_str())).collect();
        let mut keep = |row: &Value| {
            if let Ok(row) = EvalRow::deserialize(row)
                && let Some(free) = rows.get_mut(row.position)
            {
                *free = Some(row);
            }
        };
        let writer = output.map(|output| output.begin(made_with, &ids, 1, &mut keep)).transpose()?;
        let open = (0..questions.len())
            .filter(|index| rows[*index].is_none())
            .map(|index| (index, Unfinished::new(questions[index].responses.len())))
            .collect();
        Ok(Self { benchmark, questions, open, rows, writer })
    }

    /// Leaves out a response whose prompt is too long.
    fn skip(&mut self, asked: &Asked, limit: usize) -> Result<(), RowError> {
        let Some(of) = self.open.get_mut(&asked.question) else { return Ok(()) };
        of.skipped = Some(format!("a prompt has {} tokens, more than {limit}", asked.prompt.len()));
        self.ended(asked.question)
    }

    /// Takes the votes of a response; `None`: the model could not compute.
    fn answer(&mut self, asked: &Asked, votes: Vec<Option<Judged>>, texts: bool) -> Result<(), RowError> {
        let of = self.open.get_mut(&asked.question).expect("a question is open until its last response");
        of.tokens += votes.iter().flatten().map(|judged| judged.completion.tokens.len() as u64).sum::<u64>();
        of.votes[asked.response] = votes.into_iter().map(|vote| Vote::read(vote, texts)).collect();
        self.ended(asked.question)
    }

    /// One more response of a question has ended; after its last one its row is written.
    fn ended(&mut self, index: usize) -> Result<(), RowError> {
        let of = self.open.get_mut(&index).expect("a question is open until its last response");
        of.waiting -= 1;
        if of.waiting > 0 {
            return Ok(());
        }
        let Some(Unfinished { votes, tokens, skipped, .. }) = self.open.remove(&index) else { return Ok(()) };
        let Question { case, task, .. } = &self.questions[index];
        let row = EvalRow { skipped, ..EvalRow::new(self.benchmark, index, case, task, votes, tokens) };
        let line = serde_json::to_string(&row).expect("texts and numbers are JSON") + "\n";
        self.rows[index] = Some(row);
        self.writer.as_mut().map_or(Ok(()), |writer| writer.put(index, line))
    }
}

/// A question some of whose responses are not judged yet.
struct Unfinished {
    votes: Vec<Vec<Vote>>,
    tokens: u64,
    waiting: usize,
    skipped: Option<String>,
}

impl Unfinished {
    fn new(responses: usize) -> Self {
        Self { votes: vec![Vec::new(); responses], tokens: 0, waiting: responses, skipped: None }
    }
}

/// The random numbers of a response depend on its text and its prompt's alone: not on the rows around it, nor on its place among
/// the responses, so that equal responses of a row are drawn alike.
fn stream(how: &JudgeSampling, question: &Question, asked: &Asked) -> Stream {
    let text = blake3::hash(question.responses[asked.response].as_bytes());
    let text = u64::from_le_bytes(text.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    how.stream.fold(question.case.prompt).fold(text)
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(
    args: &EvalArgs,
    judge: &Judge,
    model: String,
    questions: &[Question],
    asked: &[Asked],
) -> anyhow::Result<Value> {
    let mut input = blake3::Hasher::new();
    for question in questions {
        input.update(json!([question.case, question.task]).to_string().as_bytes());
    }
    for asked in asked {
        input.update(&(asked.prompt.len() as u64).to_le_bytes()).update(bytemuck::cast_slice(&asked.prompt));
    }
    Ok(json!({
        "command": "eval",
        "model": model,
        "input": input.finalize().to_hex().to_string(),
        "judge": serde_json::to_value(judge.settings())?,
        "stop": judge.tokenizer().eos_ids(),
        "votes": args.judging.votes,
        "temperature": args.judging.temperature,
        "max_new_tokens": args.judging.max_new_tokens,
        "max_prompt_tokens": args.judging.max_prompt_tokens,
        "seed": args.judging.seed,
        "texts": args.judging.texts,
        "device": kind_of_device(args.judging.device.device),
    }))
}
