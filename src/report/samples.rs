//! A few judgements to read: the best, the worst and the failed rollouts of `samples.jsonl`.
//!
//! The file is read once, and the number of rows in memory is bounded. Text that a model wrote is not trusted: all of it is
//! escaped, and cut where it is too long.

use std::cmp::Ordering;
use std::path::Path;

use serde_json::Value;

use super::html::escape_cut;
use crate::log::metrics::{MetricsError, Record, for_each_record};

/// Samples shown of each kind.
const SHOWN: usize = 10;
/// While reading, rows of each kind that are collected before only the best [`SHOWN`] are kept.
const KEPT: usize = 64;
/// Characters shown of a prompt or response, and of a judgement.
const TEXT_MAX: usize = 1_500;
const JUDGEMENT_MAX: usize = 4_000;

/// The rows to show.
#[derive(Debug, Default)]
pub struct Samples {
    best: Vec<Record>,
    worst: Vec<Record>,
    failed: Vec<Record>,
    /// Rows in the file.
    pub rows: usize,
    /// Lines that were not JSON objects.
    pub damaged: usize,
}

impl Samples {
    /// Reads `samples.jsonl`.
    pub fn read(path: &Path) -> Result<Self, MetricsError> {
        let mut samples = Self::default();
        samples.damaged = for_each_record(path, |row| {
            samples.rows += 1;
            samples.add(row);
        })?;
        samples.rank(SHOWN);
        Ok(samples)
    }

    fn add(&mut self, row: Record) {
        if failed(&row) {
            self.failed.push(row);
        } else if let Some(advantage) = number(&row, "advantage").filter(|advantage| *advantage != 0.0) {
            let side = if advantage > 0.0 { &mut self.best } else { &mut self.worst };
            side.push(row);
        }
        if [&self.best, &self.worst, &self.failed].iter().any(|rows| rows.len() >= KEPT) {
            self.rank(SHOWN);
        }
    }

    /// Sorts each kind by how much it tells, and keeps `limit` rows of it, at most one of each response.
    fn rank(&mut self, limit: usize) {
        keep(&mut self.best, limit, |a, b| value(b).total_cmp(&value(a)).then(newest(a, b)));
        keep(&mut self.worst, limit, |a, b| value(a).total_cmp(&value(b)).then(newest(a, b)));
        keep(&mut self.failed, limit, newest);
    }

    /// The samples as folded HTML cards, or nothing if there are none.
    pub fn html(&self) -> Option<String> {
        let kinds = [
            ("Best", "Highest advantage: what training reinforces.", &self.best),
            ("Worst", "Lowest advantage among valid verdicts: what training discourages.", &self.worst),
            (
                "Failed",
                "No verdict could be read. Newest first. They earn only the penalty and are left out of all means.",
                &self.failed,
            ),
        ];
        let kind = |(title, why, rows): &(&str, &str, &Vec<Record>)| {
            // The first card is open, so that a reader sees at once what a judgement looks like.
            let cards: String =
                rows.iter().enumerate().map(|(index, row)| card(row, index == 0 && *title == "Best")).collect();
            format!("<h3>{title}</h3>\n<p class=\"note\">{why}</p>\n{cards}")
        };
        let html: String = kinds.iter().filter(|kind| !kind.2.is_empty()).map(kind).collect();
        (!html.is_empty()).then_some(html)
    }
}

fn keep(rows: &mut Vec<Record>, limit: usize, order: impl Fn(&Record, &Record) -> Ordering) {
    rows.sort_by(order);
    let mut seen: Vec<(Value, Value)> = Vec::new();
    rows.retain(|row| {
        let field = |key: &str| row.get(key).cloned().unwrap_or(Value::Null);
        let response = (field("pair"), field("role"));
        let fresh = seen.len() < limit && (response.0.is_null() || !seen.contains(&response));
        if fresh {
            seen.push(response);
        }
        fresh
    });
}

fn newest(a: &Record, b: &Record) -> Ordering {
    let step = |row: &Record| number(row, "step").unwrap_or(-1.0);
    step(b).total_cmp(&step(a))
}

fn value(row: &Record) -> f64 {
    number(row, "advantage").unwrap_or(0.0)
}

fn number(row: &Record, key: &str) -> Option<f64> {
    row.get(key).and_then(Value::as_f64)
}

/// Whether a rollout has no verdict: it has no score, and in pairwise mode it prefers no response.
fn failed(row: &Record) -> bool {
    number(row, "score").is_none() && !text(row, "verdict").to_lowercase().contains("prefer")
}

/// A field as text: a string as it is, any other value as JSON, and a missing field as an empty string.
fn text(row: &Record, key: &str) -> String {
    match row.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn card(row: &Record, open: bool) -> String {
    let open = if open { " open=\"\"" } else { "" };
    // Three digits at most, without the zeros at the end: 1.4, -0.866.
    let digits = |value: f64| ((value * 1e3).round() / 1e3).to_string();
    let show = |key: &str| number(row, key).map_or_else(|| "–".to_owned(), digits);
    let field = |key: &str| escape_cut(&text(row, key), 60);
    let badge = if failed(row) { "bad" } else { "good" };
    let verdict = match number(row, "score") {
        Some(score) => format!("score {score}"),
        None => field("verdict"),
    };
    let origin =
        format!("{} step {} · pair {} · rollout {}", field("stage"), field("step"), field("pair"), field("rollout"));
    let part = |title: &str, key: &str, limit: usize| match text(row, key) {
        text if text.is_empty() => format!("<h4>{title}</h4>\n<p class=\"note\">(empty)</p>\n"),
        text => format!("<h4>{title}</h4>\n<pre>{}</pre>\n", escape_cut(&text, limit)),
    };
    format!(
        "<details class=\"sample\"{open}>\n<summary><span class=\"badge {badge}\">{verdict}</span> \
         <span>{} response</span> <span>{}</span> <span>reward {}</span> <span>advantage {}</span> \
         <span class=\"origin\">{origin}</span></summary>\n{}{}{}</details>\n",
        field("role"),
        field("task"),
        show("reward"),
        show("advantage"),
        part("Prompt", "prompt", TEXT_MAX),
        part("Response", "response", TEXT_MAX),
        part("Judgement", "judgement", JUDGEMENT_MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    fn rows(rows: impl IntoIterator<Item = Value>) -> Samples {
        let mut samples = Samples::default();
        rows.into_iter().for_each(|row| samples.add(row.as_object().unwrap().clone()));
        samples.rank(SHOWN);
        samples
    }

    #[test]
    fn the_ranking_is_bounded_and_finds_the_extremes() {
        let wave = |step: u64| ((step * 7919) % 1000) as f64 / 500.0 - 1.0;
        let samples = rows((0..5000u64).map(
            |step| json!({"step": step, "pair": step % 500, "role": "chosen", "score": 5, "advantage": wave(step)}),
        ));
        let lengths = [samples.best.len(), samples.worst.len(), samples.failed.len()];
        assert_eq!(lengths, [SHOWN, SHOWN, 0]);
        let low = (0..5000).map(wave).fold(0.0, f64::min);
        assert_eq!(value(&samples.worst[0]), low);
        assert_eq!(samples.worst[0]["pair"], samples.worst[0]["step"].as_u64().unwrap() % 500);
        let mut pairs: Vec<u64> = samples.best.iter().map(|row| row["pair"].as_u64().unwrap()).collect();
        pairs.dedup();
        assert_eq!(pairs.len(), SHOWN, "no response is shown twice");
    }

    #[test]
    fn a_failure_is_never_a_score() {
        let samples = rows([
            json!({"step": 1, "verdict": "malformed", "score": null, "reward": -1.5, "advantage": 0.9}),
            json!({"step": 2, "verdict": "truncated", "reward": -1.0, "advantage": -0.9}),
            json!({"step": 3, "verdict": "prefer chosen", "score": null, "advantage": 0.5}),
        ]);
        assert_eq!([samples.best.len(), samples.worst.len(), samples.failed.len()], [1, 0, 2]);
        assert_eq!(samples.failed[0]["step"], 2, "newest first");
    }

    #[test]
    fn what_a_model_wrote_is_not_markup() {
        let attack = "</pre></details><script>alert(1)</script><img src=x onerror=alert(1)>";
        let keys = ["stage", "pair", "role", "rollout", "task", "prompt", "response", "judgement", "verdict"];
        let row: Record = keys.iter().map(|key| ((*key).to_owned(), json!(attack))).collect();
        let html = rows([Value::Object(row)]).html().unwrap();
        check_balanced(&html).unwrap();
        assert!(!html.contains("<script") && !html.contains("<img") && html.contains("&lt;script&gt;"));
        let long = rows([json!({"judgement": "x".repeat(1 << 20)})]).html().unwrap();
        assert!(long.len() < 3 * JUDGEMENT_MAX, "{}", long.len());
    }
}
