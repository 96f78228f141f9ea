//! From verdicts to rewards: the format penalty, and joining pairs by identity.
//!
//! The arithmetic of the Preference-Aware Reward and of advantages is the op `score_margin`, and nowhere else.

mod format;
mod health;
mod manager;
mod settings;

pub use format::FormatPenalty;
pub use health::Health;
pub use manager::{Judgement, Margin, PairRewardManager, RewardError, Rewarded, Rewards};
pub use settings::{RewardSettings, Shape};
