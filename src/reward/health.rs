//! Statistics of a step's rewards that show the health of training.

use crate::data::Role;
use crate::ops::score_margin::RewardShape;

use super::{Margin, Rewarded};
use crate::judge::Failure;

/// Fractions are of all judgements unless a field says otherwise, and 0 if there are none; `None` means that there was no value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    pub valid: f64,
    pub malformed: f64,
    pub out_of_range: f64,
    pub truncated: f64,
    pub missing: f64,
    pub unavailable: f64,
    /// Fractions of judgements that earned no reward, the lower one and the higher one. Where all margins earn the same, that
    /// counts as the lower.
    pub tier_none: f64,
    pub tier_low: f64,
    pub tier_high: f64,
    /// By [`Role::index`]: fraction of the groups with judgements whose rewards are all equal.
    pub dead_groups: [f64; 2],
    /// Mean over pairs of s̄_chosen − s̄_rejected, over pairs where both sides have a score.
    pub margin_mean: Option<f64>,
    /// By [`Role::index`]: mean over pairs of the side's mean score, over pairs where it has one.
    pub score_mean: [Option<f64>; 2],
    /// Fraction of all pairs whose mean chosen score is strictly higher.
    pub pair_accuracy: f64,
}

impl Health {
    pub(super) fn of(judgements: &[Rewarded], margins: &[Margin], shape: RewardShape) -> Self {
        let share = |test: &dyn Fn(&Rewarded) -> bool| {
            ratio(judgements.iter().filter(|rewarded| test(rewarded)).count(), judgements.len())
        };
        let failed = |failure: Failure| share(&|r| r.verdict.failure() == Some(failure));
        let high = match shape {
            RewardShape::Graded { low, high, .. } if low < high => Some(high),
            RewardShape::Graded { .. } | RewardShape::Constant(_) => None,
        };
        let deltas: Vec<f64> = margins.iter().filter_map(Margin::value).collect();
        let side = |role: Role| mean(&margins.iter().filter_map(|margin| margin.mean(role)).collect::<Vec<_>>());
        Self {
            valid: share(&|r| r.verdict.score().is_some()),
            malformed: failed(Failure::Malformed),
            out_of_range: failed(Failure::OutOfRange),
            truncated: failed(Failure::Truncated),
            missing: failed(Failure::Missing),
            unavailable: failed(Failure::Unavailable),
            tier_none: share(&|r| r.par == 0.0),
            tier_low: share(&|r| r.par != 0.0 && Some(r.par) != high),
            tier_high: share(&|r| r.par != 0.0 && Some(r.par) == high),
            dead_groups: Role::BOTH.map(|role| dead_groups(judgements, role)),
            margin_mean: mean(&deltas),
            score_mean: Role::BOTH.map(side),
            pair_accuracy: ratio(deltas.iter().filter(|delta| **delta > 0.0).count(), margins.len()),
        }
    }
}

fn ratio(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// `judgements` are sorted by pair and role, so each group is contiguous.
fn dead_groups(judgements: &[Rewarded], role: Role) -> f64 {
    let groups: Vec<bool> = judgements
        .chunk_by(|a, b| (a.pair, a.role) == (b.pair, b.role))
        .filter(|group| group[0].role == role)
        .map(is_dead)
        .collect();
    ratio(groups.iter().filter(|dead| **dead).count(), groups.len())
}

/// Whether all judgements that count have the same reward, so that their advantages are 0 and only the KL has a gradient.
pub(super) fn is_dead(group: &[Rewarded]) -> bool {
    let mut rewards = group.iter().filter(|r| r.verdict.failure() != Some(Failure::Unavailable)).map(|r| r.reward);
    let first = rewards.next();
    rewards.all(|reward| Some(reward) == first)
}
