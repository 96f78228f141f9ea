//! Reinforcement learning: GRPO on the Preference-Aware Reward, one step at a time.
//!
//! A step: take pairs → judge both responses n times → verdicts → rewards and advantages, joined by identity → reference
//! log-probabilities → one or more updates, each on whole pairs → metrics.
//!
//! The old log-probabilities of the ratio are those of the policy before the step's first update. With one update a step
//! that is the policy of the update's own forward pass, so the loss takes them from there. With several they must be kept:
//! they are those recorded while decoding, where the backend's equal the training forward's bit for bit (the CPU);
//! elsewhere they come from a scoring pass before the first update, packed as the updates are. How far rollouts were from
//! the first update's forward pass is a metric of every step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::error::TrainError;
use super::guard::Guard;
use super::learner::{Learner, Loss, Scorer};
use super::prefix_tree::{self, MicroBatch, Sequence, pack};
use super::rl_metrics::{RlMetrics, StepNumbers};
use super::sft::Progress;
use crate::config::RlSettings;
use crate::data::Role;
use crate::judge::{Judge, JudgePair, JudgeSampling, Judged};
use crate::loss::Denominator;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::optimizer::{Schedule, Update};
use crate::random::Stream;
use crate::reward::{Judgement, PairRewardManager, RewardSettings, Rewarded, Rewards};
use crate::rollout::Engine;

/// Where pairs come from: a pure function of the cursor, so a cursor is all a resume needs. There are at least as many
/// pairs of different ids as a step takes.
pub trait PairSource {
    fn pair(&self, cursor: u64) -> JudgePair;
}

/// What does not change from step to step.
pub struct RlPlan<'a> {
    pub settings: &'a RlSettings,
    pub reward: &'a RewardSettings,
    pub judge: &'a Judge,
    pub schedule: Schedule,
    pub seed: u64,
    pub stop: Option<&'a AtomicBool>,
}

/// The machines of a step.
pub struct RlMachines<'a, B: Backend> {
    pub learner: &'a mut Learner<B>,
    /// The frozen SFT model; `None` when the KL coefficient is 0.
    pub reference: Option<&'a Qwen3<B>>,
    pub engine: &'a mut Engine<B>,
    pub scorer: &'a mut Scorer<B>,
    pub guard: &'a mut Guard,
}

/// A judgement with all that an update needs of it.
pub struct Trajectory {
    /// Place of the pair in the step, and role.
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

/// What a step did: the line for metrics.jsonl, and the judgements for samples.jsonl.
pub struct StepOutcome {
    pub metrics: RlMetrics,
    pub pairs: Vec<JudgePair>,
    pub trajectories: Vec<Trajectory>,
}

/// Runs one step and moves `progress` on.
pub fn rl_step<B: Backend>(
    machines: &mut RlMachines<'_, B>,
    source: &dyn PairSource,
    plan: &RlPlan<'_>,
    progress: &mut Progress,
) -> Result<StepOutcome, TrainError> {
    let start = Instant::now();
    let mut cursor = progress.cursor;
    let backend = machines.learner.model.backend.clone();
    let collected = backend.range(
        || format!("step {} rollouts and rewards", progress.step + 1),
        || collect(machines, source, plan, progress.step, &mut cursor),
    )?;
    let rollout_s = start.elapsed().as_secs_f64();
    let Collected { pairs, mut trajectories, rewards, resampled, rollout_tokens } = collected;
    let capacity = machines.learner.capacity();
    if let Some(reference) = machines.reference {
        let scored = backend.range(
            || "reference log-probabilities".into(),
            || score(machines.scorer, reference, plan, capacity, &pairs, &trajectories),
        )?;
        trajectories.iter_mut().zip(scored).for_each(|(t, logprobs)| t.reference_logprobs = Some(logprobs));
    }
    let parts: Vec<Range<usize>> = parts(pairs.len(), plan.settings.updates_per_step).collect();
    if parts.len() > 1 {
        let old = if B::ROLLOUTS_EQUAL_TRAINING {
            trajectories.iter().map(|t| t.judged.completion.logprobs.clone()).collect()
        } else {
            let model = &machines.learner.model;
            backend.range(
                || "old log-probabilities".into(),
                || score(machines.scorer, model, plan, capacity, &pairs, &trajectories),
            )?
        };
        trajectories.iter_mut().zip(old).for_each(|(t, logprobs)| t.old_logprobs = Some(logprobs));
    }
    let mut numbers = StepNumbers::new(plan.settings, rewards, resampled);
    let learning_rate = plan.schedule.rate(progress.step);
    for part in parts {
        let members: Vec<&Trajectory> = trajectories.iter().filter(|t| part.contains(&t.pair)).collect();
        let update = backend.range(
            || "update".into(),
            || learn(machines.learner, plan, &pairs, &members, learning_rate, &mut numbers),
        )?;
        let ids = || members.iter().map(|t| t.judged.completion.tokens.clone()).collect();
        machines.guard.check(progress.step + 1, numbers.last_loss(), &update, ids)?;
        numbers.end_update(&update);
    }
    progress.step += 1;
    progress.cursor = cursor;
    let seconds = start.elapsed().as_secs_f64();
    let metrics = numbers.metrics(progress.step, learning_rate, &trajectories, rollout_tokens, rollout_s, seconds);
    Ok(StepOutcome { metrics, pairs, trajectories })
}

struct Collected {
    pairs: Vec<JudgePair>,
    trajectories: Vec<Trajectory>,
    rewards: Rewards,
    /// Pairs that dynamic sampling dropped.
    resampled: usize,
    rollout_tokens: usize,
}

/// Judges pairs and rewards the judgements; with `resample`, pairs whose groups are all dead are replaced.
fn collect<B: Backend>(
    machines: &mut RlMachines<'_, B>,
    source: &dyn PairSource,
    plan: &RlPlan<'_>,
    step: u64,
    cursor: &mut u64,
) -> Result<Collected, TrainError> {
    let settings = plan.settings;
    let (mut pairs, mut judged): (Vec<JudgePair>, Vec<[Vec<Judged>; 2]>) = (Vec::new(), Vec::new());
    let (mut resampled, mut rollout_tokens) = (0, 0);
    for attempt in 0..=settings.resample {
        let wanted = settings.pairs_per_step - pairs.len();
        let fresh = take_distinct(source, cursor, &pairs, wanted);
        let how = JudgeSampling {
            sampling: settings.sampling(),
            votes: settings.rollouts,
            max_new_tokens: settings.max_new_tokens,
            stream: Stream::new(plan.seed).fold(step).fold(attempt as u64),
        };
        let model = &machines.learner.model;
        let fresh_judged = plan.judge.judge_pairs(machines.engine, model, &how, &fresh, plan.stop, |_| {})?;
        rollout_tokens += fresh_judged.iter().flatten().flatten().map(|j| j.completion.tokens.len()).sum::<usize>();
        pairs.extend(fresh);
        judged.extend(fresh_judged);
        let rewards = reward(&model.backend, plan.reward, settings.rollouts, &pairs, &judged)?;
        if attempt < settings.resample {
            let alive: Vec<bool> = pairs.iter().map(|pair| rewards.is_alive(pair.pair.id)).collect();
            let dead = alive.iter().filter(|alive| !**alive).count();
            if dead > 0 {
                let mut keep = alive.iter();
                pairs.retain(|_| *keep.next().expect("one a pair"));
                let mut keep = alive.iter();
                judged.retain(|_| *keep.next().expect("one a pair"));
                resampled += dead;
                continue;
            }
        }
        let trajectories = join(&pairs, judged, &rewards);
        return Ok(Collected { pairs, trajectories, rewards, resampled, rollout_tokens });
    }
    unreachable!("the last attempt keeps what it has")
}

/// The next `wanted` pairs, none of which is in `pairs` already: where a pass over the data ends and the next begins, the
/// same pair can come twice, and within a step a pair's identity must be its own.
fn take_distinct(source: &dyn PairSource, cursor: &mut u64, pairs: &[JudgePair], wanted: usize) -> Vec<JudgePair> {
    let mut ids: BTreeSet<u64> = pairs.iter().map(|pair| pair.pair.id).collect();
    let mut fresh = Vec::with_capacity(wanted);
    while fresh.len() < wanted {
        let pair = source.pair(*cursor);
        *cursor += 1;
        if ids.insert(pair.pair.id) {
            fresh.push(pair);
        }
    }
    fresh
}

/// Rewards and advantages of all judgements, `rollouts` of each side, joined by (pair, role, rollout).
pub fn reward<B: Backend>(
    backend: &B,
    settings: &RewardSettings,
    rollouts: usize,
    pairs: &[JudgePair],
    judged: &[[Vec<Judged>; 2]],
) -> Result<Rewards, TrainError> {
    let expected = pairs.iter().map(|pair| pair.pair.id);
    let mut manager = PairRewardManager::new(*settings, rollouts).expecting(expected);
    for (pair, sides) in pairs.iter().zip(judged) {
        for role in Role::BOTH {
            for (rollout, judged) in sides[role.index()].iter().enumerate() {
                manager.add(Judgement {
                    pair: pair.pair.id,
                    role,
                    rollout: rollout as u32,
                    verdict: judged.verdict,
                })?;
            }
        }
    }
    Ok(manager.finish(backend)?)
}

fn join(pairs: &[JudgePair], judged: Vec<[Vec<Judged>; 2]>, rewards: &Rewards) -> Vec<Trajectory> {
    let by_identity: BTreeMap<_, _> = rewards.judgements.iter().map(|r| ((r.pair, r.role, r.rollout), r)).collect();
    let mut trajectories = Vec::new();
    for (index, (pair, sides)) in pairs.iter().zip(judged).enumerate() {
        for (role, side) in Role::BOTH.into_iter().zip(sides) {
            for (rollout, judged) in side.into_iter().enumerate() {
                let rewarded = *by_identity[&(pair.pair.id, role, rollout as u32)];
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

/// `count` pairs in `parts` stretches, as even as can be.
fn parts(count: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = parts.clamp(1, count.max(1));
    (0..parts).map(move |i| i * count / parts..(i + 1) * count / parts)
}

/// Trajectories as sequences that share what they have in common within a pair.
fn sequences<'a>(pairs: &'a [JudgePair], trajectories: &[&'a Trajectory]) -> Vec<Sequence<'a>> {
    let sequence = |t: &&'a Trajectory| Sequence {
        tree: t.pair,
        prompt: &pairs[t.pair].prompts[t.role.index()],
        completion: &t.judged.completion.tokens,
    };
    trajectories.iter().map(sequence).collect()
}

/// Log-probabilities of every trajectory's tokens under a model.
fn score<B: Backend>(
    scorer: &mut Scorer<B>,
    model: &Qwen3<B>,
    plan: &RlPlan<'_>,
    capacity: usize,
    pairs: &[JudgePair],
    trajectories: &[Trajectory],
) -> Result<Vec<Vec<f32>>, TrainError> {
    let sequences = sequences(pairs, &trajectories.iter().collect::<Vec<_>>());
    prefix_tree::score(scorer, model, &sequences, capacity, plan.settings.temperature)
}

/// One update on whole pairs: all their micro-batches, then the optimizer.
fn learn<B: Backend>(
    learner: &mut Learner<B>,
    plan: &RlPlan<'_>,
    pairs: &[JudgePair],
    members: &[&Trajectory],
    learning_rate: f64,
    numbers: &mut StepNumbers,
) -> Result<Update, TrainError> {
    let settings = plan.settings;
    let of = Denominator {
        tokens: members.iter().map(|t| t.judged.completion.tokens.len()).sum(),
        sequences: members.len(),
        max_new_tokens: settings.max_new_tokens,
    };
    let mut micro_batches = Vec::new();
    for mut micro in pack(&sequences(pairs, members), learner.capacity())? {
        let rows = Rows::gather(&micro, |sequence| {
            let Trajectory { judged, rewarded, old_logprobs, reference_logprobs, .. } = members[sequence];
            Inputs {
                weight: settings.aggregation.token_weight(judged.completion.tokens.len(), of),
                advantage: rewarded.advantage,
                rollout: &judged.completion.logprobs,
                old: old_logprobs.as_deref(),
                // Without a reference the KL term is off, and the metric is how far the updates have moved the policy.
                reference: reference_logprobs.as_deref().or(old_logprobs.as_deref()),
            }
        });
        let loss = Loss::Grpo {
            loss: settings.policy.into(),
            old_logprob: rows.old.as_deref(),
            reference_logprob: rows.reference.as_deref(),
            advantages: &rows.advantages,
        };
        let results =
            learner.accumulate(&mut micro.batch, &micro.targets, &rows.weight, settings.temperature, &loss)?;
        micro_batches.push((rows, results));
    }
    numbers.begin_update();
    for (rows, results) in micro_batches {
        numbers.add(&rows, &results.get()?);
    }
    Ok(learner.update_if(numbers.last_loss().is_finite(), learning_rate)?)
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

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn updates_share_the_pairs_without_overlap() {
        for (count, n) in [(32, 1), (32, 3), (2, 5), (7, 2)] {
            let all: Vec<usize> = parts(count, n).flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
