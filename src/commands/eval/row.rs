//! A line of `eval --output`: what was asked, and every vote; and all lines in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commands::judged_rows::RowVotes;
use crate::commands::judging::{Vote, failures, mean_score};
use crate::eval::question::Question;
use crate::eval::{Answer, Answered, Benchmark, Case, Comparisons};
use crate::file::{RowError, RowOutput, RowWriter};
use crate::judge::JudgeMode;

/// One line of the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    pub benchmark: String,
    /// The row's number in the data, from 0.
    pub position: usize,
    pub id: String,
    pub subset: String,
    pub task: String,
    /// The first so many responses are the better ones.
    pub good: usize,
    /// Rows of one prompt have the same.
    pub prompt_key: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// Of a pairwise judge: the two responses that each judgement is about, the one shown first first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<[usize; 2]>,
    /// The mean score of the votes of each response, or the share of those of each comparison that prefer the first; null where
    /// none is valid.
    pub scores: Vec<Option<f64>>,
    /// The votes of each response or comparison; none of one that was not judged.
    pub votes: Vec<Vec<Vote>>,
    /// Tokens that the judge wrote.
    pub tokens: u64,
    /// Why responses were not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl EvalRow {
    /// The line of a row whose votes are all there.
    fn new(benchmark: Benchmark, mode: JudgeMode, position: usize, case: &Case, task: &str, of: RowVotes) -> Self {
        let RowVotes { votes, tokens, skipped } = of;
        Self {
            benchmark: benchmark.name().into(),
            position,
            id: case.id.clone(),
            subset: case.subset.clone(),
            task: task.into(),
            good: case.good,
            prompt_key: case.prompt,
            gap: case.gap,
            comparisons: match mode {
                JudgeMode::Pointwise => Vec::new(),
                JudgeMode::Pairwise => Comparisons::asked(case.good, case.responses),
            },
            scores: votes.iter().map(|votes| mean_score(votes)).collect(),
            votes,
            tokens: tokens.written,
            skipped,
        }
    }

    /// The row as its benchmark scores it, by the mean of the votes in a range.
    pub fn answered(&self, votes: std::ops::Range<usize>) -> Answered {
        let last = self.comparisons.iter().flatten().max();
        let case = Case {
            id: self.id.clone(),
            subset: self.subset.clone(),
            good: self.good,
            responses: last.map_or(self.votes.len(), |last| last + 1),
            prompt: self.prompt_key,
            gap: self.gap,
        };
        let score = |of: &Vec<Vote>| mean_score(&of[votes.start.min(of.len())..votes.end.min(of.len())]);
        let scores = self.votes.iter().map(score);
        let answer = match last {
            None => Answer::Scores(scores.collect()),
            Some(_) => {
                let of = self.comparisons.iter().copied().zip(scores);
                Answer::Comparisons(Comparisons::new(case.responses, of))
            }
        };
        Answered { case, answer, recorded: None }
    }
}

/// The rows of an evaluation, those of an earlier process among them.
pub struct Sheet<'a> {
    benchmark: Benchmark,
    mode: JudgeMode,
    questions: &'a [Question],
    rows: Vec<Option<EvalRow>>,
}

impl<'a> Sheet<'a> {
    /// Nothing is answered yet.
    pub fn new(benchmark: Benchmark, mode: JudgeMode, questions: &'a [Question]) -> Self {
        Self { benchmark, mode, questions, rows: vec![None; questions.len()] }
    }

    /// Begins to write to an output, if there is one, and keeps the rows that it has already.
    pub fn begin(&mut self, output: Option<RowOutput>, made_with: &Value) -> Result<Option<RowWriter>, RowError> {
        let ids: Vec<Value> = self.questions.iter().map(|question| Value::from(question.case.id.as_str())).collect();
        let keep = |row: &Value| {
            if let Ok(row) = EvalRow::deserialize(row)
                && let Some(free) = self.rows.get_mut(row.position)
            {
                *free = Some(row);
            }
        };
        output.map(|output| output.begin(made_with, &ids, 1, keep)).transpose()
    }

    /// Takes the votes of a row, and returns its line.
    pub fn line(&mut self, index: usize, of: RowVotes) -> String {
        let Question { case, task, .. } = &self.questions[index];
        let row = EvalRow::new(self.benchmark, self.mode, index, case, task, of);
        let line = serde_json::to_string(&row).expect("texts and numbers are JSON") + "\n";
        self.rows[index] = Some(row);
        line
    }

    /// All rows that are answered, in their order.
    pub fn into_rows(self) -> Vec<EvalRow> {
        self.rows.into_iter().flatten().collect()
    }
}

/// What judging took and how it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Judgements.
    pub calls: usize,
    /// Tokens that the judge wrote.
    pub tokens: u64,
    /// Votes without a score, by the reason.
    pub failed: BTreeMap<String, usize>,
    /// Rows of which a response was too long to be judged.
    pub skipped: usize,
    /// How often each score was given, to the better and to the worse responses.
    pub scores: BTreeMap<String, [usize; 2]>,
    /// The headline by the mean of k votes, over all groups of k of a response's votes.
    pub votes_at: Vec<VotesAt>,
}

/// The headline by the mean of so many votes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VotesAt {
    pub votes: usize,
    pub headline: f64,
}

impl Tally {
    /// Of all rows, each with `votes` votes a response.
    pub fn of(benchmark: Benchmark, rows: &[EvalRow], votes: usize) -> Self {
        let mut tally = Self::default();
        for row in rows {
            tally.tokens += row.tokens;
            tally.skipped += usize::from(row.skipped.is_some());
            for (response, of) in row.votes.iter().enumerate() {
                tally.calls += of.len();
                failures(of).into_iter().for_each(|(name, count)| *tally.failed.entry(name).or_default() += count);
                // A preference is of two responses.
                let scored = if row.comparisons.is_empty() { &of[..] } else { &[] };
                for score in scored.iter().filter_map(|vote| vote.score) {
                    tally.scores.entry(format!("{score}")).or_default()[usize::from(response >= row.good)] += 1;
                }
            }
        }
        let sizes = (0..).map(|power| 1 << power).take_while(|size| *size <= votes);
        tally.votes_at = sizes
            .map(|votes_at| VotesAt { votes: votes_at, headline: headline(benchmark, rows, votes_at, votes) })
            .collect();
        tally
    }
}

/// The mean headline over disjoint groups of `size` votes.
fn headline(benchmark: Benchmark, rows: &[EvalRow], size: usize, votes: usize) -> f64 {
    let groups = votes / size;
    let of_group = |group: usize| {
        let answered: Vec<Answered> = rows.iter().map(|row| row.answered(group * size..(group + 1) * size)).collect();
        benchmark.figures(&answered).readings[0].headline.value
    };
    (0..groups).map(of_group).sum::<f64>() / groups as f64
}
