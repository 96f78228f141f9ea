//! A judge behind an HTTP endpoint on the rows of a benchmark.

use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::row::{EvalRow, Sheet};
use super::{EvalArgs, Questions, finish_judged, questions, try_all_outputs};
use crate::commands::endpoint::ask;
use crate::commands::judged_rows::{Asked, RowVotes};
use crate::commands::judging::check_answers;
use crate::data::Message;
use crate::eval::Benchmark;
use crate::eval::question::{Question, read_questions};
use crate::file::RowOutput;
use crate::judge::EndpointJudge;
use crate::train::dataset::report_cuts;

/// Judges every response, writes a row a question, and prints the table. Ctrl-C ends it early.
pub fn run(args: &EvalArgs, address: &str) -> anyhow::Result<()> {
    let output = try_all_outputs(args, None)?;
    let judge = args.endpoint.judge(address, &args.judging)?;
    let stop = crate::commands::stop_flag()?;
    let (benchmark, rows) = evaluate(args, judge, output, &stop)?;
    let name = args.endpoint.endpoint_model.as_deref().unwrap_or_default();
    let tally = finish_judged(args, benchmark, &rows, &format!("{name} at {address}"))?;
    check_answers(address, &tally.failed, tally.calls)
}

fn evaluate(
    args: &EvalArgs,
    judge: EndpointJudge,
    output: Option<RowOutput>,
    stop: &AtomicBool,
) -> anyhow::Result<(Benchmark, Vec<EvalRow>)> {
    let options = args.judging.load_options(judge.settings());
    let (benchmark, read) = read_questions(&args.data, args.benchmark, &options)?;
    let messages =
        |question: &Question, responses: &[&str]| judge.messages(&question.task, &question.prompt, responses);
    let mode = judge.settings().mode;
    let Questions { rows, asked } = questions(args, mode, read, |task| judge.falls_to_default(task), messages)?;
    report_cuts(judge.cuts());
    let mut sheet = Sheet::new(benchmark, mode, &rows);
    let input = fingerprint(&rows, &asked);
    let writer = sheet.begin(output, &args.endpoint.made_with("eval", &judge, &args.judging, input)?)?;
    let line = |index: usize, of: RowVotes| sheet.line(index, of);
    let ended = ask("eval", judge, (&args.endpoint, &args.judging), asked, writer, line, stop)?;
    ended.conclude(&args.rows, rows.len())?;
    Ok((benchmark, sheet.into_rows()))
}

/// A number for the rows and what is asked about them.
fn fingerprint(questions: &[Question], asked: &[Asked<Vec<Message>>]) -> String {
    let mut input = blake3::Hasher::new();
    let mut add = |value: Value| {
        let text = value.to_string();
        input.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    questions.iter().for_each(|question| add(json!([question.case, question.task])));
    asked.iter().for_each(|asked| add(json!(asked.prompt)));
    input.finalize().to_hex().to_string()
}
