//! The training loops: SFT and RL.

pub mod learner;

pub use learner::{Learner, Loss, RowResults, Scorer, Targets};
