//! What an engine did, counted.

use std::ops::AddAssign;

/// Counts of one or more `generate` calls. They are the same on every machine: a measure of a schedule that needs no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatistics {
    /// Forward passes, of all workers together.
    pub steps: u64,
    /// Tokens that went through the model, without the padding of replayed steps. A token that samples share counts once.
    pub tokens: u64,
    /// Those of `tokens` that had been computed before, and whose keys and values were dropped since.
    pub tokens_recomputed: u64,
    /// How often the pages of a running sequence were freed because another one needed them.
    pub preemptions: u64,
    /// How often the pages of a prompt were freed while samples still needed it.
    pub prompts_dropped: u64,
    /// The most pages in use at the same time: the sum of each worker's maximum.
    pub pages_max: usize,
}

impl AddAssign for EngineStatistics {
    /// Adds the counts of a later call; of `pages_max`, the larger one remains.
    fn add_assign(&mut self, other: Self) {
        self.pages_max = self.pages_max.max(other.pages_max);
        self.steps += other.steps;
        self.tokens += other.tokens;
        self.tokens_recomputed += other.tokens_recomputed;
        self.preemptions += other.preemptions;
        self.prompts_dropped += other.prompts_dropped;
    }
}
