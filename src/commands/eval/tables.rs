//! Figures as a table for the terminal, and as JSON.

use serde_json::{Value, json};

use super::row::Tally;
use crate::eval::{Figure, Figures, OrderEffects};
use crate::file::{console, counted};
use crate::log::TextTable;

/// Prints the table, with a column a reading, and what must be known to read it.
pub fn print(figures: &Figures, order: Option<&OrderEffects>) -> anyhow::Result<()> {
    Ok(console::print_line(text(figures, order).trim_end())?)
}

fn text(figures: &Figures, order: Option<&OrderEffects>) -> String {
    let first = &figures.readings[0];
    let header = [figures.benchmark.to_string(), "rows".into(), "95 %".into()];
    let mut table =
        TextTable::new(header.into_iter().chain(figures.readings.iter().map(|reading| reading.name.to_string())));
    let figures_of = |reading: &crate::eval::Reading| -> Vec<Figure> {
        let headline = std::iter::once(&reading.headline);
        headline.chain(&reading.parts).chain(&reading.subsets).cloned().collect()
    };
    let columns: Vec<Vec<Figure>> = figures.readings.iter().map(figures_of).collect();
    for (index, figure) in columns[0].iter().enumerate() {
        let values =
            columns.iter().map(|column| column.get(index).map_or_else(String::new, |figure| percent(figure.value)));
        let interval =
            figure.interval.map_or_else(String::new, |[low, high]| format!("{:.1}–{:.1}", 100.0 * low, 100.0 * high));
        let indent = if index == 0 {
            ""
        } else if index <= first.parts.len() {
            "  "
        } else {
            "    "
        };
        let cells = [format!("{indent}{}", figure.name), figure.rows.to_string(), interval];
        table.row(cells.into_iter().chain(values));
    }
    let mut text = format!("{table}\n");
    for reading in &figures.readings {
        text += &format!("{}: {}\n", reading.name, reading.rule);
    }
    text += &format!(
        "{}: {} ties, {} without a valid verdict; the interval is of the first reading\n",
        counted(figures.rows, "row"),
        percent(figures.ties),
        percent(figures.missing)
    );
    if let Some(order) = order {
        text += &format!("order: {}\n", order.text());
    }
    for note in &figures.notes {
        text += &format!("note: {note}\n");
    }
    text
}

/// A share with two decimals, as leaderboards print it.
fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// The same with all digits; with what judging took, where something was judged.
pub fn json(figures: &Figures, tally: Option<&Tally>, order: Option<&OrderEffects>) -> Value {
    let mut json = json!(figures);
    if let Some(order) = order {
        json["order"] = json!(order);
    }
    if let Some(tally) = tally {
        json["judging"] = json!(tally);
    }
    json
}
