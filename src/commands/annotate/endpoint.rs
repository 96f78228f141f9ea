//! A teacher behind an HTTP endpoint.

use std::sync::atomic::AtomicBool;

use super::row::Sheet;
use super::{AnnotateArgs, Annotated, Questions, fingerprint, finish, questions, read_pairs, try_outputs};
use crate::commands::endpoint::ask;
use crate::commands::judged_rows::RowVotes;
use crate::commands::judging::check_answers;
use crate::data::Message;
use crate::file::RowOutput;
use crate::judge::{EndpointJudge, JudgePromptError};
use crate::train::dataset::report_cuts;

/// Judges all pairs, and finishes the command.
pub fn run(args: &AnnotateArgs, address: &str) -> anyhow::Result<()> {
    let output = try_outputs(args, None)?;
    let judge = args.endpoint.judge(address, &args.judging)?;
    let stop = crate::commands::stop_flag()?;
    let annotated = annotate(args, judge, output, &stop)?;
    let name = args.endpoint.endpoint_model.as_deref().unwrap_or_default();
    finish(args, &annotated, format!("{name} at {address}"), |report| {
        check_answers(address, &report.votes.failed, report.votes.asked)
    })
}

fn annotate(
    args: &AnnotateArgs,
    judge: EndpointJudge,
    output: RowOutput,
    stop: &AtomicBool,
) -> anyhow::Result<Annotated> {
    let settings = judge.settings();
    let (thinking, mode) = (settings.thinking, settings.mode);
    let read = read_pairs(args, &args.judging.load_options(settings))?;
    let messages = |task: &str, prompt: &[Message], responses: &[&str]| {
        let messages = judge.messages(task, prompt, responses)?;
        Ok::<_, JudgePromptError>((messages.clone(), messages))
    };
    let Questions { pairs, asked, bad_rows } =
        questions(args, mode, read, |task| judge.falls_to_default(task), messages)?;
    report_cuts(judge.cuts());
    let mut sheet = Sheet::new(&pairs, args.rule(mode));
    let input = fingerprint(&pairs, std::iter::empty());
    let writer = sheet.begin(output, &args.endpoint.made_with("annotate", &judge, &args.judging, input)?)?;
    let line = |index: usize, of: RowVotes| sheet.line(index, of);
    let ended = ask("annotate", judge, (&args.endpoint, &args.judging), asked, Some(writer), line, stop)?;
    ended.conclude(&args.rows, pairs.len())?;
    let outcomes = sheet.into_outcomes();
    Ok(Annotated { pairs, outcomes, bad_rows, thinking, mode })
}
