//! A row of a benchmark, and what a judge made of it.

use serde::{Deserialize, Serialize};

use super::comparisons::Comparisons;

/// A row of a benchmark without its texts: what says how its scores are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The row's own id as text, or its position. Ids may repeat: a row is known by its position.
    pub id: String,
    /// What the benchmark has a line for: a subset, a domain, a source.
    pub subset: String,
    /// The first so many responses are the better ones.
    pub good: usize,
    /// All responses.
    pub responses: usize,
    /// Rows of one prompt have the same number: they were not drawn independently.
    pub prompt: u64,
    /// How much better the chosen response is, where the set says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
}

/// What a judge, or a file of recorded results, says about a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A score of each response, the better ones first; `None`: no valid verdict.
    Scores(Vec<Option<f64>>),
    /// A pairwise judge's preferences between the responses.
    Comparisons(Comparisons),
    /// A pairwise judge's decisions in both orders, or in one; `None`: no valid verdict.
    Decisions(Vec<Option<Decision>>),
    /// The credit that the benchmark's own script gave, where no score is recorded.
    Credit(f64),
}

/// What a pairwise judge said, seen from the right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Right,
    Tie,
    Wrong,
}

/// A row with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub case: Case,
    pub answer: Answer,
    /// The credit that a file of results records beside its scores.
    pub recorded: Option<f64>,
}
