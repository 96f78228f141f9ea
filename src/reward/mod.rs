//! From verdicts to rewards: the format penalty, and joining pairs by identity.
//!
//! The op `score_margin` does all the arithmetic of the Preference-Aware Reward and of advantages.

mod format;
mod health;
mod manager;
mod settings;

pub use format::FormatPenalty;
pub use health::Health;
pub use manager::{Judgement, Margin, PairRewardManager, RewardError, Rewarded, Rewards};
pub use settings::{RewardSettings, Shape};
