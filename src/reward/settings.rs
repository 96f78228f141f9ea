//! The reward settings of a configuration.

use serde::{Deserialize, Serialize};

use super::FormatPenalty;
use crate::judge::VerdictRules;
use crate::ops::score_margin::{AdvantageNorm, MarginKind, PreferenceReward, RewardShape};

/// The shape of f(δ); its parameters are keys of [`RewardSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `low` up to a margin of `threshold`, `high` above it.
    Graded,
    /// `constant` for every margin.
    Constant,
}

/// Preference-Aware Reward, format penalty and advantages. `low`, `high` and `threshold` are the paper's; `constant`, the
/// penalties and the score's range are this project's choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardSettings {
    pub shape: Shape,
    pub low: f64,
    pub high: f64,
    pub threshold: f64,
    pub constant: f64,
    /// The margin that f is applied to: the rollout's own, or the pair's.
    pub margin: MarginKind,
    /// What advantages are divided by.
    pub advantage: AdvantageNorm,
    /// Added to the standard deviation.
    pub epsilon: f64,
    pub penalty: FormatPenalty,
    pub verdict: VerdictRules,
}

impl Default for RewardSettings {
    fn default() -> Self {
        Self {
            shape: Shape::Graded,
            low: 1.2,
            high: 1.4,
            threshold: 2.0,
            constant: 1.3,
            margin: MarginKind::Rollout,
            advantage: AdvantageNorm::Group,
            epsilon: 1e-6,
            penalty: FormatPenalty::default(),
            verdict: VerdictRules::default(),
        }
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

    /// Checks the numbers.
    pub fn validate(&self) -> Result<(), String> {
        let numbers = [
            ("low", self.low),
            ("high", self.high),
            ("threshold", self.threshold),
            ("constant", self.constant),
            ("epsilon", self.epsilon),
        ];
        for (name, value) in numbers {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(format!("`{name}` must be 0 or a positive number, got {value}"));
            }
        }
        self.penalty.validate()?;
        self.verdict.validate()
    }
}
