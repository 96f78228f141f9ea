//! `eval compare`: two judges on the same rows.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use serde_json::{Value, json};

use super::read_recorded;
use crate::eval::figures::distinct;
use crate::eval::paired::{self, Difference, Discordant};
use crate::eval::{Answered, Benchmark};
use crate::file::console;
use crate::log::TextTable;

/// Compare two judges on the same rows: is one better, and could these rows have shown it?
///
/// A and B are two files of results in any of the forms of `eval --from-scores`, of the same benchmark rows. Rows are joined by
/// subset and id, or by position where ids repeat. The difference has a 95 % interval, rows of one prompt counted as one draw;
/// McNemar's test (mid-p, and exact) is of the rows that one of the two alone gets right. p values of subsets are adjusted
/// together (Benjamini and Hochberg), and the smallest difference that so many rows find four times in five is said.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Results of the first judge.
    pub a: PathBuf,
    /// Results of the second judge.
    pub b: PathBuf,
    /// Whose rows they are, if they are not to be recognised.
    #[arg(long, value_name = "NAME", value_parser = super::benchmark)]
    pub benchmark: Option<Benchmark>,
    /// Prints JSON instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Rows of both judges, joined.
struct Joined {
    subsets: Vec<String>,
    prompts: Vec<u64>,
    /// The credit of each row, by the benchmark's own rule.
    credits: [Vec<f64>; 2],
}

/// A line of the table.
struct Line {
    name: String,
    rows: usize,
    means: [f64; 2],
    difference: Option<Difference>,
    /// Where every row is right or wrong.
    discordant: Option<Discordant>,
    /// McNemar's mid-p, or else that of the difference.
    p: Option<f64>,
}

/// Prints the comparison.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let a = read_recorded(&args.a, args.benchmark, None)?;
    let b = read_recorded(&args.b, args.benchmark, None)?;
    ensure!(
        a.benchmark == b.benchmark,
        "the first file is of {}, the second of {}: give two results of the same rows",
        a.benchmark.name(),
        b.benchmark.name()
    );
    let joined = join(a.benchmark, &a.rows, &b.rows)?;
    let all: Vec<usize> = (0..joined.prompts.len()).collect();
    let whole = line("all rows", &joined, &all);
    let names = distinct(joined.subsets.iter().map(String::as_str));
    let subsets: Vec<Line> = if names.len() < 2 {
        Vec::new()
    } else {
        let of = |name: &str| {
            line(name, &joined, &all.iter().copied().filter(|row| joined.subsets[*row] == name).collect::<Vec<_>>())
        };
        names.into_iter().map(of).collect()
    };
    let adjusted = paired::benjamini_hochberg(&subsets.iter().filter_map(|line| line.p).collect::<Vec<_>>());
    if args.json {
        return Ok(console::print_line(json_of(a.benchmark, &whole, &subsets, &adjusted))?);
    }
    Ok(console::print_line(text(a.benchmark, &whole, &subsets, &adjusted).trim_end())?)
}

/// Row by row: by (subset, id) where those are unique in both files, or else by position.
fn join(benchmark: Benchmark, a: &[Answered], b: &[Answered]) -> anyhow::Result<Joined> {
    let key = |row: &Answered| (row.case.subset.clone(), row.case.id.clone());
    let index = |rows: &[Answered]| -> Option<HashMap<(String, String), usize>> {
        let found: HashMap<_, _> = rows.iter().enumerate().map(|(index, row)| (key(row), index)).collect();
        (found.len() == rows.len()).then_some(found)
    };
    let pairs: Vec<(usize, usize)> = match (index(a), index(b)) {
        (Some(_), Some(of_b)) => {
            let pairs: Vec<_> = a.iter().enumerate().filter_map(|(i, row)| Some((i, *of_b.get(&key(row))?))).collect();
            ensure!(!pairs.is_empty(), "the two files have no row in common (rows are joined by subset and id)");
            pairs
        }
        _ => {
            ensure!(
                a.len() == b.len(),
                "the files have {} and {} rows, and ids that repeat: they can only be joined by position, which needs the \
                 same rows",
                a.len(),
                b.len()
            );
            (0..a.len()).map(|row| (row, row)).collect()
        }
    };
    let credits = [
        pairs.iter().map(|(i, _)| benchmark.credit(&a[*i])).collect(),
        pairs.iter().map(|(_, j)| benchmark.credit(&b[*j])).collect(),
    ];
    Ok(Joined {
        subsets: pairs.iter().map(|(i, _)| a[*i].case.subset.clone()).collect(),
        prompts: pairs.iter().map(|(i, _)| a[*i].case.prompt).collect(),
        credits,
    })
}

fn line(name: &str, joined: &Joined, rows: &[usize]) -> Line {
    let pick = |values: &[f64]| -> Vec<f64> { rows.iter().map(|row| values[*row]).collect() };
    let [a, b] = [pick(&joined.credits[0]), pick(&joined.credits[1])];
    let prompts: Vec<u64> = rows.iter().map(|row| joined.prompts[*row]).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let difference = paired::difference(&a, &b, &prompts);
    let decided = a.iter().chain(&b).all(|credit| *credit == 0.0 || *credit == 1.0);
    let discordant = decided.then(|| Discordant {
        first: a.iter().zip(&b).filter(|(a, b)| a > b).count() as u64,
        second: a.iter().zip(&b).filter(|(a, b)| b > a).count() as u64,
    });
    let p = discordant.map(|rows| paired::mcnemar(rows).mid_p).or(difference.map(|difference| difference.p));
    Line { name: name.into(), rows: rows.len(), means: [mean(&a), mean(&b)], difference, discordant, p }
}

/// The smallest true difference that so many rows find four times in five.
fn detectable(line: &Line) -> Option<f64> {
    let discordant = line.discordant?;
    let share = (discordant.first + discordant.second) as f64 / line.rows as f64;
    Some(paired::detectable(line.rows, share))
}

fn verdict(line: &Line) -> String {
    let Some((difference, p)) = line.difference.zip(line.p) else { return "too few rows to compare".into() };
    let points = 100.0 * difference.mean;
    if p < 0.05 {
        let better = if points > 0.0 { "B" } else { "A" };
        return format!("{better} is better by {:.1} points (p = {p:.4})", points.abs());
    }
    if line.discordant == Some(Discordant { first: 0, second: 0 }) {
        return "the two decide every row alike".into();
    }
    let found = detectable(line).map(|least| {
        format!(
            ": these rows find a difference of {:.1} points or more four times in five, so a smaller one can be there; \
             underpowered for ranking the two",
            100.0 * least
        )
    });
    format!("no difference is shown ({points:+.1} points, p = {p:.4}){}", found.unwrap_or_default())
}

fn text(benchmark: Benchmark, whole: &Line, subsets: &[Line], all_adjusted: &[f64]) -> String {
    let header = [
        benchmark.name(),
        "rows",
        "A",
        "B",
        "B − A",
        "95 %",
        "A alone",
        "B alone",
        "p",
        "p adjusted",
        "smallest found",
    ];
    let mut table = TextTable::new(header);
    let mut adjusted = all_adjusted.iter();
    for (index, line) in std::iter::once(whole).chain(subsets).enumerate() {
        let points = |value: f64| format!("{:+.1}", 100.0 * value);
        let interval = line.difference.map_or_else(String::new, |d| format!("{} to {}", points(d.low), points(d.high)));
        let count =
            |of: fn(&Discordant) -> u64| line.discordant.as_ref().map_or_else(String::new, |rows| of(rows).to_string());
        let adjusted = if index == 0 || line.p.is_none() { None } else { adjusted.next() };
        table.row([
            format!("{}{}", if index == 0 { "" } else { "  " }, line.name),
            line.rows.to_string(),
            format!("{:.2} %", 100.0 * line.means[0]),
            format!("{:.2} %", 100.0 * line.means[1]),
            points(line.means[1] - line.means[0]),
            interval,
            count(|rows| rows.first),
            count(|rows| rows.second),
            line.p.map_or_else(String::new, |p| format!("{p:.4}")),
            adjusted.map_or_else(String::new, |p| format!("{p:.4}")),
            detectable(line).map_or_else(String::new, |least| format!("{:.1}", 100.0 * least)),
        ]);
    }
    let mut text = format!("{table}\n{}\n", verdict(whole));
    let found: Vec<&str> = subsets
        .iter()
        .filter(|line| line.p.is_some())
        .zip(all_adjusted)
        .filter(|(_, p)| **p < 0.05)
        .map(|(line, _)| line.name.as_str())
        .collect();
    if !subsets.is_empty() {
        text += &match found[..] {
            [] => "in no subset is a difference shown, all of them taken together\n".to_string(),
            _ => format!("after adjustment for all subsets a difference is shown in {}\n", found.join(", ")),
        };
    }
    text
}

fn json_of(benchmark: Benchmark, whole: &Line, subsets: &[Line], adjusted: &[f64]) -> Value {
    let mut adjusted = adjusted.iter();
    let of = |line: &Line, adjusted: Option<f64>| {
        json!({
            "name": line.name,
            "rows": line.rows,
            "a": line.means[0],
            "b": line.means[1],
            "difference": line.difference,
            "discordant": line.discordant,
            "mcnemar": line.discordant.map(paired::mcnemar),
            "p": line.p,
            "p_adjusted": adjusted,
            "detectable": detectable(line),
        })
    };
    let subsets: Vec<Value> =
        subsets.iter().map(|line| of(line, line.p.and_then(|_| adjusted.next().copied()))).collect();
    json!({ "benchmark": benchmark.name(), "all": of(whole, None), "subsets": subsets, "verdict": verdict(whole) })
}
