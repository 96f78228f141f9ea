//! The reward settings of a configuration.

use serde::{Deserialize, Serialize};

use super::FormatPenalty;
use crate::judge::VerdictRules;
use crate::ops::score_margin::{AdvantageNorm, MarginKind, PreferenceReward, RewardShape};
use crate::setting::{Finding, Relations, Severity, above, number, one_of, section};

/// The shape of f(δ); its parameters are keys of [`RewardSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `low` up to a margin of `threshold`, `high` above it.
    Graded,
    /// `constant` for every margin.
    Constant,
}

section! {
    /// Preference-Aware Reward, format penalty and advantages. `low`, `high` and `threshold` are the paper's; `constant`, the
    /// penalties and the score's range are this project's choices.
    pub struct RewardSettings {
        /// What a judgement on the right side of the other mean earns: by its margin, or always the same.
        pub shape: Shape = Shape::Graded => one_of(&["graded", "constant"]);
        /// Reward of a margin up to `threshold`.
        pub low: f64 = 1.2 => number(0.0, 1000.0);
        /// Reward of a margin above `threshold`.
        pub high: f64 = 1.4 => number(0.0, 1000.0);
        /// The margin from which on a judgement earns more, in points of the score.
        pub threshold: f64 = 2.0 => number(0.0, 2000.0);
        /// Reward of every margin, where the shape is constant.
        pub constant: f64 = 1.3 => above(0.0, 1000.0);
        /// The margin that f is applied to: the rollout's own, or the pair's.
        pub margin: MarginKind = MarginKind::Rollout => one_of(&["rollout", "pair"]);
        /// What advantages are divided by: the standard deviation of the group or of the batch, or none (Dr.GRPO).
        pub advantage: AdvantageNorm = AdvantageNorm::Group => one_of(&["group", "batch", "none"]);
        /// Added to the standard deviation.
        pub epsilon: f64 = 1e-6 => number(1e-30, 1.0);
        /// Added to the reward of a judgement without a verdict.
        pub penalty: FormatPenalty = FormatPenalty::default();
        /// What counts as a verdict; a judge that is trained on keeps its own (judge.toml) unless these keys are set.
        pub verdict: VerdictRules = VerdictRules::default();
    }
}

impl Copy for RewardSettings {}

impl Relations for RewardSettings {
    fn relations(&self) -> Vec<Finding> {
        let graded = self.shape == Shape::Graded;
        let mut found = Vec::new();
        let mut find = |wrong: bool, severity, keys: &[&str], reason: &str| {
            if graded && wrong {
                found.push(Finding::new(severity, keys, reason));
            }
        };
        find(
            self.low > self.high,
            Severity::Refused,
            &["low", "high"],
            "the larger margin must not earn less: low <= high",
        );
        find(self.high == 0.0, Severity::Refused, &["high"], "nothing is ever rewarded: set it above 0");
        find(
            self.low == 0.0,
            Severity::Noted,
            &["low"],
            "a right judgement with a small margin earns no more than a wrong one",
        );
        find(
            self.threshold >= self.verdict.max - self.verdict.min,
            Severity::Noted,
            &["threshold", "verdict.min", "verdict.max"],
            "no margin is above the threshold, so `high` is never earned",
        );
        found
    }
}

impl RewardSettings {
    /// The arguments of the op `score_margin`.
    pub fn preference(&self) -> PreferenceReward {
        let shape = match self.shape {
            Shape::Graded => {
                RewardShape::Graded { low: self.low as f32, high: self.high as f32, threshold: self.threshold as f32 }
            }
            Shape::Constant => RewardShape::Constant(self.constant as f32),
        };
        PreferenceReward { shape, margin: self.margin }
    }
}
