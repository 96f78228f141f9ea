//! Preference pairs, dataset formats, judge prompts, packing and the resumable order of examples.

pub mod message;
pub mod order;
pub mod pair;

pub use message::Message;
pub use pair::{Pair, Role};
