//! AdamW over the parameter arena: schedule, clipping, moments.

pub mod adamw;
pub mod schedule;

pub use adamw::{AdamWConfig, Optimizer, Update};
pub use schedule::{Decay, Schedule};
