//! Configuration of a run: TOML file < environment < `--set` < flags, resolved and checked once.
//!
//! Every key has a default, so the defaults are the list of known keys. An unknown key is refused, and the error names the
//! nearest known one; so is every value that its rule does not allow, whatever the stage. The resolved configuration is saved
//! with every run.

mod changes;
mod settings;
#[cfg(test)]
mod tests;

pub use changes::{Change, KeyClass, changes};
pub use settings::{
    Choice, DataSettings, EvalSettings, ExportDtype, MemorySettings, ModelSettings, RUNNING, RecomputeChoice,
    RlSettings, RunSettings, SEED, SHARE, Settings, SftSettings, SftTarget, THREADS, TOKENS, TOKENS_MAX,
};
