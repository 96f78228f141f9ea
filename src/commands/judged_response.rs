//! The votes of a response in numbers, and those of a pair.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::judging::{Vote, failures, mean_score};

/// The votes of a response in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Mean over the votes that have a score.
    pub score: Option<f64>,
    /// Votes that have a score.
    pub valid: usize,
    /// The other votes, by the reason why they have none.
    pub failed: BTreeMap<String, usize>,
    /// Their share of all votes; null for a response that was not judged.
    pub failed_share: Option<f64>,
    /// The middle one of the scores, or the mean of the two in the middle.
    pub median: Option<f64>,
    /// The score that most votes give; null where two are given as often.
    pub majority: Option<f64>,
    /// Standard deviation of the scores; null of fewer than two.
    pub spread: Option<f64>,
}

/// The votes of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseJudged {
    #[serde(flatten)]
    pub scored: Scored,
    pub votes: Vec<Vote>,
}

/// Those of the two responses of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairJudged {
    pub chosen: ResponseJudged,
    pub rejected: ResponseJudged,
    /// Score of the chosen − score of the rejected response.
    pub margin: Option<f64>,
    /// Whether the chosen one scores strictly higher; null without both scores.
    pub right: Option<bool>,
}

impl ResponseJudged {
    /// Votes and what they come to.
    pub fn new(votes: Vec<Vote>) -> Self {
        Self { scored: Scored::new(&votes), votes }
    }
}

impl PairJudged {
    /// Both sides and their margin.
    pub fn new(chosen: ResponseJudged, rejected: ResponseJudged) -> Self {
        let scores = chosen.scored.score.zip(rejected.scored.score);
        let margin = scores.map(|(chosen, rejected)| chosen - rejected + 0.0);
        Self { chosen, rejected, margin, right: margin.map(|margin| margin > 0.0) }
    }
}

impl Scored {
    /// Those of a response that was not judged are none.
    pub fn new(votes: &[Vote]) -> Self {
        let failed = failures(votes);
        let failures: usize = failed.values().sum();
        Self {
            score: mean_score(votes),
            valid: votes.iter().filter(|vote| vote.score.is_some()).count(),
            failed,
            failed_share: (!votes.is_empty()).then(|| failures as f64 / votes.len() as f64),
            median: median(votes),
            majority: majority(votes),
            spread: spread(votes),
        }
    }
}

/// The scores of votes in ascending order.
fn sorted(votes: &[Vote]) -> Vec<f64> {
    let mut scores: Vec<f64> = votes.iter().filter_map(|vote| vote.score).map(|score| score + 0.0).collect();
    scores.sort_by(f64::total_cmp);
    scores
}

fn median(votes: &[Vote]) -> Option<f64> {
    let scores = sorted(votes);
    let middle = scores.len() / 2;
    match scores.len() {
        0 => None,
        count if count % 2 == 1 => Some(scores[middle]),
        _ => Some((scores[middle - 1] + scores[middle]) / 2.0),
    }
}

fn majority(votes: &[Vote]) -> Option<f64> {
    let scores = sorted(votes);
    let groups: Vec<&[f64]> = scores.chunk_by(|a, b| a == b).collect();
    let most = groups.iter().map(|group| group.len()).max()?;
    let mut often = groups.iter().filter(|group| group.len() == most);
    let first = often.next()?[0];
    often.next().is_none().then_some(first)
}

fn spread(votes: &[Vote]) -> Option<f64> {
    let scores = sorted(votes);
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (scores.len() > 1).then(|| (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::judging::SCORE;

    fn vote(verdict: &str, score: Option<f64>) -> Vote {
        Vote { verdict: verdict.into(), score, text: None }
    }

    #[test]
    fn many_votes_have_a_middle_a_majority_and_a_spread() {
        let votes = |scores: &[f64]| scores.iter().map(|score| vote(SCORE, Some(*score))).collect::<Vec<_>>();
        let of = |scores: &[f64]| {
            let Scored { score, median, majority, spread, .. } = Scored::new(&votes(scores));
            (score, median, majority, spread)
        };
        // statistics.stdev([2, 4, 4, 9]) of Python.
        assert_eq!(of(&[9.0, 4.0, 2.0, 4.0]), (Some(4.75), Some(4.0), Some(4.0), Some(2.986_078_811_194_819_3)));
        assert_eq!(of(&[8.0, 6.0]), (Some(7.0), Some(7.0), None, Some(2.0_f64.sqrt())));
        assert_eq!(of(&[3.0, 5.0, 4.0]).1, Some(4.0));
        assert_eq!(of(&[7.0]), (Some(7.0), Some(7.0), Some(7.0), None));
    }
}
