//! The training loops: SFT and RL.

pub mod guard;
pub mod learner;
pub mod sft;
pub mod shared_prefix;

pub use guard::Guard;
pub use learner::{Learner, Loss, RowResults, Scorer, Targets};
