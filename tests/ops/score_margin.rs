//! Tests of the op `score_margin`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::score_margin::{
    ABSENT, AdvantageNorm, FAILED, MarginKind, PreferenceReward, ROLLOUTS_MAX, RewardShape, ScoreMargin, ScoreMargins,
    VALID,
};
use patarm::ops::{Cpu, OpError};
use patarm::random::Stream;

const GRADED: RewardShape = RewardShape::Graded { low: 1.2, high: 1.4, threshold: 2.0 };

/// The op's inputs and outputs on the host.
#[derive(Clone, Debug, Default, PartialEq)]
struct Case {
    pairs: usize,
    n: usize,
    scores: Vec<f32>,
    state: Vec<u32>,
    penalty: Vec<f32>,
    means: Vec<f32>,
    valid_count: Vec<u32>,
    delta: Vec<f32>,
    par: Vec<f32>,
    reward: Vec<f32>,
    advantage: Vec<f32>,
}

impl Case {
    fn new(pairs: usize, n: usize, scores: Vec<f32>, state: Vec<u32>, penalty: Vec<f32>) -> Self {
        // Outputs start with garbage: the op must write every slot.
        let rubbish = vec![f32::NAN; 2 * pairs * n];
        Self {
            pairs,
            n,
            scores,
            state,
            penalty,
            means: vec![f32::NAN; 2 * pairs],
            valid_count: vec![99; 2 * pairs],
            delta: rubbish.clone(),
            par: rubbish.clone(),
            reward: rubbish.clone(),
            advantage: rubbish,
        }
    }

    /// All present and valid, no penalty.
    fn valid(pairs: usize, n: usize, scores: &[f32]) -> Self {
        Self::new(pairs, n, scores.to_vec(), vec![VALID; scores.len()], vec![0.0; scores.len()])
    }

    /// Uneven groups with gaps and failures.
    fn random(pairs: usize, n: usize, key: u64) -> Self {
        let draw = |i: usize| Stream::new(key).block(i as u32, 0);
        let size = 2 * pairs * n;
        let state = (0..size).map(|i| [ABSENT, FAILED, VALID, VALID, VALID][draw(i)[0] as usize % 5]).collect();
        let scores = (0..size).map(|i| 1.0 + (draw(i)[1] % 91) as f32 / 10.0).collect();
        let mut case = Self::new(pairs, n, scores, state, vec![0.0; size]);
        for i in 0..size {
            match case.state[i] {
                FAILED => case.penalty[i] = if draw(i)[2] % 2 == 0 { -1.0 } else { -1.5 },
                ABSENT => (case.scores[i], case.penalty[i]) = (f32::NAN, f32::NAN), // not to be read
                _ => {}
            }
        }
        case
    }

    fn run(&mut self, shape: RewardShape, margin: MarginKind, norm: AdvantageNorm) -> Result<(), OpError> {
        Cpu.score_margin(ScoreMargin {
            means: &mut self.means,
            valid_count: &mut self.valid_count,
            delta: &mut self.delta,
            par: &mut self.par,
            reward: &mut self.reward,
            advantage: &mut self.advantage,
            scores: &self.scores,
            state: &self.state,
            penalty: &self.penalty,
            pairs: self.pairs,
            n: self.n,
            preference: PreferenceReward { shape, margin },
            norm,
            epsilon: 1e-6,
        })
    }
}

fn default(case: &mut Case) {
    case.run(GRADED, MarginKind::Rollout, AdvantageNorm::Group).unwrap();
}

#[test]
fn the_worked_example() {
    let mut case = Case::valid(1, 4, &[8.0, 7.0, 6.0, 5.0, 6.0, 6.0, 4.0, 4.0]);
    default(&mut case);
    assert_eq!(case.means, [6.5, 5.0]);
    assert_eq!(case.valid_count, [4, 4]);
    assert_eq!(case.delta, [3.0, 2.0, 1.0, 0.0, 0.5, 0.5, 2.5, 2.5]);
    assert_eq!(case.par, [1.4, 1.2, 1.2, 0.0, 1.2, 1.2, 1.4, 1.4]);
    assert_eq!(case.reward, case.par);
    // (1.4, 1.2, 1.2, 0): mean 0.95, sum of squares 0.2025 + 2·0.0625 + 0.9025 = 1.23, std √0.41.
    for (advantage, deviation) in case.advantage.iter().zip([0.45, 0.25, 0.25, -0.95]) {
        assert!((f64::from(*advantage) - deviation / 0.41f64.sqrt()).abs() < 1e-5, "{:?}", case.advantage);
    }
    // (1.2, 1.2, 1.4, 1.4): ±0.87 with the standard deviation, ±0.1 without.
    assert!((case.advantage[7] - 0.8660).abs() < 1e-3);
    case.run(GRADED, MarginKind::Rollout, AdvantageNorm::None).unwrap();
    assert!((case.advantage[7] - 0.1).abs() < 1e-6 && (case.advantage[4] + 0.1).abs() < 1e-6);
}

#[test]
fn a_constant_reward_cancels_in_a_group() {
    let scores = [8.0, 7.0, 3.0, 2.0, 6.0, 6.0, 4.0, 4.0];
    let (mut large, mut one) = (Case::valid(1, 4, &scores), Case::valid(1, 4, &scores));
    large.run(RewardShape::Constant(1.3), MarginKind::Rollout, AdvantageNorm::Group).unwrap();
    one.run(RewardShape::Constant(1.0), MarginKind::Rollout, AdvantageNorm::Group).unwrap();
    assert_eq!(large.par[..4], [1.3, 1.3, 0.0, 0.0]);
    for (a, b) in large.advantage.iter().zip(&one.advantage) {
        assert!((a - b).abs() < 1e-5, "{:?} {:?}", large.advantage, one.advantage);
    }
}

#[test]
fn ties_and_tiers_are_exact() {
    // 7.1 against a mean of (7.0 + 7.2) / 2, and 9.1 against 7.1: in floating point neither difference is exact.
    let mut tie = Case::valid(1, 2, &[7.1, 7.1, 7.0, 7.2]);
    default(&mut tie);
    assert_eq!((&tie.delta[..2], &tie.par[..2]), (&[0.0; 2][..], &[0.0; 2][..]));
    assert_eq!(tie.par[2..], [1.2, 0.0]);
    for tenths in 10..=80 {
        let (low, high) = (tenths as f32 / 10.0, (tenths + 20) as f32 / 10.0);
        let mut edge = Case::valid(1, 1, &[high, low]);
        default(&mut edge);
        assert_eq!((&edge.delta[..], &edge.par[..]), (&[2.0; 2][..], &[1.2; 2][..]), "{high} against {low}");
    }
    // A third has no finite expansion: 5 against (4 + 5 + 6) / 3, and 7 against the same mean.
    let mut thirds = Case::valid(1, 3, &[5.0, 7.0, 7.001, 4.0, 5.0, 6.0]);
    default(&mut thirds);
    assert_eq!(thirds.par[..3], [0.0, 1.2, 1.4]);
}

#[test]
fn the_margin_of_a_pair_is_one_for_all() {
    // Means 5 and 4: the pair's margin is 1, the first rollout's own is 4.
    let mut case = Case::valid(1, 2, &[8.0, 2.0, 4.0, 4.0]);
    case.run(GRADED, MarginKind::Pair, AdvantageNorm::Group).unwrap();
    assert_eq!((&case.delta[..], &case.par[..]), (&[1.0; 4][..], &[1.2, 0.0, 1.2, 1.2][..]));
    // The pair is in the wrong order but a rollout is right: it earns the lower reward.
    let mut wrong = Case::valid(1, 2, &[9.0, 1.0, 8.0, 8.0]);
    wrong.run(GRADED, MarginKind::Pair, AdvantageNorm::Group).unwrap();
    assert_eq!((&wrong.delta[..], &wrong.par[..]), (&[-3.0; 4][..], &[1.2, 0.0, 0.0, 0.0][..]));
}

#[test]
fn failures_earn_their_penalty_and_stay_out_of_the_mean() {
    let state = vec![VALID, FAILED, ABSENT, VALID, VALID, ABSENT];
    let scores = vec![9.0, f32::NAN, f32::NAN, 5.0, 7.0, f32::NAN];
    let penalty = vec![0.0, -1.5, f32::NAN, 0.0, 0.0, f32::NAN];
    let mut case = Case::new(1, 3, scores, state.clone(), penalty.clone());
    default(&mut case);
    assert_eq!((&case.means[..], &case.valid_count[..]), (&[9.0, 6.0][..], &[1, 2][..]));
    assert_eq!(case.reward, [1.4, -1.5, 0.0, 1.4, 1.2, 0.0]);
    assert_eq!((case.advantage[2], case.advantage[5], case.delta[1]), (0.0, 0.0, 0.0));
    assert_eq!((case.advantage[0] + case.advantage[1]).abs(), 0.0, "the absent one is not in the group");
    // One side without a score: no rollout earns a reward.
    let state = state.iter().enumerate().map(|(i, s)| if i >= 3 && *s == VALID { FAILED } else { *s }).collect();
    let mut one_sided = Case::new(1, 3, case.scores.clone(), state, penalty);
    default(&mut one_sided);
    assert_eq!(one_sided.means, [9.0, 0.0]);
    assert_eq!((&one_sided.par, &one_sided.delta), (&vec![0.0; 6], &vec![0.0; 6]));
}

#[test]
fn groups_of_one_and_dead_groups_have_no_advantage() {
    let mut one = Case::valid(2, 1, &[9.0, 1.0, 1.0, 9.0]);
    default(&mut one);
    assert_eq!((&one.reward[..], &one.advantage[..]), (&[1.4, 1.4, 0.0, 0.0][..], &[0.0; 4][..]));
    for norm in [AdvantageNorm::Group, AdvantageNorm::Batch, AdvantageNorm::None] {
        let mut dead = Case::valid(2, 3, &[9.0, 8.0, 9.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0]);
        dead.run(GRADED, MarginKind::Rollout, norm).unwrap();
        assert_eq!(dead.advantage, [0.0; 12], "{norm:?}");
    }
}

/// A plain f64 version of the formulas, in any order.
fn reference(case: &Case, shape: RewardShape, margin: MarginKind, norm: AdvantageNorm) -> (Vec<f64>, Vec<f64>) {
    let n = case.n;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let std = |values: &[f64]| {
        let squares: f64 = values.iter().map(|v| (v - mean(values)).powi(2)).sum();
        if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
    };
    let decimal = |i: usize| (f64::from(case.scores[i]) * 10.0).round() / 10.0;
    let side = |row: usize| -> Vec<f64> {
        (row * n..(row + 1) * n).filter(|i| case.state[*i] == VALID).map(decimal).collect()
    };
    let mut reward = vec![0.0; case.state.len()];
    for (i, reward) in reward.iter_mut().enumerate().filter(|(i, _)| case.state[*i] != ABSENT) {
        let (row, sign) = (i / n, [1.0, -1.0][i / n % 2]);
        let (own, other) = (side(row), side(row ^ 1));
        let mut par = 0.0;
        let alone = margin == MarginKind::Preference;
        if case.state[i] == VALID && (alone || !other.is_empty()) {
            let rollout = sign * (decimal(i) - if alone { 0.5 } else { mean(&other) });
            let delta = if margin == MarginKind::Pair { sign * (mean(&own) - mean(&other)) } else { rollout };
            // Scores have one decimal and n is small: values closer than 1e-9 are equal.
            if rollout > 1e-9 {
                par = match shape {
                    RewardShape::Graded { low, high, threshold } => {
                        f64::from(if delta > f64::from(threshold) + 1e-9 { high } else { low })
                    }
                    RewardShape::Constant(value) => f64::from(value),
                };
            }
        }
        *reward = par + f64::from(case.penalty[i]);
    }
    let there = |range: std::ops::Range<usize>| -> Vec<f64> {
        range.filter(|i| case.state[*i] != ABSENT).map(|i| reward[i]).collect()
    };
    let advantage = (0..reward.len()).map(|i| {
        let group = there(i / n * n..(i / n + 1) * n);
        let divisor = match norm {
            AdvantageNorm::Group => std(&group) + 1e-6,
            AdvantageNorm::Batch => std(&there(0..reward.len())) + 1e-6,
            AdvantageNorm::None => 1.0,
        };
        if case.state[i] == ABSENT { 0.0 } else { (reward[i] - mean(&group)) / divisor }
    });
    let advantage = advantage.collect();
    (reward, advantage)
}

fn every_way(mut test: impl FnMut(RewardShape, MarginKind, AdvantageNorm)) {
    for shape in [GRADED, RewardShape::Constant(1.3)] {
        for margin in [MarginKind::Rollout, MarginKind::Pair, MarginKind::Preference] {
            for norm in [AdvantageNorm::Group, AdvantageNorm::Batch, AdvantageNorm::None] {
                test(shape, margin, norm);
            }
        }
    }
}

#[test]
fn agrees_with_the_formulas() {
    for (key, (pairs, n)) in
        [(1, 1), (1, 2), (7, 8), (3, 5), (2, 33), (4, ROLLOUTS_MAX), (0, 4)].into_iter().enumerate()
    {
        every_way(|shape, margin, norm| {
            let mut case = Case::random(pairs, n, key as u64);
            let (reward, advantage) = reference(&case, shape, margin, norm);
            case.run(shape, margin, norm).unwrap();
            for i in 0..reward.len() {
                // Rewards: one f32 addition. Advantages: rounded to f32 at the end, of a magnitude below √64; a group whose
                // f32 rewards are all equal is exactly 0 here and within 1e-16 / ε of it in the reference.
                assert!((f64::from(case.reward[i]) - reward[i]).abs() < 1e-6, "reward {i} of {pairs}×{n}");
                let error = (f64::from(case.advantage[i]) - advantage[i]).abs();
                assert!(error < 2e-6, "advantage {i} of {pairs}×{n} {norm:?}: {} {}", case.advantage[i], advantage[i]);
            }
        });
    }
}

#[test]
fn order_changes_no_bit() {
    let (pairs, n) = (5, 7);
    every_way(|shape, margin, norm| {
        let mut case = Case::random(pairs, n, 11);
        // Rollout i of a side goes to slot 3i + 2 (mod 7), pair p to slot 2p + 1 (mod 5): both are permutations.
        let to = |i: usize| {
            let (pair, role, rollout) = (i / (2 * n), i / n % 2, i % n);
            ((2 * pair + 1) % pairs * 2 + role) * n + (3 * rollout + 2) % n
        };
        let mut moved = case.clone();
        for i in 0..2 * pairs * n {
            moved.scores[to(i)] = case.scores[i];
            moved.state[to(i)] = case.state[i];
            moved.penalty[to(i)] = case.penalty[i];
        }
        case.run(shape, margin, norm).unwrap();
        moved.run(shape, margin, norm).unwrap();
        for i in 0..2 * pairs * n {
            let bits = |c: &Case, i: usize| [c.delta[i], c.par[i], c.reward[i], c.advantage[i]].map(f32::to_bits);
            assert_eq!(bits(&case, i), bits(&moved, to(i)), "slot {i}, {norm:?}");
            let (side, other) = (i / n, to(i) / n);
            assert_eq!(case.means[side].to_bits(), moved.means[other].to_bits());
            assert_eq!(case.valid_count[side], moved.valid_count[other]);
        }
    });
}

/// Ordinary rewards hide the order of their sum in the last rounding; these do not: summed from the left, they give 0, 1 or
/// 1.5 depending on their order.
#[test]
fn sums_of_rewards_do_not_depend_on_the_order() {
    let penalty = [1e20, 1.0, -1e20, 0.5];
    every_way(|shape, margin, norm| {
        let mut results = (0..24).map(|code| {
            let mut order = vec![0, 1, 2, 3];
            let slots: Vec<usize> =
                [code / 6, code / 2 % 3, code % 2, 0].into_iter().map(|pick| order.remove(pick)).collect();
            let moved = slots.iter().chain(&slots).map(|slot| penalty[*slot]).collect();
            let mut case = Case::new(1, 4, vec![f32::NAN; 8], vec![FAILED; 8], moved);
            case.run(shape, margin, norm).unwrap();
            let mut by_value = [0; 4];
            for (slot, advantage) in slots.iter().zip(&case.advantage) {
                by_value[*slot] = advantage.to_bits();
            }
            by_value
        });
        let first = results.next().unwrap();
        assert!(results.all(|other| other == first), "{norm:?}");
    });
}

#[test]
fn huge_and_invalid_scores_do_no_harm() {
    let mut case = Case::valid(1, 3, &[f32::MAX, f32::INFINITY, f32::NAN, f32::MIN, -1e30, 0.0]);
    default(&mut case);
    for output in [&case.means, &case.delta, &case.par, &case.reward, &case.advantage] {
        assert!(output.iter().all(|value| value.is_finite()), "{case:?}");
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let message =
        |case: &mut Case, shape| case.run(shape, MarginKind::Rollout, AdvantageNorm::Group).unwrap_err().to_string();
    let mut short = Case::valid(2, 3, &[5.0; 12]);
    short.penalty.pop();
    assert_eq!(message(&mut short, GRADED), "score_margin: argument `penalty` has the wrong size: expected 12, got 11");
    let mut wide = Case::valid(1, ROLLOUTS_MAX + 1, &[5.0; 2 * (ROLLOUTS_MAX + 1)]);
    assert!(message(&mut wide, GRADED).contains("`n` must be from 1 to 64, got 65"));
    assert!(message(&mut Case::valid(1, 1, &[5.0; 2]), RewardShape::Constant(-1.0)).contains("Constant(-1.0)"));
}
