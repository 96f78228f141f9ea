//! Preference pairs, conversations and responses; dataset formats; the synthetic suite; the resumable order.

pub mod conversation;
pub mod error;
mod fields;
mod formats;
pub mod jsonl;
pub mod load;
pub mod message;
pub mod order;
pub mod pair;
pub mod prompt;
pub mod response;
pub mod row_id;
pub mod synthetic;
mod transcript;
mod turns;

pub use conversation::Conversation;
pub use error::DataError;
pub use jsonl::{OnBadRow, Skipped};
pub use load::{LoadOptions, Loaded, load_conversations, load_pairs, load_prompts, load_responses};
pub use message::{Message, TemplateArguments, shown_prompt};
pub use pair::{Pair, Role};
pub use prompt::{Prompt, PromptText};
pub use response::Response;
pub use row_id::RowId;
