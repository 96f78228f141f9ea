//! Qwen3: shapes, parameters, projections, activations, forward and backward, and its directory on disk.

pub mod activations;
pub mod backward;
pub mod batch;
pub mod config;
pub mod description;
pub mod directory;
pub mod export;
pub mod forward;
#[cfg(test)]
mod fuzz;
pub mod kv_pool;
pub mod parameters;
pub mod projection;
pub mod qwen3;
pub mod rope;
pub mod weights;

pub use activations::{Activations, Recompute};
pub use backward::{ActivationGradients, Gradients};
pub use batch::Batch;
pub use config::Qwen3Config;
pub use description::Description;
pub use directory::ModelDirectory;
pub use export::Export;
pub use kv_pool::KvPool;
pub use parameters::{Parameter, ParameterTable};
pub use projection::Projection;
pub use qwen3::Qwen3;
pub use weights::{LoadError, Weights};
