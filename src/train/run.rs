//! The one loop of all trainers: steps with progress, metrics, samples, checkpoints, and a stop that loses nothing.
//!
//! **Invariant:** the loop knows no trainer, and a trainer knows nothing of folders, files or signals.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Serialize;

use super::error::TrainError;
use super::learner::Learner;
use super::run_folder::RunFolder;
use crate::checkpoint::{self, Progress, RunState};
use crate::config::RunSettings;
use crate::log::StageBar;
use crate::log::charts::Stage;
use crate::memory::Phase;
use crate::ops::Backend;
use crate::rollout::EngineError;
use crate::setting::Valid;

/// What the loop asks of a trainer.
pub trait Trainer<B: Backend> {
    /// A line of metrics.jsonl.
    type Metrics: Serialize;
    /// A line of samples.jsonl.
    type Sample: Serialize;
    /// Its name, and what the report shows of it.
    const STAGE: &'static Stage;

    /// Steps of the whole run.
    fn steps(&self) -> u64;
    /// What checkpoints hold.
    fn learner(&self) -> &Learner<B>;
    /// Gives back the memory that only a step needs: something else needs it now.
    fn release(&mut self);
    /// Runs one step and moves `progress` on; a step that ends in an error has changed nothing. `bar` shows where it stands.
    fn step(
        &mut self,
        progress: &mut Progress,
        bar: &StageBar,
    ) -> Result<StepReport<Self::Metrics, Self::Sample>, TrainError>;
}

/// What a step has to say.
pub struct StepReport<M, S> {
    pub metrics: M,
    /// Numbers beside the progress bar.
    pub shown: Vec<(&'static str, f64)>,
    pub samples: Vec<S>,
}

/// What looks at the model between steps, and changes nothing of it.
pub trait Look<B: Backend> {
    /// Whether the model is to be looked at after this step, which may be the `last` one.
    fn due(&self, step: u64, last: bool) -> bool;
    /// Looks, and writes what it saw; `false` if it was stopped. The step is looked at again after a resume then.
    fn look(&mut self, learner: &Learner<B>, step: u64, folder: &mut RunFolder) -> anyhow::Result<bool>;
    /// The step whose checkpoint is worth keeping, whatever its age.
    fn keep(&self) -> Option<u64>;
}

/// When to save.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy {
    /// Steps between checkpoints; 0: at the end alone; `None`: never.
    pub every: Option<u64>,
    /// Checkpoints kept.
    pub keep: usize,
}

impl CheckpointPolicy {
    /// The policy that `[run]` asks for.
    pub fn new(settings: &Valid<RunSettings>) -> Self {
        Self { every: Some(settings.checkpoint_every), keep: settings.keep_checkpoints }
    }

    /// For runs that take no longer than what they would save.
    pub const NONE: Self = Self { every: None, keep: 1 };
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// Stopped from outside; the state is saved, unless it is that of a run's beginning.
    Stopped,
}

/// Runs a trainer from `progress` to its last step.
pub fn train<B: Backend, T: Trainer<B>>(
    trainer: &mut T,
    folder: &mut RunFolder,
    progress: &mut Progress,
    policy: CheckpointPolicy,
    mut look: Option<&mut dyn Look<B>>,
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let steps = trainer.steps();
    let mut bar = StageBar::new(T::STAGE.key, steps, progress.step);
    // A run begins from its configuration or from a checkpoint, and neither needs to be saved again.
    let begun = progress.step;
    // An earlier process may have been stopped while it looked.
    if let Some(look) = look.as_deref_mut().filter(|look| look.due(begun, begun == steps)) {
        trainer.release();
        if !look.look(trainer.learner(), begun, folder)? {
            return Ok(Outcome::Stopped);
        }
    }
    while progress.step < steps {
        let report = match trainer.step(progress, &bar) {
            Err(TrainError::Engine(EngineError::Interrupted)) => {
                let saved = policy.every.is_some_and(|every| every > 0 && progress.step.is_multiple_of(every));
                if progress.step > begun && !saved {
                    save(trainer, folder, progress, policy, kept(&look))?;
                }
                return Ok(Outcome::Stopped);
            }
            report => report?,
        };
        bar.update(progress.step, &report.shown);
        folder.metrics.write(&report.metrics)?;
        report.samples.iter().try_for_each(|sample| folder.samples.write(sample))?;
        let last = progress.step == steps;
        if let Some(look) = look.as_deref_mut().filter(|look| look.due(progress.step, last)) {
            trainer.release();
            look.look(trainer.learner(), progress.step, folder)?;
        }
        let stopped = stop.load(Ordering::Relaxed);
        let due = policy.every.is_some_and(|every| every > 0 && progress.step.is_multiple_of(every));
        if due || stopped || last || kept(&look) == Some(progress.step) {
            save(trainer, folder, progress, policy, kept(&look))?;
        }
        if stopped {
            return Ok(Outcome::Stopped);
        }
    }
    bar.finish();
    Ok(Outcome::Complete)
}

/// The step whose checkpoint is kept whatever its age.
fn kept<B: Backend>(look: &Option<&mut dyn Look<B>>) -> Option<u64> {
    look.as_ref().and_then(|look| look.keep())
}

fn save<B: Backend, T: Trainer<B>>(
    trainer: &T,
    folder: &RunFolder,
    progress: &Progress,
    policy: CheckpointPolicy,
    kept: Option<u64>,
) -> anyhow::Result<()> {
    if policy.every.is_none() {
        return Ok(());
    }
    let learner = trainer.learner();
    let state = RunState { stage: T::STAGE.key.into(), progress: *progress, updates: learner.optimizer.updates };
    let root = folder.checkpoints();
    let backend = &learner.model.backend;
    backend
        .phase(Phase::Save, || checkpoint::save(&root, &state, backend, &learner.arenas()))
        .context("the checkpoint cannot be saved")?;
    checkpoint::prune(&root, policy.keep.max(1), kept).context("an old checkpoint cannot be deleted")
}
