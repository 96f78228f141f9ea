//! Preference pairs, dataset formats, and the resumable order of examples.

pub mod conversation;
pub mod error;
mod formats;
pub mod jsonl;
pub mod load;
pub mod message;
pub mod order;
pub mod pair;
pub mod response;
pub mod synthetic;
mod turns;

pub use conversation::{Conversation, pairs_to_conversations};
pub use error::DataError;
pub use jsonl::{BadLine, Skipped};
pub use load::{LoadOptions, Loaded, load_conversations, load_pairs, load_responses};
pub use message::Message;
pub use pair::{Pair, Role};
pub use response::Response;
