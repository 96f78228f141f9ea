//! From a judge's text to a reward: verdicts, the format penalty, and joining pairs by identity.
//!
//! The arithmetic of the Preference-Aware Reward and of advantages is the op `score_margin`, and nowhere else.

mod format;
mod health;
mod manager;
mod settings;
mod verdict;

pub use format::FormatPenalty;
pub use health::Health;
pub use manager::{Judgement, Margin, PairRewardManager, RewardError, Rewarded, Rewards};
pub use settings::{RewardSettings, Shape};
pub use verdict::{Failure, Side, Verdict, VerdictRules};
