//! Curves: from the records of a run to the points of the charts that its trainers declare.

use super::chart::{ChartError, Curve, Drawing, Guide, SERIES};
use super::html::escape;
use crate::log::RunConfig;
use crate::log::charts::{Binning, Chart, Series, Stage};
use crate::log::metrics::Record;
use crate::log::progress::short;

/// More steps than this are averaged into bins before they are drawn, which bounds the size of the page.
const POINTS_MAX: usize = 400;

/// A series with its points.
type Found = (&'static Series, Vec<(f64, f64)>);

/// A chart as a `<figure>`, or nothing if no record of the stage has a value for it, or the settings make it void. `before`
/// gives a result of the model that the stage began from, with its name.
pub fn figure(
    stage: &Stage,
    chart: &Chart,
    records: &[Record],
    config: &RunConfig,
    before: impl Fn(&str) -> Option<(String, f64)>,
) -> Result<Option<String>, ChartError> {
    let points = |series: &'static Series| (series, points(stage.key, series, records));
    let found: Vec<Found> = chart.series.iter().map(points).filter(|(_, points)| has_value(points)).collect();
    if found.is_empty() || !(chart.applies)(config) {
        return Ok(None);
    }
    let mut guides: Vec<Guide> = (chart.guides)(config).into_iter().map(|(at, label)| Guide { at, label }).collect();
    if let Some((name, at)) = chart.before.and_then(before) {
        guides.push(Guide { at, label: format!("{name} {:.1} %", at * 100.0) });
    }
    let curves = found.iter().map(|(_, points)| Curve { points: points.clone() }).collect();
    let drawing = Drawing { kind: chart.kind, range: chart.range, unit: chart.unit, curves, guides };
    let svg = drawing.svg()?;
    let (title, caption, legend) = (escape(chart.title), escape(chart.caption), legend(&found));
    Ok(Some(format!(
        "<figure>\n<h3>{title}</h3>\n{legend}<div role=\"img\" aria-label=\"{title}\">{svg}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )))
}

/// Names of the series with their last values.
fn legend(found: &[Found]) -> String {
    let entry = |(index, (series, points)): (usize, &Found)| {
        let last =
            points.iter().rev().map(|point| point.1).find(|value| value.is_finite()).map_or_else(String::new, short);
        format!("<li><i class=\"s{}\"></i>{} <b>{last}</b></li>", index % SERIES.len(), escape(series.label))
    };
    format!("<ul class=\"legend\">{}</ul>\n", found.iter().enumerate().map(entry).collect::<String>())
}

fn has_value(points: &[(f64, f64)]) -> bool {
    points.iter().any(|point| point.1.is_finite())
}

/// The points of one series, binned; a step whose value is null or not a number is a gap.
fn points(stage: &str, series: &Series, records: &[Record]) -> Vec<(f64, f64)> {
    let of_stage = records.iter().filter(|record| record.get("stage").and_then(|found| found.as_str()) == Some(stage));
    let point = |record: &Record| {
        let step = record.get("step")?.as_f64()?;
        Some((step, record.get(series.key).and_then(|value| value.as_f64()).unwrap_or(f64::NAN)))
    };
    bin(&of_stage.filter_map(point).collect::<Vec<_>>(), series.binning)
}

/// At most [`POINTS_MAX`] points: bins of equal numbers of steps, each at its middle.
fn bin(points: &[(f64, f64)], binning: Binning) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS_MAX).max(1);
    let bin = |bin: &[(f64, f64)]| {
        let x = bin.iter().map(|point| point.0).sum::<f64>() / bin.len() as f64;
        let finite: Vec<f64> = bin.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        let y = match binning {
            Binning::Mean => finite.iter().sum::<f64>() / finite.len() as f64,
            Binning::Max => finite.iter().copied().fold(f64::NAN, f64::max),
        };
        (x, y)
    };
    if size == 1 { points.to_vec() } else { points.chunks(size).map(bin).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::charts::{AxisRange, largest, series};
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    const CHART: Chart = Chart {
        guides: |config| config.number("half").map(|half| (half, "half".to_owned())).into_iter().collect(),
        applies: |config| config.word("chart") != Some("off"),
        before: Some("accuracy"),
        ..Chart::lines(
            "Loss & norm",
            "nats",
            AxisRange::FromZero,
            "Healthy: falls.",
            &[series("loss", "loss"), largest("norm", "norm")],
        )
    };
    const STAGE: Stage =
        Stage { key: "sft", name: "SFT", charts: &[CHART], signs: &[], keys: || vec!["loss".into(), "norm".into()] };

    fn record(value: serde_json::Value) -> Record {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn long_runs_are_binned_and_spikes_survive_where_they_matter() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        points[5_000].1 = 9.0;
        points[7].1 = f64::NAN;
        let (mean, max) = (bin(&points, Binning::Mean), bin(&points, Binning::Max));
        assert_eq!((mean.len(), max.len()), (POINTS_MAX, POINTS_MAX));
        let top = |points: &[(f64, f64)]| points.iter().map(|point| point.1).fold(0.0, f64::max);
        assert_eq!((top(&mean), top(&max)), (1.0 + 8.0 / 25.0, 9.0));
    }

    #[test]
    fn nulls_and_other_stages_are_gaps() {
        let records = [
            record(json!({"stage": "sft", "step": 1, "loss": 2.0})),
            record(json!({"stage": "rl", "step": 2, "loss": 7.0})),
            record(json!({"stage": "sft", "step": 2, "loss": null})),
            record(json!({"stage": "sft", "step": "x", "loss": 5.0})),
            record(json!({"stage": "sft", "step": 3, "loss": "high"})),
            record(json!({"loss": 5.0})),
        ];
        let found = points("sft", &series("loss", "loss"), &records);
        assert_eq!(found.iter().map(|point| point.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert_eq!(found.iter().map(|point| point.1.is_finite()).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_chart_shows_the_series_that_have_values_and_is_left_out_without_any() {
        let draw_with = |lines: &[serde_json::Value], config: &str| {
            let config = RunConfig::parse(config);
            let records: Vec<Record> = lines.iter().cloned().map(record).collect();
            figure(&STAGE, &CHART, &records, &config, |key| (key == "accuracy").then(|| ("SFT".to_owned(), 0.5)))
                .unwrap()
        };
        let line = [json!({"stage": "sft", "step": 1, "loss": 0.25, "norm": null})];
        let draw = |lines: &[serde_json::Value]| draw_with(lines, "half = 0.5");
        let html = draw(&line).unwrap();
        assert!(draw_with(&line, "chart = \"off\"").is_none(), "the settings make it void");
        assert!(!draw_with(&line, "").unwrap().contains("half"));
        check_balanced(&html).unwrap();
        for text in ["Loss &amp; norm", "nats", "<b>0.250</b>", "SFT 50.0 %", "half", "Healthy: falls."] {
            assert!(html.contains(text), "{text} in {html}");
        }
        assert!(!html.contains("</i>norm"), "a series without a value has no entry in the legend");
        assert!(draw(&[json!({"stage": "rl", "step": 1, "loss": 0.25})]).is_none());
        assert!(draw(&[]).is_none());
    }
}
