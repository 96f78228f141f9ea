//! `annotate`: judgements of preference pairs by a teacher, and the rows for `sft` that are chosen from them.

mod endpoint;
mod local;
mod page;
mod report;
mod row;
mod selection;
mod sft_rows;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use clap::builder::Resettable;
use serde_json::json;

use super::endpoint::EndpointArgs;
use super::flag;
use super::judged_rows::Asked;
use super::judging::JudgingArgs;
use super::report_files::ReportFiles;
use super::rows::RowArgs;
use crate::data::{LoadOptions, Loaded, Message, Pair, Role, RowId, check_judged, load_pairs, shown_prompt, sources};
use crate::file::{RowOutput, is_same};
use crate::judge::JudgeMode;
use crate::setting::{count, number};
use crate::train::dataset::{report_default_tasks, report_routed_tasks, report_skipped};
use report::Report;
use selection::{Outcome, Rule};

/// The paper's margin of pairs that are kept, in points.
const MIN_GAP: f64 = 2.0;

/// Have a teacher judge preference pairs, and choose the judgements that teach a judge its format.
///
/// The teacher is a model in a directory (--model DIR) or behind an OpenAI-compatible server (--endpoint URL --endpoint-model
/// NAME). Every response of every pair is judged --votes times, with the prompt of --rubrics and --set, or the built-in one. Each
/// judgement stands in --output with its text; one without a valid verdict is named (malformed, out_of_range, truncated, missing,
/// unavailable, not_finite) and never counted as a number.
///
/// A pair is kept if the mean score of its chosen response is higher than that of its rejected one by more than --min-gap, over
/// the valid votes. Of each side of a kept pair the judgements whose scores are nearest to that side's mean are written to --sft
/// (the earliest of equal ones; the paper says that pairs are kept by their margin, and leaves open which judgement is taken:
/// this is our choice): rows of `messages`, which are what the judge was asked and what the teacher answered. Thoughts before
/// the answer (<think>…</think>) are left out, unless `--set thinking=true` says that the judge is to think. Train the judge with
/// the prompt that the teacher saw: give `sft` what this command was given (--set data.rubrics=FILE for --rubrics FILE, --set
/// judge.mode=pairwise for --set mode=pairwise, and so on), so that its judge.toml says it.
///
/// A pairwise teacher (--set mode=pairwise) compares the two in both orders: a pair is kept if the chosen response is preferred
/// more often, and of each order a right judgement is written.
///
/// Rows of --output are written as they finish; after Ctrl-C, a kill or a full disk the same command with --resume goes on, and
/// ends with the same bytes. --sft is written at the end, whole or not at all. With --resume on a finished --output nothing is
/// asked, and --sft is written again: another --min-gap or --per-response costs nothing.
///
///   patarm-train annotate --data OWNER/NAME:train --endpoint http://localhost:8000/v1 --endpoint-model Qwen2.5-72B-Instruct
///       --votes 4 --output judgements.jsonl --sft sft.jsonl --page annotate.html
///   patarm-train sft --model Qwen3-8B --data sft.jsonl --out runs/sft
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    mut_arg("output", |output| output.required(true).default_value(Resettable::Reset).help(OUTPUT)),
    mut_arg("texts", |texts| texts.hide(true))
)]
pub struct AnnotateArgs {
    /// Hugging Face directory of the teacher.
    #[arg(long, value_name = "DIR", required_unless_present = "endpoint")]
    pub model: Option<PathBuf>,
    /// Files of pairs in any known format: JSON lines, a JSON array (either also by gzip or zstd) or Parquet, a folder of them,
    /// or a data set of the hub (OWNER/NAME:SPLIT).
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Where the rows for `sft` go.
    #[arg(long, value_name = "FILE")]
    pub sft: String,
    /// Points by which a chosen response must score higher than its rejected one, strictly more. By default 2, the paper's value;
    /// 0 for a pairwise teacher, whose margin is by what share of votes it prefers the chosen response more often.
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, value_parser = flag::<f64>(number(0.0, 2000.0)))]
    pub min_gap: Option<f64>,
    /// Judgements of each response of a kept pair that are written to --sft: those nearest to its mean score.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true,
        value_parser = flag::<usize>(count(1, 10_000))
    )]
    pub per_response: usize,
    #[command(flatten)]
    pub files: ReportFiles,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten)]
    pub judging: JudgingArgs,
}

/// What --output says of itself.
const OUTPUT: &str =
    "Where the judgements go: a row a pair, as it finishes, in the order of the input, with every vote and its text";

/// Judges all pairs, writes a row a pair, and then the rows for `sft` and the report. Ctrl-C ends it early.
pub fn run(mut args: AnnotateArgs) -> anyhow::Result<()> {
    // What is learnt is the texts.
    args.judging.texts = true;
    let (votes, wanted) = (args.judging.votes, args.per_response);
    ensure!(wanted <= votes, "--per-response {wanted}: there are only --votes {votes} of each response");
    match (&args.endpoint.endpoint, &args.model) {
        (Some(address), _) => endpoint::run(&args, address),
        (None, Some(model)) => local::run(&args, model),
        (None, None) => anyhow::bail!("give --model DIR, or --endpoint URL with --endpoint-model NAME"),
    }
}

/// Refuses outputs that cannot be written, that exist already, or that are one file, before anything is loaded.
fn try_outputs(args: &AnnotateArgs, model: Option<&Path>) -> anyhow::Result<RowOutput> {
    ensure!(args.rows.output != "-", "--output FILE: expected a file; standard output is the report's");
    ensure!(args.sft != "-", "--sft FILE: expected a file; standard output is the report's");
    let (output, sft) = (Path::new(&args.rows.output), Path::new(&args.sft));
    let mut inputs: Vec<PathBuf> = args.data.iter().chain(&args.judging.rubrics).cloned().collect();
    let others = || std::iter::once(("--sft", sft)).chain(args.files.named());
    if let Some((flag, file)) = others().find(|(_, file)| is_same(output, file)) {
        anyhow::bail!("{flag} {}: is the same file as --output", file.display());
    }
    args.rows.try_others(others(), &inputs, model)?;
    inputs.extend(others().map(|(_, file)| file.to_path_buf()));
    Ok(args.rows.open(&inputs, model)?)
}

/// A pair without its responses: what the rows say of it, and what the judge is asked about each side, by [`Role::index`].
struct AskedPair {
    id: RowId,
    /// Named where there are several: the ids of two files may be the same.
    file: Option<String>,
    task: String,
    source: Option<String>,
    prompts: [Vec<Message>; 2],
}

/// The prompts of all responses.
struct Questions<P> {
    pairs: Vec<AskedPair>,
    /// By pair, then by side.
    asked: Vec<Asked<P>>,
    bad_rows: usize,
}

/// What became of all pairs.
struct Annotated {
    pairs: Vec<AskedPair>,
    outcomes: Vec<Outcome>,
    bad_rows: usize,
    /// Whether the judge is to think before it writes.
    thinking: bool,
    mode: JudgeMode,
}

/// The pairs of the data.
struct ReadPairs {
    pairs: Loaded<Pair>,
    /// Whether they are of several files.
    several: bool,
}

fn read_pairs(args: &AnnotateArgs, options: &LoadOptions) -> anyhow::Result<ReadPairs> {
    let files = sources::resolve(&args.data)?;
    let pairs = load_pairs(&files, options)?.try_map(|pair| check_judged(&pair.arguments).map(|()| pair))?;
    Ok(ReadPairs { pairs, several: files.len() > 1 })
}

/// Makes the prompts. `encode`: the prompt for a task, a prompt and a response (or both, in an order), as messages and as the
/// judge takes it. A pair for which there is none is bad, like one that cannot be read.
fn questions<P, E: Display>(
    args: &AnnotateArgs,
    mode: JudgeMode,
    ReadPairs { pairs, several }: ReadPairs,
    falls_to_default: impl Fn(&str) -> bool,
    encode: impl Fn(&str, &[Message], &[&str]) -> Result<(Vec<Message>, P), E>,
) -> anyhow::Result<Questions<P>> {
    let how = args.judging.sampling()?;
    let read = pairs.try_map(|pair: Pair| {
        let shown = shown_prompt(&pair.prompt, &pair.arguments);
        let encode = |role| encode(&pair.task, &shown, &pair.with_first(role)[..mode.responses()]);
        let [chosen, rejected] = Role::BOTH.map(encode);
        Ok::<_, E>((pair, [chosen?, rejected?]))
    })?;
    let tasks = || read.rows.iter().map(|(pair, _)| (pair.task.as_str(), pair.task_by));
    report_routed_tasks(tasks());
    report_default_tasks(falls_to_default, tasks().map(|(task, _)| task));
    report_skipped(&read.skipped, 0, 0);
    let bad_rows = read.skipped.count;
    let (mut pairs, mut asked) = (Vec::new(), Vec::new());
    for (row, ((pair, sides), at)) in read.rows.into_iter().zip(read.locations).enumerate() {
        let Pair { id, task, source, .. } = pair;
        // The random numbers of a response depend on its pair's id and its side alone, as those of `judge` do.
        let stream = how.stream.fold(id.key());
        let mut side = |role: Role, (messages, prompt): (Vec<Message>, P)| {
            let response = role.index();
            asked.push(Asked { row, response, prompt, stream: stream.fold(response as u64) });
            messages
        };
        let [chosen, rejected] = sides;
        let prompts = [side(Role::Chosen, chosen), side(Role::Rejected, rejected)];
        let file = several.then(|| at.path.display().to_string());
        pairs.push(AskedPair { id, file, task, source, prompts });
    }
    Ok(Questions { pairs, asked, bad_rows })
}

/// A number for the pairs and what is asked about them: as messages, and as tokens where the judge takes those.
fn fingerprint<'a>(pairs: &[AskedPair], tokens: impl Iterator<Item = &'a [u32]>) -> String {
    let mut all = blake3::Hasher::new();
    for AskedPair { id, file, task, source, prompts } in pairs {
        let text = json!([id.json(), file, task, source, prompts]).to_string();
        all.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    for tokens in tokens {
        all.update(&(tokens.len() as u64).to_le_bytes()).update(bytemuck::cast_slice(tokens));
    }
    all.finalize().to_hex().to_string()
}

impl AnnotateArgs {
    fn rule(&self, mode: JudgeMode) -> Rule {
        Rule::new(self.gap(mode), self.per_response, mode)
    }

    /// The margin that must be exceeded.
    fn gap(&self, mode: JudgeMode) -> f64 {
        self.min_gap.unwrap_or(if mode == JudgeMode::Pairwise { 0.0 } else { MIN_GAP })
    }
}

/// Writes the rows for `sft`, and says what became of the pairs. `judge`: the teacher in words; `check`: whether it worked.
fn finish(
    args: &AnnotateArgs,
    annotated: &Annotated,
    judge: String,
    check: impl FnOnce(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let report = Report::new(args, annotated, judge);
    if report.sft_rows > 0 {
        sft_rows::write(annotated, &args.sft)?;
    }
    report.print()?;
    args.files.write(&report, || page::page(&report))?;
    check(&report)?;
    ensure!(report.sft_rows > 0, "no pair was kept: there is nothing for --sft {}, and it is not written", args.sft);
    Ok(())
}
