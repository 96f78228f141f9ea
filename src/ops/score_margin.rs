//! Scores of the judgements of many pairs → means, margins δ, Preference-Aware Rewards (PAR), rewards and advantages:
//! the one home of that arithmetic.
//!
//! A pair has two sides, chosen (0) and rejected (1), each with room for n rollouts. With s̄ the mean of a side's valid
//! scores and "other" the opposite side (PaTaRM, arXiv 2510.24235):
//!
//! - `m = s − s̄_other` for a chosen, `m = s̄_other − s` for a rejected rollout;
//! - `par = f(δ)` if `m > 0`, else 0, with δ = m (`Margin::Rollout`) or δ = s̄_chosen − s̄_rejected (`Margin::Pair`);
//! - `reward = par + penalty`;
//! - `advantage = (reward − group mean) / (std + ε)`, where a group is the present rollouts of one side (GRPO).
//!
//! A rollout that failed is left out of its side's mean and earns its penalty alone. If a side has no valid score, no
//! rollout of the pair earns PAR.
//!
//! A pairwise judgement has no other side to be compared with: its score is 1 if it prefers the response that was shown first
//! and 0 if it prefers the second, and the sides are the two orders. `Margin::Preference` puts ½ in the place of s̄_other, so
//! that a right preference earns f whatever the other order's judgements say.
//!
//! **Exact scores.** A score counts as a whole number of thousandths. Sums of scores are sums of integers, and `m > 0`
//! and `δ > threshold` compare integers (both sides times the counts): no rounding can break a tie or move a tier.
//! **Order.** Permuting the rollouts of a group, or the pairs, permutes the results and changes none of their bits:
//! integer sums do not depend on the order, and sums of rewards and of squared deviations run over sorted values, a
//! sequence that is the same for every permutation.

use serde::{Deserialize, Serialize};

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// Most rollouts of one side.
pub const ROLLOUTS_MAX: usize = 64;

/// Largest magnitude of a score or threshold. Larger ones count as this, so that products of thousandths and counts
/// stay far inside 64 bits.
pub const SCORE_MAX: f32 = 1e6;

/// `state` of a slot without a rollout.
pub const ABSENT: u32 = 0;
/// `state` of a rollout without a valid score.
pub const FAILED: u32 = 1;
/// `state` of a rollout with a valid score.
pub const VALID: u32 = 2;

/// f(δ): how much a rollout on the right side of the other mean earns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RewardShape {
    /// `high` for δ > `threshold`, else `low`.
    Graded { low: f32, high: f32, threshold: f32 },
    /// The same for every δ, as an ablation.
    Constant(f32),
}

/// The margin that f is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginKind {
    /// The rollout's own, against the mean of the other side.
    Rollout,
    /// The pair's, mean against mean. It may be negative although a single rollout is right: f is then `low`.
    Pair,
    /// The rollout's own, against ½: of preferences, which are 1 or 0. No setting chooses it; pairwise judgements have it.
    #[serde(skip)]
    Preference,
}

/// What a rollout with m > 0 earns as PAR: f of a margin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreferenceReward {
    pub shape: RewardShape,
    pub margin: MarginKind,
}

/// The divisor of advantages. The mean of the group is always subtracted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageNorm {
    /// Standard deviation of the rewards of the group, n − 1 degrees of freedom.
    Group,
    /// Standard deviation of all present rewards of the batch, N − 1 degrees of freedom.
    Batch,
    /// Nothing (Dr.GRPO).
    None,
}

/// In the arrays [pairs, 2, n], the slots of absent rollouts are 0 in every output; so is `delta` where there is none
/// (the rollout failed, or its margin is against the other side and that has no valid score).
pub struct ScoreMargin<'a, D: Device> {
    /// [pairs, 2], mean valid score; 0 where `valid_count` is 0
    pub means: Mut<'a, D, f32>,
    /// [pairs, 2], rollouts with a valid score
    pub valid_count: Mut<'a, D, u32>,
    /// [pairs, 2, n], the margin that f was applied to
    pub delta: Mut<'a, D, f32>,
    /// [pairs, 2, n]
    pub par: Mut<'a, D, f32>,
    /// [pairs, 2, n]
    pub reward: Mut<'a, D, f32>,
    /// [pairs, 2, n]; 0 in a group of one
    pub advantage: Mut<'a, D, f32>,
    /// [pairs, 2, n], finite where `state` is [`VALID`], not read elsewhere
    pub scores: Ref<'a, D, f32>,
    /// [pairs, 2, n], [`ABSENT`], [`FAILED`] or [`VALID`]
    pub state: Ref<'a, D, u32>,
    /// [pairs, 2, n], at most 0; not read where absent
    pub penalty: Ref<'a, D, f32>,
    pub pairs: usize,
    /// Slots a side, 1 to [`ROLLOUTS_MAX`].
    pub n: usize,
    pub preference: PreferenceReward,
    pub norm: AdvantageNorm,
    /// Added to the standard deviation.
    pub epsilon: f32,
}

impl<D: Device> ScoreMargin<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("score_margin");
        check.that((1..=ROLLOUTS_MAX).contains(&self.n), || {
            format!("`n` must be from 1 to {ROLLOUTS_MAX}, got {}", self.n)
        })?;
        let (sides, size) = (2 * self.pairs, 2 * self.pairs * self.n);
        check.size("means", self.means.len(), sides)?;
        check.size("valid_count", self.valid_count.len(), sides)?;
        check.size("delta", self.delta.len(), size)?;
        check.size("par", self.par.len(), size)?;
        check.size("reward", self.reward.len(), size)?;
        check.size("advantage", self.advantage.len(), size)?;
        check.size("scores", self.scores.len(), size)?;
        check.size("state", self.state.len(), size)?;
        check.size("penalty", self.penalty.len(), size)?;
        check.that(self.epsilon >= 0.0 && self.epsilon.is_finite(), || {
            format!("`epsilon` must be 0 or a positive number, got {}", self.epsilon)
        })?;
        let numbers = match self.preference.shape {
            RewardShape::Graded { low, high, threshold } => [low, high, threshold],
            RewardShape::Constant(value) => [value; 3],
        };
        check.that(numbers.iter().all(|number| (0.0..=SCORE_MAX).contains(number)), || {
            format!("the numbers of `preference.shape` must be from 0 to {SCORE_MAX}, got {:?}", self.preference.shape)
        })
    }

    /// Scores, state and penalty are read, delta, par, reward and advantage written: seven arrays of 4 bytes a slot, and two
    /// numbers a side. Operations a slot: the mean (1), margin (1), f (2), penalty (1), mean reward (1), deviation and its
    /// square (3), advantage (3).
    pub fn cost(&self) -> Cost {
        let (sides, size) = (2 * self.pairs as u64, 2 * (self.pairs * self.n) as u64);
        Cost { bytes: 28 * size + 8 * sides, flops: 12 * size }
    }
}

/// Rewards and advantages of preference pairs on a device.
pub trait ScoreMargins: Device {
    fn score_margin(&self, args: ScoreMargin<'_, Self>) -> OpResult;
}
