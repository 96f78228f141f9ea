//! A teacher in a directory.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::row::Sheet;
use super::{AnnotateArgs, Annotated, Questions, fingerprint, finish, questions, read_pairs, try_outputs};
use crate::commands::device::with_backend;
use crate::commands::judged_rows::{ReadyJudge, RowVotes};
use crate::commands::judging::check_weights;
use crate::data::Message;
use crate::file::RowOutput;
use crate::judge::JudgeError;
use crate::ops::Backend;
use crate::train::dataset::{report_cuts, report_skipped};

/// Judges all pairs, and finishes the command.
pub fn run(args: &AnnotateArgs, model: &Path) -> anyhow::Result<()> {
    let output = try_outputs(args, Some(model))?;
    let stop = crate::commands::stop_flag()?;
    let device = args.judging.device.device;
    let annotated = crate::commands::on_threads(
        args.judging.threads,
        || with_backend!(device, backend => annotate(backend, args, model, output, &stop)),
    )?;
    finish(args, &annotated, model.display().to_string(), |report| {
        check_weights(&report.votes.failed, report.votes.asked)
    })
}

fn annotate<B: Backend>(
    backend: &B,
    args: &AnnotateArgs,
    model: &Path,
    output: RowOutput,
    stop: &AtomicBool,
) -> anyhow::Result<Annotated> {
    let settings = args.judging.settings(model)?;
    let (thinking, mode) = (settings.thinking, settings.mode);
    let read = read_pairs(args, &args.judging.load_options(&settings))?;
    let loaded = args.judging.load(model, settings)?;
    let judge = &loaded.judge;
    let encode = |task: &str, prompt: &[Message], responses: &[&str]| {
        let messages = judge.messages_for_rows(task, prompt, responses)?;
        Ok::<_, JudgeError>((messages, judge.encode(task, prompt, responses)?))
    };
    let questions = questions(args, mode, read, |task| judge.falls_to_default(task), encode)?;
    let Questions { pairs, asked, bad_rows } = questions;
    let limit = args.judging.max_prompt_tokens;
    report_skipped(&Default::default(), asked.iter().filter(|of| of.prompt.len() > limit).count(), limit);
    report_cuts(judge.cuts());
    let mut sheet = Sheet::new(&pairs, args.rule(mode));
    let input = fingerprint(&pairs, asked.iter().map(|of| of.prompt.as_slice()));
    let writer = sheet.begin(output, &loaded.made_with("annotate", &args.judging, input)?)?;
    // A finished output needs no model.
    if writer.finished() < pairs.len() {
        let ready = ReadyJudge::new(backend, &args.judging, loaded, &asked)?;
        let line = |index: usize, of: RowVotes| sheet.line(index, of);
        ready.run("annotate", &args.judging, &asked, Some(writer), line, stop)?.conclude(&args.rows, pairs.len())?;
    }
    let outcomes = sheet.into_outcomes();
    Ok(Annotated { pairs, outcomes, bad_rows, thinking, mode })
}
