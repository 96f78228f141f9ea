//! The output: a table, and with `--json` a line for each kernel.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use patarm::ops::Cost;
use serde::Serialize;

use super::predictions::{Ceilings, OFF, Predictions, Range, is_off};

/// Of one call, over the timed batches; all 0 on the emulator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub median_s: f64,
    pub min_s: f64,
    pub max_s: f64,
}

/// One line of the JSON file. Speeds are null on the emulator, and so are predictions that do not exist.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    op: &'a str,
    shape: &'a str,
    sizes: &'a str,
    emulated: bool,
    bytes: u64,
    flops: u64,
    us_median: Option<f64>,
    us_min: Option<f64>,
    us_max: Option<f64>,
    gb_per_s: Option<f64>,
    tflop_per_s: Option<f64>,
    percent_of_copy: Option<f64>,
    percent_of_matmul: Option<f64>,
    /// The larger of bytes ÷ copy ceiling and flops ÷ matmul ceiling, both as measured.
    floor_us: Option<f64>,
    percent_of_floor: Option<f64>,
    predicted_us_low: Option<f64>,
    predicted_us_high: Option<f64>,
    /// 1 inside the predicted range; outside, the measured time over its nearer bound.
    ratio_to_prediction: Option<f64>,
    /// The ratio is beyond 1.5 in either direction.
    off: Option<bool>,
    error: Option<&'a str>,
}

pub struct Report {
    predictions: Option<Predictions>,
    json: Option<File>,
    /// `None` on the emulator.
    ceilings: Option<Ceilings>,
    /// Rows that missed their prediction, and the ratio.
    off: Vec<(String, f64)>,
    predicted: usize,
    rows: usize,
    errors: usize,
}

impl Report {
    pub fn new(predictions: Option<Predictions>, json: Option<&Path>) -> std::io::Result<Self> {
        let json = json.map(File::create).transpose()?;
        Ok(Self { predictions, json, ceilings: None, off: Vec::new(), predicted: 0, rows: 0, errors: 0 })
    }

    /// The header of the table.
    pub fn begin(&mut self, device: &str, ceilings: Option<Ceilings>) {
        self.ceilings = ceilings;
        let Some(measured) = ceilings else {
            println!("{device}: emulated: counts, not speed\n");
            println!("{:36} {:6} {:34} {:>14} {:>16}", "op", "shape", "sizes", "bytes", "flops");
            return;
        };
        println!("{device}");
        let expected = self.predictions.as_ref().map(Predictions::ceilings);
        let copy = (measured.copy_bytes_per_s, expected.map(|e| e.copy_bytes_per_s));
        let matmul = (measured.matmul_flops_per_s, expected.map(|e| e.matmul_flops_per_s));
        self.ceiling("copy ceiling", "read and write", copy, true);
        self.ceiling("matmul ceiling", "bf16, random data", matmul, false);
        println!(
            "\n{:36} {:6} {:34} {:>9} {:>19} {:>8} {:>8} {:>6} {:>6} {:>6} {:>17} {:>6}",
            "op",
            "shape",
            "sizes",
            "µs",
            "min–max",
            "GB/s",
            "TFLOP/s",
            "% copy",
            "% mm",
            "% flr",
            "predicted µs",
            "ratio"
        );
    }

    /// A measured ceiling against the card's. Both are rates, so the ratio is inverted to be one of times.
    fn ceiling(&mut self, op: &str, sizes: &str, (rate, expected): (f64, Option<f64>), bytes: bool) {
        let ratio = expected.map(|expected| expected / rate);
        let against = expected.map_or(String::new(), |e| format!(", predicted {:.2}", 1e-12 * e));
        println!("{op} ({sizes}): {:.2} {}{against}", 1e-12 * rate, if bytes { "TB/s" } else { "TFLOP/s" });
        self.compare(op, ratio);
        let (gb_per_s, tflop_per_s) = if bytes { (Some(1e-9 * rate), None) } else { (None, Some(1e-12 * rate)) };
        let off = ratio.map(is_off);
        let line = Line { op, sizes, gb_per_s, tflop_per_s, ratio_to_prediction: ratio, off, ..Line::default() };
        self.write(&line);
    }

    fn compare(&mut self, what: &str, ratio: Option<f64>) {
        let Some(ratio) = ratio else { return };
        self.predicted += 1;
        if is_off(ratio) {
            self.off.push((what.into(), ratio));
        }
    }

    pub fn row(&mut self, op: &str, shape: &str, sizes: &str, cost: Cost, times: Times) {
        self.rows += 1;
        let Cost { bytes, flops } = cost;
        let line = Line { op, shape, sizes, bytes, flops, ..Line::default() };
        let Some(ceilings) = self.ceilings else {
            println!("{op:36} {shape:6} {sizes:34} {bytes:>14} {flops:>16}");
            return self.write(&Line { emulated: true, ..line });
        };
        let (by_bytes, by_flops) =
            (bytes as f64 / ceilings.copy_bytes_per_s, flops as f64 / ceilings.matmul_flops_per_s);
        let Times { median_s, min_s, max_s } = times;
        let (gb_per_s, tflop_per_s) = (1e-9 * bytes as f64 / median_s, 1e-12 * flops as f64 / median_s);
        let [of_copy, of_matmul, of_floor] =
            [by_bytes, by_flops, by_bytes.max(by_flops)].map(|floor| 100.0 * floor / median_s);
        let predicted = self.predictions.as_ref().and_then(|p| p.of(op, cost, ceilings));
        let ratio = predicted.map(|range| range.ratio(median_s));
        let [range, against] = match (predicted, ratio) {
            (Some(Range { fastest_s, slowest_s }), Some(ratio)) => {
                [format!("{:.1}–{:.1}", 1e6 * fastest_s, 1e6 * slowest_s), format!("{ratio:.2}")]
            }
            _ => ["-".into(), "-".into()],
        };
        println!(
            "{op:36} {shape:6} {sizes:34} {:>9.1} {:>19} {gb_per_s:>8.0} {tflop_per_s:>8.1} {of_copy:>6.1} {of_matmul:>6.1} \
             {of_floor:>6.1} {range:>17} {against:>6}",
            1e6 * median_s,
            format!("{:.1}–{:.1}", 1e6 * min_s, 1e6 * max_s),
        );
        self.compare(&format!("{op} ({shape})"), ratio);
        self.write(&Line {
            us_median: Some(1e6 * median_s),
            us_min: Some(1e6 * min_s),
            us_max: Some(1e6 * max_s),
            gb_per_s: Some(gb_per_s),
            tflop_per_s: Some(tflop_per_s),
            percent_of_copy: Some(of_copy),
            percent_of_matmul: Some(of_matmul),
            floor_us: Some(1e6 * by_bytes.max(by_flops)),
            percent_of_floor: Some(of_floor),
            predicted_us_low: predicted.map(|range| 1e6 * range.fastest_s),
            predicted_us_high: predicted.map(|range| 1e6 * range.slowest_s),
            ratio_to_prediction: ratio,
            off: ratio.map(is_off),
            ..line
        });
    }

    pub fn error(&mut self, op: &str, shape: &str, error: &str) {
        self.errors += 1;
        println!("{op:36} {shape:6} ERROR: {error}");
        self.write(&Line { op, shape, emulated: self.ceilings.is_none(), error: Some(error), ..Line::default() });
    }

    /// Written immediately, so that an interrupted run keeps its rows.
    fn write(&mut self, line: &Line<'_>) {
        let Some(file) = &mut self.json else { return };
        let text = serde_json::to_string(line).expect("numbers and text");
        writeln!(file, "{text}").and_then(|()| file.flush()).expect("the file of --json takes a line");
    }

    /// The end of the table.
    pub fn end(&self, elapsed: Duration) {
        println!("\n{} rows and {} errors in {:.0} s", self.rows, self.errors, elapsed.as_secs_f64());
        if self.ceilings.is_none() {
            return;
        }
        let (off, predicted) = (self.off.len(), self.predicted);
        println!(
            "{off} of {predicted} predicted numbers are off by more than {OFF} ×{}",
            if off > 0 { ":" } else { "" }
        );
        for (what, ratio) in &self.off {
            println!("  {what}: {ratio:.2} × the predicted time");
        }
    }
}
