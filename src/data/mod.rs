//! Preference pairs, conversations and responses; files of them; dataset formats; the synthetic suite; the resumable order.

pub mod bad_rows;
pub mod candidates;
mod control_turns;
pub mod conversation;
mod endings;
pub mod error;
mod expansion;
mod fields;
mod formats;
pub mod hub;
mod json_array;
mod labels;
pub mod lines;
pub mod load;
pub mod message;
pub mod order;
mod packed;
pub mod pair;
mod parquet;
pub mod prompt;
pub mod response;
mod routing;
mod row_fields;
pub mod row_id;
pub mod row_reader;
pub mod sources;
pub mod synthetic;
mod transcript;
mod turns;

pub use bad_rows::{Location, OnBadRow, Skipped};
pub use candidates::Candidates;
pub use conversation::Conversation;
pub use error::DataError;
pub use formats::Format;
pub use load::{
    LoadOptions, Loaded, OnRow, Streamed, load_candidates, load_conversations, load_pairs, load_prompts,
    load_responses, load_rows,
};
pub use load::{stream_conversations, stream_pairs, stream_responses};
pub use message::{Message, TemplateArguments, shown_prompt};
pub use pair::{Pair, Role};
pub use prompt::{Prompt, PromptText};
pub use response::Response;
pub use routing::{TaskBy, Tasks};
pub use row_fields::check_judged;
pub use row_id::{RowId, hash64};
pub use row_reader::first_row;
pub use turns::turns_of_prompt;
