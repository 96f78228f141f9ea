//! The page of an annotation: what became of the pairs, and plots of it.

use super::report::{PairCounts, REASONS, Report};
use crate::report::bars::{Bar, bars, bins, histogram};
use crate::report::html::{document, escape, figure, note, section, table, tile};

/// The page.
pub fn page(report: &Report) -> String {
    let title = format!("Annotation · {}", report.judge);
    let mut body = format!(
        "<header><p class=\"kicker\">patarm-train annotate</p>\n<h1>{}</h1></header>\n<main>\n",
        escape(&title)
    );
    body += &section("results", "Results", &tiles(report));
    let notes: String = report.notes().iter().map(|text| note(text)).collect();
    body += &section("pairs", "Pairs", &(by_task(report) + &notes));
    body += &section("plots", "Plots", &format!("<div class=\"figures\">\n{}</div>\n", plots(report)));
    body += &section("judging", "Judging", &judging(report));
    document(&title, &(body + "</main>\n"))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn tiles(report: &Report) -> String {
    let Report { pairs, votes, .. } = report;
    let valid = votes.valid as f64 / votes.asked.max(1) as f64;
    let tiles = [
        tile("Pairs", &pairs.read.to_string(), ""),
        tile("Kept", &pairs.kept.to_string(), &percent(pairs.kept_share())),
        tile("Rows for sft", &report.sft_rows.to_string(), ""),
        tile("Votes with a verdict", &percent(valid), &format!("of {}", votes.asked)),
        tile("Tokens written", &report.cost.tokens.to_string(), ""),
    ];
    format!("<ul class=\"tiles\">\n{}</ul>\n", tiles.concat())
}

fn by_task(report: &Report) -> String {
    let header = ["", "read", "kept", "share"].into_iter().chain(REASONS.map(|(name, _)| name));
    let header: Vec<String> = header.map(str::to_string).collect();
    let row = |(name, counts): (&str, &PairCounts)| {
        let cells =
            [escape(name), counts.read.to_string(), counts.kept.to_string(), percent(counts.kept_share())].into_iter();
        cells.chain(REASONS.map(|(_, reasons)| counts.dropped(reasons).to_string())).collect::<Vec<_>>()
    };
    let tasks = report.by_task.iter().map(|(task, counts)| (task.as_str(), counts));
    table(&header, &std::iter::once(("all", &report.pairs)).chain(tasks).map(row).collect::<Vec<_>>())
}

fn plots(report: &Report) -> String {
    let pairs = &report.pairs;
    let mut plots = String::new();
    let margins: Vec<(f64, usize)> = report
        .margins
        .iter()
        .flat_map(|of| {
            let of_series = |series, count| std::iter::repeat_n((of.margin, series), count);
            of_series(0, of.kept).chain(of_series(1, of.dropped))
        })
        .collect();
    if !margins.is_empty() {
        let legend =
            "<ul class=\"legend\"><li><i class=\"s0\"></i>kept</li><li><i class=\"s1\"></i>dropped</li></ul>\n";
        let caption = format!(
            "Mean score of the chosen − mean score of the rejected response, in points: pairs by margin. Kept above {}.",
            report.min_gap
        );
        plots += &figure("Margins", &caption, &(legend.to_string() + &histogram(&bins(&margins), 2)));
    }
    let bar = |label: &str, count: usize, of: usize| Bar {
        label: label.into(),
        value: count as f64 / of.max(1) as f64,
        interval: None,
        rows: of,
    };
    let mut fates = vec![bar("kept", pairs.kept, pairs.read)];
    fates.extend(REASONS.map(|(name, reasons)| bar(name, pairs.dropped(reasons), pairs.read)));
    plots += &figure("Kept and dropped", "Shares of all pairs.", &bars(&fates, None));
    let tasks: Vec<Bar> = report.by_task.iter().map(|(task, counts)| bar(task, counts.kept, counts.read)).collect();
    plots += &figure("Kept by task", "Shares of the pairs of a task.", &bars(&tasks, None));
    plots
}

fn judging(report: &Report) -> String {
    let cost = &report.cost;
    let row = |name: &str, count: u64| vec![escape(name), count.to_string()];
    let mut rows = vec![
        row("Judgements", cost.calls as u64),
        row("Tokens written", cost.tokens),
        row("Tokens of prompts", cost.prompt_tokens),
        row("Bad rows left out", report.bad_rows as u64),
    ];
    rows.extend(report.votes.failed.iter().map(|(name, count)| row(&format!("Failed: {name}"), *count as u64)));
    table(&[String::new(), "number".into()], &rows)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;
    use crate::report::html::tests::check_balanced;

    #[test]
    fn the_page_is_well_formed_and_shows_what_was_counted() {
        let report = report();
        let html = page(&report);
        check_balanced(&html).unwrap();
        for part in
            ["a &amp; b", "&lt;b&gt;", "<strong>2</strong> <small>40.0 %</small>", "Failed: malformed", "Margins"]
        {
            assert!(html.contains(part), "{part}");
        }
        let nothing = Report { margins: Vec::new(), by_task: Default::default(), ..report };
        let html = page(&nothing);
        check_balanced(&html).unwrap();
        assert!(!html.contains("NaN") && !html.contains("Margins"), "{html}");
    }
}
