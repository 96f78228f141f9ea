//! Generation: prompts with their members, pages of keys and values, and the engine that batches them.

pub mod engine;
pub mod error;
pub mod pages;
pub mod request;
mod schedule;

pub use engine::{Engine, EngineLimits};
pub use error::EngineError;
pub use request::{Completion, Finish, Member, PromptGroup};
