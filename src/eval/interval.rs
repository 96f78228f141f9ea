//! Intervals over pairs: how far a share, or the difference of two shares on the same pairs, may be off by chance.
//!
//! The pairs are what was drawn at random. Several judgements of one pair are not further pairs, so every pair counts once,
//! with the mean of its own values.

use serde::Serialize;

/// Standard normal deviate of a two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// The share of values, one in 0..=1 a pair: Wilson's interval, with the number of pairs that a yes or no each would need for
/// the same variance (Korn and Graubard's effective size, for values between 0 and 1). Without pairs it is 0 to 1.
pub fn share(values: &[f64]) -> Estimate {
    if values.is_empty() {
        return Estimate { mean: 0.0, low: 0.0, high: 1.0 };
    }
    let count = values.len() as f64;
    let (mean, variance) = moments(values);
    let spread = mean * (1.0 - mean);
    let size = if variance > 0.0 { (spread * (count - 1.0) / variance).max(count) } else { count };
    let shrink = 1.0 + Z * Z / size;
    let middle = (mean + Z * Z / (2.0 * size)) / shrink;
    let half = Z / shrink * (spread / size + Z * Z / (4.0 * size * size)).sqrt();
    Estimate { mean, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// The mean of `after` − `before` on the same pairs, in the same order, with its normal interval.
pub fn difference(after: &[f64], before: &[f64]) -> Estimate {
    assert_eq!(after.len(), before.len(), "differences are of the same pairs");
    let changes: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    if changes.is_empty() {
        return Estimate { mean: 0.0, low: -1.0, high: 1.0 };
    }
    let (mean, variance) = moments(&changes);
    let half = Z * (variance / changes.len() as f64).sqrt();
    Estimate { mean, low: mean - half, high: mean + half }
}

/// Mean, and variance with n − 1 degrees of freedom (0 of a single value).
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (count - 1.0).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(estimate: Estimate, [mean, low, high]: [f64; 3]) {
        for (got, expected) in [(estimate.mean, mean), (estimate.low, low), (estimate.high, high)] {
            assert!((got - expected).abs() < 1e-12, "{estimate:?}, expected {mean} {low} {high}");
        }
    }

    /// statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson"), and of 10 and 203 of 320.
    #[test]
    fn shares_of_yes_and_no_are_wilsons() {
        let yes = |count: usize, of: usize| share(&(0..of).map(|i| f64::from(u8::from(i < count))).collect::<Vec<_>>());
        close(yes(8, 10), [0.8, 0.490_162_471_536_641_83, 0.943_317_848_545_624_7]);
        close(yes(10, 10), [1.0, 0.722_467_200_137_110_6, 1.0]);
        close(yes(203, 320), [203.0 / 320.0, 0.580_303_505_951_510_6, 0.685_258_538_862_575]);
        close(share(&[]), [0.0, 0.0, 1.0]);
    }

    /// The same with 9.625 pairs, and statsmodels.stats.weightstats.DescrStatsW(after - before).zconfint_mean().
    #[test]
    fn values_between_narrow_an_interval_and_differences_are_paired() {
        close(
            share(&[1.0, 0.5, 0.0, 0.75, 1.0, 0.25, 1.0, 1.0]),
            [0.6875, 0.380_740_146_852_818_93, 0.887_286_885_944_654],
        );
        let (after, before) = ([1.0, 1.0, 0.5, 1.0, 0.0, 1.0], [0.0, 1.0, 0.25, 0.5, 0.5, 0.0]);
        close(difference(&after, &before), [0.375, -0.094_130_662_256_192_99, 0.844_130_662_256_193]);
        close(difference(&after, &after), [0.0, 0.0, 0.0]);
    }
}
