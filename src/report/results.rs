//! The headline: what the judge could do untrained, after SFT, and after RL, as tables for the page and the terminal.

use serde_json::Value;

use super::html;
use crate::log::metrics::Record;
use crate::log::progress::clock;
use crate::log::table::TextTable;

/// Names of the stages in the order of training; other stages in `summary.json` follow under their own names.
const STAGES: [(&str, &str); 3] = [("untrained", "Untrained"), ("sft", "SFT"), ("rl", "SFT + RL")];

/// How a number is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A share of one, as percent.
    Percent,
    /// Points on the judge's scale, with a sign.
    Points,
}

/// Columns of the headline: key in `summary.json`, name, form, whether more is better.
const COLUMNS: [(&str, &str, Form, bool); 6] = [
    ("accuracy", "Accuracy", Form::Percent, true),
    ("accuracy_mean8", "Accuracy, mean of 8", Form::Percent, true),
    ("accuracy_greedy", "Accuracy, greedy", Form::Percent, true),
    ("tie_rate", "Ties", Form::Percent, false),
    ("margin_mean", "Margin", Form::Points, true),
    ("format_valid", "Valid format", Form::Percent, true),
];

/// The stages of a summary with their names, in order; each is the object that evaluation wrote.
fn stages(summary: &Record) -> Vec<(&str, &Record)> {
    let Some(found) = summary.get("stages").and_then(Value::as_object) else { return Vec::new() };
    let known = STAGES.iter().filter_map(|(key, name)| Some((*name, found.get(*key)?.as_object()?)));
    let others = found.iter().filter(|(key, _)| STAGES.iter().all(|(known, _)| known != key));
    known.chain(others.filter_map(|(key, value)| Some((key.as_str(), value.as_object()?)))).collect()
}

/// A result of one stage, such as `("untrained", "accuracy")`.
pub fn result(summary: &Record, stage: &str, key: &str) -> Option<f64> {
    summary.get("stages")?.get(stage)?.get(key)?.as_f64()
}

/// The headline as a table for the terminal, tasks included.
pub fn text_table(summary: &Record) -> TextTable {
    let stages = stages(summary);
    let tasks = tasks(&stages);
    let names = COLUMNS.iter().map(|column| column.1.to_owned()).chain(tasks.iter().map(|task| (*task).to_owned()));
    let mut table = TextTable::new(std::iter::once("stage".to_owned()).chain(names));
    for (name, stage) in &stages {
        let columns = COLUMNS.iter().map(|column| show(number(stage, column.0), column.2));
        let by_task = tasks.iter().map(|task| show(task_accuracy(stage, task), Form::Percent));
        table.row(std::iter::once((*name).to_owned()).chain(columns).chain(by_task));
    }
    table
}

/// The headline section of the page: tiles, the table, the table by task, and how far chance alone reaches.
pub fn html(summary: &Record) -> String {
    let stages = stages(summary);
    if stages.is_empty() {
        return html::note("summary.json holds no results (`stages`) yet.");
    }
    let mut html = tiles(summary, &stages);
    let header = std::iter::once(String::new()).chain(COLUMNS.iter().map(|column| html::escape(column.1)));
    html += &html::table(&header.collect::<Vec<_>>(), &rows(&stages, &COLUMNS.map(|c| (c.0, c.2, c.3)), number));
    let tasks = tasks(&stages);
    if !tasks.is_empty() {
        let header = std::iter::once("Accuracy by task".to_owned()).chain(tasks.iter().map(|task| html::escape(task)));
        let columns: Vec<_> = tasks.iter().map(|task| (*task, Form::Percent, true)).collect();
        html += &html::table(&header.collect::<Vec<_>>(), &rows(&stages, &columns, task_accuracy));
    }
    html += &html::note(
        "Accuracy: share of held-out pairs whose chosen response got the higher score; mean of 8: by the mean score of eight \
         judgements of each response; greedy: one judgement at temperature 0. Margin: mean score of chosen minus rejected \
         responses, in points. Small figures: change against the untrained model.",
    );
    if let Some(pairs) = stages.iter().filter_map(|(_, stage)| number(stage, "pairs")).find(|pairs| *pairs >= 1.0) {
        let error = 100.0 * (0.25 / pairs).sqrt();
        html += &html::note(&format!(
            "Measured on {pairs:.0} pairs: one standard error of an accuracy near 50 % is {error:.1} points, so differences \
             below about {:.0} points may be chance. By task there are fewer pairs, and more chance.",
            (2.0 * error * std::f64::consts::SQRT_2).round()
        ));
    }
    html
}

/// The few numbers that a reader wants first.
fn tiles(summary: &Record, stages: &[(&str, &Record)]) -> String {
    let mut tiles = Vec::new();
    for (key, name, form, _) in [COLUMNS[0], COLUMNS[4], COLUMNS[5]] {
        let mut values = stages.iter().filter_map(|(_, stage)| number(stage, key));
        if let Some(first) = values.next() {
            let last = values.next_back();
            let from = last.map_or_else(String::new, |_| format!("<small>{} → </small>", show(Some(first), form)));
            tiles.push((name, format!("{from}{}", show(last.or(Some(first)), form))));
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

/// One row per stage; cells after the first row carry the change against it. `columns`: key, form, whether more is better.
fn rows(
    stages: &[(&str, &Record)],
    columns: &[(&str, Form, bool)],
    value: impl Fn(&Record, &str) -> Option<f64>,
) -> Vec<Vec<String>> {
    let Some(((_, first), _)) = stages.split_first() else { return Vec::new() };
    let cell = |row: usize, stage: &Record, (key, form, more): (&str, Form, bool)| {
        let now = value(stage, key);
        let change = now.zip(value(first, key)).filter(|_| row > 0).map(|(now, then)| now - then);
        // An empty figure keeps the first row in line with those that have one.
        show(now, form)
            + &change.map_or_else(|| " <small></small>".to_owned(), |change| show_change(change, form, more))
    };
    let row = |(index, (name, stage)): (usize, &(&str, &Record))| {
        let cells = columns.iter().map(|column| cell(index, stage, *column));
        std::iter::once(html::escape(name)).chain(cells).collect()
    };
    stages.iter().enumerate().map(row).collect()
}

fn show_change(change: f64, form: Form, more_is_better: bool) -> String {
    let text = match form {
        Form::Percent => format!("{:+.1}", change * 100.0),
        Form::Points => format!("{change:+.2}"),
    };
    let class = match (change > 0.0) == more_is_better {
        _ if text.trim_start_matches(['+', '-', '0', '.']).is_empty() => "same",
        true => "better",
        false => "worse",
    };
    format!(" <small class=\"{class}\">{text}</small>")
}

fn show(value: Option<f64>, form: Form) -> String {
    match (value, form) {
        (None, _) => "–".to_owned(),
        (Some(value), Form::Percent) => format!("{:.1} %", value * 100.0),
        (Some(value), Form::Points) => format!("{value:+.2}"),
    }
}

fn number(stage: &Record, key: &str) -> Option<f64> {
    stage.get(key).and_then(Value::as_f64)
}

fn task_accuracy(stage: &Record, task: &str) -> Option<f64> {
    match stage.get("by_task")?.get(task)? {
        Value::Object(object) => number(object, "accuracy"),
        value => value.as_f64(),
    }
}

/// Names of all tasks, sorted.
fn tasks<'a>(stages: &[(&str, &'a Record)]) -> Vec<&'a str> {
    let tables = stages.iter().filter_map(|(_, stage)| stage.get("by_task").and_then(Value::as_object));
    let mut names: Vec<&str> = tables.flat_map(|table| table.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    fn summary() -> Record {
        let value = json!({"wall_s": 187.0, "seed": 7, "stages": {
            "rl": {"pairs": 400, "accuracy": 0.63, "margin_mean": 1.5, "tie_rate": 0.05, "by_task": {"math": 0.7, "chat": {"accuracy": 0.5}}},
            "untrained": {"pairs": 400, "accuracy": 0.5, "margin_mean": null, "tie_rate": 0.4},
            "a <b>": {"accuracy": 0.5},
        }});
        value.as_object().unwrap().clone()
    }

    #[test]
    fn stages_come_in_the_order_of_training_and_changes_say_better_or_worse() {
        let html = html(&summary());
        check_balanced(&html).unwrap();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} in {html}"));
        assert!(at("scope=\"row\">Untrained") < at("scope=\"row\">SFT + RL"));
        assert!(html.contains("63.0 % <small class=\"better\">+13.0</small>"));
        assert!(html.contains("5.0 % <small class=\"better\">-35.0</small>"), "fewer ties are better");
        assert!(html.contains("50.0 % <small class=\"same\">+0.0</small>"));
        assert!(html.contains("a &lt;b&gt;") && html.contains("3m07s") && html.contains("2.5 points"));
        assert!(html.contains("<th scope=\"col\">chat</th><th scope=\"col\">math</th>"));
    }

    #[test]
    fn the_terminal_gets_the_same_numbers() {
        let text = text_table(&summary()).to_string();
        let row = text.lines().find(|line| line.starts_with("SFT + RL")).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["SFT + RL", "63.0 %", "–", "–", "5.0 %", "+1.50", "–", "50.0 %", "70.0 %"]);
        assert!(text_table(&Record::new()).to_string().starts_with("stage"));
    }
}
