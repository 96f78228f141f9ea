//! How a judge decided between a better and a worse response, and what each benchmark's rules make of it.

use serde::{Deserialize, Serialize};

/// A decision whose right answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The better response is preferred.
    Right,
    /// Neither is.
    Tie,
    /// The worse response is preferred.
    Wrong,
    /// At least one of the two has no valid verdict.
    Missing,
}

impl Outcome {
    /// Of the scores of the better and of the worse response.
    pub fn of(better: Option<f64>, worse: Option<f64>) -> Self {
        match better.zip(worse).and_then(|(better, worse)| better.partial_cmp(&worse)) {
            Some(std::cmp::Ordering::Greater) => Self::Right,
            Some(std::cmp::Ordering::Equal) => Self::Tie,
            Some(std::cmp::Ordering::Less) => Self::Wrong,
            None => Self::Missing,
        }
    }

    /// Of a recorded credit: 1, 0, or something between for what its script could not decide.
    pub fn of_credit(credit: f64) -> Self {
        match credit {
            1.0 => Self::Right,
            0.0 => Self::Wrong,
            _ => Self::Tie,
        }
    }

    /// The strict rule, that of scalar reward models: only a higher score is right.
    pub fn strict(self) -> f64 {
        f64::from(u8::from(self == Self::Right))
    }

    /// The rule of generative judges: a tie or a missing verdict is worth what a guess is.
    pub fn half(self) -> f64 {
        match self {
            Self::Right => 1.0,
            Self::Tie | Self::Missing => 0.5,
            Self::Wrong => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_and_what_they_are_worth() {
        let outcomes = [
            (Some(7.0), Some(6.0)),
            (Some(6.0), Some(6.0)),
            (Some(5.0), Some(6.0)),
            (None, Some(1.0)),
            (Some(9.0), None),
        ]
        .map(|(better, worse)| Outcome::of(better, worse));
        use Outcome::{Missing, Right, Tie, Wrong};
        assert_eq!(outcomes, [Right, Tie, Wrong, Missing, Missing]);
        assert_eq!(outcomes.map(Outcome::strict), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(outcomes.map(Outcome::half), [1.0, 0.5, 0.0, 0.5, 0.5]);
        assert_eq!(Outcome::of(Some(f64::NAN), Some(1.0)), Missing);
        assert_eq!([1.0, 0.0, 0.5, 0.25].map(Outcome::of_credit), [Right, Wrong, Tie, Tie]);
    }
}
