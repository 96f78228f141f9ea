//! `eval`: how good a judge is on the benchmarks of the field, or on any pairs.

mod compare;
mod endpoint;
mod local;
mod page;
mod row;
mod tables;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use super::endpoint::EndpointArgs;
use super::judged_rows::Asked;
use super::judging::JudgingArgs;
use super::report_files::ReportFiles;
use super::rows::RowArgs;
use crate::data::{LoadOptions, Loaded, OnBadRow, Tasks};
use crate::eval::question::{Question, read_questions};
use crate::eval::recorded::{self, Recorded, prompt_key};
use crate::eval::rewardbench2::needs_scores;
use crate::eval::{Answered, Benchmark, Case, Comparisons, Figures, OrderEffects};
use crate::file::{RowOutput, counted, open_plain, say};
use crate::judge::{JudgeMode, JudgeSampling};
use crate::random::Stream;
use crate::train::dataset::{report_default_tasks, report_routed_tasks, report_skipped};
use row::{EvalRow, Tally};

/// Measure a judge on a benchmark, or read recorded results.
///
/// --model DIR --data FILE judges every response of a benchmark's rows, or of any pairs, and prints the benchmark's table:
/// RewardBench, RewardBench 2 (with Ties), RM-Bench, JudgeBench; LLMBar, PPE and everything else that is pairs is `pairs`. The
/// benchmark is recognised from its rows. Rows are written to --output as they finish; after Ctrl-C, a kill or a full disk the
/// same command with --resume goes on, and ends with the same bytes.
///
/// --endpoint URL --endpoint-model NAME --data FILE asks a judge behind an OpenAI-compatible server (POST URL/chat/completions)
/// instead of a model in a directory. It sees the prompt of --rubrics and --set, or the built-in one, and its verdicts are read
/// by the same rules. A request that fails for a while (429, 5xx, no connection, no whole answer in time) is tried again; after
/// the last attempt its vote is the failure unavailable, and no number. Its row is written and kept by --resume: to ask again,
/// remove the row's line, or begin again with --overwrite. So is a vote whose request the server does not take (400, 413, 422),
/// such as one whose prompt is too long for it. What would fail for every request, such as a wrong key, ends the command; so do
/// the first eight responses, if none of their requests is taken, for one reason.
///
/// --from-scores FILE prints the table of results that are there already: rows of `eval --output`; RewardBench's per-row results
/// (`results`, `subset`, with `scores_chosen` and `scores_rejected` if kept); RewardBench 2's (`scores`, `num_correct`);
/// RM-Bench's (`score_chosen` and `score_rejected`, three each, `domain`); JudgeBench's (`judgments` with a `decision` each,
/// `label`); one object of the accuracies of RewardBench's subsets; or plain rows {"id", "scores_chosen", "scores_rejected"},
/// each a number or a list of votes. JSON lines, an array, or one object of columns. With --data, the benchmark's own rows are
/// joined by position (recorded ids are wrong in many published files), plain rows by their ids.
///
/// A pairwise judge (mode = pairwise in its judge.toml, or --set mode=pairwise) compares every two responses in both orders; the
/// table then says how often the order decides, and how often three responses are a cycle. Ties of RewardBench 2 needs scores and
/// is left out.
///
/// Benchmarks differ in what a tie and a missing verdict are worth, and some contradict themselves: the table has a column for
/// each reading. Intervals are of 95 %, with rows of one prompt counted as one draw.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct EvalArgs {
    #[command(subcommand)]
    pub other: Option<EvalCommand>,
    /// Hugging Face directory of the judge.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present_any = ["from_scores", "endpoint"],
        conflicts_with = "from_scores",
        requires = "data"
    )]
    pub model: Option<PathBuf>,
    /// A file of recorded results instead of a judge.
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    pub from_scores: Option<PathBuf>,
    /// The benchmark's rows, or files of pairs.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Whose rows they are, if they are not to be recognised: rewardbench, rewardbench2, rm-bench, judgebench or pairs.
    #[arg(long, value_name = "NAME", value_parser = benchmark)]
    pub benchmark: Option<Benchmark>,
    #[command(flatten)]
    pub files: ReportFiles,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten)]
    pub judging: JudgingArgs,
}

/// What else `eval` does.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    Compare(compare::CompareArgs),
}

/// Prints the table of a judge, of recorded results, or of two judges beside each other.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match (&args.other, &args.from_scores, &args.endpoint.endpoint, &args.model) {
        (Some(EvalCommand::Compare(compare)), ..) => compare::run(compare),
        (None, Some(file), ..) => from_scores(args, file),
        (None, None, Some(address), _) => endpoint::run(args, address),
        (None, None, None, Some(model)) => local::run(args, model),
        (None, None, None, None) => {
            anyhow::bail!("give --model DIR or --endpoint URL with --data FILE, or --from-scores FILE")
        }
    }
}

fn benchmark(name: &str) -> Result<Benchmark, String> {
    let known = || Benchmark::ALL.map(Benchmark::name).join(", ");
    Benchmark::named(name).ok_or_else(|| format!("expected one of {}", known()))
}

fn from_scores(args: &EvalArgs, file: &Path) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> = args.data.iter().cloned().chain([file.to_path_buf()]).collect();
    args.rows.try_others(args.files.named(), &inputs, None)?;
    let known = known_cases(args)?;
    let Recorded { benchmark, rows, notes, model } = read_recorded(file, args.benchmark, known.as_deref())?;
    let mut figures = benchmark.figures(&rows);
    figures.notes.splice(0..0, notes);
    let judge = model.unwrap_or_else(|| file.display().to_string());
    finish(args, &figures, &rows, None, &judge)
}

/// The rows of --data without their texts, to join recorded results with.
fn known_cases(args: &EvalArgs) -> anyhow::Result<Option<Vec<Case>>> {
    if args.data.is_empty() {
        return Ok(None);
    }
    // Tasks are of no use here.
    let on_bad_row = if args.judging.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse };
    let options = LoadOptions { tasks: Tasks::always(""), on_bad_row, format: None };
    let (_, read) = read_questions(&args.data, args.benchmark, &options)?;
    report_skipped(&read.skipped, 0, 0);
    Ok(Some(read.rows.into_iter().map(|question| question.case).collect()))
}

/// The largest file of results that is read: those of RewardBench 2 with their texts have 30 MB.
const RESULTS_BYTES_MAX: u64 = 2 << 30;

fn read_recorded(file: &Path, benchmark: Option<Benchmark>, known: Option<&[Case]>) -> anyhow::Result<Recorded> {
    use std::io::Read;
    let shown = file.display();
    let mut text = Vec::new();
    let opened = open_plain(file).with_context(|| format!("{shown}"))?;
    opened.take(RESULTS_BYTES_MAX + 1).read_to_end(&mut text).with_context(|| format!("{shown}"))?;
    ensure!(text.len() as u64 <= RESULTS_BYTES_MAX, "{shown}: has more than {RESULTS_BYTES_MAX} bytes");
    recorded::read(&text, benchmark, known).with_context(|| format!("{shown}"))
}

/// Refuses an output that cannot be written, before anything is loaded; `None`: there is no file for rows, as standard output is
/// the table's.
fn try_all_outputs(args: &EvalArgs, model: Option<&Path>) -> anyhow::Result<Option<RowOutput>> {
    let mut inputs: Vec<PathBuf> = args.data.iter().chain(&args.judging.rubrics).cloned().collect();
    args.rows.try_others(args.files.named(), &inputs, model)?;
    inputs.extend(args.files.named().map(|(_, file)| file.to_path_buf()));
    let output = if args.rows.output == "-" { None } else { Some(args.rows.open(&inputs, model)?) };
    ensure!(output.is_some() || !args.rows.resume, "--resume: goes on with the rows of an earlier --output FILE");
    Ok(output)
}

/// The random numbers of a response (of a pairwise judge: of the two) depend on its text and its prompt's alone: not on the rows
/// around it, nor on its place among the responses, so that equal responses of a row are drawn alike.
fn stream(how: &JudgeSampling, question: &Question, responses: &[&str]) -> Stream {
    responses.iter().fold(how.stream.fold(question.case.prompt), |stream, response| stream.fold(prompt_key(response)))
}

/// The responses of each judgement of a row, by their numbers.
fn asked_of(case: &Case, mode: JudgeMode) -> Vec<Vec<usize>> {
    match mode {
        JudgeMode::Pointwise => (0..case.responses).map(|response| vec![response]).collect(),
        JudgeMode::Pairwise => Comparisons::asked(case.good, case.responses).into_iter().map(Vec::from).collect(),
    }
}

/// What a judge is asked of the rows of a benchmark.
struct Questions<P> {
    rows: Vec<Question>,
    /// By row, then by response, or by two of them in an order.
    asked: Vec<Asked<P>>,
}

/// Makes the prompts of all responses. A row for which `encode` cannot make one is bad, like one that cannot be read.
fn questions<P, E: Display>(
    args: &EvalArgs,
    mode: JudgeMode,
    mut read: Loaded<Question>,
    falls_to_default: impl Fn(&str) -> bool,
    encode: impl Fn(&Question, &[&str]) -> Result<P, E>,
) -> anyhow::Result<Questions<P>> {
    let how = args.judging.sampling()?;
    if mode == JudgeMode::Pairwise {
        let left_out = read.retain(|question| !needs_scores(&question.case));
        if left_out > 0 {
            say!("left out: {} of Ties, for which a judge must score single responses", counted(left_out, "row"));
        }
    }
    let read = read.try_map(|question| {
        let of = |numbers: Vec<usize>| {
            let responses: Vec<&str> = numbers.into_iter().map(|number| question.responses[number].as_str()).collect();
            encode(&question, &responses).map(|prompt| (prompt, stream(&how, &question, &responses)))
        };
        let asked: Result<Vec<(P, Stream)>, E> = asked_of(&question.case, mode).into_iter().map(of).collect();
        asked.map(|asked| (question, asked))
    })?;
    report_routed_tasks(read.rows.iter().map(|(question, _)| (question.task.as_str(), question.task_by)));
    report_default_tasks(falls_to_default, read.rows.iter().map(|(question, _)| question.task.as_str()));
    report_skipped(&read.skipped, 0, 0);
    let (mut rows, mut asked) = (Vec::new(), Vec::new());
    for (row, (question, of_row)) in read.rows.into_iter().enumerate() {
        let of_row = of_row.into_iter().enumerate();
        asked.extend(of_row.map(|(response, (prompt, stream))| Asked { row, response, prompt, stream }));
        rows.push(question);
    }
    Ok(Questions { rows, asked })
}

/// Prints the table of judged rows, and writes what else was asked for.
fn finish_judged(args: &EvalArgs, benchmark: Benchmark, rows: &[EvalRow], judge: &str) -> anyhow::Result<Tally> {
    let answered: Vec<Answered> = rows.iter().map(|row| row.answered(0..args.judging.votes)).collect();
    let mut figures = benchmark.figures(&answered);
    let tally = Tally::of(benchmark, rows, args.judging.votes);
    figures.notes.extend(notes(&tally));
    finish(args, &figures, &answered, Some(&tally), judge)?;
    Ok(tally)
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

/// Prints the table and writes what else was asked for. `judge`: what was measured, in words.
fn finish(
    args: &EvalArgs,
    figures: &Figures,
    rows: &[Answered],
    tally: Option<&Tally>,
    judge: &str,
) -> anyhow::Result<()> {
    let order = OrderEffects::of_answers(rows.iter());
    tables::print(figures, order.as_ref())?;
    let json = tables::json(figures, tally, order.as_ref());
    args.files.write(&json, || page::page(figures, rows, tally, order.as_ref(), judge))
}
