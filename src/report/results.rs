//! Results: what the judge could do before training and after each stage, as tables for the page and the terminal.

use serde_json::Value;

use super::{Contents, html};
use crate::file::counted;
use crate::log::columns::{Column, Form};
use crate::log::metrics::Record;
use crate::log::progress::{clock, fixed, signed};
use crate::log::table::TextTable;

/// Keys of an evaluation that are read besides its columns and tasks: pairs, judgements of each side, and intervals by key.
const PAIRS: &str = "pairs";
const VOTES: &str = "votes";
const INTERVALS: &str = "intervals";
/// All of them: a test holds them to the evaluation's struct.
pub const READ: [&str; 3] = [PAIRS, VOTES, INTERVALS];

/// Key of a summary's sentences, which say what its numbers mean.
pub const SENTENCES: &str = "sentences";

/// An evaluation that is shown.
struct Shown<'a> {
    name: &'a str,
    numbers: &'a Record,
    /// That of the model which it began from.
    before: Option<&'a Record>,
    control: bool,
}

/// The evaluations in a summary with their names, in the order of [`Contents::rows`]; others follow under their own names.
fn evaluations<'a>(contents: &Contents, summary: &'a Record) -> Vec<Shown<'a>> {
    let Some(found) = summary.get("stages").and_then(Value::as_object) else { return Vec::new() };
    let numbers = |key: &str| found.get(key).and_then(Value::as_object);
    let known = contents.rows.iter().filter_map(|row| {
        let before = row.before.and_then(numbers);
        Some(Shown { name: row.name, numbers: numbers(row.key)?, before, control: row.control })
    });
    let others = found.iter().filter(|(key, _)| contents.rows.iter().all(|row| row.key != *key));
    let other = |(key, value): (&'a String, &'a Value)| {
        Some(Shown { name: key, numbers: value.as_object()?, before: None, control: true })
    };
    known.chain(others.filter_map(other)).collect()
}

/// A result of the model that a stage began from, with its name.
pub fn before(contents: &Contents, summary: &Record, stage: &str, key: &str) -> Option<(String, f64)> {
    let before = contents.rows.iter().find(|row| row.key == stage)?.before?;
    let row = contents.rows.iter().find(|row| row.key == before)?;
    Some((row.name.to_owned(), summary.get("stages")?.get(before)?.get(key)?.as_f64()?))
}

/// The results as a table for the terminal, a column for each evaluation, tasks included.
pub fn text_table(contents: &Contents, summary: &Record) -> TextTable {
    let evaluations = evaluations(contents, summary);
    let mut table = TextTable::new(std::iter::once("").chain(evaluations.iter().map(|shown| shown.name)));
    for column in contents.evaluation.columns.iter().filter(|column| is_known(&evaluations, column)) {
        let cells = evaluations.iter().map(|Shown { numbers: evaluation, .. }| {
            let interval = interval(evaluation, column.key).map_or_else(String::new, |text| format!(" [{text}]"));
            show(number(evaluation, column.key), column.form) + &interval
        });
        table.row(std::iter::once(column.name.to_owned()).chain(cells));
    }
    for (key, name) in contents.evaluation.by_task {
        for task in tasks(&evaluations, key) {
            let cells = evaluations
                .iter()
                .map(|Shown { numbers: evaluation, .. }| show(of_task(evaluation, key, task), Form::Percent));
            table.row(std::iter::once(format!("{name}: {task}")).chain(cells));
        }
    }
    table
}

/// What the numbers of a summary mean, in sentences.
pub fn sentences(summary: &Record) -> impl Iterator<Item = &str> {
    summary.get(SENTENCES).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The section of the page: tiles, what they mean, the table, the tables by task, and how large a difference may be chance.
pub fn html(contents: &Contents, summary: &Record) -> String {
    let evaluations = evaluations(contents, summary);
    if evaluations.is_empty() {
        return html::note("summary.json holds no results (`stages`) yet.");
    }
    let columns: Vec<&Column> =
        contents.evaluation.columns.iter().filter(|column| is_known(&evaluations, column)).collect();
    let mut html = tiles(&columns, summary, &evaluations);
    html += &sentences(summary).map(|text| format!("<p>{}</p>\n", html::escape(text))).collect::<String>();
    let header = std::iter::once(String::new()).chain(columns.iter().map(|column| html::escape(column.name)));
    let shown: Vec<_> = columns.iter().map(|column| (column.key, column.form, column.more_is_better)).collect();
    html += &html::table(&header.collect::<Vec<_>>(), &rows(&evaluations, &shown, number));
    for (key, name) in contents.evaluation.by_task {
        let tasks = tasks(&evaluations, key);
        if tasks.is_empty() {
            continue;
        }
        let header = std::iter::once(format!("{name}, by task")).chain(tasks.iter().map(|task| html::escape(task)));
        let shown: Vec<_> = tasks.iter().map(|task| (*task, Form::Percent, true)).collect();
        let value = |evaluation: &Record, task: &str| of_task(evaluation, key, task);
        html += &html::table(&header.collect::<Vec<_>>(), &rows(&evaluations, &shown, value));
    }
    html += &html::note(&explanation(&columns, &evaluations));
    if let Some(pairs) = largest(&evaluations, PAIRS).filter(|pairs| *pairs >= 1.0) {
        html += &html::note(&how_sure(
            pairs,
            evaluations.iter().any(|Shown { numbers: evaluation, .. }| evaluation.contains_key(INTERVALS)),
        ));
    }
    html
}

/// How large a difference may be chance.
fn how_sure(pairs: f64, with_intervals: bool) -> String {
    let of = counted(pairs as u64, "pair");
    if with_intervals {
        return format!(
            "Ranges are 95 % intervals over {of}. Stages are measured on the same pairs, so the interval of a difference (in the \
             sentences above) is narrower than two ranges beside each other suggest. By task there are fewer pairs, and more \
             chance."
        );
    }
    let error = 100.0 * (0.25 / pairs).sqrt();
    format!(
        "Measured on {of}: one standard error of an accuracy near 50 % is {error:.1} points, so differences below about {:.0} \
         points may be chance. By task there are fewer pairs, and more chance.",
        (2.0 * error * std::f64::consts::SQRT_2).round()
    )
}

/// Whether any evaluation has a number in a column.
fn is_known(evaluations: &[Shown<'_>], column: &Column) -> bool {
    evaluations.iter().any(|Shown { numbers: evaluation, .. }| number(evaluation, column.key).is_some())
}

/// The 95 % interval of a share, in percent: `58.1–68.0`.
fn interval(evaluation: &Record, key: &str) -> Option<String> {
    let ends = evaluation.get(INTERVALS)?.get(key)?;
    let [low, high] = [ends.get(0)?.as_f64()?, ends.get(1)?.as_f64()?];
    Some(format!("{:.1}–{:.1}", 100.0 * low, 100.0 * high))
}

/// What the columns mean, how many votes there were, and what the small figures are.
fn explanation(columns: &[&Column], evaluations: &[Shown<'_>]) -> String {
    let meaning = |column: &&Column| format!("{}: {}. ", column.name, column.meaning);
    let mut text: String = columns.iter().filter(|column| !column.meaning.is_empty()).map(meaning).collect();
    if let Some(votes) = largest(evaluations, VOTES) {
        text += &format!("Votes: sampled judgements of each response, {votes:.0} here. ");
    }
    text + "In brackets: 95 % intervals over pairs. Small figures: change against the model that it began from."
}

/// The few numbers that a reader wants first.
fn tiles(columns: &[&Column], summary: &Record, evaluations: &[Shown<'_>]) -> String {
    let mut tiles = Vec::new();
    for column in columns.iter().filter(|column| column.first) {
        // The last stage against the model that it began from; controls are for the table.
        let last = evaluations.iter().rev().filter(|shown| !shown.control);
        let mut last = last.filter_map(|shown| Some((number(shown.numbers, column.key)?, shown.before)));
        if let Some((value, before)) = last.next() {
            let from = |before| format!("<small>{} → </small>", show(Some(before), column.form));
            let from = before.and_then(|before| number(before, column.key)).map_or_else(String::new, from);
            tiles.push((column.name, format!("{from}{}", show(Some(value), column.form))));
        }
    }
    if let Some(wall) = summary.get("wall_s").and_then(Value::as_f64)
        && let Ok(wall) = std::time::Duration::try_from_secs_f64(wall)
    {
        tiles.push(("Wall time", clock(wall)));
    }
    if let Some(seed) = summary.get("seed").filter(|seed| seed.is_number() || seed.is_string()) {
        tiles.push(("Seed", html::escape(seed.to_string().trim_matches('"'))));
    }
    let tile = |(name, value): &(&str, String)| format!("<li><span>{name}</span><strong>{value}</strong></li>\n");
    format!("<ul class=\"tiles\">\n{}</ul>\n", tiles.iter().map(tile).collect::<String>())
}

/// One row per evaluation; cells carry the change against the model that it began from. `columns`: key, form, whether more is
/// better.
fn rows(
    evaluations: &[Shown<'_>],
    columns: &[(&str, Form, bool)],
    value: impl Fn(&Record, &str) -> Option<f64>,
) -> Vec<Vec<String>> {
    let cell = |shown: &Shown<'_>, (key, form, more): (&str, Form, bool)| {
        let now = value(shown.numbers, key);
        let before = shown.before.and_then(|before| value(before, key));
        let change = now.zip(before).map(|(now, then)| now - then);
        // An empty figure keeps the first row in line with those that have one.
        let interval =
            interval(shown.numbers, key).map_or_else(String::new, |text| format!(" <small>[{text}]</small>"));
        show(now, form)
            + &interval
            + &change.map_or_else(|| " <small></small>".to_owned(), |change| show_change(change, form, more))
    };
    let row = |shown: &Shown<'_>| {
        let cells = columns.iter().map(|column| cell(shown, *column));
        std::iter::once(html::escape(shown.name)).chain(cells).collect()
    };
    evaluations.iter().map(row).collect()
}

fn show_change(change: f64, form: Form, more_is_better: bool) -> String {
    let text = match form {
        Form::Percent => signed(change * 100.0, 1),
        Form::Points | Form::Number => signed(change, 2),
    };
    let class = match (change > 0.0) == more_is_better {
        // More of a plain number, such as a temperature, is neither better nor worse.
        _ if form == Form::Number || text.trim_start_matches(['+', '-', '0', '.']).is_empty() => "same",
        true => "better",
        false => "worse",
    };
    format!(" <small class=\"{class}\">{text}</small>")
}

fn show(value: Option<f64>, form: Form) -> String {
    match (value, form) {
        (None, _) => "–".to_owned(),
        (Some(value), Form::Percent) => format!("{:.1} %", value * 100.0),
        (Some(value), Form::Points) => signed(value, 2),
        (Some(value), Form::Number) => fixed(value, 2),
    }
}

fn number(evaluation: &Record, key: &str) -> Option<f64> {
    evaluation.get(key).and_then(Value::as_f64)
}

fn largest(evaluations: &[Shown<'_>], key: &str) -> Option<f64> {
    evaluations.iter().filter_map(|Shown { numbers: evaluation, .. }| number(evaluation, key)).reduce(f64::max)
}

fn of_task(evaluation: &Record, key: &str, task: &str) -> Option<f64> {
    evaluation.get(key)?.get(task)?.as_f64()
}

/// Names of all tasks of which there is such a share, sorted.
fn tasks<'a>(evaluations: &[Shown<'a>], key: &str) -> Vec<&'a str> {
    let tables = evaluations
        .iter()
        .filter_map(|Shown { numbers: evaluation, .. }| evaluation.get(key).and_then(Value::as_object));
    let mut names: Vec<&str> = tables.flat_map(|table| table.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use crate::report::tests::CONTENTS;
    use serde_json::json;

    fn summary() -> Record {
        let by_task = json!({"math": 0.7, "chat": 0.5});
        let value = json!({"wall_s": 187.0, "seed": 7, "sentences": ["It <learnt>.", "It sharpened."], "stages": {
            "rl": {"pairs": 400, "votes": 3, "accuracy": 0.63, "margin": 1.5, "ties": 0.05, "by_task": by_task,
                "intervals": {"accuracy": [0.5821, 0.6758]}},
            "untrained": {"pairs": 400, "accuracy": 0.5, "margin": null, "ties": 0.4},
            "a <b>": {"accuracy": 0.5},
        }});
        value.as_object().unwrap().clone()
    }

    #[test]
    fn evaluations_come_in_the_order_of_training_and_changes_say_better_or_worse() {
        let html = html(&CONTENTS, &summary());
        check_balanced(&html).unwrap();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} in {html}"));
        assert!(at("scope=\"row\">Untrained") < at("scope=\"row\">SFT + RL"));
        assert!(html.contains("63.0 % <small>[58.2–67.6]</small> <small class=\"better\">+13.0</small>"), "{html}");
        assert!(html.contains("<p>It &lt;learnt&gt;.</p>") && !html.contains("Never measured"));
        assert!(html.contains("Accuracy, by task") && !html.contains("Greedy, by task"));
        assert!(html.contains("5.0 % <small class=\"better\">-35.0</small>"), "fewer ties are better");
        assert!(!html.contains("-13.0"), "what began from no known model is compared with none");
        assert!(
            html.contains("<small>50.0 % → </small>63.0 %"),
            "the last stage against the model it began from: {html}"
        );
        assert!(html.contains("a &lt;b&gt;") && html.contains("3m07s") && html.contains("intervals over 400 pairs"));
        assert!(
            how_sure(400.0, false).contains("is 2.5 points, so differences below about 7 points"),
            "{}",
            how_sure(400.0, false)
        );
        assert!(html.contains("<th scope=\"col\">chat</th><th scope=\"col\">math</th>"));
        assert!(html.contains("Accuracy: share of pairs. Votes: sampled judgements of each response, 3 here."));
        assert_eq!(before(&CONTENTS, &summary(), "rl", "accuracy"), Some(("Untrained".into(), 0.5)));
        assert_eq!(before(&CONTENTS, &summary(), "untrained", "accuracy"), None);
    }

    #[test]
    fn a_plain_number_changes_and_is_neither_better_nor_worse() {
        assert_eq!(show_change(-0.5, Form::Number, true), " <small class=\"same\">-0.50</small>");
        assert_eq!(show_change(-0.5, Form::Points, true), " <small class=\"worse\">-0.50</small>");
    }

    #[test]
    fn the_terminal_gets_the_same_numbers() {
        let text = text_table(&CONTENTS, &summary()).to_string();
        let row = text.lines().find(|line| line.starts_with("Accuracy: chat")).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["Accuracy: chat", "–", "50.0 %", "–"]);
        assert!(text.contains("63.0 % [58.2–67.6]") && !text.contains("Never measured") && !text.contains("Greedy"));
        assert_eq!(sentences(&summary()).collect::<Vec<_>>(), ["It <learnt>.", "It sharpened."]);
        assert_eq!(text_table(&CONTENTS, &Record::new()).to_string(), "\n\n");
    }
}
