//! The loops of the two stages: steps with progress, metrics, samples, checkpoints, and a stop that loses nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::error::TrainError;
use super::guard::Guard;
use super::learner::Learner;
use super::rl::{PairSource, RlMachines, RlPlan, StepOutcome, Trajectory, rl_step};
use super::rl_report::RL;
use super::run_folder::RunFolder;
use super::sft::{ExampleSource, Progress, SFT, SftPlan, sft_step};
use crate::checkpoint::{self, RunState};
use crate::judge::JudgePair;
use crate::log::Progress as Bar;
use crate::ops::Backend;
use crate::rollout::EngineError;

/// When to save.
#[derive(Clone, Copy, Debug)]
pub struct Saving {
    /// Steps between checkpoints; 0: at the end alone; `None`: never.
    pub every: Option<u64>,
    /// Checkpoints kept.
    pub keep: usize,
    pub seed: u64,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// Stopped from outside; the state is saved.
    Stopped,
}

/// Runs SFT from `progress` to the plan's last step.
#[allow(clippy::too_many_arguments)]
pub fn run_sft<B: Backend>(
    learner: &mut Learner<B>,
    source: &dyn ExampleSource,
    plan: &SftPlan,
    run: &mut RunFolder,
    guard: &mut Guard,
    progress: &mut Progress,
    saving: Saving,
    stop: &AtomicBool,
) -> anyhow::Result<Ending> {
    let mut bar = Bar::new(SFT.key, plan.steps, progress.step);
    while progress.step < plan.steps {
        let metrics = sft_step(learner, source, plan, guard, progress)?;
        bar.update(
            progress.step,
            &[("loss", metrics.loss), ("lr", metrics.learning_rate), ("tokens/s", metrics.tokens_per_s)],
        );
        run.metrics.write(&metrics)?;
        let stopped = stop.load(Ordering::Relaxed);
        save_if_due(SFT.key, learner, run, progress, saving, stopped || progress.step == plan.steps)?;
        if stopped {
            return Ok(Ending::Stopped);
        }
    }
    bar.finish();
    Ok(Ending::Complete)
}

/// Runs RL from `progress` to the last step of its settings.
pub fn run_rl<B: Backend>(
    machines: &mut RlMachines<'_, B>,
    source: &dyn PairSource,
    plan: &RlPlan<'_>,
    run: &mut RunFolder,
    progress: &mut Progress,
    saving: Saving,
    stop: &AtomicBool,
) -> anyhow::Result<Ending> {
    let steps = plan.settings.steps;
    let mut bar = Bar::new(RL.key, steps, progress.step);
    while progress.step < steps {
        let outcome = match rl_step(machines, source, plan, progress) {
            // A step that was interrupted has changed nothing.
            Err(TrainError::Engine(EngineError::Interrupted)) => {
                save_if_due(RL.key, machines.learner, run, progress, saving, true)?;
                return Ok(Ending::Stopped);
            }
            outcome => outcome?,
        };
        let m = &outcome.metrics;
        bar.update(
            progress.step,
            &[
                ("reward", m.reward_mean),
                ("margin", m.margin_mean.unwrap_or(f64::NAN)),
                ("right", m.pair_accuracy),
                ("valid", m.verdict_valid),
                ("kl", m.kl_mean),
                ("dead", 0.5 * (m.dead_groups_chosen + m.dead_groups_rejected)),
            ],
        );
        run.metrics.write(m)?;
        write_samples(run, &outcome, plan.settings.samples_per_step)?;
        let stopped = stop.load(Ordering::Relaxed);
        save_if_due(RL.key, machines.learner, run, progress, saving, stopped || progress.step == steps)?;
        if stopped {
            return Ok(Ending::Stopped);
        }
    }
    bar.finish();
    Ok(Ending::Complete)
}

fn save_if_due<B: Backend>(
    stage: &str,
    learner: &Learner<B>,
    run: &RunFolder,
    progress: &Progress,
    saving: Saving,
    last: bool,
) -> anyhow::Result<()> {
    let Some(every) = saving.every else { return Ok(()) };
    if !(last || every > 0 && progress.step.is_multiple_of(every)) {
        return Ok(());
    }
    let state =
        RunState { stage: stage.into(), seed: saving.seed, progress: *progress, updates: learner.optimizer.updates };
    checkpoint::save(&run.checkpoints(), &state, learner).context("the checkpoint cannot be saved")?;
    checkpoint::prune(&run.checkpoints(), saving.keep.max(1)).context("an old checkpoint cannot be deleted")
}

/// A judgement in samples.jsonl.
#[derive(serde::Serialize)]
struct Sample<'a> {
    stage: &'static str,
    step: u64,
    pair: u64,
    role: crate::data::Role,
    rollout: usize,
    task: &'a str,
    prompt: String,
    response: &'a str,
    judgement: &'a str,
    verdict: &'static str,
    score: Option<f64>,
    reward: f32,
    advantage: f32,
}

/// The first rollouts of as many sides as asked for, the sides of a pair one after the other.
fn write_samples(run: &mut RunFolder, outcome: &StepOutcome, count: usize) -> anyhow::Result<()> {
    for t in outcome.trajectories.iter().filter(|t| t.rollout == 0).take(count) {
        run.samples.write(&sample(outcome.metrics.step, &outcome.pairs[t.pair], t))?;
    }
    Ok(())
}

fn sample<'a>(step: u64, pair: &'a JudgePair, t: &'a Trajectory) -> Sample<'a> {
    let verdict = t.judged.verdict;
    Sample {
        stage: RL.key,
        step,
        pair: pair.pair.id,
        role: t.role,
        rollout: t.rollout,
        task: &pair.pair.task,
        prompt: pair.pair.prompt.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n"),
        response: pair.pair.response(t.role),
        judgement: &t.judged.text,
        verdict: verdict.failure().map_or("score", |failure| failure.name()),
        score: verdict.score(),
        reward: t.rewarded.reward,
        advantage: t.rewarded.advantage,
    }
}
