//! A judge in a directory on the rows of a benchmark.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::row::{EvalRow, Sheet};
use super::{EvalArgs, Questions, finish_judged, questions, try_all_outputs};
use crate::commands::device::with_backend;
use crate::commands::judged_rows::{Asked, ReadyJudge, RowVotes};
use crate::commands::judging::{LoadedJudge, check_weights};
use crate::eval::Benchmark;
use crate::eval::question::{Question, read_questions};
use crate::file::RowOutput;
use crate::ops::Backend;
use crate::train::dataset::report_cuts;

/// Judges every response, writes a row a question, and prints the table. Ctrl-C ends it early.
pub fn run(args: &EvalArgs, model: &Path) -> anyhow::Result<()> {
    let output = try_all_outputs(args, Some(model))?;
    let stop = crate::commands::stop_flag()?;
    let device = args.judging.device.device;
    let rows = crate::commands::on_threads(
        args.judging.threads,
        || with_backend!(device, backend => evaluate(backend, args, model, output, &stop)),
    )?;
    let (benchmark, rows) = rows;
    let tally = finish_judged(args, benchmark, &rows, &model.display().to_string())?;
    check_weights(&tally.failed, tally.calls)
}

/// What is read before the model is put on its device.
struct Job {
    benchmark: Benchmark,
    loaded: LoadedJudge,
    questions: Questions<Vec<u32>>,
}

fn job(args: &EvalArgs, model: &Path) -> anyhow::Result<Job> {
    let settings = args.judging.settings(model)?;
    let (benchmark, read) = read_questions(&args.data, args.benchmark, &args.judging.load_options(&settings))?;
    let loaded = args.judging.load(model, settings)?;
    let judge = &loaded.judge;
    let encode = |question: &Question, responses: &[&str]| judge.encode(&question.task, &question.prompt, responses);
    let questions = questions(args, judge.settings().mode, read, |task| judge.falls_to_default(task), encode)?;
    report_cuts(judge.cuts());
    Ok(Job { benchmark, questions, loaded })
}

fn evaluate<B: Backend>(
    backend: &B,
    args: &EvalArgs,
    model: &Path,
    output: Option<RowOutput>,
    stop: &AtomicBool,
) -> anyhow::Result<(Benchmark, Vec<EvalRow>)> {
    let Job { benchmark, loaded, questions: Questions { rows, asked } } = job(args, model)?;
    let made_with = if output.is_some() {
        loaded.made_with("eval", &args.judging, fingerprint(&rows, &asked))?
    } else {
        Value::Null
    };
    let mut sheet = Sheet::new(benchmark, loaded.judge.settings().mode, &rows);
    let writer = sheet.begin(output, &made_with)?;
    let ready = ReadyJudge::new(backend, &args.judging, loaded, &asked)?;
    let line = |index: usize, of: RowVotes| sheet.line(index, of);
    ready.run("eval", &args.judging, &asked, writer, line, stop)?.conclude(&args.rows, rows.len())?;
    Ok((benchmark, sheet.into_rows()))
}

/// A number for the rows and what is asked about them.
fn fingerprint(questions: &[Question], asked: &[Asked]) -> String {
    let mut input = blake3::Hasher::new();
    for question in questions {
        input.update(json!([question.case, question.task]).to_string().as_bytes());
    }
    for asked in asked {
        input.update(&(asked.prompt.len() as u64).to_le_bytes()).update(bytemuck::cast_slice(&asked.prompt));
    }
    input.finalize().to_hex().to_string()
}
