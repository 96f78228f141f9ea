//! Configuration: TOML file < environment < `--set`, resolved once into immutable values.
//!
//! Every key has a default, so the defaults are the list of known keys. An unknown key is refused, and the error names the
//! nearest known one. The resolved configuration is saved with every run.

mod overlay;
mod settings;

pub use overlay::{ConfigError, resolve};
pub use settings::{
    DataSettings, EvalSettings, ExportDtype, ModelSettings, RlSettings, RunSettings, Settings, SftSettings,
};
