//! Two judges on the same rows: is one better, and could these rows have shown it?

use std::collections::BTreeMap;

use serde::Serialize;

/// Standard normal deviates: two-sided 5 %, and a power of 80 %.
const Z_TEST: f64 = 1.959_963_984_540_054;
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// Rows on which two judges differ, where each is right or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Discordant {
    /// Rows on which the first judge alone is right.
    pub first: u64,
    /// Rows on which the second judge alone is right.
    pub second: u64,
}

/// McNemar's test: on the rows where two judges differ, either should be right as often as the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct McNemar {
    /// The exact binomial test. It is conservative: it finds too little.
    pub exact: f64,
    /// The same with half the probability of what was observed, which keeps 5 % on average (Fagerland, Lydersen and Laake 2013).
    pub mid_p: f64,
}

/// Both p values, two-sided. Without discordant rows they are 1.
pub fn mcnemar(rows: Discordant) -> McNemar {
    let (few, all) = (rows.first.min(rows.second), rows.first + rows.second);
    if rows.first == rows.second {
        // The sum below would count the middle twice.
        let mid_p = if all == 0 { 1.0 } else { 1.0 - halves(all, few) };
        return McNemar { exact: 1.0, mid_p };
    }
    let tail: f64 = (0..=few).map(|count| halves(all, count)).sum();
    McNemar { exact: (2.0 * tail).min(1.0), mid_p: (2.0 * tail - halves(all, few)).min(1.0) }
}

/// The probability of `count` heads among `all` fair coins.
fn halves(all: u64, count: u64) -> f64 {
    let choose: f64 = (1..=count).map(|i| ((all - count + i) as f64 / i as f64).ln()).sum();
    (choose - all as f64 * std::f64::consts::LN_2).exp()
}

/// A difference of means on the same rows, with its 95 % interval and two-sided p value. Rows of one prompt are one draw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub p: f64,
}

/// The mean of `second` − `first`, row by row, with the prompt of each row. `None`: fewer than two prompts.
pub fn difference(first: &[f64], second: &[f64], prompts: &[u64]) -> Option<Difference> {
    assert!(first.len() == second.len() && first.len() == prompts.len(), "differences are of the same rows");
    let changes: Vec<f64> = second.iter().zip(first).map(|(second, first)| second - first).collect();
    let count = changes.len() as f64;
    let mean = changes.iter().sum::<f64>() / count;
    let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
    for (change, prompt) in changes.iter().zip(prompts) {
        *sums.entry(*prompt).or_default() += change - mean;
    }
    let clusters = sums.len() as f64;
    if sums.len() < 2 {
        return None;
    }
    let squares: f64 = sums.values().map(|sum| sum * sum).sum();
    let error = (clusters / (clusters - 1.0) * squares).sqrt() / count;
    let p = if error > 0.0 { 2.0 * normal_tail(mean.abs() / error) } else { f64::from(u8::from(mean == 0.0)) };
    Some(Difference { mean, low: mean - Z_TEST * error, high: mean + Z_TEST * error, p })
}

/// The probability that a standard normal number is above `z` ≥ 0, to 1e-14.
fn normal_tail(z: f64) -> f64 {
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

/// The smallest true difference of two judges that a test at 5 % on `rows` rows finds four times in five, if they differ on a
/// share `discordant` of the rows: (z½α + zβ)·√((d − δ²)/n) = δ, solved for δ. It is never more than `discordant`.
pub fn detectable(rows: usize, discordant: f64) -> f64 {
    let z = (Z_TEST + Z_POWER).powi(2);
    (z * discordant / (rows as f64 + z)).sqrt().min(discordant)
}

/// Benjamini and Hochberg's adjusted p values, in the order of `p`: those below 0.05 are found with at most 5 % false ones
/// among them in expectation.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let (mut adjusted, mut least) = (vec![0.0; p.len()], 1.0_f64);
    for (above, index) in order.into_iter().enumerate() {
        least = least.min(p[index] * p.len() as f64 / (p.len() - above) as f64);
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got}, expected {expected}");
    }

    /// statsmodels' mcnemar(exact=True), and 2·binom.cdf(k, n, ½) − binom.pmf(k, n, ½) of scipy.
    #[test]
    fn mcnemar_agrees_with_scipy() {
        for (first, second, exact, mid_p) in [
            (10, 25, 0.016_673_847_800_120_715, 0.011_330_984_183_587_134),
            (25, 10, 0.016_673_847_800_120_715, 0.011_330_984_183_587_134),
            (3, 3, 1.0, 0.687_5),
            (0, 0, 1.0, 1.0),
            (0, 7, 0.015_625, 0.007_812_5),
            (80, 48, 0.005_925_206_606_743_137, 0.004_649_695_813_417_666),
            (400, 330, 0.010_605_994_778_707_762, 0.009_577_201_018_983_78),
        ] {
            let got = mcnemar(Discordant { first, second });
            near(got.exact, exact);
            near(got.mid_p, mid_p);
        }
    }

    /// statsmodels' multipletests(method="fdr_bh").
    #[test]
    fn adjusted_p_values_agree_with_statsmodels() {
        let adjusted = benjamini_hochberg(&[0.001, 0.2, 0.04, 0.03, 0.04, 0.9, 0.011]);
        let expected = [0.007, 0.233_333_333_333_333_36, 0.056, 0.056, 0.056, 0.9, 0.038_5];
        adjusted.iter().zip(expected).for_each(|(got, expected)| near(*got, expected));
        assert!(benjamini_hochberg(&[]).is_empty());
    }

    /// OLS(b − a, 1).fit(cov_type="cluster") of statsmodels, and scipy.optimize.brentq of the formula.
    #[test]
    fn differences_and_what_can_be_found_agree_with_statsmodels() {
        let a = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0];
        let b = [1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0, 0.25, 1.0, 1.0];
        let got = difference(&a, &b, &[1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 7]).unwrap();
        near(got.mean, 0.229_166_666_666_666_69);
        near(got.low, -0.067_341_317_997_937_8);
        near(got.high, 0.525_674_651_331_271_1);
        near(got.p, 0.129_816_125_095_011_34);
        assert_eq!(difference(&a[..2], &b[..2], &[1, 1]), None);
        assert_eq!(difference(&a, &a, &[1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 7]).unwrap().p, 1.0);
        for (rows, discordant, expected) in [
            (640, 0.2, 0.049_224_575_441_671_52),
            (100, 0.3, 0.147_759_919_392_679_16),
            (2985, 0.12, 0.017_739_936_715_043_675),
        ] {
            near(detectable(rows, discordant), expected);
        }
        assert_eq!(detectable(1, 0.2), 0.2);
    }

    /// Share of 1,000 drawn tables of 640 pairs, a fifth of them discordant, in which the mid-p test finds something.
    fn found(difference: f64) -> f64 {
        let stream = Stream::new(7).fold((difference * 1000.0) as u64);
        let table = |table: u64| {
            let mut rows = Discordant { first: 0, second: 0 };
            for pair in 0..640 {
                let drawn = f64::from(stream.fold(table).uniform(pair));
                rows.second += u64::from(drawn < 0.1 + difference / 2.0);
                rows.first += u64::from(drawn > 0.9 + difference / 2.0);
            }
            mcnemar(rows).mid_p < 0.05
        };
        (0..1000).filter(|index| table(*index)).count() as f64 / 1000.0
    }

    #[test]
    fn five_points_are_found_four_times_in_five_and_nothing_is_found_once_in_twenty() {
        let (power, size) = (found(0.05), found(0.0));
        assert!((power - 0.81).abs() <= 0.04, "power {power}");
        assert!((size - 0.05).abs() <= 0.02, "size {size}");
    }
}
