//! The form of a judgement: what it is about, whose rubrics it follows, and how much of a text the judge sees.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::setting::{Relations, count, one_of, section};

/// What one judgement is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeMode {
    /// One response, which gets a score.
    #[default]
    Pointwise,
    /// Two responses, of which one is preferred. Every two are judged in both orders.
    Pairwise,
}

impl JudgeMode {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["pointwise", "pairwise"];

    /// As settings write it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Responses that one judgement is about.
    pub fn responses(self) -> usize {
        match self {
            Self::Pointwise => 1,
            Self::Pairwise => 2,
        }
    }
}

/// Whose rubrics a judgement follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RubricMode {
    /// The primary rubrics of the task, and further ones that the judge writes for the request.
    #[default]
    Both,
    /// The primary rubrics alone: the judge writes none, and has no section for them.
    Primary,
    /// Those that the judge writes alone: it is shown none.
    Generated,
}

impl RubricMode {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["both", "primary", "generated"];

    /// Whether the judge is shown the primary rubrics of the task.
    pub fn shows_primary(self) -> bool {
        self != Self::Generated
    }

    /// Whether the judge writes rubrics of its own.
    pub fn generates(self) -> bool {
        self != Self::Primary
    }
}

/// Judge prompts in which a text was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Those whose request was.
    pub prompts: usize,
    /// Those of which a response was.
    pub responses: usize,
}

/// Counts prompts in which a text was cut, on any thread.
#[derive(Debug, Default)]
pub(super) struct CutCount([AtomicUsize; 2]);

impl CutCount {
    /// Takes a prompt: whether its request was cut, and whether a response was.
    pub fn add(&self, cut: [bool; 2]) {
        for (count, cut) in self.0.iter().zip(cut) {
            count.fetch_add(usize::from(cut), Ordering::Relaxed);
        }
    }

    /// Those so far.
    pub fn get(&self) -> Cuts {
        let [prompts, responses] = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        Cuts { prompts, responses }
    }
}

/// What is left of a text that is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Its beginning and its end, half of the budget each.
    #[default]
    Ends,
    /// Its beginning.
    Start,
}

/// The most characters of a budget.
const CHARACTERS_MAX: i64 = 1 << 30;

section! {
    /// How much of a text from outside the judge sees, in characters: a token of English has about four. 0 is no limit. What is
    /// cut is counted, and said in the text.
    pub struct LengthBudget {
        /// The most characters of the request, all its turns together.
        pub prompt: usize = 0 => count(0, CHARACTERS_MAX);
        /// The most characters of each response.
        pub response: usize = 0 => count(0, CHARACTERS_MAX);
        /// What is left of a longer text: `ends` (its beginning and its end, half each) or `start`.
        pub keep: Keep = Keep::Ends => one_of(&["ends", "start"]);
    }
}

impl Copy for LengthBudget {}

impl Relations for LengthBudget {}

section! {
    /// The form of a judgement. A judge that is trained on keeps its own (judge.toml) unless these keys are set.
    pub struct JudgeForm {
        /// What one judgement is about: `pointwise`, one response, which gets a score; `pairwise`, two, of which one is
        /// preferred: both orders are judged, and in rl a right preference is the reward.
        pub mode: JudgeMode = JudgeMode::Pointwise => one_of(JudgeMode::NAMES);
        /// Whose rubrics count: `both`, the primary ones of the task and those that the judge writes for the request;
        /// `primary` or `generated`, one of the two alone.
        pub rubrics: RubricMode = RubricMode::Both => one_of(RubricMode::NAMES);
        /// How much of a text the judge sees.
        pub length: LengthBudget = LengthBudget::default();
    }
}

impl Copy for JudgeForm {}

impl Relations for JudgeForm {}

impl LengthBudget {
    /// A request as the judge sees it.
    pub(super) fn prompt<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.cut(text, self.prompt)
    }

    /// A response as the judge sees it.
    pub(super) fn response<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.cut(text, self.response)
    }

    fn cut<'a>(&self, text: &'a str, budget: usize) -> Cow<'a, str> {
        // Bytes are at least as many as characters.
        if budget == 0 || text.len() <= budget {
            return text.into();
        }
        let characters = text.chars().count();
        if characters <= budget {
            return text.into();
        }
        let (start, end) = match self.keep {
            Keep::Ends => (budget.div_ceil(2), budget / 2),
            Keep::Start => (budget, 0),
        };
        let at = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(at, _)| at);
        let (first, last) = (&text[..at(start)], &text[at(characters - end)..]);
        let (first, last) = (first.trim_end(), last.trim_start());
        // On one line with what is left: a cut must not make the beginning or the end of a line, where a text could then have
        // written a label of the frame that it had not written before.
        let gap = if last.is_empty() { "" } else { " " };
        format!("{first} [… {} characters left out …]{gap}{last}", characters - budget).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let budget = |response, keep| LengthBudget { prompt: 0, response, keep };
        let text = "0123456789éèê";
        assert_eq!(budget(0, Keep::Ends).response(text), text);
        assert_eq!(budget(13, Keep::Ends).response(text), text);
        assert_eq!(budget(5, Keep::Ends).response(text), "012 [… 8 characters left out …] èê");
        assert_eq!(budget(5, Keep::Start).response(text), "01234 [… 8 characters left out …]");
        assert_eq!(budget(1, Keep::Ends).response(text), "0 [… 12 characters left out …]");
        assert_eq!(budget(1, Keep::Start).prompt(text), text, "each has its own");
        let blank = format!("a{}b", " ".repeat(20));
        assert_eq!(budget(6, Keep::Ends).response(&blank), "a [… 16 characters left out …] b");
    }
}
