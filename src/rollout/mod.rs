//! Generation: prompts with their samples, pages of keys and values, and the engine that batches them.

pub mod engine;
pub mod error;
pub mod pages;
pub mod request;
mod scheduler;

pub use engine::{Engine, EngineLimits};
pub use error::EngineError;
pub use request::{Completion, FinishReason, PromptGroup, SampleRequest};
