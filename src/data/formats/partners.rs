//! Rows that hold one response with its rating, of which two make a pair: they are joined by their prompt.

use std::collections::{HashMap, VecDeque};

use super::super::bad_rows::Location;
use super::super::{Message, TemplateArguments};
use super::Sides;

/// A prompt with one response and what is said of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Single {
    pub prompt: Vec<Message>,
    pub response: String,
    pub rating: Rating,
}

/// What is said of a response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rating {
    /// The higher, the better.
    Score(f64),
    /// Whether it is desirable.
    Label(bool),
}

impl Rating {
    /// The higher, the better.
    fn value(self) -> f64 {
        match self {
            Self::Score(score) => score,
            Self::Label(desirable) => f64::from(u8::from(desirable)),
        }
    }
}

/// The responses that have met no partner yet, by their prompts.
#[derive(Default)]
pub(super) struct Partners {
    waiting: HashMap<blake3::Hash, VecDeque<(Location, String, Rating)>>,
}

impl Partners {
    /// The pair of a response with the one that has waited longest, if any does. Each response is in one pair at most. Two equal
    /// scores are an error, and both responses are spent.
    pub fn meet(
        &mut self,
        single: Single,
        arguments: &TemplateArguments,
        at: &Location,
    ) -> Result<Option<Sides>, String> {
        let Single { prompt, response, rating } = single;
        // Those that wait for the same prompt have the same label: otherwise they would have met.
        let waiting = self.waiting.entry(key(&prompt, arguments, rating)).or_default();
        let met = waiting.pop_front_if(|(_, _, other)| matches!(rating, Rating::Score(_)) || *other != rating);
        let Some((first_at, first, first_rating)) = met else {
            waiting.push_back((at.clone(), response, rating));
            return Ok(None);
        };
        let (a, b) = (first_rating.value(), rating.value());
        if a == b {
            let (unit, number) = (first_at.unit, first_at.number);
            return Err(format!("is rated {b} like the other response to its prompt ({unit} {number}), a tie"));
        }
        let gap = matches!(rating, Rating::Score(_)).then_some((a - b).abs()).filter(|gap| gap.is_finite());
        let (chosen, rejected) = if a > b { (first, response) } else { (response, first) };
        Ok(Some(Sides { gap, ..Sides::new(prompt, chosen, rejected) }))
    }

    /// The responses that are left without a partner, in the order of their rows, and the reason why that makes a row bad.
    pub fn left(self) -> Vec<(Location, String)> {
        let mut left: Vec<_> = self.waiting.into_values().flatten().collect();
        left.sort_by(|(a, ..), (b, ..)| (&a.path, a.number).cmp(&(&b.path, b.number)));
        let reason = |rating: Rating| match rating {
            Rating::Score(_) => {
                "holds one rated response, and no other row has the other response of a pair to its prompt"
            }
            Rating::Label(true) => {
                "holds one response, labelled true, and no row is left with one labelled false to its prompt"
            }
            Rating::Label(false) => {
                "holds one response, labelled false, and no row is left with one labelled true to its prompt"
            }
        };
        left.into_iter().map(|(at, _, rating)| (at, reason(rating).to_string())).collect()
    }
}

/// Scores and labels are of different scales, so they do not meet.
fn key(prompt: &[Message], arguments: &TemplateArguments, rating: Rating) -> blake3::Hash {
    let key = (matches!(rating, Rating::Label(_)), prompt, arguments);
    blake3::hash(&serde_json::to_vec(&key).expect("JSON in memory can be written"))
}
