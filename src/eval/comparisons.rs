//! A pairwise judge's answers about the responses of a row: who is preferred, in both orders.

use serde::Serialize;

use super::case::{Answer, Answered, Decision};
use super::outcome::Outcome;

/// Rows of so many responses have all of them compared; of rows with more, the better ones with the worse ones alone.
const ALL_COMPARED: usize = 4;

/// The share of votes that prefer the response shown first, for each two in each order.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparisons {
    /// By the first, then by the second; `None`: not asked, or no vote is valid.
    shares: Vec<Vec<Option<f64>>>,
}

impl Comparisons {
    /// Every two responses in both orders, the one shown first first.
    pub fn every(responses: usize) -> impl Iterator<Item = [usize; 2]> {
        let all = (0..responses).flat_map(move |first| (0..responses).map(move |second| [first, second]));
        all.filter(|[first, second]| first != second)
    }

    /// Which of them are compared in a row of a benchmark, whose first `good` responses are the better ones.
    pub fn asked(good: usize, responses: usize) -> Vec<[usize; 2]> {
        let across = |[first, second]: &[usize; 2]| (*first < good) != (*second < good);
        Self::every(responses).filter(|pair| responses <= ALL_COMPARED || across(pair)).collect()
    }

    /// What the votes on each two say.
    pub fn new(responses: usize, of: impl IntoIterator<Item = ([usize; 2], Option<f64>)>) -> Self {
        let mut shares = vec![vec![None; responses]; responses];
        of.into_iter().for_each(|([first, second], share)| shares[first][second] = share);
        Self { shares }
    }

    /// Responses.
    pub fn responses(&self) -> usize {
        self.shares.len()
    }

    fn share(&self, first: usize, second: usize) -> Option<f64> {
        *self.shares.get(first)?.get(second)?
    }

    /// How much more often one is preferred to the other, over both orders: −1 to 1; `None` without votes in both.
    pub fn margin(&self, better: usize, worse: usize) -> Option<f64> {
        Some(self.share(better, worse)? - self.share(worse, better)?)
    }

    /// The decision between two over both orders. Right in one and wrong in the other is a tie.
    pub fn outcome(&self, better: usize, worse: usize) -> Outcome {
        Outcome::of(self.margin(better, worse), Some(0.0))
    }

    /// The decisions of each order, the one with the better response first first.
    pub fn decisions(&self, better: usize, worse: usize) -> Vec<Option<Decision>> {
        let of = |share: Option<f64>, right_above: bool| {
            share.map(|share| match share - 0.5 {
                0.0 => Decision::Tie,
                lead if (lead > 0.0) == right_above => Decision::Right,
                _ => Decision::Wrong,
            })
        };
        vec![of(self.share(better, worse), true), of(self.share(worse, better), false)]
    }

    /// The share of decided comparisons with others that a response wins, a tie as a half; `None` without any.
    pub fn wins(&self, response: usize) -> Option<f64> {
        let others = (0..self.responses()).filter(|other| *other != response);
        let decided: Vec<f64> = others
            .map(|other| self.outcome(response, other))
            .filter(|outcome| *outcome != Outcome::Missing)
            .map(Outcome::half)
            .collect();
        (!decided.is_empty()).then(|| decided.iter().sum::<f64>() / decided.len() as f64)
    }
}

/// What the order does to a pairwise judge, over all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OrderEffects {
    /// Every two responses with votes in both orders.
    pub compared: usize,
    /// The share of votes for the response shown first: ½ without a bias.
    pub first_preferred: f64,
    /// The share of twos for which the two orders decide differently.
    pub flipped: f64,
    /// Threes of responses between which all is decided, without a tie.
    pub triples: usize,
    /// The share of them that is a cycle: A above B above C above A.
    pub cycles: f64,
}

impl OrderEffects {
    /// Of the rows that a pairwise judge answered; `None`: there are none.
    pub fn of_answers<'a>(rows: impl Iterator<Item = &'a Answered>) -> Option<Self> {
        Self::of(rows.filter_map(|row| match &row.answer {
            Answer::Comparisons(comparisons) => Some(comparisons),
            _ => None,
        }))
    }

    /// Of the comparisons of all rows; `None`: nothing was compared in both orders.
    pub fn of<'a>(comparisons: impl Iterator<Item = &'a Comparisons>) -> Option<Self> {
        let (mut found, mut first, mut flipped, mut cycles) = (Self::default(), 0.0, 0, 0);
        for of_row in comparisons {
            let count = of_row.responses();
            for (a, b) in (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))) {
                let Some((one, other)) = of_row.share(a, b).zip(of_row.share(b, a)) else { continue };
                found.compared += 1;
                first += (one + other) / 2.0;
                flipped += usize::from((one - 0.5).total_cmp(&0.0) != (0.5 - other).total_cmp(&0.0));
                for c in b + 1..count {
                    let around = [of_row.outcome(a, b), of_row.outcome(b, c), of_row.outcome(c, a)];
                    let decided = around.iter().all(|outcome| matches!(outcome, Outcome::Right | Outcome::Wrong));
                    found.triples += usize::from(decided);
                    cycles += usize::from(decided && around.iter().all(|outcome| *outcome == around[0]));
                }
            }
        }
        if found.compared == 0 {
            return None;
        }
        found.first_preferred = first / found.compared as f64;
        found.flipped = flipped as f64 / found.compared as f64;
        found.cycles = if found.triples == 0 { 0.0 } else { cycles as f64 / found.triples as f64 };
        Some(found)
    }

    /// The same in a sentence.
    pub fn text(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut text = format!(
            "the response shown first is preferred in {} of the votes; {} of {} comparisons differ between the two orders",
            percent(self.first_preferred),
            percent(self.flipped),
            self.compared
        );
        if self.triples > 0 {
            text += &format!("; {} of {} triples are cycles", percent(self.cycles), self.triples);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Case;

    fn of(responses: usize, shares: &[([usize; 2], Option<f64>)]) -> Comparisons {
        Comparisons::new(responses, shares.iter().copied())
    }

    #[test]
    fn every_two_are_compared_in_both_orders() {
        assert_eq!(Comparisons::asked(1, 2), [[0, 1], [1, 0]]);
        assert_eq!(Comparisons::asked(1, 4).len(), 12);
        let across = Comparisons::asked(3, 6);
        assert_eq!(across.len(), 18);
        assert!(across.iter().all(|[a, b]| (*a < 3) != (*b < 3)) && across.contains(&[4, 1]));
    }

    #[test]
    fn decisions_are_over_both_orders() {
        use Decision::{Right, Tie, Wrong};
        let pair = |one, other| of(2, &[([0, 1], one), ([1, 0], other)]);
        for (one, other, outcome, decisions) in [
            (Some(1.0), Some(0.0), Outcome::Right, [Some(Right), Some(Right)]),
            (Some(1.0), Some(1.0), Outcome::Tie, [Some(Right), Some(Wrong)]),
            (Some(0.0), Some(0.0), Outcome::Tie, [Some(Wrong), Some(Right)]),
            (Some(0.25), Some(0.5), Outcome::Wrong, [Some(Wrong), Some(Tie)]),
            (None, Some(0.0), Outcome::Missing, [None, Some(Right)]),
        ] {
            let pair = pair(one, other);
            assert_eq!((pair.outcome(0, 1), pair.decisions(0, 1)), (outcome, decisions.to_vec()), "{one:?} {other:?}");
        }
        assert_eq!(pair(Some(1.0), Some(1.0)).wins(0), Some(0.5));
        assert_eq!(pair(Some(0.75), Some(0.5)).wins(0), Some(1.0));
        assert_eq!(pair(None, None).wins(0), None);
        assert_eq!(of(2, &[]).outcome(0, 7), Outcome::Missing);
    }

    #[test]
    fn order_effects_are_bias_flips_and_cycles() {
        let answered = |comparisons| Answered {
            case: Case { id: "0".into(), subset: String::new(), good: 1, responses: 3, prompt: 0, gap: None },
            answer: Answer::Comparisons(comparisons),
            recorded: None,
        };
        let wins = |a, b| [([a, b], Some(1.0)), ([b, a], Some(0.0))];
        let cycle = of(3, &[wins(0, 1), wins(1, 2), wins(2, 0)].concat());
        let ordered = of(3, &[wins(0, 1), wins(1, 2), wins(0, 2)].concat());
        let first = of(2, &[([0, 1], Some(1.0)), ([1, 0], Some(1.0))]);
        let rows = [answered(cycle), answered(ordered), answered(first), answered(of(2, &[([0, 1], Some(1.0))]))];
        let effects = OrderEffects::of_answers(rows.iter()).unwrap();
        assert_eq!((effects.compared, effects.triples, effects.cycles), (7, 2, 0.5));
        assert!((effects.first_preferred - 4.0 / 7.0).abs() < 1e-12 && (effects.flipped - 1.0 / 7.0).abs() < 1e-12);
        assert_eq!(OrderEffects::of_answers(rows[3..].iter()), None);
        assert!(effects.text().contains("57.1 % of the votes; 14.3 % of 7 comparisons"), "{}", effects.text());
    }
}
