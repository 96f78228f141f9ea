//! The curves of the report: a table of charts, and how records become points.
//!
//! To add a chart, add a row to [`CHARTS`] or [`MORE_CHARTS`]: a title, the unit of its axis, one sentence that says what healthy looks
//! like, and the keys of `metrics.jsonl` it draws. A chart none of whose keys occur is left out of the page.

use super::chart::{Chart, ChartError, Curve, Guide, Kind, SERIES, Span};
use super::html::escape;
use crate::log::metrics::Record;
use crate::log::progress::short;

/// More steps than this are averaged into bins before they are drawn, which bounds the size of the page.
const POINTS_MAX: usize = 400;

/// One row of the table of charts.
pub struct ChartSpec {
    pub title: &'static str,
    /// Description of the value axis.
    pub unit: &'static str,
    pub kind: Kind,
    pub span: Span,
    /// What is drawn, and what healthy looks like.
    pub caption: &'static str,
    pub series: &'static [Series],
    /// Thresholds worth a line.
    pub guides: &'static [(f64, &'static str)],
    /// Key of the untrained model's result in `summary.json`, drawn as a line to compare with.
    pub untrained: Option<&'static str>,
}

/// One curve: the values of `key` in the lines of `stage`.
pub struct Series {
    pub stage: &'static str,
    pub key: &'static str,
    pub label: &'static str,
    pub thin: Thin,
}

/// What stands for a bin of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thin {
    Mean,
    /// For values whose worst case matters.
    Max,
    /// For values measured at some steps only: steps without one are left out instead of breaking the line.
    Sparse,
}

const fn series(stage: &'static str, key: &'static str, label: &'static str) -> Series {
    Series { stage, key, label, thin: Thin::Mean }
}

const fn worst(stage: &'static str, key: &'static str, label: &'static str) -> Series {
    Series { stage, key, label, thin: Thin::Max }
}

const fn sparse(stage: &'static str, key: &'static str, label: &'static str) -> Series {
    Series { stage, key, label, thin: Thin::Sparse }
}

const fn lines(
    title: &'static str,
    unit: &'static str,
    span: Span,
    caption: &'static str,
    series: &'static [Series],
) -> ChartSpec {
    ChartSpec { title, unit, kind: Kind::Lines, span, caption, series, guides: &[], untrained: None }
}

const fn shares(
    title: &'static str,
    unit: &'static str,
    caption: &'static str,
    series: &'static [Series],
) -> ChartSpec {
    ChartSpec { title, unit, kind: Kind::Stacked, span: Span::Unit, caption, series, guides: &[], untrained: None }
}

/// The charts that tell how a run goes, in the order of the page.
pub const CHARTS: &[ChartSpec] = &[
    lines(
        "SFT loss",
        "nats per token",
        Span::Data,
        "Healthy: falls fast, then flattens. Held-out loss that rises while training loss falls means overfitting: stop earlier.",
        &[series("sft", "loss", "training"), sparse("sft", "held_out_loss", "held out")],
    ),
    lines(
        "RL reward",
        "reward per rollout",
        Span::FromZero,
        "PAR plus format penalty, averaged over rollouts. Healthy: climbs slowly, the penalty approaching 0 first.",
        &[
            series("rl", "reward_mean", "reward"),
            series("rl", "par_mean", "PAR"),
            series("rl", "penalty_mean", "format penalty"),
        ],
    ),
    ChartSpec {
        guides: &[(0.5, "failure sign below 0.5"), (1.0, "want above 1")],
        ..lines(
            "Score margin",
            "points (chosen − rejected)",
            Span::FromZero,
            "Mean score of chosen minus mean score of rejected responses. Healthy: above 1 and growing; below 0.5 on clear pairs the judge cannot tell them apart.",
            &[series("rl", "margin_mean", "margin")],
        )
    },
    lines(
        "Scores",
        "points",
        Span::Data,
        "Healthy: the two curves drift apart. If both climb together the judge is only getting generous.",
        &[series("rl", "score_chosen_mean", "chosen"), series("rl", "score_rejected_mean", "rejected")],
    ),
    ChartSpec {
        untrained: Some("accuracy"),
        ..lines(
            "Accuracy during RL",
            "share of pairs",
            Span::Unit,
            "Share of pairs whose chosen response scores higher. Healthy: above the untrained line and rising on held-out pairs too.",
            &[series("rl", "pair_accuracy", "training pairs"), sparse("eval", "accuracy", "held-out pairs")],
        )
    },
    shares(
        "Verdicts",
        "share of rollouts",
        "How judgements ended. Healthy: the lowest band (valid) fills the chart. Malformed answers growing during RL are a failure sign.",
        &[
            series("rl", "verdict_valid", "valid"),
            series("rl", "verdict_malformed", "malformed"),
            series("rl", "verdict_out_of_range", "out of range"),
            series("rl", "verdict_truncated", "truncated"),
            series("rl", "verdict_missing", "missing"),
            series("rl", "verdict_unavailable", "unavailable"),
        ],
    ),
    shares(
        "Tiers of PAR",
        "share of rollouts",
        "Factor f a rollout earned: none (wrong side), 1.2 (margin up to 2), 1.4 (above 2). Healthy: a mixture; one band everywhere is all-or-nothing PAR, which teaches nothing.",
        &[series("rl", "tier_none", "none"), series("rl", "tier_low", "f = 1.2"), series("rl", "tier_high", "f = 1.4")],
    ),
    lines(
        "Dead groups",
        "share of groups",
        Span::Unit,
        "Groups whose rollouts all earned the same reward and so give no gradient. Healthy: below a half on both sides.",
        &[series("rl", "dead_groups_chosen", "chosen"), series("rl", "dead_groups_rejected", "rejected")],
    ),
    lines(
        "Entropy",
        "nats per token",
        Span::FromZero,
        "Uncertainty of the judge about its next token. Healthy: falls gently; near 0 all rollouts are the same text, a rise means it is losing its language.",
        &[series("rl", "entropy_mean", "entropy")],
    ),
    lines(
        "KL to the reference",
        "nats per token",
        Span::FromZero,
        "Distance from the model RL started with. Healthy: grows slowly and stays small; a jump means the learning rate is too high.",
        &[series("rl", "kl_mean", "KL")],
    ),
    lines(
        "Judgement length",
        "tokens",
        Span::FromZero,
        "Healthy: steady. Growth towards the limit ends in truncated verdicts; failed ones much longer than valid ones are rambling.",
        &[
            series("rl", "length_mean", "all"),
            series("rl", "length_valid_mean", "valid"),
            series("rl", "length_failed_mean", "failed"),
        ],
    ),
    lines(
        "Clipped and truncated",
        "share",
        Span::FromZero,
        "Tokens whose probability ratio was clipped, and rollouts cut at the length limit. Healthy: both a few percent at most.",
        &[series("rl", "clip_share", "clipped tokens"), series("rl", "truncated_share", "truncated rollouts")],
    ),
    lines(
        "Rollout–training mismatch",
        "nats, largest of the step",
        Span::FromZero,
        "Largest difference between a token's log-probability while decoding and in training. Healthy: exactly 0 on the CPU, small and flat elsewhere.",
        &[worst("rl", "mismatch_max", "mismatch")],
    ),
];

/// Charts for the second look, folded on the page. The two stages count their own steps, so they never share a chart.
pub const MORE_CHARTS: &[ChartSpec] = &[
    lines(
        "SFT gradient norm",
        "norm before clipping",
        Span::FromZero,
        GRADIENT_NORM,
        &[worst("sft", "grad_norm", "SFT")],
    ),
    lines("RL gradient norm", "norm before clipping", Span::FromZero, GRADIENT_NORM, &[worst("rl", "grad_norm", "RL")]),
    lines("SFT learning rate", "rate", Span::FromZero, LEARNING_RATE, &[series("sft", "learning_rate", "SFT")]),
    lines("RL learning rate", "rate", Span::FromZero, LEARNING_RATE, &[series("rl", "learning_rate", "RL")]),
    lines("SFT speed", "tokens per second", Span::FromZero, SPEED, &[series("sft", "tokens_per_s", "training")]),
    lines(
        "RL speed",
        "tokens per second",
        Span::FromZero,
        SPEED,
        &[series("rl", "rollout_tokens_per_s", "rollouts"), series("rl", "train_tokens_per_s", "training")],
    ),
    lines("Time of an SFT step", "milliseconds", Span::FromZero, STEP_TIME, &[series("sft", "step_time_ms", "step")]),
    lines("Time of an RL step", "milliseconds", Span::FromZero, STEP_TIME, &[series("rl", "step_time_ms", "step")]),
    lines(
        "RL loss",
        "loss",
        Span::Data,
        "The surrogate of GRPO hovers around 0 and says little by itself; read reward and margin. Healthy: no drift, no spikes.",
        &[series("rl", "loss", "loss")],
    ),
];

const GRADIENT_NORM: &str =
    "Healthy: no lasting growth. Single spikes are clipped and harmless; a climb comes before divergence.";
const LEARNING_RATE: &str = "Healthy: the schedule you asked for.";
const SPEED: &str =
    "Healthy: flat. A slow fall means texts grow longer; a sudden one, that something else uses the machine.";
const STEP_TIME: &str = "Healthy: flat, or following the length of the texts.";

/// A curve of the table with its points.
type Found<'a> = (&'a Series, Vec<(f64, f64)>);

/// A chart as a `<figure>`, or nothing if no record has any of its keys. `untrained` looks a result of the untrained
/// model up.
pub fn figure(
    spec: &ChartSpec,
    records: &[Record],
    untrained: impl Fn(&str) -> Option<f64>,
) -> Result<Option<String>, ChartError> {
    let found: Vec<Found> =
        spec.series.iter().map(|series| (series, points(series, records))).filter(|(_, points)| any(points)).collect();
    if found.is_empty() {
        return Ok(None);
    }
    let mut guides: Vec<Guide> =
        spec.guides.iter().map(|(at, label)| Guide { at: *at, label: (*label).to_owned() }).collect();
    if let Some(at) = spec.untrained.and_then(untrained) {
        guides.push(Guide { at, label: format!("untrained {:.1} %", at * 100.0) });
    }
    let curves = found.iter().map(|(_, points)| Curve { points: points.clone() }).collect();
    let chart = Chart { kind: spec.kind, span: spec.span, unit: spec.unit, curves, guides };
    let svg = chart.svg()?;
    let (title, caption, legend) = (escape(spec.title), escape(spec.caption), legend(&found));
    Ok(Some(format!(
        "<figure>\n<h3>{title}</h3>\n{legend}<div role=\"img\" aria-label=\"{title}\">{svg}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )))
}

/// Names of the curves with their last values.
fn legend(found: &[Found]) -> String {
    let entry = |(index, (series, points)): (usize, &Found)| {
        let last =
            points.iter().rev().map(|point| point.1).find(|value| value.is_finite()).map_or_else(String::new, short);
        format!("<li><i class=\"s{}\"></i>{} <b>{last}</b></li>", index % SERIES.len(), escape(series.label))
    };
    format!("<ul class=\"legend\">{}</ul>\n", found.iter().enumerate().map(entry).collect::<String>())
}

fn any(points: &[(f64, f64)]) -> bool {
    points.iter().any(|point| point.1.is_finite())
}

/// The points of one curve, thinned; a step whose value is null or not a number is a gap.
fn points(series: &Series, records: &[Record]) -> Vec<(f64, f64)> {
    let of_stage =
        records.iter().filter(|record| record.get("stage").and_then(|stage| stage.as_str()) == Some(series.stage));
    let point = |record: &Record| {
        let step = record.get("step")?.as_f64()?;
        Some((step, record.get(series.key).and_then(|value| value.as_f64()).unwrap_or(f64::NAN)))
    };
    let kept = of_stage.filter_map(point).filter(|point| series.thin != Thin::Sparse || point.1.is_finite());
    thin(&kept.collect::<Vec<_>>(), series.thin)
}

/// At most [`POINTS_MAX`] points: bins of equal numbers of steps, each at its middle.
fn thin(points: &[(f64, f64)], how: Thin) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS_MAX).max(1);
    let bin = |bin: &[(f64, f64)]| {
        let x = bin.iter().map(|point| point.0).sum::<f64>() / bin.len() as f64;
        let finite: Vec<f64> = bin.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        let y = match how {
            Thin::Mean | Thin::Sparse => finite.iter().sum::<f64>() / finite.len() as f64,
            Thin::Max => finite.iter().copied().fold(f64::NAN, f64::max),
        };
        (x, y)
    };
    if size == 1 { points.to_vec() } else { points.chunks(size).map(bin).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;
    use serde_json::json;

    fn record(value: serde_json::Value) -> Record {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn long_runs_are_thinned_and_spikes_survive_where_they_matter() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        points[5_000].1 = 9.0;
        points[7].1 = f64::NAN;
        let (mean, max) = (thin(&points, Thin::Mean), thin(&points, Thin::Max));
        assert_eq!((mean.len(), max.len()), (POINTS_MAX, POINTS_MAX));
        let top = |points: &[(f64, f64)]| points.iter().map(|point| point.1).fold(0.0, f64::max);
        assert_eq!((top(&mean), top(&max)), (1.0 + 8.0 / 25.0, 9.0));
    }

    #[test]
    fn nulls_and_strangers_are_gaps() {
        let records = [
            record(json!({"stage": "sft", "step": 1, "loss": 2.0})),
            record(json!({"stage": "rl", "step": 2, "loss": 7.0})),
            record(json!({"stage": "sft", "step": 2, "loss": null})),
            record(json!({"stage": "sft", "step": "x", "loss": 5.0})),
            record(json!({"stage": "sft", "step": 3, "loss": "high"})),
            record(json!({"loss": 5.0})),
        ];
        let found = points(&series("sft", "loss", "loss"), &records);
        assert_eq!(found.iter().map(|point| point.0).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert_eq!(found.iter().map(|point| point.1.is_finite()).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn every_chart_is_drawn_from_its_keys_and_left_out_without_them() {
        for spec in CHARTS.iter().chain(MORE_CHARTS) {
            let line =
                |series: &Series, step: u64| record(json!({"stage": series.stage, "step": step, series.key: 0.25}));
            let records: Vec<Record> =
                spec.series.iter().flat_map(|series| [line(series, 1), line(series, 2)]).collect();
            let html =
                figure(spec, &records, |_| Some(0.5)).unwrap().unwrap_or_else(|| panic!("{}: nothing", spec.title));
            check_balanced(&html).unwrap();
            assert!(html.contains(spec.unit) && html.contains("<b>0.250</b>"), "{}", spec.title);
            assert_eq!(html.contains("untrained 50.0 %"), spec.untrained.is_some());
            assert!(figure(spec, &[], |_| None).unwrap().is_none());
        }
    }
}
