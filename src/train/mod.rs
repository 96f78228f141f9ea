//! The training loops: SFT and RL.

mod error;
pub mod guard;
pub mod learner;
pub mod prefix_tree;
pub mod rl;
mod rl_metrics;
pub mod rl_report;
pub mod run_folder;
pub mod sft;
pub mod stages;

pub use error::TrainError;
pub use guard::Guard;
pub use learner::{Learner, Loss, RowFetch, RowResults, Scorer, Targets};
pub use rl_metrics::RlMetrics;
