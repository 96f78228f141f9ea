//! The charts that a stage of training has in the report: declared beside the metrics struct whose fields they draw.

use serde::Serialize;

use super::RunConfig;
use super::signs::Sign;

/// What the report shows of the lines that one trainer writes to metrics.jsonl.
pub struct Stage {
    /// `stage` in its lines.
    pub key: &'static str,
    /// For readers.
    pub name: &'static str,
    pub charts: &'static [Chart],
    /// What tells whether the run is healthy; may be empty.
    pub signs: &'static [Sign],
    /// The keys of its lines, by [`keys_of`]: charts and signs may name no other.
    pub keys: fn() -> Vec<String>,
}

/// One chart. A chart none of whose series has a value is left out of the page.
pub struct Chart {
    pub title: &'static str,
    /// Description of the value axis.
    pub unit: &'static str,
    pub kind: Kind,
    pub range: AxisRange,
    /// What is drawn, and what healthy looks like.
    pub caption: &'static str,
    pub series: &'static [Series],
    /// Thresholds that get a line, with their labels.
    pub guides: fn(&RunConfig) -> Vec<(f64, String)>,
    /// Whether the chart says anything of a run with these settings; it is left out where it does not.
    pub applies: fn(&RunConfig) -> bool,
    /// Key of an evaluation: the model that the stage began from gets a line to compare with.
    pub before: Option<&'static str>,
    /// Folded on the page, for a second look.
    pub folded: bool,
}

/// How the series share a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every series against the axis; the steps faint, their moving average strong.
    Lines,
    /// Areas on top of each other, the first series at the bottom; moving averages if there are many steps.
    Stacked,
}

/// What the value axis must show besides the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisRange {
    /// Only the data.
    Data,
    /// The data and zero.
    FromZero,
    /// At least zero to one.
    Unit,
}

/// One curve: the values of a key.
pub struct Series {
    pub key: &'static str,
    pub label: &'static str,
    pub binning: Binning,
}

/// What stands for a bin of steps, where a run has too many steps to draw each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binning {
    Mean,
    /// For values whose worst case matters.
    Max,
}

/// A series whose bins show their mean.
pub const fn series(key: &'static str, label: &'static str) -> Series {
    Series { key, label, binning: Binning::Mean }
}

/// A series whose bins show their largest value.
pub const fn largest(key: &'static str, label: &'static str) -> Series {
    Series { key, label, binning: Binning::Max }
}

impl Chart {
    /// A chart of lines.
    pub const fn lines(
        title: &'static str,
        unit: &'static str,
        range: AxisRange,
        caption: &'static str,
        series: &'static [Series],
    ) -> Self {
        Self {
            title,
            unit,
            kind: Kind::Lines,
            range,
            caption,
            series,
            guides: |_| Vec::new(),
            applies: |_| true,
            before: None,
            folded: false,
        }
    }

    /// A chart of shares that add up to one.
    pub const fn shares(
        title: &'static str,
        unit: &'static str,
        caption: &'static str,
        series: &'static [Series],
    ) -> Self {
        Self { kind: Kind::Stacked, ..Self::lines(title, unit, AxisRange::Unit, caption, series) }
    }

    /// The chart, folded.
    pub const fn folded(self) -> Self {
        Self { folded: true, ..self }
    }
}

/// The keys that a record of this type has when it is written as JSON.
pub fn keys_of<T: Default + Serialize>() -> Vec<String> {
    match serde_json::to_value(T::default()) {
        Ok(serde_json::Value::Object(record)) => record.into_iter().map(|(key, _)| key).collect(),
        // A type that is no object has no keys.
        _ => Vec::new(),
    }
}

/// Charts that every trainer has, folded.
impl Chart {
    /// Of the gradient's norm before clipping.
    pub const fn gradient_norm(title: &'static str, series: &'static [Series]) -> Self {
        let caption = "Healthy: no lasting growth. Single spikes are harmless where clipping is on (adamw.clip_norm above 0); a \
                       climb comes before divergence.";
        Self::lines(title, "norm before clipping", AxisRange::FromZero, caption, series).folded()
    }

    /// Of the learning rate.
    pub const fn learning_rate(title: &'static str, series: &'static [Series]) -> Self {
        Self::lines(title, "rate", AxisRange::FromZero, "Healthy: the schedule that was asked for.", series).folded()
    }

    /// Of tokens per second.
    pub const fn speed(title: &'static str, series: &'static [Series]) -> Self {
        let caption = "Healthy: flat. A slow fall means that texts grow longer; a sudden one, that something else uses the \
                       machine.";
        Self::lines(title, "tokens per second", AxisRange::FromZero, caption, series).folded()
    }

    /// Of the time of a step.
    pub const fn step_time(title: &'static str, series: &'static [Series]) -> Self {
        let caption = "Healthy: flat, or following the length of the texts.";
        Self::lines(title, "milliseconds", AxisRange::FromZero, caption, series).folded()
    }
}
