//! Lengths of millions of texts in little memory.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Counts of lengths. Those above a thousand are kept to within one percent.
#[derive(Default)]
pub struct Histogram {
    counts: BTreeMap<usize, u64>,
    number: u64,
    sum: u128,
    max: usize,
}

impl Histogram {
    /// Counts a length.
    pub fn add(&mut self, length: usize) {
        *self.counts.entry(rounded(length)).or_default() += 1;
        self.number += 1;
        self.sum += length as u128;
        self.max = self.max.max(length);
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.number.max(1) as f64
    }

    /// The smallest length that `percent` of all do not exceed.
    fn percentile(&self, percent: u64) -> usize {
        let wanted = (self.number * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        found.map_or(0, |(length, _)| *length)
    }

    /// Mean, percentiles and maximum, as columns of text.
    pub fn columns(&self) -> Vec<String> {
        let percentiles = PERCENTILES.map(|percent| self.percentile(percent).to_string());
        let mean = format!("{:.1}", self.mean());
        [mean].into_iter().chain(percentiles).chain([self.max.to_string()]).collect()
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let mut json = json!({"mean": self.mean(), "max": self.max});
        for percent in PERCENTILES {
            json[format!("p{percent}")] = self.percentile(percent).into();
        }
        json
    }
}

const PERCENTILES: [u64; 4] = [50, 90, 95, 99];

/// The names of [`Histogram::columns`].
pub const COLUMNS: [&str; 6] = ["mean", "p50", "p90", "p95", "p99", "max"];

/// A length with its seven highest bits.
fn rounded(length: usize) -> usize {
    let spare = (usize::BITS - length.leading_zeros()).saturating_sub(if length < 1024 { 10 } else { 7 });
    length >> spare << spare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_lengths_and_within_one_percent() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|length| histogram.add(length));
        assert_eq!(histogram.columns(), ["500.5", "500", "900", "950", "990", "1000"]);
        (0..1000).for_each(|index| histogram.add(1_000_000 + index));
        assert!((990_000..=1_000_999).contains(&histogram.percentile(90)));
        assert!(histogram.counts.len() < 1100);
        assert_eq!(Histogram::default().columns(), ["0.0", "0", "0", "0", "0", "0"]);
    }
}
