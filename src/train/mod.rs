//! The trainers. `sft.rs` and `rl.rs` are a step each, read from top to bottom; `run.rs` is the one loop that runs them.

pub mod dataset;
mod error;
pub mod guard;
pub mod learner;
pub mod prefix_tree;
pub mod rl;
mod rl_metrics;
pub mod rl_report;
mod rl_sample;
pub mod run;
pub mod run_folder;
pub mod sft;
pub mod step_buffers;
pub mod token_loss;
pub mod trajectory;

pub use error::TrainError;
pub use guard::Guard;
pub use learner::Learner;
pub use rl_metrics::RlMetrics;
pub use token_loss::{Loss, RowFetch, RowResults, Scorer, Targets, TokenObjective};
