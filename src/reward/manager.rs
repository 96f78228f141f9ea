//! Joins judgements to pairs by identity, and computes their rewards.

use std::collections::{BTreeMap, BTreeSet};

use super::RewardSettings;
use super::health::{Health, is_dead};
use crate::data::Role;
use crate::judge::{Failure, JudgeMode, Verdict};
use crate::ops::OpError;
use crate::ops::score_margin::{
    ABSENT, FAILED, MarginKind, PreferenceReward, ROLLOUTS_MAX, RewardShape, ScoreMargin, ScoreMargins, VALID,
};
use crate::setting::Valid;

/// The verdict of one rollout. (pair, role, rollout) is its identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    pub pair: u64,
    pub role: Role,
    /// Counted from 0.
    pub rollout: u32,
    pub verdict: Verdict,
}

/// A judgement with its reward and advantage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rewarded {
    pub pair: u64,
    pub role: Role,
    pub rollout: u32,
    pub verdict: Verdict,
    /// Format penalty, at most 0.
    pub penalty: f32,
    /// Preference-Aware Reward; in pairwise mode 1 for a right preference.
    pub par: f32,
    /// `par + penalty`.
    pub reward: f32,
    pub advantage: f32,
    /// The margin that determines the reward; `None` for a failure, or if the other side has no score.
    pub delta: Option<f32>,
}

/// Mean scores of the two sides of a pair; `None` if a side has no valid score. In pairwise mode a mean is the share of
/// preferences for the response shown first, so the margin is above 0 where the chosen response is preferred more often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    pub pair: u64,
    pub mean_chosen: Option<f64>,
    pub mean_rejected: Option<f64>,
}

impl Margin {
    /// The mean score of one side; `None` if no rollout of it has a valid score.
    pub fn mean(&self, role: Role) -> Option<f64> {
        match role {
            Role::Chosen => self.mean_chosen,
            Role::Rejected => self.mean_rejected,
        }
    }

    /// s̄_chosen − s̄_rejected, if both sides have a score.
    pub fn value(&self) -> Option<f64> {
        Some(self.mean_chosen? - self.mean_rejected?)
    }
}

/// The rewards of all judgements of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewards {
    /// Sorted by pair, role, rollout.
    pub judgements: Vec<Rewarded>,
    /// Sorted by pair.
    pub margins: Vec<Margin>,
    pub health: Health,
}

impl Rewards {
    /// Whether either side of the pair has judgements with different rewards, so that it has a gradient.
    pub fn is_alive(&self, pair: u64) -> bool {
        let start = self.judgements.partition_point(|r| r.pair < pair);
        let end = self.judgements.partition_point(|r| r.pair <= pair);
        self.judgements[start..end].chunk_by(|a, b| a.role == b.role).any(|group| !is_dead(group))
    }
}

/// A judgement that does not belong to the step, or more rollouts than the op takes.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    #[error("pair {pair}, {role:?}, rollout {rollout}: judged twice; each rollout has one judgement")]
    Duplicate { pair: u64, role: Role, rollout: u32 },
    #[error("pair {pair} is not among the pairs of this step")]
    UnknownPair { pair: u64 },
    #[error("pair {pair}, {role:?}: rollout {rollout} is out of range; expected 0 to {}", rollouts.saturating_sub(1))]
    RolloutOutOfRange { pair: u64, role: Role, rollout: u32, rollouts: usize },
    #[error("pair {pair}, {role:?}, rollout {rollout}: expected a {} verdict, got a {} one", expected.name(), got.name())]
    OtherMode { pair: u64, role: Role, rollout: u32, expected: JudgeMode, got: JudgeMode },
    #[error("reward: {0}")]
    Settings(String),
    #[error(transparent)]
    Op(#[from] OpError),
}

/// Collects the judgements of a step in any order, then computes their rewards together.
#[derive(Clone, Debug)]
pub struct PairRewardManager {
    settings: Valid<RewardSettings>,
    mode: JudgeMode,
    /// Rollouts of each side (n).
    rollouts: usize,
    known: Option<BTreeSet<u64>>,
    /// By pair, then `[role][rollout]`. They are sorted, so that results do not depend on the order of arrival.
    verdicts: BTreeMap<u64, [Vec<Option<Verdict>>; 2]>,
}

impl PairRewardManager {
    /// Expects up to `rollouts` judgements of each side. In pairwise mode a side is the order in which its response comes first,
    /// and a right preference is the reward: 1, and 0 for a wrong one.
    pub fn new(settings: Valid<RewardSettings>, mode: JudgeMode, rollouts: usize) -> Self {
        Self { settings, mode, rollouts, known: None, verdicts: BTreeMap::new() }
    }

    /// What a judgement on the right side earns.
    fn preference(&self) -> PreferenceReward {
        match self.mode {
            JudgeMode::Pointwise => self.settings.preference(),
            JudgeMode::Pairwise => {
                PreferenceReward { shape: RewardShape::Constant(1.0), margin: MarginKind::Preference }
            }
        }
    }

    /// Refuses judgements of all pairs but these.
    pub fn expecting(mut self, pairs: impl IntoIterator<Item = u64>) -> Self {
        self.known = Some(pairs.into_iter().collect());
        self
    }

    /// Adds one judgement; a refused one changes nothing.
    pub fn add(&mut self, judgement: Judgement) -> Result<(), RewardError> {
        let Judgement { pair, role, rollout, verdict } = judgement;
        let rollouts = self.rollouts;
        if self.known.as_ref().is_some_and(|known| !known.contains(&pair)) {
            return Err(RewardError::UnknownPair { pair });
        }
        if rollout as usize >= rollouts {
            return Err(RewardError::RolloutOutOfRange { pair, role, rollout, rollouts });
        }
        let of = match verdict {
            Verdict::Score(_) => Some(JudgeMode::Pointwise),
            Verdict::Prefer(_) => Some(JudgeMode::Pairwise),
            Verdict::Failed(_) => None,
        };
        if let Some(got) = of.filter(|of| *of != self.mode) {
            return Err(RewardError::OtherMode { pair, role, rollout, expected: self.mode, got });
        }
        let sides = self.verdicts.entry(pair).or_insert_with(|| [vec![None; rollouts], vec![None; rollouts]]);
        let slot = &mut sides[role.index()][rollout as usize];
        if slot.is_some() {
            return Err(RewardError::Duplicate { pair, role, rollout });
        }
        *slot = Some(verdict);
        Ok(())
    }

    /// Computes the rewards and advantages of all added judgements on `device`.
    pub fn finish<D: ScoreMargins>(&self, device: &D) -> Result<Rewards, RewardError> {
        if !(1..=ROLLOUTS_MAX).contains(&self.rollouts) {
            let reason = format!("rollouts of each response must be from 1 to {ROLLOUTS_MAX}, got {}", self.rollouts);
            return Err(RewardError::Settings(reason));
        }
        let results = self.run(device).map_err(RewardError::Op)?;
        let judgements = self.rewarded(&results);
        let margins = self.margins(&results);
        let health = Health::of(&judgements, &margins, self.preference().shape);
        Ok(Rewards { judgements, margins, health })
    }

    /// The verdicts in the order of the op's arrays [pairs, 2, n].
    fn slots(&self) -> impl Iterator<Item = Option<&Verdict>> {
        self.verdicts.values().flatten().flatten().map(Option::as_ref)
    }

    fn run<D: ScoreMargins>(&self, device: &D) -> Result<Results, OpError> {
        let scores: Vec<f32> = self.slots().map(|v| v.and_then(Verdict::score).unwrap_or(0.0) as f32).collect();
        let state: Vec<u32> = self.slots().map(state).collect();
        let penalty: Vec<f32> = self.slots().map(|v| v.map_or(0.0, |v| self.settings.penalty.of(v))).collect();
        let (pairs, size) = (self.verdicts.len(), scores.len());
        let floats = |len| device.zeros::<f32>(len);
        let (mut means, mut valid_count) = (floats(2 * pairs)?, device.zeros::<u32>(2 * pairs)?);
        let (mut delta, mut par, mut reward, mut advantage) =
            (floats(size)?, floats(size)?, floats(size)?, floats(size)?);
        let (scores, state) = (device.upload(&scores)?, device.upload(&state)?);
        let device_penalty = device.upload(&penalty)?;
        device.score_margin(ScoreMargin {
            means: device.view_mut(&mut means, 0..2 * pairs),
            valid_count: device.view_mut(&mut valid_count, 0..2 * pairs),
            delta: device.view_mut(&mut delta, 0..size),
            par: device.view_mut(&mut par, 0..size),
            reward: device.view_mut(&mut reward, 0..size),
            advantage: device.view_mut(&mut advantage, 0..size),
            scores: device.view(&scores, 0..size),
            state: device.view(&state, 0..size),
            penalty: device.view(&device_penalty, 0..size),
            pairs,
            n: self.rollouts,
            preference: self.preference(),
            norm: self.settings.advantage,
            epsilon: self.settings.epsilon as f32,
        })?;
        let floats = |buffer| device.fetch(device.view(buffer, 0..device.len(buffer)));
        let [means, delta, par, reward, advantage] =
            [floats(&means)?, floats(&delta)?, floats(&par)?, floats(&reward)?, floats(&advantage)?];
        let valid_count = device.fetch(device.view(&valid_count, 0..2 * pairs))?;
        Ok(Results {
            means: means.get()?,
            valid_count: valid_count.get()?,
            delta: delta.get()?,
            par: par.get()?,
            reward: reward.get()?,
            advantage: advantage.get()?,
            penalty,
        })
    }

    fn rewarded(&self, results: &Results) -> Vec<Rewarded> {
        let n = self.rollouts;
        let identities = self.verdicts.keys().flat_map(|pair| {
            Role::BOTH.into_iter().flat_map(move |role| (0..n as u32).map(move |rollout| (*pair, role, rollout)))
        });
        let rewarded = |(i, ((pair, role, rollout), verdict)): (usize, (_, Option<&Verdict>))| {
            let verdict = *verdict?;
            let other = (i / n) ^ 1;
            let alone = self.mode == JudgeMode::Pairwise;
            let has_delta = verdict.score().is_some() && (alone || results.valid_count[other] > 0);
            Some(Rewarded {
                pair,
                role,
                rollout,
                verdict,
                penalty: results.penalty[i],
                par: results.par[i],
                reward: results.reward[i],
                advantage: results.advantage[i],
                delta: has_delta.then_some(results.delta[i]),
            })
        };
        identities.zip(self.slots()).enumerate().filter_map(rewarded).collect()
    }

    fn margins(&self, results: &Results) -> Vec<Margin> {
        let mean = |side: usize| (results.valid_count[side] > 0).then(|| f64::from(results.means[side]));
        let pairs = self.verdicts.keys().enumerate();
        pairs
            .map(|(i, pair)| Margin { pair: *pair, mean_chosen: mean(2 * i), mean_rejected: mean(2 * i + 1) })
            .collect()
    }
}

/// The op's state of a slot. If the judge was unavailable, the rollout is neither rewarded nor penalised.
fn state(verdict: Option<&Verdict>) -> u32 {
    match verdict {
        None | Some(Verdict::Failed(Failure::Unavailable)) => ABSENT,
        Some(Verdict::Score(_) | Verdict::Prefer(_)) => VALID,
        Some(Verdict::Failed(_)) => FAILED,
    }
}

/// The op's outputs, and the penalties that it used.
struct Results {
    means: Vec<f32>,
    valid_count: Vec<u32>,
    delta: Vec<f32>,
    par: Vec<f32>,
    reward: Vec<f32>,
    advantage: Vec<f32>,
    penalty: Vec<f32>,
}

#[cfg(test)]
mod tests;
