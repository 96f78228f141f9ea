//! A judge in a directory on the rows of a benchmark.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::ensure;
use serde::Deserialize;
use serde_json::{Value, json};

use super::row::{EvalRow, Tally};
use super::{EvalArgs, finish, try_outputs};
use crate::commands::device::with_backend;
use crate::commands::judged_rows::{Asked, ReadyJudge, RowVotes};
use crate::commands::judging::{LoadedJudge, NOT_FINITE};
use crate::commands::rows::{fingerprint_of_model, kind_of_device};
use crate::data::sources;
use crate::eval::question::{Question, read_questions};
use crate::eval::recorded::prompt_key;
use crate::eval::{Answered, Benchmark};
use crate::file::{RowOutput, counted};
use crate::judge::JudgeSampling;
use crate::ops::Backend;
use crate::random::Stream;
use crate::train::dataset::{report_default_tasks, report_routed_tasks, report_skipped};

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

/// What is read before the model is put on its device.
struct Job {
    benchmark: Benchmark,
    questions: Vec<Question>,
    loaded: LoadedJudge,
    /// By question, then by response.
    asked: Vec<Asked>,
}

fn job(args: &EvalArgs, model: &Path) -> anyhow::Result<Job> {
    let settings = args.judging.settings(model)?;
    let files = sources::resolve(&args.data)?;
    let read = read_questions(&files, args.benchmark, &args.judging.load_options(&settings))?;
    let (loaded, how) = (args.judging.load(model, settings)?, args.judging.sampling()?);
    let mut asked = Vec::new();
    for (row, question) in read.questions.iter().enumerate() {
        for (response, text) in question.responses.iter().enumerate() {
            let prompt = loaded.judge.encode(&question.task, &question.prompt, text)?;
            asked.push(Asked { row, response, prompt, stream: stream(&how, question, text) });
        }
    }
    report_routed_tasks(read.questions.iter().map(|question| (question.task.as_str(), question.task_by)));
    report_default_tasks(&loaded.judge, read.questions.iter().map(|question| question.task.as_str()));
    report_skipped(&read.skipped, 0, 0);
    Ok(Job { benchmark: read.benchmark, questions: read.questions, loaded, asked })
}

fn evaluate<B: Backend>(
    backend: &B,
    args: &EvalArgs,
    model: &Path,
    output: Option<RowOutput>,
    stop: &AtomicBool,
) -> anyhow::Result<(Benchmark, Vec<EvalRow>)> {
    let Job { benchmark, questions, loaded, asked } = job(args, model)?;
    let made_with = if output.is_some() { made_with(args, &loaded, &questions, &asked)? } else { Value::Null };
    let ready = ReadyJudge::new(backend, &args.judging, loaded, &asked)?;
    // Finished by an earlier process, or now.
    let mut rows: Vec<Option<EvalRow>> = vec![None; questions.len()];
    let ids: Vec<Value> = questions.iter().map(|question| Value::from(question.case.id.as_str())).collect();
    let keep = |row: &Value| {
        if let Ok(row) = EvalRow::deserialize(row)
            && let Some(free) = rows.get_mut(row.position)
        {
            *free = Some(row);
        }
    };
    let writer = output.map(|output| output.begin(&made_with, &ids, 1, keep)).transpose()?;
    let line = |index: usize, of: RowVotes| {
        let Question { case, task, .. } = &questions[index];
        let row = EvalRow::new(benchmark, index, case, task, of);
        let line = serde_json::to_string(&row).expect("texts and numbers are JSON") + "\n";
        rows[index] = Some(row);
        line
    };
    ready.run("eval", &args.judging, &asked, writer, line, stop)?.conclude(&args.rows, questions.len())?;
    Ok((benchmark, rows.into_iter().flatten().collect()))
}

/// The random numbers of a response depend on its text and its prompt's alone: not on the rows around it, nor on its place among
/// the responses, so that equal responses of a row are drawn alike.
fn stream(how: &JudgeSampling, question: &Question, response: &str) -> Stream {
    how.stream.fold(question.case.prompt).fold(prompt_key(response))
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(args: &EvalArgs, loaded: &LoadedJudge, questions: &[Question], asked: &[Asked]) -> anyhow::Result<Value> {
    let mut input = blake3::Hasher::new();
    for question in questions {
        input.update(json!([question.case, question.task]).to_string().as_bytes());
    }
    for asked in asked {
        input.update(&(asked.prompt.len() as u64).to_le_bytes()).update(bytemuck::cast_slice(&asked.prompt));
    }
    let LoadedJudge { judge, config, weights } = loaded;
    Ok(json!({
        "command": "eval",
        "model": fingerprint_of_model(config, weights),
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
