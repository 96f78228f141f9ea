//! The format penalty of a judgement without a verdict.

use serde::{Deserialize, Serialize};

use crate::judge::{Failure, Verdict};

/// Added to the reward of a judgement that failed. The defaults are this project's choice: the paper has a format penalty, but
/// none of our sources gives its size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FormatPenalty {
    /// The tags are right, but the answer is not a valid score.
    pub invalid_score: f64,
    /// Tags are missing or misplaced, there is no text, or the text was cut before its answer.
    pub malformed: f64,
}

impl Default for FormatPenalty {
    fn default() -> Self {
        Self { invalid_score: -1.0, malformed: -1.5 }
    }
}

impl FormatPenalty {
    /// The penalty of a verdict. If the judge was unavailable, the policy is not penalised.
    pub fn of(&self, verdict: &Verdict) -> f32 {
        match verdict.failure() {
            None | Some(Failure::Unavailable) => 0.0,
            Some(Failure::OutOfRange) => self.invalid_score as f32,
            Some(Failure::Malformed | Failure::Truncated | Failure::Missing) => self.malformed as f32,
        }
    }

    /// Checks the penalties: a failure must never earn more than a verdict can.
    pub fn validate(&self) -> Result<(), String> {
        let Self { invalid_score, malformed } = *self;
        if [invalid_score, malformed].iter().all(|penalty| penalty.is_finite() && *penalty <= 0.0) {
            return Ok(());
        }
        Err(format!("penalties must be finite and at most 0, got invalid_score {invalid_score}, malformed {malformed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_penalty() {
        let of = |failure| FormatPenalty::default().of(&Verdict::Failed(failure));
        assert_eq!(FormatPenalty::default().of(&Verdict::Score(1.0)), 0.0);
        assert_eq!(of(Failure::OutOfRange), -1.0);
        assert_eq!([Failure::Malformed, Failure::Truncated, Failure::Missing].map(of), [-1.5; 3]);
        assert_eq!(of(Failure::Unavailable), 0.0);
    }

    #[test]
    fn a_positive_penalty_is_refused() {
        assert!(FormatPenalty::default().validate().is_ok());
        assert!(FormatPenalty { malformed: 0.1, ..FormatPenalty::default() }.validate().is_err());
        assert!(FormatPenalty { invalid_score: f64::NAN, ..FormatPenalty::default() }.validate().is_err());
    }
}
