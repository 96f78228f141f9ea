//! Judgements on their way into an update: joined to their rewards by identity, and gathered into the rows of micro-batches.

use std::collections::BTreeMap;

use super::prefix_tree::{MicroBatch, Sequence};
use crate::data::Role;
use crate::judge::{JudgePair, Judged};
use crate::reward::{Rewarded, Rewards};

/// A judgement with all that an update needs of it.
pub struct Trajectory {
    /// Index of the pair in the step, and role.
    pub pair: usize,
    pub role: Role,
    pub rollout: usize,
    pub judged: Judged,
    pub rewarded: Rewarded,
    /// Of each token, under the policy before the step's first update; `None` where there is one update, whose own forward pass
    /// computes them.
    pub old_logprobs: Option<Vec<f32>>,
    /// Of each token, under the reference model, if there is one.
    pub reference_logprobs: Option<Vec<f32>>,
}

/// Every judgement with its reward, joined by (pair, role, rollout).
pub fn join(pairs: &[JudgePair], judged: Vec<[Vec<Judged>; 2]>, rewards: &Rewards) -> Vec<Trajectory> {
    let by_identity: BTreeMap<_, _> = rewards.judgements.iter().map(|r| ((r.pair, r.role, r.rollout), r)).collect();
    let mut trajectories = Vec::new();
    for (index, (pair, sides)) in pairs.iter().zip(judged).enumerate() {
        for (role, side) in Role::BOTH.into_iter().zip(sides) {
            for (rollout, judged) in side.into_iter().enumerate() {
                let rewarded = *by_identity[&(pair.pair.id.key(), role, rollout as u32)];
                trajectories.push(Trajectory {
                    pair: index,
                    role,
                    rollout,
                    judged,
                    rewarded,
                    old_logprobs: None,
                    reference_logprobs: None,
                });
            }
        }
    }
    trajectories
}

/// Trajectories as sequences that share what they have in common within a pair.
pub fn sequences<'a>(pairs: &'a [JudgePair], trajectories: &[&'a Trajectory]) -> Vec<Sequence<'a>> {
    let sequence = |t: &&'a Trajectory| Sequence {
        tree: t.pair,
        prompt: &pairs[t.pair].prompts[t.role.index()],
        completion: &t.judged.completion.tokens,
    };
    trajectories.iter().map(sequence).collect()
}

/// Inputs of the loss for every target row of a micro-batch. A row that several trajectories share has the sum of their
/// weights and the weighted mean of their advantages.
#[derive(Default)]
pub struct Rows {
    /// `None`: those of the forward pass that computes the loss.
    pub old: Option<Vec<f32>>,
    pub reference: Option<Vec<f32>>,
    pub advantages: Vec<[f32; 2]>,
    pub weight: Vec<f32>,
    /// The tokens of all trajectories.
    pub tokens: Vec<RowToken>,
}

/// A trajectory's token.
pub struct RowToken {
    pub row: usize,
    /// Log-probability as recorded while decoding.
    pub rollout: f32,
    pub advantage: f32,
}

/// What a trajectory brings to the rows of its tokens.
pub struct Inputs<'a> {
    pub weight: f32,
    pub advantage: f32,
    /// Log-probability of each token: while decoding, before the first update, and under the reference. All sequences have the
    /// last two, or none has.
    pub rollout: &'a [f32],
    pub old: Option<&'a [f32]>,
    pub reference: Option<&'a [f32]>,
}

impl Rows {
    /// `inputs`: of the sequence with this number among the packed ones.
    pub fn gather<'a>(micro: &MicroBatch, inputs: impl Fn(usize) -> Inputs<'a>) -> Self {
        let count = micro.targets.rows.len();
        let mut rows = Self::default();
        let zeros = || vec![0.0; count];
        // Per row: Σ weight, Σ weight · advantage of each sign. In f64 the quotient of a single trajectory is its advantage.
        let mut sums = vec![[0.0f64; 3]; count];
        for member in &micro.members {
            let Inputs { weight, advantage, rollout, old, reference } = inputs(member.sequence);
            for (token, row) in member.rows().enumerate() {
                if let Some(old) = old {
                    rows.old.get_or_insert_with(zeros)[row] = old[token];
                }
                if let Some(reference) = reference {
                    rows.reference.get_or_insert_with(zeros)[row] = reference[token];
                }
                sums[row][0] += f64::from(weight);
                sums[row][if advantage > 0.0 { 1 } else { 2 }] += f64::from(weight) * f64::from(advantage);
                rows.tokens.push(RowToken { row, rollout: rollout[token], advantage });
            }
        }
        rows.weight = sums.iter().map(|[weight, ..]| *weight as f32).collect();
        let mean = |sum: f64, weight: f64| if weight > 0.0 { (sum / weight) as f32 } else { 0.0 };
        rows.advantages = sums.iter().map(|[weight, up, down]| [mean(*up, *weight), mean(*down, *weight)]).collect();
        rows
    }
}
