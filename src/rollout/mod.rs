//! Generation: prompts and their samples, pages of keys and values, the scheduler, and the engine.

pub mod engine;
pub mod error;
pub mod pages;
pub mod request;
mod scheduler;

pub use engine::{Engine, EngineLimits};
pub use error::EngineError;
pub use request::{Completion, Ended, FinishReason, NotFinite, PromptGroup, SampleRequest};
