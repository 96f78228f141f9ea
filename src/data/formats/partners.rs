//! Rows that hold one response with its rating, of which two make a pair: they are joined by their prompt.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

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
    /// Whether two responses of these ratings make a pair: of scores any two, of labels two that differ.
    fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Score(_), Self::Score(_)) => true,
            (Self::Label(a), Self::Label(b)) => a != b,
            _ => false,
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
        let waiting = self.waiting.entry(key(&prompt, arguments)).or_default();
        let Some(index) = waiting.iter().position(|(_, _, other)| rating.meets(*other)) else {
            waiting.push_back((at.clone(), response, rating));
            return Ok(None);
        };
        let (first_at, first, first_rating) = waiting.remove(index).expect("the position is one of its own");
        let (better, gap) = match (first_rating, rating) {
            (Rating::Score(a), Rating::Score(b)) if a == b => {
                let (unit, number) = (first_at.unit, first_at.number);
                return Err(format!("is rated {b} like the other response to its prompt ({unit} {number}), a tie"));
            }
            (Rating::Score(a), Rating::Score(b)) => (a > b, Some((a - b).abs()).filter(|gap| gap.is_finite())),
            (Rating::Label(desirable), _) => (desirable, None),
            (Rating::Score(_), Rating::Label(_)) => unreachable!("a score meets scores alone"),
        };
        let (chosen, rejected) = if better { (first, response) } else { (response, first) };
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

fn key(prompt: &[Message], arguments: &TemplateArguments) -> blake3::Hash {
    #[derive(Serialize)]
    struct Key<'a>(&'a [Message], &'a TemplateArguments);
    blake3::hash(&serde_json::to_vec(&Key(prompt, arguments)).expect("JSON in memory can be written"))
}
