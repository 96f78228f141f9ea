//! What the current thread is doing, and what the buffers that it creates are for.
//!
//! Both apply to a region of code, because the code that creates a buffer seldom knows what it is for.

use std::cell::Cell;
use std::fmt;

/// A part of a run that has a peak of its own. An inner phase is not counted to the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Building the model and whatever lasts as long as the run.
    Load,
    /// Prompts of rollouts.
    Prefill,
    /// Tokens of rollouts, one at a time.
    Decode,
    /// The arithmetic of rewards and advantages.
    Reward,
    /// Forward passes for log-probabilities alone.
    Score,
    Forward,
    /// The LM head with the loss and its gradient.
    Loss,
    Backward,
    /// Clipping and the optimizer.
    Update,
    /// Checkpoints and exports.
    Save,
}

impl Phase {
    /// All, in the order of a step.
    pub const ALL: [Self; 10] = [
        Self::Load,
        Self::Prefill,
        Self::Decode,
        Self::Reward,
        Self::Score,
        Self::Forward,
        Self::Loss,
        Self::Backward,
        Self::Update,
        Self::Save,
    ];

    /// Its name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Reward => "reward",
            Self::Score => "score",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Update => "update",
            Self::Save => "save",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Load) };
    static LABEL: Cell<&'static str> = const { Cell::new("other") };
}

/// Restores the value of a thread's cell, also after a panic.
struct Restore<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs `work`; buffers that this thread creates in it are listed under `label`.
pub fn labelled<R>(label: &'static str, work: impl FnOnce() -> R) -> R {
    let _restore = Restore(&LABEL, LABEL.replace(label));
    work()
}

/// The current label of this thread.
pub fn label() -> &'static str {
    LABEL.get()
}

/// Runs `work` as a phase of this thread. Devices do it by [`crate::tensor::Device::phase`], which also notes what there is at
/// its beginning.
pub fn during<R>(phase: Phase, work: impl FnOnce() -> R) -> R {
    let _restore = Restore(&PHASE, PHASE.replace(phase));
    work()
}

/// The current phase of this thread.
pub fn phase() -> Phase {
    PHASE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_restores_label_and_phase() {
        let caught = std::panic::catch_unwind(|| labelled("lost", || during(Phase::Save, || panic!("on purpose"))));
        assert!(caught.is_err() && label() == "other" && phase() == Phase::Load);
    }
}
