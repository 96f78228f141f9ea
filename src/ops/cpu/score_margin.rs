//! Score margins on the CPU: a few hundred judgements a step, so plain code on one thread.

use super::Cpu;
use crate::ops::OpResult;
use crate::ops::score_margin::{
    ABSENT, AdvantageNorm, MarginKind, PreferenceReward, RewardShape, SCORE_MAX, ScoreMargin, ScoreMargins, VALID,
};

/// Steps in a score of 1: the resolution of scores.
const UNIT: f64 = 1000.0;

impl ScoreMargins for Cpu {
    fn score_margin(&self, mut args: ScoreMargin<'_, Self>) -> OpResult {
        args.check()?;
        for pair in 0..args.pairs {
            rewards_of_pair(&mut args, pair);
        }
        let whole_batch = match args.norm {
            AdvantageNorm::Batch => Moments::of(args.reward, args.state).std,
            AdvantageNorm::Group | AdvantageNorm::None => 0.0,
        };
        for side in 0..2 * args.pairs {
            let group = side * args.n..(side + 1) * args.n;
            let state = &args.state[group.clone()];
            let moments = Moments::of(&args.reward[group.clone()], state);
            let divisor = match args.norm {
                AdvantageNorm::Group => moments.std + f64::from(args.epsilon),
                AdvantageNorm::Batch => whole_batch + f64::from(args.epsilon),
                AdvantageNorm::None => 1.0,
            };
            for (i, state) in group.zip(state) {
                let deviation = f64::from(args.reward[i]) - moments.mean;
                // A deviation of 0 has advantage 0 even where the divisor is 0 too (ε = 0).
                let alive = *state != ABSENT && deviation != 0.0;
                args.advantage[i] = if alive { (deviation / divisor) as f32 } else { 0.0 };
            }
        }
        Ok(())
    }
}

/// A score as a whole number of thousandths.
fn thousandths(score: f32) -> i64 {
    (f64::from(score.clamp(-SCORE_MAX, SCORE_MAX)) * UNIT).round() as i64
}

/// A margin times `UNIT · count`, so that it is a whole number: |sum| ≤ 64² · 10⁹ · 2, far inside 64 bits.
#[derive(Clone, Copy)]
struct Scaled {
    sum: i64,
    count: i64,
}

/// ½, in the place of the other side's mean.
const HALF: Scaled = Scaled { sum: 500, count: 1 };

impl Scaled {
    fn value(self) -> f64 {
        self.sum as f64 / (UNIT * self.count as f64)
    }
}

/// Means, δ, PAR and rewards of one pair.
fn rewards_of_pair(args: &mut ScoreMargin<'_, Cpu>, pair: usize) {
    let n = args.n;
    let mut sides = [Scaled { sum: 0, count: 0 }; 2];
    for (role, side) in sides.iter_mut().enumerate() {
        let row = 2 * pair + role;
        for i in row * n..(row + 1) * n {
            if args.state[i] == VALID {
                side.sum += thousandths(args.scores[i]);
                side.count += 1;
            }
        }
        args.means[row] = if side.count == 0 { 0.0 } else { side.value() as f32 };
        args.valid_count[row] = side.count as u32;
    }
    let [chosen, rejected] = sides;
    let preference = args.preference.margin == MarginKind::Preference;
    let both = chosen.count > 0 && rejected.count > 0;
    let of_pair =
        Scaled { sum: chosen.sum * rejected.count - rejected.sum * chosen.count, count: chosen.count * rejected.count };
    for (role, sign) in [(0, 1), (1, -1)] {
        let other = if preference { HALF } else { sides[1 - role] };
        let row = 2 * pair + role;
        for i in row * n..(row + 1) * n {
            let (mut delta, mut par) = (0.0, 0.0);
            if (both || preference) && args.state[i] == VALID {
                let sum = sign * (thousandths(args.scores[i]) * other.count - other.sum);
                let own = Scaled { sum, count: other.count };
                let margin = if args.preference.margin == MarginKind::Pair { of_pair } else { own };
                delta = margin.value() as f32;
                par = if own.sum > 0 { earned(&args.preference, margin) } else { 0.0 };
            }
            args.delta[i] = delta;
            args.par[i] = par;
            args.reward[i] = if args.state[i] == ABSENT { 0.0 } else { par + args.penalty[i] };
        }
    }
}

/// f(δ).
fn earned(preference: &PreferenceReward, margin: Scaled) -> f32 {
    match preference.shape {
        RewardShape::Graded { high, threshold, .. } if margin.sum > thousandths(threshold) * margin.count => high,
        RewardShape::Graded { low, .. } => low,
        RewardShape::Constant(value) => value,
    }
}

/// Mean and standard deviation (n − 1 degrees of freedom; 0 for fewer than two) of the rewards that are present.
struct Moments {
    mean: f64,
    std: f64,
}

impl Moments {
    /// Sums run over sorted values: the same bits in any order of the rewards. Equal rewards have a deviation of
    /// exactly 0: a sum of up to 2²⁹ equal 24-bit values, and so its quotient, is exact in 53 bits.
    fn of(rewards: &[f32], state: &[u32]) -> Self {
        let mut sorted: Vec<f32> =
            rewards.iter().zip(state).filter(|(_, state)| **state != ABSENT).map(|(reward, _)| *reward).collect();
        if sorted.is_empty() {
            return Self { mean: 0.0, std: 0.0 };
        }
        sorted.sort_unstable_by(f32::total_cmp);
        let count = sorted.len() as f64;
        let mean = sorted.iter().map(|reward| f64::from(*reward)).sum::<f64>() / count;
        let squares: f64 = sorted.iter().map(|reward| (f64::from(*reward) - mean).powi(2)).sum();
        let std = if sorted.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Self { mean, std }
    }
}
