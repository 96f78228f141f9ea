//! Intervals over pairs: how far a share, or the difference of two shares on the same pairs, may be off by chance.
//!
//! The pairs are what was drawn at random. Several judgements of one pair are not further pairs, so every pair counts once,
//! with the mean of its own values.

use std::collections::BTreeMap;

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
    wilson(mean, size)
}

/// One row of a weighted mean over strata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// In 0..=1.
    pub value: f64,
    /// Its share of the mean; the shares of all rows add up to 1.
    pub weight: f64,
    /// Rows of a stratum (a subset) have a mean of their own.
    pub stratum: usize,
    /// Rows of one prompt: they were drawn together.
    pub cluster: u64,
}

/// The weighted mean of rows whose strata are fixed and whose clusters were drawn at random.
///
/// The variance is that of the clusters' weighted residuals (the sandwich of Liang and Zeger, with the small-sample factor of
/// Stata and statsmodels: clusters ÷ (clusters − 1) · (rows − 1) ÷ (rows − strata)). The interval is Wilson's with the number of
/// independent rows that would have the same variance.
pub fn clustered(rows: &[Drawn]) -> Estimate {
    if rows.is_empty() {
        return Estimate { mean: 0.0, low: 0.0, high: 1.0 };
    }
    let mean: f64 = rows.iter().map(|row| row.weight * row.value).sum();
    let (variance, clusters) = clustered_variance(rows);
    let spread = mean * (1.0 - mean);
    let size = match variance {
        None => return Estimate { mean, low: 0.0, high: 1.0 },
        Some(variance) if variance > 0.0 && spread > 0.0 => spread / variance,
        Some(_) => clusters as f64,
    };
    wilson(mean, size)
}

/// The variance of [`clustered`]'s mean (`None`: there are too few rows to know) and the number of clusters.
fn clustered_variance(rows: &[Drawn]) -> (Option<f64>, usize) {
    let mut strata: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for row in rows {
        let (sum, count) = strata.entry(row.stratum).or_default();
        *sum += row.value;
        *count += 1.0;
    }
    let mut residuals: BTreeMap<u64, f64> = BTreeMap::new();
    for row in rows {
        let (sum, count) = strata[&row.stratum];
        *residuals.entry(row.cluster).or_default() += row.weight * (row.value - sum / count);
    }
    let clusters = residuals.len();
    if clusters < 2 || rows.len() <= strata.len() {
        return (None, clusters);
    }
    let squares: f64 = residuals.values().map(|residual| residual * residual).sum();
    let small_sample =
        clusters as f64 / (clusters - 1) as f64 * (rows.len() - 1) as f64 / (rows.len() - strata.len()) as f64;
    (Some(squares * small_sample), clusters)
}

/// Wilson's interval of a share of `size` rows.
fn wilson(mean: f64, size: f64) -> Estimate {
    let shrink = 1.0 + Z * Z / size;
    let middle = (mean + Z * Z / (2.0 * size)) / shrink;
    let half = Z / shrink * (mean * (1.0 - mean) / size + Z * Z / (4.0 * size * size)).sqrt();
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

    /// OLS on dummies of the strata with cov_type="cluster" of statsmodels; Wilson's interval of as many rows as have that
    /// variance.
    #[test]
    fn weighted_means_of_strata_have_the_variance_of_their_clusters() {
        let values = [1.0, 0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.25];
        let strata = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2];
        let clusters = [1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 7];
        let shares = [0.5 / 5.0, 0.3 / 4.0, 0.2 / 3.0];
        let drawn = |weight: &dyn Fn(usize) -> f64, stratum: &dyn Fn(usize) -> usize| -> Vec<Drawn> {
            let row =
                |i: usize| Drawn { value: values[i], weight: weight(i), stratum: stratum(i), cluster: clusters[i] };
            (0..12).map(row).collect()
        };
        let rows = drawn(&|i| shares[strata[i]], &|i| strata[i]);
        assert!((clustered_variance(&rows).0.unwrap() - 0.010_803_140_309_621_794).abs() < 1e-12);
        close(clustered(&rows), [0.658_333_333_333_333_3, 0.444_874_929_235_171_25, 0.822_466_996_309_293_7]);
        let rows = drawn(&|_| 1.0 / 12.0, &|_| 0);
        assert!((clustered_variance(&rows).0.unwrap() - 0.014_288_470_017_636_702).abs() < 1e-12);
        close(clustered(&rows), [0.645_833_333_333_333_6, 0.405_330_923_966_854_9, 0.829_890_154_160_601_1]);
        // All right: as many rows as there are clusters; one cluster: nothing is known.
        let right = |clusters: u64| -> Vec<Drawn> {
            (0..10).map(|i| Drawn { value: 1.0, weight: 0.1, stratum: 0, cluster: i % clusters }).collect()
        };
        close(clustered(&right(10)), [1.0, 0.722_467_200_137_110_6, 1.0]);
        assert_eq!(clustered(&right(1)).low, 0.0);
    }
}
