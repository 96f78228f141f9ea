//! Preference pairs, conversations and responses; dataset formats; the synthetic suite; the resumable order.

mod control_turns;
pub mod conversation;
pub mod error;
mod fields;
mod formats;
pub mod jsonl;
mod labels;
pub mod load;
pub mod message;
pub mod order;
pub mod pair;
pub mod prompt;
pub mod response;
mod routing;
mod row_fields;
pub mod row_id;
pub mod synthetic;
mod transcript;
mod turns;

pub use conversation::Conversation;
pub use error::DataError;
pub use formats::Format;
pub use jsonl::{OnBadRow, Skipped};
pub use load::{LoadOptions, Loaded, load_conversations, load_pairs, load_prompts, load_responses};
pub use message::{Message, TemplateArguments, shown_prompt};
pub use pair::{Pair, Role};
pub use prompt::{Prompt, PromptText};
pub use response::Response;
pub use routing::{TaskBy, Tasks};
pub use row_fields::check_judged;
pub use row_id::RowId;
pub use turns::turns_of_prompt;
