//! Log-softmax of one row of logits at a temperature: the routine that the LM head and the sampler share.
//!
//! Both must record the same bits for the same logits, so the scaled logit, the order of the sum and the formula of the
//! log-probability are written here alone.

use super::simd::{self, LANES, Simd, WithSimd};

/// Logits summed in f32 before the total moves on to f64. A row of 151,936 keeps seven digits this way.
const BLOCK: usize = 64 * LANES;

/// Below this difference to the largest logit, `Simd::exp` is 0.
const FAR_BELOW: f32 = -87.3;

/// The numbers that softmax(z / T) of a row depends on. All are NaN if a logit is NaN or +∞, or if every logit is −∞.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// The largest scaled logit z / T.
    pub max: f32,
    /// ln Σ exp(z/T − max), at least 0.
    pub ln_sum: f32,
    /// Entropy of softmax(z / T) in nats.
    pub entropy: f32,
}

impl Stats {
    /// The log-probability of a logit of this row, taken at the same inverse temperature.
    #[inline(always)]
    pub fn logprob(&self, logit: f32, inverse_temperature: f32) -> f32 {
        // The difference to the largest logit first, so that likely tokens keep their digits.
        (logit * inverse_temperature - self.max) - self.ln_sum
    }

    /// ln Σ exp(z / T).
    #[inline(always)]
    pub fn log_sum_exp(&self) -> f32 {
        self.max + self.ln_sum
    }
}

/// [`log_softmax_stats`] at the machine's SIMD level.
pub fn stats(logits: &[f32], inverse_temperature: f32) -> Stats {
    simd::run(LogSoftmaxStats { logits, inverse_temperature })
}

struct LogSoftmaxStats<'a> {
    logits: &'a [f32],
    inverse_temperature: f32,
}

impl WithSimd for LogSoftmaxStats<'_> {
    type Output = Stats;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Stats {
        log_softmax_stats(s, self.logits, self.inverse_temperature)
    }
}

/// Largest scaled logit, log of the sum and entropy of a row of at least one logit, in an order that depends on the
/// row's length alone. `inverse_temperature` is 1 / T, computed once by the caller.
#[inline(always)]
pub fn log_softmax_stats<S: Simd>(s: S, logits: &[f32], inverse_temperature: f32) -> Stats {
    let scale = s.splat(inverse_temperature);
    let max = largest(s, logits, scale);
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for block in logits.chunks(BLOCK) {
        let (block_sum, block_weighted) = exp_sums(s, block, scale, max);
        sum += f64::from(block_sum);
        weighted += f64::from(block_weighted);
    }
    // With p = exp(d) / sum and d = z/T − max: −Σ p·ln p = ln sum − Σ exp(d)·d / sum.
    let ln_sum = sum.ln();
    Stats { max, ln_sum: ln_sum as f32, entropy: (ln_sum - weighted / sum) as f32 }
}

/// The largest scaled logit; undefined if one of them is NaN.
#[inline(always)]
fn largest<S: Simd>(s: S, logits: &[f32], scale: S::V) -> f32 {
    let mut max = [s.splat(f32::NEG_INFINITY); 4];
    let mut blocks = logits.chunks_exact(4 * LANES);
    for block in &mut blocks {
        for (i, m) in max.iter_mut().enumerate() {
            *m = s.max(*m, s.mul(s.load(&block[i * LANES..]), scale));
        }
    }
    for part in blocks.remainder().chunks(LANES) {
        max[0] = s.max(max[0], s.mul(s.load_part(part, f32::NEG_INFINITY), scale));
    }
    s.max_lane(s.max(s.max(max[0], max[1]), s.max(max[2], max[3])))
}

/// Σ exp(d) and Σ exp(d)·d over a block, d = z/T − max.
#[inline(always)]
fn exp_sums<S: Simd>(s: S, block: &[f32], scale: S::V, max: f32) -> (f32, f32) {
    let (max, far) = (s.splat(max), s.splat(FAR_BELOW));
    let (mut sum, mut weighted) = ([s.splat(0.0); 2], [s.splat(0.0); 2]);
    for (i, part) in block.chunks(LANES).enumerate() {
        let z = if part.len() == LANES { s.load(part) } else { s.load_part(part, f32::NEG_INFINITY) };
        let d = s.sub(s.mul(z, scale), max);
        let e = s.exp(d);
        sum[i % 2] = s.add(sum[i % 2], e);
        // A logit of −∞ must add 0, not 0·∞; this order of operands lets NaN through.
        weighted[i % 2] = s.mul_add(e, s.max(far, d), weighted[i % 2]);
    }
    (s.sum(s.add(sum[0], sum[1])), s.sum(s.add(weighted[0], weighted[1])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::{Level, run_at};

    fn row(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 18.0).collect()
    }

    /// (log-probability of each logit, entropy) in f64.
    fn exact(logits: &[f32], temperature: f64) -> (Vec<f64>, f64) {
        let z: Vec<f64> = logits.iter().map(|z| f64::from(*z) / temperature).collect();
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let ln_sum = z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let logprobs: Vec<f64> = z.iter().map(|z| z - max - ln_sum).collect();
        let entropy = -logprobs.iter().map(|l| if l.is_finite() { l.exp() * l } else { 0.0 }).sum::<f64>();
        (logprobs, entropy)
    }

    #[test]
    fn equals_an_f64_reference_and_every_level_gives_the_same_bits() {
        for len in [1, 5, 16, 17, 63, 512, 1024, 1025, 5000, 151_936] {
            for temperature in [1.0f32, 0.7, 2.0] {
                let (logits, inverse) = (row(len), 1.0 / temperature);
                let got = run_at(Level::Portable, LogSoftmaxStats { logits: &logits, inverse_temperature: inverse });
                for level in Level::available() {
                    assert_eq!(run_at(level, LogSoftmaxStats { logits: &logits, inverse_temperature: inverse }), got);
                }
                let (logprobs, entropy) = exact(&logits, f64::from(temperature));
                assert!(
                    (f64::from(got.entropy) - entropy).abs() < 1e-5 * (1.0 + entropy),
                    "{len} {temperature} {got:?}"
                );
                for (z, want) in logits.iter().zip(logprobs) {
                    // Three roundings of numbers up to 2·9/0.7 + ln len, each at most half an ulp of 64.
                    assert!((f64::from(got.logprob(*z, inverse)) - want).abs() < 1e-5, "{len} {temperature}");
                }
            }
        }
    }

    #[test]
    fn forbidden_tokens_have_no_weight_and_what_is_not_a_number_shows() {
        let mut logits = row(100);
        logits[3] = f32::NEG_INFINITY;
        let got = stats(&logits, 1.0);
        let (_, entropy) = exact(&logits, 1.0);
        assert!((f64::from(got.entropy) - entropy).abs() < 1e-5);
        assert_eq!(got.logprob(logits[3], 1.0), f32::NEG_INFINITY);
        for at in [0, 15, 16, 63, 64, 70, 98, 99] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = row(100);
                logits[at] = bad;
                let got = stats(&logits, 1.0);
                assert!(got.entropy.is_nan() && logits.iter().all(|z| got.logprob(*z, 1.0).is_nan()), "{bad} at {at}");
            }
        }
        let none = stats(&[f32::NEG_INFINITY; 20], 1.0);
        assert!(none.logprob(f32::NEG_INFINITY, 1.0).is_nan());
    }
}
