//! `judge`: scores of responses by a trained judge.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::device::with_backend;
use super::judged_response::{PairJudged, ResponseJudged, Scored};
use super::judged_rows::{Asked, ReadyJudge, RowVotes};
use super::judging::{JudgingArgs, LoadedJudge, check_weights};
use super::rows::{RowArgs, fingerprint_of_input};
use crate::data::{
    Candidates, DataError, Format, LoadOptions, Loaded, Message, Pair, Response, RowId, TaskBy, TemplateArguments,
};
use crate::data::{check_judged, first_row, load_candidates, load_pairs, load_responses, shown_prompt, sources};
use crate::eval::{Comparisons, OrderEffects};
use crate::file::{RowOutput, counted, say};
use crate::judge::{JudgeError, JudgeMode, JudgeSampling};
use crate::log::fixed;
use crate::ops::Backend;
use crate::random::Stream;
use crate::train::dataset::{report_cuts, report_default_tasks, report_routed_tasks, report_skipped};

/// Score responses with a judge, compare the two of a pair, or rank many.
///
/// A row with one `response` to its `prompt` gets a score; a row with `responses` gets them ranked, best first; every other row
/// is a pair in any known format, and is right if its chosen response scores strictly higher. Prompts are text or messages;
/// `task` and `id` are optional. The first row says which of the three the input is.
///
/// A pairwise judge (mode = pairwise in its judge.toml) takes pairs and lists, and compares every two responses in both orders:
/// `chosen` and `rejected` then hold the votes of the order in which that response comes first, a score is the share of votes for
/// the first, and a list is ranked by the comparisons that a response wins.
///
/// Every response is judged --votes times; its score is the mean over the votes that have one, and null where none has; median,
/// majority (the score that most votes give, null where two are given as often) and spread (standard deviation) stand beside it.
/// A vote that failed is named (malformed, out_of_range, truncated, missing, not_finite) and never counted as a number: `failed`
/// counts them by reason, `failed_share` is their share of the votes. A response whose votes fail more often than others' may be
/// written to that end: look at the share before you trust the score. Prompt, rubrics, score range and thinking are those that
/// the judge was trained with: its directory carries them in judge.toml.
///
/// Rows are written as they finish. After Ctrl-C, a kill or a full disk the same command with --resume goes on, and ends
/// with the same bytes.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// Hugging Face directory of the judge.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Files of responses, of lists of responses, or of pairs: JSON lines, a JSON array (either also by gzip or zstd) or Parquet,
    /// a folder of them, or a data set of the hub (OWNER/NAME:SPLIT).
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub rows: RowArgs,
    #[command(flatten)]
    pub judging: JudgingArgs,
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
    judged: RowJudged,
    /// Why a response was not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// What a row says of its responses, by what it holds.
#[derive(Serialize)]
#[serde(untagged)]
enum RowJudged {
    One(ResponseJudged),
    Pair(PairJudged),
    Compared {
        comparisons: Vec<ComparisonJudged>,
        /// The share of comparisons with others that each response wins, a tie as a half; null without any.
        wins: Vec<Option<f64>>,
        /// As of scores.
        ranking: Vec<usize>,
    },
    Many {
        responses: Vec<ResponseJudged>,
        /// Numbers of the responses from 0, the best first; equal ones in their order, those without a score last.
        ranking: Vec<usize>,
    },
}

/// Two responses in an order, by their numbers from 0, and the votes on them.
#[derive(Serialize, Deserialize)]
struct ComparisonJudged {
    first: usize,
    second: usize,
    #[serde(flatten)]
    votes: ResponseJudged,
}

/// Judges every response of the input and writes a row for each row of it, as it finishes. Ctrl-C ends it early.
pub fn run(args: &JudgeArgs) -> anyhow::Result<()> {
    let inputs: Vec<PathBuf> = args.input.iter().chain(&args.judging.rubrics).cloned().collect();
    let output = args.rows.open(&inputs, Some(&args.model))?;
    let stop = super::stop_flag()?;
    super::on_threads(
        args.judging.threads,
        || with_backend!(args.judging.device.device, backend => judge(backend, args, output, &stop)),
    )
}

fn judge<B: Backend>(backend: &B, args: &JudgeArgs, output: RowOutput, stop: &AtomicBool) -> anyhow::Result<()> {
    let Job { loaded, rows, asked } = Job::read(args)?;
    let mode = loaded.judge.settings().mode;
    let made_with = if output.is_file() { made_with(args, &loaded, &rows, &asked)? } else { Value::Null };
    let ready = ReadyJudge::new(backend, &args.judging, loaded, &asked)?;
    let mut summary = Summary::new(mode);
    let ids: Vec<Value> = rows.iter().map(|row| row.id.given()).collect();
    let writer = output.begin(&made_with, &ids, 1, |row| summary.add_written(row))?;
    let line = |index: usize, votes: RowVotes| {
        let row = rows[index].judged(votes);
        summary.add(&row.judged);
        serde_json::to_string(&row).expect("texts and numbers are JSON") + "\n"
    };
    ready.run("judge", &args.judging, &asked, Some(writer), line, stop)?.conclude(&args.rows, rows.len())?;
    summary.say()
}

/// What is read before the model is put on its device.
struct Job {
    loaded: LoadedJudge,
    rows: Vec<InputRow>,
    asked: Vec<Asked>,
}

/// A row of the input without its texts.
struct InputRow {
    id: RowId,
    /// Named where there are several: the ids of two files may be the same.
    file: Option<String>,
    task: String,
    kind: Kind,
    /// The responses of each judgement, by their numbers.
    asked: Vec<Vec<usize>>,
}

/// What the rows of an input hold.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    One,
    Pair,
    Many,
    /// Many, for a pairwise judge.
    Compared,
}

/// A row with its texts: what is judged.
struct Judgeable {
    id: RowId,
    task: (String, TaskBy),
    prompt: Vec<Message>,
    responses: Vec<String>,
}

impl Kind {
    /// By the first row. An error if a pairwise judge is given single responses.
    fn of(files: &[PathBuf], mode: JudgeMode) -> anyhow::Result<Self> {
        let kind = Self::of_first(files)?;
        match (kind, mode) {
            (Self::One, JudgeMode::Pairwise) => {
                anyhow::bail!(
                    "a pairwise judge compares responses, and the input has one a row: give pairs, or lists of `responses`"
                )
            }
            (Self::Many, JudgeMode::Pairwise) => Ok(Self::Compared),
            (kind, _) => Ok(kind),
        }
    }

    fn of_first(files: &[PathBuf]) -> Result<Self, DataError> {
        let first = first_row(files)?;
        let has = |name: &str| first.as_ref().is_some_and(|row| row.contains_key(name));
        Ok(match (has("responses"), has("chosen") || has("rejected")) {
            (true, false) if has("prompt") => Self::Many,
            _ if has("response") || has("completion") => Self::One,
            (_, true) => Self::Pair,
            _ if first.as_ref().is_some_and(Format::holds_pairs) => Self::Pair,
            _ => Self::One,
        })
    }

    fn load(self, files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Judgeable>, DataError> {
        let shown = |prompt: &[Message], arguments: &TemplateArguments| shown_prompt(prompt, arguments);
        let never = |row| Ok::<_, std::convert::Infallible>(row);
        match self {
            Self::One => load_responses(files, options)?.try_map(|row: Response| {
                let (prompt, responses) = (shown(&row.prompt, &row.arguments), vec![row.response]);
                never(Judgeable { id: row.id, task: (row.task, row.task_by), prompt, responses })
            }),
            Self::Pair => load_pairs(files, options)?.try_map(|row: Pair| {
                check_judged(&row.arguments)?;
                let (prompt, responses) = (shown(&row.prompt, &row.arguments), vec![row.chosen, row.rejected]);
                Ok::<_, String>(Judgeable { id: row.id, task: (row.task, row.task_by), prompt, responses })
            }),
            Self::Many | Self::Compared => load_candidates(files, options)?.try_map(|row: Candidates| {
                let (prompt, responses) = (shown(&row.prompt, &row.arguments), row.responses);
                never(Judgeable { id: row.id, task: (row.task, row.task_by), prompt, responses })
            }),
        }
    }

    /// The responses of each judgement of a row, by their numbers.
    fn asked(self, responses: usize, mode: JudgeMode) -> Vec<Vec<usize>> {
        match mode {
            JudgeMode::Pointwise => (0..responses).map(|response| vec![response]).collect(),
            JudgeMode::Pairwise => Comparisons::every(responses).map(Vec::from).collect(),
        }
    }
}

impl Job {
    fn read(args: &JudgeArgs) -> anyhow::Result<Self> {
        let settings = args.judging.settings(&args.model)?;
        let files = sources::resolve(&args.input)?;
        let mode = settings.mode;
        let kind = Kind::of(&files, mode)?;
        let read = kind.load(&files, &args.judging.load_options(&settings))?;
        let loaded = args.judging.load(&args.model, settings)?;
        let read = read.try_map(|row| {
            let asked = kind.asked(row.responses.len(), mode);
            let encode = |numbers: &Vec<usize>| {
                let responses: Vec<&str> = numbers.iter().map(|number| row.responses[*number].as_str()).collect();
                loaded.judge.encode(&row.task.0, &row.prompt, &responses)
            };
            let prompts = asked.iter().map(encode).collect::<Result<Vec<_>, JudgeError>>()?;
            Ok::<_, JudgeError>((row, asked, prompts))
        })?;
        let tasks = || read.rows.iter().map(|(row, ..)| (row.task.0.as_str(), row.task.1));
        report_routed_tasks(tasks());
        report_default_tasks(|task| loaded.judge.falls_to_default(task), tasks().map(|(task, _)| task));
        let (limit, how) = (args.judging.max_prompt_tokens, args.judging.sampling()?);
        let prompts = || read.rows.iter().flat_map(|(.., prompts)| prompts);
        report_skipped(&read.skipped, prompts().filter(|prompt| prompt.len() > limit).count(), limit);
        report_cuts(loaded.judge.cuts());
        let several = files.len() > 1;
        let (mut rows, mut asked) = (Vec::new(), Vec::new());
        for ((row, asked_of, prompts), at) in read.rows.into_iter().zip(read.locations) {
            for (response, prompt) in prompts.into_iter().enumerate() {
                asked.push(Asked { row: rows.len(), response, prompt, stream: stream(&how, kind, &row.id, response) });
            }
            let file = several.then(|| at.path.display().to_string());
            rows.push(InputRow { id: row.id, file, task: row.task.0, kind, asked: asked_of });
        }
        Ok(Self { loaded, rows, asked })
    }
}

/// The random numbers of a response depend on its row's id and its number there alone, and not on the rows around it.
fn stream(how: &JudgeSampling, kind: Kind, id: &RowId, response: usize) -> Stream {
    let of_row = how.stream.fold(id.key());
    if kind == Kind::One { of_row } else { of_row.fold(response as u64) }
}

impl InputRow {
    /// The line of the output.
    fn judged(&self, RowVotes { votes, skipped, .. }: RowVotes) -> Row {
        let mut all: Vec<ResponseJudged> = votes.into_iter().map(ResponseJudged::new).collect();
        let judged = match self.kind {
            Kind::One => RowJudged::One(all.remove(0)),
            Kind::Pair => {
                let (rejected, chosen) = (all.remove(1), all.remove(0));
                RowJudged::Pair(PairJudged::new(chosen, rejected))
            }
            Kind::Many => {
                let scores: Vec<Option<f64>> = all.iter().map(|response| response.scored.score).collect();
                RowJudged::Many { ranking: ranking(&scores), responses: all }
            }
            Kind::Compared => {
                let of = |(two, votes): (&Vec<usize>, ResponseJudged)| ComparisonJudged {
                    first: two[0],
                    second: two[1],
                    votes,
                };
                let comparisons: Vec<ComparisonJudged> = self.asked.iter().zip(all).map(of).collect();
                let compared = compared(&comparisons);
                let wins: Vec<Option<f64>> =
                    (0..compared.responses()).map(|response| compared.wins(response)).collect();
                RowJudged::Compared { comparisons, ranking: ranking(&wins), wins }
            }
        };
        Row { id: self.id.clone(), file: self.file.clone(), task: self.task.clone(), judged, skipped }
    }
}

/// The best first; equal ones in their order, those without a score last.
fn ranking(scores: &[Option<f64>]) -> Vec<usize> {
    let score = |index: &usize| scores[*index].unwrap_or(f64::NEG_INFINITY);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| score(b).total_cmp(&score(a)));
    order
}

/// What the votes of all comparisons say.
fn compared(comparisons: &[ComparisonJudged]) -> Comparisons {
    let responses = comparisons.iter().map(|of| of.first.max(of.second) + 1).max().unwrap_or(0);
    Comparisons::new(responses, comparisons.iter().map(|of| ([of.first, of.second], of.votes.scored.score)))
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(args: &JudgeArgs, loaded: &LoadedJudge, rows: &[InputRow], asked: &[Asked]) -> anyhow::Result<Value> {
    // Rows name their file where there are several. A run of rows of one file: its name and its length.
    let files = rows.iter().any(|row| row.file.is_some()).then(|| -> Vec<(&Option<String>, usize)> {
        rows.chunk_by(|a, b| a.file == b.file).map(|rows| (&rows[0].file, rows.len())).collect()
    });
    let input = fingerprint_of_input(asked.iter().map(|of| (&rows[of.row].id, of.prompt.as_slice())));
    let mut made_with = loaded.made_with("judge", &args.judging, input)?;
    made_with["files"] = json!(files);
    Ok(made_with)
}

/// How all responses went (of a pairwise judge: all comparisons), those of an earlier run included.
#[derive(Default)]
struct Summary {
    mode: JudgeMode,
    responses: usize,
    scored: usize,
    sum: f64,
    valid: usize,
    failed: BTreeMap<String, usize>,
    /// Pairs by what their scores say: right, tied, wrong, and without both scores.
    pairs: [usize; 4],
    /// Of each row of a pairwise judge.
    compared: Vec<Comparisons>,
}

impl Summary {
    fn new(mode: JudgeMode) -> Self {
        Self { mode, ..Self::default() }
    }

    fn add(&mut self, judged: &RowJudged) {
        match judged {
            RowJudged::One(one) => self.add_response(&one.scored),
            RowJudged::Pair(PairJudged { chosen, rejected, margin, .. }) => {
                [chosen, rejected].into_iter().for_each(|side| self.add_response(&side.scored));
                self.add_pair(*margin, [chosen, rejected].map(|side| side.scored.score));
            }
            RowJudged::Compared { comparisons, .. } => {
                comparisons.iter().for_each(|of| self.add_response(&of.votes.scored));
                self.compared.push(compared(comparisons));
            }
            RowJudged::Many { responses, .. } => responses.iter().for_each(|one| self.add_response(&one.scored)),
        }
    }

    fn add_pair(&mut self, margin: Option<f64>, scores: [Option<f64>; 2]) {
        if self.mode == JudgeMode::Pairwise {
            self.compared.push(Comparisons::new(2, Comparisons::every(2).zip(scores)));
        }
        let class = match margin {
            Some(margin) if margin > 0.0 => 0,
            Some(0.0) => 1,
            Some(_) => 2,
            None => 3,
        };
        self.pairs[class] += 1;
    }

    fn add_response(&mut self, scored: &Scored) {
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
        let mut add = |scored: &Value| {
            if let Ok(scored) = Scored::deserialize(scored) {
                self.add_response(&scored);
            }
        };
        if let Ok(comparisons) = Vec::<ComparisonJudged>::deserialize(&row["comparisons"]) {
            comparisons.iter().for_each(|of| self.add_response(&of.votes.scored));
            self.compared.push(compared(&comparisons));
            return;
        }
        match row.get("responses").and_then(Value::as_array) {
            Some(responses) => responses.iter().for_each(add),
            None if row.get("chosen").is_some() => {
                ["chosen", "rejected"].into_iter().for_each(|side| add(&row[side]));
                self.add_pair(row["margin"].as_f64(), ["chosen", "rejected"].map(|side| row[side]["score"].as_f64()));
            }
            None => add(row),
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
        let votes = counted(votes, "vote");
        let pairs = self.pairs_text();
        let order =
            OrderEffects::of(self.compared.iter()).map_or_else(String::new, |order| format!("; {}", order.text()));
        let responses = match self.mode {
            JudgeMode::Pointwise => format!("{}, {scored} with a score{mean}", counted(*responses, "response")),
            JudgeMode::Pairwise => format!("{}, {scored} decided", counted(*responses, "comparison")),
        };
        format!("{responses}; {valid} of {votes} had a verdict{failed}{pairs}{order}")
    }

    fn pairs_text(&self) -> String {
        let [right, tied, wrong, without] = self.pairs;
        let all = right + tied + wrong + without;
        if all == 0 {
            return String::new();
        }
        let share = 100.0 * right as f64 / all as f64;
        format!(
            "; {right} of {} right ({share:.1} %), {tied} tied, {wrong} wrong, {without} without both scores",
            counted(all, "pair")
        )
    }

    /// Says it on stderr. An error if the model cannot compute at all.
    fn say(&self) -> anyhow::Result<()> {
        say!("{}", self.text());
        check_weights(&self.failed, self.valid + self.failed.values().sum::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::judging::{NOT_FINITE, SCORE, Vote};

    fn vote(verdict: &str, score: Option<f64>) -> Vote {
        Vote { verdict: verdict.into(), score, text: None }
    }

    #[test]
    fn failed_votes_are_counted_by_reason_and_a_mean_is_never_minus_zero() {
        let votes = [vote(SCORE, Some(-0.0)), vote("truncated", None), vote("truncated", None), vote(NOT_FINITE, None)];
        let scored = Scored::new(&votes);
        let expected = r#"{"score":0.0,"valid":1,"failed":{"not_finite":1,"truncated":2},"failed_share":0.75,"#;
        let statistics = r#""median":0.0,"majority":0.0,"spread":null}"#;
        assert_eq!(serde_json::to_string(&scored).unwrap(), format!("{expected}{statistics}"));
        let unjudged =
            r#"{"score":null,"valid":0,"failed":{},"failed_share":null,"median":null,"majority":null,"spread":null}"#;
        assert_eq!(serde_json::to_string(&Scored::new(&[])).unwrap(), unjudged);

        let mut summary = Summary::default();
        summary.add_written(&serde_json::to_value(&scored).unwrap());
        summary.add_response(&Scored::new(&[vote(SCORE, Some(-0.001))]));
        summary.add_response(&Scored::new(&[]));
        let text = "3 responses, 2 with a score (mean 0.00); 2 of 5 votes had a verdict; 60.0 % failed: 1 not_finite, \
                    2 truncated";
        assert_eq!(summary.text(), text);
        assert!(summary.say().is_ok());
        assert_eq!(Summary::default().text(), "0 responses, 0 with a score; 0 of 0 votes had a verdict");

        let mut damaged = Summary::default();
        damaged.add_response(&Scored::new(&[vote(NOT_FINITE, None)]));
        assert!(damaged.say().unwrap_err().to_string().contains("not finite"));
    }

    #[test]
    fn pairs_are_right_by_a_higher_score_and_many_are_ranked() {
        let input = |kind| InputRow { id: RowId::from(7), file: None, task: "chat".into(), kind, asked: Vec::new() };
        let of = |scores: &[Option<f64>]| RowVotes {
            votes: scores
                .iter()
                .map(|score| vec![vote(if score.is_some() { SCORE } else { "malformed" }, *score)])
                .collect(),
            tokens: Default::default(),
            skipped: None,
        };
        let mut summary = Summary::default();
        let mut pair = |chosen, rejected| {
            let row = input(Kind::Pair).judged(of(&[chosen, rejected]));
            summary.add(&row.judged);
            let line = serde_json::to_value(&row).unwrap();
            (line["margin"].clone(), line["right"].clone())
        };
        assert_eq!(pair(Some(8.0), Some(5.5)), (json!(2.5), json!(true)));
        assert_eq!(pair(Some(5.0), Some(5.0)), (json!(0.0), json!(false)));
        assert_eq!(pair(Some(4.0), Some(5.0)), (json!(-1.0), json!(false)));
        assert_eq!(pair(None, Some(5.0)), (Value::Null, Value::Null));
        let text = summary.text();
        assert!(text.ends_with("; 1 of 4 pairs right (25.0 %), 1 tied, 1 wrong, 1 without both scores"), "{text}");

        let many = input(Kind::Many).judged(of(&[Some(5.0), None, Some(9.0), Some(5.0)]));
        let line = serde_json::to_value(&many).unwrap();
        assert_eq!((&line["id"], &line["ranking"]), (&json!(7), &json!([2, 0, 3, 1])));
        assert_eq!(line["responses"][1]["failed"]["malformed"], 1);
        // What was written before counts as what is written now.
        let mut again = Summary::default();
        again.add_written(&line);
        assert_eq!(
            again.text(),
            "4 responses, 3 with a score (mean 6.33); 3 of 4 votes had a verdict; 25.0 % failed: 1 malformed"
        );
    }

    #[test]
    fn a_list_is_ranked_by_the_comparisons_that_are_won() {
        let asked = Kind::Compared.asked(3, JudgeMode::Pairwise);
        assert_eq!(asked.len(), 6);
        let input = InputRow { id: RowId::from(7), file: None, task: "chat".into(), kind: Kind::Compared, asked };
        // 0 wins against 1 in both orders, 2 against 0 in one, 1 and 2 have no verdict in one order.
        let preferred = [Some(1.0), Some(0.0), Some(0.0), Some(1.0), Some(0.0), None];
        let votes = preferred.map(|score| vec![vote(if score.is_some() { "first" } else { "malformed" }, score)]);
        let row = input.judged(RowVotes { votes: votes.to_vec(), tokens: Default::default(), skipped: None });
        let line = serde_json::to_value(&row).unwrap();
        assert_eq!(line["ranking"], json!([0, 2, 1]));
        assert_eq!(line["wins"], json!([0.75, 0.0, 0.5]));
        assert_eq!((&line["comparisons"][1]["first"], &line["comparisons"][1]["second"]), (&json!(0), &json!(2)));
        let (mut summary, mut again) = (Summary::new(JudgeMode::Pairwise), Summary::new(JudgeMode::Pairwise));
        summary.add(&row.judged);
        again.add_written(&line);
        assert_eq!(summary.text(), again.text());
        let expected = "6 comparisons, 5 decided; 5 of 6 votes had a verdict; 16.7 % failed: 1 malformed; the response shown \
                        first is preferred in 25.0 % of the votes; 50.0 % of 2 comparisons differ between the two orders";
        assert_eq!(summary.text(), expected);
    }
}
