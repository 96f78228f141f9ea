//! Configuration: TOML file < environment < `--set`, resolved once into immutable values.
//!
//! Every key has a default, so the defaults are the list of known keys: a key that is not among them is refused with the
//! nearest one that is. The resolved configuration is saved with every run.

mod overlay;
mod settings;

pub use overlay::{ConfigError, resolve};
pub use settings::{DataSettings, EvalSettings, ModelSettings, RlSettings, RunSettings, Settings, SftSettings};
