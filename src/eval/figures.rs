//! The table of a benchmark: its figures under each way to read them.

use serde::Serialize;

use super::interval::{self, Drawn};

/// One number of a table, as a share of 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    /// Rows behind it.
    pub rows: usize,
    /// 95 %, with the rows of one prompt as one draw; `None`: there are too few rows to know.
    pub interval: Option<[f64; 2]>,
}

impl Figure {
    /// The weighted mean of rows.
    pub fn of(name: impl Into<String>, rows: &[Drawn]) -> Self {
        let estimate = interval::clustered(rows);
        Self {
            name: name.into(),
            value: estimate.mean,
            rows: rows.len(),
            interval: Some([estimate.low, estimate.high]),
        }
    }

    /// A number that is no mean over rows, with its interval.
    pub fn with(name: impl Into<String>, value: f64, rows: usize, interval: Option<[f64; 2]>) -> Self {
        Self { name: name.into(), value, rows, interval }
    }
}

/// A way to read the results: rules differ in what a tie or a missing verdict is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub rule: &'static str,
    /// The benchmark's own final number.
    pub headline: Figure,
    /// What it is made of: sections, domains, levels.
    pub parts: Vec<Figure>,
    pub subsets: Vec<Figure>,
}

/// The results of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub benchmark: &'static str,
    pub rows: usize,
    /// Share of comparisons that are ties, and share without a valid verdict.
    pub ties: f64,
    pub missing: f64,
    /// The first is the benchmark's own.
    pub readings: Vec<Reading>,
    /// What a reader must know: absent subsets, records that contradict each other.
    pub notes: Vec<String>,
}

/// The distinct names of rows, in the order of their first appearance.
pub fn distinct<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}
