//! The benchmarks by name.

use super::case::Answered;
use super::figures::Figures;
use super::{judgebench, pair_file, rewardbench, rewardbench2, rm_bench};

/// How the rows of a file are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Benchmark {
    RewardBench,
    RewardBench2,
    RmBench,
    JudgeBench,
    /// Any pairs: LLMBar, PPE, held-out pairs of one's own.
    Pairs,
}

impl Benchmark {
    /// All, in the order of their names in help.
    pub const ALL: [Self; 5] = [Self::RewardBench, Self::RewardBench2, Self::RmBench, Self::JudgeBench, Self::Pairs];

    /// The name in flags, rows and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::RewardBench => rewardbench::NAME,
            Self::RewardBench2 => rewardbench2::NAME,
            Self::RmBench => rm_bench::NAME,
            Self::JudgeBench => judgebench::NAME,
            Self::Pairs => pair_file::NAME,
        }
    }

    /// The benchmark of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|benchmark| benchmark.name() == name)
    }

    /// Its table.
    pub fn figures(self, rows: &[Answered]) -> Figures {
        match self {
            Self::RewardBench => rewardbench::figures(rows),
            Self::RewardBench2 => rewardbench2::figures(rows),
            Self::RmBench => rm_bench::figures(rows),
            Self::JudgeBench => judgebench::figures(rows),
            Self::Pairs => pair_file::figures(rows),
        }
    }

    /// The credit of one row by the benchmark's own rule, for comparing two judges row by row.
    pub fn credit(self, row: &Answered) -> f64 {
        match self {
            Self::RewardBench | Self::Pairs => rewardbench::outcome(row).strict(),
            Self::RewardBench2 => rewardbench2::official(row),
            Self::RmBench => rm_bench::cells(row).iter().flatten().map(|outcome| outcome.strict()).sum::<f64>() / 9.0,
            Self::JudgeBench => judgebench::credit(row),
        }
    }
}

/// What is said where a file records a credit beside the scores, and neither rule gives that credit: which of the two is right
/// cannot be known, so both are told.
pub(super) fn disagreements(
    rows: &[Answered],
    one: impl Fn(&Answered) -> f64,
    other: impl Fn(&Answered) -> f64,
) -> Vec<String> {
    let differs = |row: &&Answered| {
        let Some(recorded) = row.recorded else { return false };
        let given = [one(row), other(row)];
        !given.iter().any(|credit| credit.is_nan()) && !given.contains(&recorded)
    };
    let count = rows.iter().filter(differs).count();
    if count == 0 {
        return Vec::new();
    }
    let (recorded, own): (Vec<f64>, Vec<f64>) =
        rows.iter().filter_map(|row| Some((row.recorded?, one(row)))).filter(|(_, own)| !own.is_nan()).unzip();
    let mean = |values: &[f64]| 100.0 * values.iter().sum::<f64>() / values.len().max(1) as f64;
    vec![format!(
        "the file contradicts itself in {count} rows: by its recorded results {:.4} % of all rows are right, by its scores \
         {:.4} %",
        mean(&recorded),
        mean(&own)
    )]
}
