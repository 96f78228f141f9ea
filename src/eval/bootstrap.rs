//! Intervals of figures that are no means over rows, by drawing the rows again.

use crate::random::Stream;

/// How often rows are drawn again: enough for an end of the interval to move by a few hundredths of its width with other draws.
const RESAMPLES: usize = 2000;
/// The draws have a seed of their own: a table says the same whoever prints it.
const SEED: u64 = 0x626f_6f74;

/// The 95 % interval of a statistic: its 2.5 and 97.5 % quantiles over resamples (Efron's percentile method).
///
/// `sizes`: how many units (prompts, with all their rows) were drawn in each stratum. A resample draws as many of each again,
/// with replacement; `statistic` gets their numbers by stratum. `None` where no stratum has two units.
pub fn interval(sizes: &[usize], statistic: impl Fn(&[Vec<usize>]) -> f64) -> Option<[f64; 2]> {
    if sizes.iter().all(|size| *size < 2) {
        return None;
    }
    let mut drawn: Vec<Vec<usize>> = sizes.iter().map(|size| vec![0; *size]).collect();
    let mut found: Vec<f64> = (0..RESAMPLES as u64)
        .map(|resample| {
            for (stratum, units) in drawn.iter_mut().enumerate() {
                draw(Stream::new(SEED).fold(resample).fold(stratum as u64), units);
            }
            statistic(&drawn)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    Some([0.025, 0.975].map(|share| quantile(&found, share)))
}

/// Numbers below their own count, with replacement.
fn draw(stream: Stream, units: &mut [usize]) {
    let size = units.len() as u64;
    for (position, four) in (0..).zip(units.chunks_mut(4)) {
        let words = stream.block(position, 0);
        four.iter_mut().zip(words).for_each(|(unit, word)| *unit = ((u64::from(word) * size) >> 32) as usize);
    }
}

/// A quantile of sorted values, with linear interpolation between two of them (numpy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (at - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.quantile([0, 1, 4, 9, 16], [0.025, 0.975]).
    #[test]
    fn quantiles_are_numpys() {
        let values = [0.0, 1.0, 4.0, 9.0, 16.0];
        assert!((quantile(&values, 0.025) - 0.1).abs() < 1e-12);
        assert!((quantile(&values, 0.975) - 15.3).abs() < 1e-12);
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
    }

    /// Of a mean, the interval is nearly the normal one with n degrees of freedom; two strata vary independently.
    #[test]
    fn the_interval_of_a_mean_is_its_normal_one() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i % 4 == 0))).collect();
        let mean = |units: &[usize]| units.iter().map(|unit| values[*unit]).sum::<f64>() / units.len() as f64;
        let [low, high] = interval(&[200], |drawn| mean(&drawn[0])).unwrap();
        let half = 1.959_963_984_540_054 * (0.25_f64 * 0.75 / 200.0).sqrt();
        assert!((low - (0.25 - half)).abs() < 0.006 && (high - (0.25 + half)).abs() < 0.006, "{low} {high} {half}");
        let [low, high] = interval(&[200, 200], |drawn| mean(&drawn[0]) - mean(&drawn[1])).unwrap();
        let half = half * 2.0_f64.sqrt();
        assert!((low + half).abs() < 0.009 && (high - half).abs() < 0.009, "{low} {high} {half}");
        assert_eq!(interval(&[1, 0], |_| 0.0), None);
        assert_eq!(interval(&[2], |_| 0.5), Some([0.5, 0.5]));
    }
}
