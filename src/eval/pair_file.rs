//! Any file of pairs: how often the chosen response scores higher, by task or source and by how clear the pair is.

use super::case::Answered;
use super::figures::{Figure, Figures, Reading, distinct};
use super::interval::Drawn;
use super::outcome::Outcome;
use super::rewardbench::outcome;

/// The name in tables and flags.
pub const NAME: &str = "pairs";

/// Accuracy over all pairs under both rules, by subset, and by quarters of the gap where the set has one.
pub fn figures(rows: &[Answered]) -> Figures {
    let share = |of: Outcome| rows.iter().filter(|row| outcome(row) == of).count() as f64 / rows.len().max(1) as f64;
    let readings = vec![
        reading("strict", "a tie or a missing verdict is wrong", rows, Outcome::strict),
        reading("half", "a tie or a missing verdict counts one half", rows, Outcome::half),
    ];
    let notes = super::benchmark::disagreements(rows, |row| outcome(row).strict(), |row| outcome(row).half());
    Figures {
        benchmark: NAME,
        rows: rows.len(),
        ties: share(Outcome::Tie),
        missing: share(Outcome::Missing),
        readings,
        notes,
    }
}

fn reading(name: &'static str, rule: &'static str, rows: &[Answered], credit: fn(Outcome) -> f64) -> Reading {
    let figure = |name: String, kept: &[&Answered]| {
        let weight = 1.0 / kept.len() as f64;
        let row = |row: &&Answered| Drawn { value: credit(outcome(row)), weight, stratum: 0, cluster: row.case.prompt };
        Figure::of(name, &kept.iter().map(row).collect::<Vec<_>>())
    };
    let of_subset = |subset: &str| {
        let kept: Vec<&Answered> = rows.iter().filter(|row| row.case.subset == subset).collect();
        figure(if subset.is_empty() { "no task or source".into() } else { subset.to_string() }, &kept)
    };
    let names = distinct(rows.iter().map(|row| row.case.subset.as_str()));
    let subsets = if names.len() > 1 { names.into_iter().map(of_subset).collect() } else { Vec::new() };
    let quarters = quarters(rows).into_iter().map(|(name, kept)| figure(name, &kept)).collect();
    let headline = figure("all pairs".into(), &rows.iter().collect::<Vec<_>>());
    Reading { name, rule, headline, parts: quarters, subsets }
}

/// Pairs by how much better their chosen response is said to be: four parts of about the same size, equal gaps together.
fn quarters(rows: &[Answered]) -> Vec<(String, Vec<&Answered>)> {
    let mut with_gap: Vec<(f64, &Answered)> = rows.iter().filter_map(|row| Some((row.case.gap?, row))).collect();
    with_gap.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut parts: Vec<Vec<(f64, &Answered)>> = Vec::new();
    let mut part = usize::MAX;
    let mut last = f64::NAN;
    for (position, (gap, row)) in with_gap.iter().enumerate() {
        let quarter = position * 4 / with_gap.len();
        if *gap != last && quarter != part {
            parts.push(Vec::new());
            part = quarter;
        }
        last = *gap;
        parts.last_mut().expect("the first gap opens a part").push((*gap, row));
    }
    if parts.len() < 2 {
        return Vec::new();
    }
    let name = |part: &[(f64, &Answered)]| match (part[0].0, part[part.len() - 1].0) {
        (low, high) if low == high => format!("gap {low}"),
        (low, high) => format!("gap {low} to {high}"),
    };
    parts.into_iter().map(|part| (name(&part), part.iter().map(|(_, row)| *row).collect())).collect()
}
