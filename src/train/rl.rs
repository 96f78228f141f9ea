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

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::error::TrainError;
use super::guard::Guard;
use super::learner::Learner;
use super::prefix_tree::{self, pack};
use super::rl_metrics::{RlMetrics, StepNumbers};
use super::rl_report::RL;
use super::rl_sample::RlSample;
use super::run::{StepReport, Trainer};
use super::token_loss::{Loss, Scorer, TokenObjective};
use super::trajectory::{Inputs, Rows, Trajectory, join, sequences};
use crate::checkpoint::Progress;
use crate::config::RlSettings;
use crate::data::Role;
use crate::judge::{Judge, JudgeMode, JudgePair, JudgeSampling, Judged};
use crate::log::StageBar;
use crate::log::charts::Stage;
use crate::loss::Denominator;
use crate::memory::Phase;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::optimizer::Update;
use crate::random::Stream;
use crate::reward::{Judgement, PairRewardManager, RewardSettings, Rewards};
use crate::rollout::Engine;
use crate::setting::Valid;

/// Where pairs come from: a pure function of the cursor, so a cursor is all a resume needs. There are at least as many
/// pairs of different ids as a step takes.
pub trait PairSource {
    fn pair(&self, cursor: u64) -> JudgePair;
}

/// What does not change from step to step.
pub struct RlPlan<'a> {
    pub settings: Valid<RlSettings>,
    pub reward: Valid<RewardSettings>,
    pub judge: &'a Judge,
    pub seed: u64,
    /// Whether rollouts, scoring and training use the same memory, one after the other
    pub share: bool,
    pub stop: Option<&'a AtomicBool>,
}

/// What a step works with.
pub struct RlContext<'a, B: Backend> {
    pub learner: &'a mut Learner<B>,
    /// The frozen SFT model; `None` when the KL coefficient is 0.
    pub reference: Option<&'a Qwen3<B>>,
    pub engine: &'a mut Engine<B>,
    pub scorer: &'a mut Scorer<B>,
    pub guard: &'a mut Guard,
}

/// RL as the loop of [`super::run`] sees it.
pub struct RlTrainer<'a, B: Backend> {
    pub context: RlContext<'a, B>,
    pub source: &'a dyn PairSource,
    pub plan: RlPlan<'a>,
}

impl<B: Backend> Trainer<B> for RlTrainer<'_, B> {
    type Metrics = RlMetrics;
    type Sample = RlSample;
    const STAGE: &'static Stage = &RL;

    fn steps(&self) -> u64 {
        self.plan.settings.steps
    }

    fn learner(&self) -> &Learner<B> {
        self.context.learner
    }

    fn release(&mut self) {
        self.context.engine.release();
        self.context.scorer.release();
        self.context.learner.release();
    }

    fn step(&mut self, progress: &mut Progress, bar: &StageBar) -> Result<StepReport<RlMetrics, RlSample>, TrainError> {
        let StepOutcome { metrics, pairs, trajectories } =
            rl_step(&mut self.context, self.source, &self.plan, progress, Some(bar))?;
        // The first rollouts of as many responses as asked for, those of a pair one after the other.
        let first = trajectories.iter().filter(|t| t.rollout == 0).take(self.plan.settings.samples_per_step);
        let mode = self.plan.judge.settings().mode;
        let samples = first.map(|t| RlSample::new(metrics.step, mode, &pairs[t.pair], t, &trajectories)).collect();
        let shown = vec![
            ("reward", metrics.reward_mean),
            ("margin", metrics.margin_mean.unwrap_or(f64::NAN)),
            ("right", metrics.pair_accuracy),
            ("valid", metrics.verdict_valid),
            ("kl", metrics.kl_mean.unwrap_or(f64::NAN)),
            ("dead", 0.5 * (metrics.dead_groups_chosen + metrics.dead_groups_rejected)),
        ];
        Ok(StepReport { metrics, shown, samples })
    }
}

/// What a step did: the line for metrics.jsonl, and the judgements for samples.jsonl.
pub struct StepOutcome {
    pub metrics: RlMetrics,
    pub pairs: Vec<JudgePair>,
    pub trajectories: Vec<Trajectory>,
}

/// Runs one step and moves `progress` on.
pub fn rl_step<B: Backend>(
    context: &mut RlContext<'_, B>,
    source: &dyn PairSource,
    plan: &RlPlan<'_>,
    progress: &mut Progress,
    bar: Option<&StageBar>,
) -> Result<StepOutcome, TrainError> {
    let start = Instant::now();
    let mut cursor = progress.cursor;
    let backend = context.learner.model.backend.clone();
    if plan.share {
        context.learner.release();
    }
    let collected = backend.range(
        || format!("step {} rollouts and rewards", progress.step + 1),
        || collect(context, source, plan, progress.step, &mut cursor, bar),
    )?;
    let rollout_s = start.elapsed().as_secs_f64();
    let Collected { pairs, mut trajectories, rewards, resampled, rollout_tokens } = collected;
    let capacity = context.learner.capacity();
    if plan.share {
        context.engine.release();
    }
    if let Some(reference) = context.reference {
        bar.inspect(|bar| bar.within("reference", 0, trajectories.len()));
        let scored = backend.range(
            || "reference log-probabilities".into(),
            || score(context.scorer, reference, plan, capacity, &pairs, &trajectories),
        )?;
        trajectories.iter_mut().zip(scored).for_each(|(t, logprobs)| t.reference_logprobs = Some(logprobs));
    }
    let parts: Vec<Range<usize>> = parts(pairs.len(), plan.settings.updates_per_step).collect();
    if parts.len() > 1 {
        let old = if B::ROLLOUTS_EQUAL_TRAINING {
            trajectories.iter().map(|t| t.judged.completion.logprobs.clone()).collect()
        } else {
            let model = &context.learner.model;
            backend.range(
                || "old log-probabilities".into(),
                || score(context.scorer, model, plan, capacity, &pairs, &trajectories),
            )?
        };
        trajectories.iter_mut().zip(old).for_each(|(t, logprobs)| t.old_logprobs = Some(logprobs));
    }
    if plan.share {
        context.scorer.release();
    }
    let mut numbers = StepNumbers::new(&plan.settings, rewards, resampled);
    let learning_rate = plan.settings.schedule().rate(progress.step);
    let updates = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        bar.inspect(|bar| bar.within("updates", index, updates));
        let members: Vec<&Trajectory> = trajectories.iter().filter(|t| part.contains(&t.pair)).collect();
        let update = backend.range(
            || "update".into(),
            || learn(context.learner, plan, &pairs, &members, learning_rate, &mut numbers),
        )?;
        let ids = || members.iter().map(|t| t.judged.completion.tokens.clone()).collect();
        context.guard.check(progress.step + 1, numbers.last_loss(), &update, ids)?;
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
    context: &mut RlContext<'_, B>,
    source: &dyn PairSource,
    plan: &RlPlan<'_>,
    step: u64,
    cursor: &mut u64,
    bar: Option<&StageBar>,
) -> Result<Collected, TrainError> {
    let settings = &plan.settings;
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
        let model = &context.learner.model;
        let (mut ended, total) = (0, 2 * fresh.len() * settings.rollouts);
        let fresh_judged = plan.judge.judge_pairs(context.engine, model, &how, &fresh, plan.stop, |count| {
            ended += count;
            bar.inspect(|bar| bar.within("rollouts", ended, total));
        })?;
        rollout_tokens += fresh_judged.iter().flatten().flatten().map(|j| j.completion.tokens.len()).sum::<usize>();
        pairs.extend(fresh);
        judged.extend(fresh_judged);
        let mode = plan.judge.settings().mode;
        let rewards = reward(&model.backend, &plan.reward, mode, settings.rollouts, &pairs, &judged)?;
        if attempt < settings.resample {
            let alive: Vec<bool> = pairs.iter().map(|pair| rewards.is_alive(pair.pair.id.key())).collect();
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
    let mut ids: BTreeSet<u64> = pairs.iter().map(|pair| pair.pair.id.key()).collect();
    let mut fresh = Vec::with_capacity(wanted);
    while fresh.len() < wanted {
        let pair = source.pair(*cursor);
        *cursor += 1;
        if ids.insert(pair.pair.id.key()) {
            fresh.push(pair);
        }
    }
    fresh
}

/// Rewards and advantages of all judgements, `rollouts` of each side, joined by (pair, role, rollout).
pub fn reward<B: Backend>(
    backend: &B,
    settings: &Valid<RewardSettings>,
    mode: JudgeMode,
    rollouts: usize,
    pairs: &[JudgePair],
    judged: &[[Vec<Judged>; 2]],
) -> Result<Rewards, TrainError> {
    let expected = pairs.iter().map(|pair| pair.pair.id.key());
    let mut manager = PairRewardManager::new(*settings, mode, rollouts).expecting(expected);
    for (pair, sides) in pairs.iter().zip(judged) {
        for role in Role::BOTH {
            for (rollout, judged) in sides[role.index()].iter().enumerate() {
                manager.add(Judgement {
                    pair: pair.pair.id.key(),
                    role,
                    rollout: rollout as u32,
                    verdict: judged.verdict,
                })?;
            }
        }
    }
    Ok(backend.phase(Phase::Reward, || backend.named("rewards", || manager.finish(backend)))?)
}

/// `count` pairs in `parts` stretches, as even as can be.
fn parts(count: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = parts.clamp(1, count.max(1));
    (0..parts).map(move |i| i * count / parts..(i + 1) * count / parts)
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
    let settings = &plan.settings;
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
                reference: reference_logprobs.as_deref(),
            }
        });
        let loss = Loss::Grpo {
            loss: settings.policy,
            old_logprob: rows.old.as_deref(),
            reference_logprob: rows.reference.as_deref(),
            advantages: &rows.advantages,
        };
        let objective = TokenObjective {
            targets: &micro.targets,
            row_weights: &rows.weight,
            temperature: settings.temperature,
            loss: &loss,
        };
        let results = learner.accumulate(&mut micro.batch, &objective)?;
        micro_batches.push((rows, results));
    }
    numbers.begin_update();
    for (rows, results) in micro_batches {
        numbers.add(&rows, &results.get()?);
    }
    Ok(learner.update_if(numbers.last_loss().is_finite(), learning_rate)?)
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
