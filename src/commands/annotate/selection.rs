//! Which pairs are kept, and which of their judgements are learnt.
//!
//! Scores have three digits after the point at most, so means are compared as fractions of whole thousandths: a margin that
//! equals the gap is not taken for a larger one because of its rounding, and neither is a judgement for a nearer one.

use std::collections::BTreeMap;

use super::row::AnnotatedRow;
use crate::commands::judged_response::{PairJudged, ResponseJudged};
use crate::data::Role;
use crate::judge::JudgeMode;

/// What is kept of judged pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// In thousandths of a point.
    min_gap: f64,
    per_response: usize,
    mode: JudgeMode,
}

/// What becomes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Kept,
    /// The rejected response scores higher.
    WrongWayRound,
    Tie,
    /// The chosen one scores higher, but not by enough.
    TooSmall,
    /// No vote for the chosen response is valid.
    NoChosen,
    NoRejected,
    NoVerdict,
    /// The prompt of a response was too long to be judged.
    TooLong,
}

impl Fate {
    /// Why pairs are dropped.
    pub const DROPPED: [Fate; 7] = [
        Self::WrongWayRound,
        Self::Tie,
        Self::TooSmall,
        Self::NoChosen,
        Self::NoRejected,
        Self::NoVerdict,
        Self::TooLong,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::WrongWayRound => "wrong_way_round",
            Self::Tie => "tie",
            Self::TooSmall => "too_small",
            Self::NoChosen => "no_verdict_for_chosen",
            Self::NoRejected => "no_verdict_for_rejected",
            Self::NoVerdict => "no_verdict_for_both",
            Self::TooLong => "prompt_too_long",
        }
    }
}

/// A judged pair, without the judgements that are not learnt.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub fate: Fate,
    /// Mean score of the chosen − mean score of the rejected response, in points.
    pub margin: Option<f64>,
    /// Of a pair that is kept, the judgements of each side that are learnt: the numbers of their votes, and their texts.
    pub learnt: [Vec<(usize, String)>; 2],
    pub votes: usize,
    pub valid: usize,
    /// The other votes, by the reason why they have no score.
    pub failed: BTreeMap<String, usize>,
    pub tokens: u64,
    pub prompt_tokens: u64,
}

impl Rule {
    /// `min_gap` in points: a margin must be larger. `per_response`: judgements of each response of a kept pair.
    pub fn new(min_gap: f64, per_response: usize, mode: JudgeMode) -> Self {
        let thousandths = 1000.0 * min_gap;
        let whole = thousandths.round();
        Self { min_gap: if (thousandths - whole).abs() < 1e-6 { whole } else { thousandths }, per_response, mode }
    }
}

/// The valid votes of a response: their numbers and scores, in thousandths.
struct Valid {
    scores: Vec<(usize, i64)>,
    sum: i64,
    count: i64,
}

impl Valid {
    /// Those that prefer the right response, of the votes of a pairwise teacher on an order.
    fn right(mut self, role: Role) -> Self {
        let right = if role == Role::Chosen { 1000 } else { 0 };
        self.scores.retain(|(_, score)| *score == right);
        self
    }

    fn of(side: &ResponseJudged) -> Self {
        let score = |(vote, score): (usize, Option<f64>)| Some((vote, (1000.0 * score?).round() as i64));
        let scores: Vec<_> = side.votes.iter().map(|vote| vote.score).enumerate().filter_map(score).collect();
        Self { sum: scores.iter().map(|(_, score)| score).sum(), count: scores.len() as i64, scores }
    }

    /// The votes whose scores are nearest to the mean, the earliest of equal ones.
    fn nearest(&self, wanted: usize) -> Vec<usize> {
        let distance = |score: i64| (self.count * score - self.sum).abs();
        let mut order: Vec<_> = self.scores.iter().map(|(vote, score)| (distance(*score), *vote)).collect();
        order.sort_unstable();
        order.into_iter().take(wanted).map(|(_, vote)| vote).collect()
    }
}

impl Outcome {
    /// By the votes of a row.
    pub fn of(row: AnnotatedRow, rule: Rule) -> Self {
        let AnnotatedRow { pair: PairJudged { chosen, rejected, .. }, tokens, prompt_tokens, skipped, .. } = row;
        let sides = [chosen, rejected];
        let [mut up, mut down] = sides.each_ref().map(Valid::of);
        // By both counts, so that it is whole.
        let (margin, unit) = (up.sum * down.count - down.sum * up.count, up.count * down.count);
        let fate = match (up.count, down.count) {
            _ if skipped.is_some() => Fate::TooLong,
            (0, 0) => Fate::NoVerdict,
            (0, _) => Fate::NoChosen,
            (_, 0) => Fate::NoRejected,
            _ if margin < 0 => Fate::WrongWayRound,
            _ if margin == 0 => Fate::Tie,
            _ if margin as f64 <= rule.min_gap * unit as f64 => Fate::TooSmall,
            _ => Fate::Kept,
        };
        if rule.mode == JudgeMode::Pairwise {
            (up, down) = (up.right(Role::Chosen), down.right(Role::Rejected));
        }
        let mut outcome = Self {
            fate,
            margin: (unit > 0).then(|| margin as f64 / (1000 * unit) as f64),
            learnt: Default::default(),
            votes: sides.iter().map(|side| side.votes.len()).sum(),
            valid: sides.iter().map(|side| side.scored.valid).sum(),
            failed: BTreeMap::new(),
            tokens,
            prompt_tokens,
        };
        for (name, count) in sides.iter().flat_map(|side| &side.scored.failed) {
            *outcome.failed.entry(name.clone()).or_default() += count;
        }
        if fate == Fate::Kept {
            let texts = |side: ResponseJudged, valid: Valid| {
                let mut texts: Vec<_> = side.votes.into_iter().map(|vote| vote.text).collect();
                let taken = valid.nearest(rule.per_response).into_iter();
                taken.filter_map(|vote| Some((vote, texts[vote].take()?))).collect()
            };
            let [chosen, rejected] = sides;
            outcome.learnt = [texts(chosen, up), texts(rejected, down)];
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::judging::{SCORE, Vote};
    use crate::data::RowId;

    /// A row by the scores of both sides' votes; 0: a vote that failed.
    fn row(scores: [&[f64]; 2]) -> AnnotatedRow {
        let vote = |(number, score): (usize, &f64)| Vote {
            verdict: if *score == 0.0 { "malformed" } else { SCORE }.into(),
            score: (*score != 0.0).then_some(*score),
            text: Some(format!("text {number}")),
        };
        let [chosen, rejected] =
            scores.map(|side| ResponseJudged::new(side.iter().enumerate().map(vote).collect::<Vec<_>>()));
        AnnotatedRow {
            id: RowId::from(1),
            position: 0,
            file: None,
            task: "chat".into(),
            source: None,
            pair: PairJudged::new(chosen, rejected),
            tokens: 7,
            prompt_tokens: 9,
            skipped: None,
        }
    }

    fn fate(scores: [&[f64]; 2], min_gap: f64) -> Fate {
        Outcome::of(row(scores), Rule::new(min_gap, 1, JudgeMode::Pointwise)).fate
    }

    #[test]
    fn a_pair_is_kept_by_a_margin_that_is_larger_than_the_gap() {
        assert_eq!(fate([&[8.0], &[6.0]], 2.0), Fate::TooSmall, "strictly more");
        assert_eq!(fate([&[9.0], &[6.0]], 2.0), Fate::Kept);
        assert_eq!(fate([&[9.0, 8.0, 0.0], &[6.0, 7.0, 6.0]], 2.0), Fate::Kept, "8.5 − 6.33, of valid votes");
        assert_eq!(fate([&[6.0], &[6.0]], 0.0), Fate::Tie);
        assert_eq!(fate([&[6.0], &[9.0]], 0.0), Fate::WrongWayRound);
        assert_eq!(fate([&[6.001], &[6.0]], 0.0), Fate::Kept);
        assert_eq!(fate([&[0.0], &[6.0]], 2.0), Fate::NoChosen);
        assert_eq!(fate([&[6.0], &[0.0, 0.0]], 2.0), Fate::NoRejected);
        assert_eq!(fate([&[], &[0.0]], 2.0), Fate::NoVerdict);
        let skipped = AnnotatedRow { skipped: Some("too long".into()), ..row([&[9.0], &[]]) };
        assert_eq!(Outcome::of(skipped, Rule::new(2.0, 1, JudgeMode::Pointwise)).fate, Fate::TooLong);
        // Margins that equal the gap, though their means as numbers of 64 bits differ by more or less than it.
        assert!(row([&[7.7, 7.7, 7.7], &[7.0]]).pair.margin.unwrap() > 0.7);
        assert_eq!(fate([&[7.7, 7.7, 7.7], &[7.0]], 0.7), Fate::TooSmall);
        assert_eq!(fate([&[7.7, 7.7, 7.701], &[7.0]], 0.7), Fate::Kept);
    }

    #[test]
    fn the_judgements_nearest_to_the_mean_are_learnt_and_the_earliest_of_equal_ones() {
        let learnt = |chosen: &[f64], wanted: usize| -> Vec<usize> {
            let outcome = Outcome::of(row([chosen, &[1.0]]), Rule::new(2.0, wanted, JudgeMode::Pointwise));
            assert_eq!((outcome.fate, &outcome.learnt[1]), (Fate::Kept, &vec![(0, "text 0".to_string())]));
            assert!(outcome.learnt[0].iter().all(|(vote, text)| *text == format!("text {vote}")));
            outcome.learnt[0].iter().map(|(vote, _)| *vote).collect()
        };
        assert_eq!(learnt(&[10.0, 0.0, 5.0, 6.0], 1), [3], "the mean is 7");
        assert_eq!(learnt(&[8.0, 6.0], 1), [0], "both are 1 away from it");
        assert_eq!(learnt(&[0.0, 6.0, 8.0], 2), [1, 2]);
        assert_eq!(learnt(&[3.2, 3.1], 1), [0], "as far, whatever 64 bits make of 3.15");
        assert_eq!(learnt(&[3.1, 3.2], 1), [0]);
        assert_eq!(learnt(&[0.0, 9.0], 2), [1], "no more than are valid");
    }

    /// Scores are preferences: 1 for the response shown first. None of the wrong ones is learnt.
    #[test]
    fn right_preferences_are_learnt() {
        let prefers = |sides: [&[f64]; 2]| {
            let mut row = row(sides);
            for votes in [&mut row.pair.chosen.votes, &mut row.pair.rejected.votes] {
                votes.iter_mut().for_each(|vote| vote.score = vote.score.map(|score| score - 1.0));
            }
            let outcome = Outcome::of(row, Rule::new(0.0, 2, JudgeMode::Pairwise));
            let learnt = outcome.learnt.each_ref().map(|side| side.iter().map(|(vote, _)| *vote).collect::<Vec<_>>());
            (outcome.fate, learnt)
        };
        // 2 stands for the first, 1 for the second.
        assert_eq!(prefers([&[2.0, 1.0, 2.0], &[1.0, 2.0, 1.0]]), (Fate::Kept, [vec![0, 2], vec![0, 2]]));
        assert_eq!(prefers([&[1.0, 1.0, 2.0], &[1.0, 1.0, 1.0]]), (Fate::Kept, [vec![2], vec![0, 1]]));
        assert_eq!(prefers([&[2.0, 2.0], &[2.0, 2.0]]), (Fate::Tie, [vec![], vec![]]));
        assert_eq!(prefers([&[1.0], &[2.0]]), (Fate::WrongWayRound, [vec![], vec![]]));
    }

    #[test]
    fn votes_and_failures_of_both_sides_are_counted() {
        let outcome = Outcome::of(row([&[9.0, 0.0], &[0.0, 0.0]]), Rule::new(2.0, 1, JudgeMode::Pointwise));
        assert_eq!((outcome.votes, outcome.valid, outcome.margin), (4, 1, None));
        assert_eq!(outcome.failed, BTreeMap::from([("malformed".to_string(), 3)]));
        assert_eq!((outcome.tokens, outcome.prompt_tokens), (7, 9));
        assert_eq!(Outcome::of(row([&[9.0, 8.0], &[4.0]]), Rule::new(2.0, 1, JudgeMode::Pointwise)).margin, Some(4.5));
    }
}
