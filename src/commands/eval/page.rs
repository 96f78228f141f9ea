//! The page of an evaluation: its table, and plots of what is behind it.

use super::row::Tally;
use crate::eval::{Answer, Answered, Figure, Figures, OrderEffects, Reading};
use crate::report::bars::{Bar, Bin, bars, bins, histogram};
use crate::report::html::{document, escape, figure, note, section, table, tile};

/// The page. `judge`: what was measured, in words; `tally`: what judging took, where something was judged.
pub fn page(
    figures: &Figures,
    rows: &[Answered],
    tally: Option<&Tally>,
    order: Option<&OrderEffects>,
    judge: &str,
) -> String {
    let first = &figures.readings[0];
    let title = format!("{} · {judge}", figures.benchmark);
    let mut body =
        format!("<header><p class=\"kicker\">patarm-train eval</p>\n<h1>{}</h1></header>\n<main>\n", escape(&title));
    body += &section("results", "Results", &tiles(figures));
    body += &section("table", "Table", &(all_figures(figures) + &notes(figures, order)));
    let mut plots = String::new();
    let guessing = if guess(figures, order).is_some() { "; the dashed line is what guessing gives" } else { "" };
    let intervals = format!("95 % intervals, rows of one prompt counted as one draw{guessing}.");
    for (title, parts) in [("Parts", &first.parts), ("Subsets", &first.subsets)] {
        if !parts.is_empty() {
            plots += &figure(title, &intervals, &bars_of(parts, guess(figures, order)));
        }
    }
    if let Some(tally) = tally.filter(|tally| tally.votes_at.len() > 1) {
        let by_votes: Vec<Bar> = tally
            .votes_at
            .iter()
            .map(|at| Bar {
                label: format!("mean of {}", at.votes),
                value: at.headline,
                interval: None,
                rows: figures.rows,
            })
            .collect();
        plots += &figure(
            "Accuracy by votes",
            "The headline by the mean score of so many judgements of a response.",
            &bars(&by_votes, guess(figures, order)),
        );
    }
    let margins = bins(&margins(rows));
    if !margins.is_empty() {
        plots += &figure(
            "Margins",
            "Score of a better response minus that of a worse one, all that are compared (of a pairwise judge: how much more \
             often it is preferred). To the right of 0 is right.",
            &histogram(&margins, 1),
        );
    }
    let scores = scores(rows, tally);
    if !scores.is_empty() {
        let legend = "<ul class=\"legend\"><li><i class=\"s0\"></i>better responses</li>\
                      <li><i class=\"s1\"></i>worse ones</li></ul>\n";
        plots += &figure("Scores", "How often each score was given.", &(legend.to_string() + &histogram(&scores, 2)));
    }
    body += &section("plots", "Plots", &format!("<div class=\"figures\">\n{plots}</div>\n"));
    if let Some(tally) = tally {
        body += &section("judging", "Judging", &judging(tally));
    }
    document(&title, &(body + "</main>\n"))
}

/// What guessing gives, where every comparison is of two responses that are scored. Two orders are seldom guessed alike.
fn guess(figures: &Figures, order: Option<&OrderEffects>) -> Option<f64> {
    (figures.benchmark != crate::eval::rewardbench2::NAME && order.is_none()).then_some(0.5)
}

fn tiles(figures: &Figures) -> String {
    let mut tiles = String::new();
    for reading in &figures.readings {
        let interval = reading
            .headline
            .interval
            .map_or_else(String::new, |[low, high]| format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high));
        tiles +=
            &tile(&format!("{}, {}", reading.headline.name, reading.name), &percent(reading.headline.value), &interval);
    }
    tiles += &tile("Ties", &percent(figures.ties), "");
    tiles += &tile("Without a valid verdict", &percent(figures.missing), "");
    tiles += &tile("Rows", &figures.rows.to_string(), "");
    format!("<ul class=\"tiles\">\n{tiles}</ul>\n")
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn all_figures(figures: &Figures) -> String {
    let header = ["".to_string(), "rows".into(), "95 %".into()];
    let header: Vec<String> =
        header.into_iter().chain(figures.readings.iter().map(|reading| escape(reading.name))).collect();
    let list = |reading: &Reading| -> Vec<Figure> {
        std::iter::once(&reading.headline).chain(&reading.parts).chain(&reading.subsets).cloned().collect()
    };
    let columns: Vec<Vec<Figure>> = figures.readings.iter().map(list).collect();
    let row = |(index, figure): (usize, &Figure)| {
        let interval = figure
            .interval
            .map_or_else(String::new, |[low, high]| format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high));
        let mut cells = vec![escape(&figure.name), figure.rows.to_string(), interval];
        cells.extend(
            columns.iter().map(|column| column.get(index).map_or_else(String::new, |figure| percent(figure.value))),
        );
        cells
    };
    table(&header, &columns[0].iter().enumerate().map(row).collect::<Vec<_>>())
}

fn notes(figures: &Figures, order: Option<&OrderEffects>) -> String {
    let readings = figures.readings.iter().map(|reading| note(&format!("{}: {}.", reading.name, reading.rule)));
    let order = order.map(|order| note(&format!("Order: {}.", order.text())));
    readings.chain(order).chain(figures.notes.iter().map(|text| note(text))).collect()
}

fn bars_of(figures: &[Figure], guide: Option<f64>) -> String {
    let bar = |figure: &Figure| Bar {
        label: figure.name.clone(),
        value: figure.value,
        interval: figure.interval,
        rows: figure.rows,
    };
    bars(&figures.iter().map(bar).collect::<Vec<_>>(), guide)
}

/// The differences of all better and worse responses of a row that both have a score.
fn margins(rows: &[Answered]) -> Vec<(f64, usize)> {
    let of_row = |row: &Answered| -> Vec<(f64, usize)> {
        if let Answer::Comparisons(comparisons) = &row.answer {
            let worse = |better: usize| (row.case.good..comparisons.responses()).map(move |worse| (better, worse));
            let pairs = (0..row.case.good).flat_map(worse);
            return pairs.filter_map(|(better, worse)| Some((comparisons.margin(better, worse)?, 0))).collect();
        }
        let Answer::Scores(scores) = &row.answer else { return Vec::new() };
        let (good, bad) = scores.split_at(row.case.good.min(scores.len()));
        good.iter().flatten().flat_map(|good| bad.iter().flatten().map(move |bad| (good - bad, 0))).collect()
    };
    rows.iter().flat_map(of_row).collect()
}

/// Scores of better and of worse responses: of single judgements where they are known, else those that were recorded.
fn scores(rows: &[Answered], tally: Option<&Tally>) -> Vec<Bin> {
    if let Some(tally) = tally {
        let counted = tally.scores.iter().filter_map(|(score, counts)| Some((score.parse::<f64>().ok()?, counts)));
        let single =
            counted.flat_map(|(score, counts)| (0..2).flat_map(move |of| std::iter::repeat_n((score, of), counts[of])));
        return bins(&single.collect::<Vec<_>>());
    }
    let of_row = |row: &Answered| -> Vec<(f64, usize)> {
        let Answer::Scores(scores) = &row.answer else { return Vec::new() };
        let side = |(index, score): (usize, &Option<f64>)| Some(((*score)?, usize::from(index >= row.case.good)));
        scores.iter().enumerate().filter_map(side).collect()
    };
    bins(&rows.iter().flat_map(of_row).collect::<Vec<_>>())
}

fn judging(tally: &Tally) -> String {
    let mut rows = vec![
        vec!["Judgements".into(), tally.calls.to_string()],
        vec!["Tokens written".into(), tally.tokens.to_string()],
        vec!["Rows with a response that is too long".into(), tally.skipped.to_string()],
    ];
    rows.extend(tally.failed.iter().map(|(name, count)| vec![format!("Failed: {}", escape(name)), count.to_string()]));
    table(&[String::new(), "number".into()], &rows)
}
