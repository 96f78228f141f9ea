//! Generation: prompts and their samples, sequences and their pages of keys and values, the scheduler, and the engine.

pub mod engine;
pub mod error;
pub mod limits;
pub mod pages;
pub mod request;
mod scheduler;
mod sequence;
pub mod statistics;

pub use engine::Engine;
pub use error::EngineError;
pub use limits::EngineLimits;
pub use request::{Completion, Ended, FinishReason, NotFinite, PromptGroup, SampleRequest};
pub use statistics::EngineStatistics;
