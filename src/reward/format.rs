//! The format penalty of a judgement without a verdict.

use crate::judge::{Failure, Verdict};
use crate::setting::{Relations, number, section};

section! {
    /// Added to the reward of a judgement that failed. The defaults are this project's choice: the paper has a format penalty,
    /// but none of our sources gives its size. Never above 0: a failure must not earn more than a verdict can.
    pub struct FormatPenalty {
        /// The tags are right, but the answer is not a valid score.
        pub invalid_score: f64 = -1.0 => number(-1000.0, 0.0);
        /// Tags are missing or misplaced, there is no text, or the text was cut before its answer.
        pub malformed: f64 = -1.5 => number(-1000.0, 0.0);
    }
}

impl Copy for FormatPenalty {}

impl Relations for FormatPenalty {}

impl FormatPenalty {
    /// The penalty of a verdict. If the judge was unavailable, the policy is not penalised.
    pub fn of(&self, verdict: &Verdict) -> f32 {
        match verdict.failure() {
            None | Some(Failure::Unavailable) => 0.0,
            Some(Failure::OutOfRange) => self.invalid_score as f32,
            Some(Failure::Malformed | Failure::Truncated | Failure::Missing) => self.malformed as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Valid;

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
        let refusal = |penalty| Valid::new(penalty).map(drop).map_err(|refusal| refusal.keys);
        assert_eq!(refusal(FormatPenalty::default()), Ok(()));
        let named = |key: &str| Err(vec![key.to_string()]);
        assert_eq!(refusal(FormatPenalty { malformed: 0.1, ..FormatPenalty::default() }), named("malformed"));
        assert_eq!(
            refusal(FormatPenalty { invalid_score: f64::NAN, ..FormatPenalty::default() }),
            named("invalid_score")
        );
    }
}
