//! Accuracy of a judge on preference pairs: how often it scores the chosen response above the rejected one, by one judgement
//! a side (at temperature 1, at the judge's own best temperature, greedy) and by the mean of several.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::interval::{self, Estimate};
use crate::judge::{Judge, JudgePair, JudgeSampling, Judged};
use crate::log::charts::keys_of;
use crate::log::columns::{Column, Evaluation, Form};
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::rollout::{Engine, EngineError};

/// Judgements of each response: each is one judgement a side, and their mean is a score too.
pub const VOTES: usize = 8;
/// The same where it is asked what voting alone can do.
pub const MANY_VOTES: usize = 64;
/// Temperatures among which a judge's best one is looked for.
pub const TEMPERATURES: [f32; 4] = [0.25, 0.5, 0.75, 1.0];
/// Judgements of each response at each of them.
const TUNING_VOTES: usize = 4;

/// The results of an evaluation. A pair is right if the score of its chosen response is strictly higher. A tie is not
/// right; a pair with a failed judgement is not right and counts. For a pairwise judge, "the score of a response" is whether it
/// is preferred where it is shown first: a pair is right if the chosen response is preferred in both orders, and a tie if the
/// two orders contradict each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PairReport {
    pub pairs: usize,
    /// Sampled judgements of each response, at each temperature.
    pub votes: usize,
    /// By one judgement of each response at temperature 1: the mean over the votes, each for itself.
    pub accuracy: f64,
    /// The temperature at which `accuracy` is highest on training pairs; `None`: it was not looked for.
    pub best_temperature: Option<f64>,
    /// By one judgement of each response at that temperature, as `accuracy`.
    pub accuracy_best: Option<f64>,
    /// By the score of one greedy judgement of each response.
    pub accuracy_greedy: f64,
    /// By the mean score of `votes` judgements of each response at temperature 1, over those that have a score.
    pub accuracy_mean: f64,
    /// The same with [`MANY_VOTES`]; `None`: they were not drawn.
    pub accuracy_many: Option<f64>,
    /// Share of pairs whose scores are equal, as `accuracy`.
    pub tie_rate: f64,
    /// Mean over pairs of (mean score of the chosen − mean score of the rejected response), where both have a score.
    pub margin_mean: f64,
    /// Share of sampled judgements with a verdict, at temperature 1.
    pub format_valid: f64,
    /// Mean tokens of a sampled judgement.
    pub length_mean: f64,
    /// `accuracy` by task.
    pub by_task: BTreeMap<String, f64>,
    /// `accuracy_best` by task.
    pub best_by_task: BTreeMap<String, f64>,
    /// `accuracy_greedy` by task.
    pub greedy_by_task: BTreeMap<String, f64>,
    /// 95 % intervals over pairs, by the key of what they are of.
    pub intervals: BTreeMap<&'static str, [f64; 2]>,
}

/// The results' columns, for the report.
pub const PAIRS: Evaluation = Evaluation {
    columns: &[
        Column {
            first: true,
            meaning: "share of held-out pairs whose chosen response has the higher score, by one judgement of each at \
                      temperature 1",
            ..column("accuracy", "Accuracy", Form::Percent)
        },
        Column {
            first: true,
            meaning: "the same at the judge's own best temperature, which is chosen on training pairs",
            ..column("accuracy_best", "At best temperature", Form::Percent)
        },
        column("best_temperature", "Best temperature", Form::Number),
        Column {
            first: true,
            meaning: "the same at temperature 0",
            ..column("accuracy_greedy", "Greedy", Form::Percent)
        },
        Column {
            meaning: "by the mean score of all votes at temperature 1",
            ..column("accuracy_mean", "Mean of votes", Form::Percent)
        },
        Column { meaning: "the same with 64 votes", ..column("accuracy_many", "Mean of 64", Form::Percent) },
        Column { more_is_better: false, ..column("tie_rate", "Ties", Form::Percent) },
        Column {
            first: true,
            meaning: "mean score of the chosen minus mean score of the rejected response, in points",
            ..column("margin_mean", "Margin", Form::Points)
        },
        Column { first: true, ..column("format_valid", "Valid format", Form::Percent) },
    ],
    by_task: &[("by_task", "Accuracy"), ("best_by_task", "At best temperature"), ("greedy_by_task", "Greedy")],
    keys: keys_of::<PairReport>,
};

const fn column(key: &'static str, name: &'static str, form: Form) -> Column {
    Column { key, name, form, more_is_better: true, first: false, meaning: "" }
}

/// What is asked of a judge.
#[derive(Clone, Copy, Debug)]
pub struct PairQuestions<'a> {
    /// Held-out pairs.
    pub pairs: &'a [JudgePair],
    /// Training pairs on which the best temperature is chosen; empty: it is not looked for.
    pub tuning: &'a [JudgePair],
    /// At temperature 1. With [`MANY_VOTES`] votes and more, the mean of so many is measured too.
    pub sampling: JudgeSampling,
}

impl PairQuestions<'_> {
    /// Judgements that the answers take, at most.
    pub fn judgements(&self) -> u64 {
        let tuning = self.tuning.len() * TEMPERATURES.len() * TUNING_VOTES;
        let best = if self.tuning.is_empty() { 0 } else { self.pairs.len() * VOTES.min(self.sampling.votes) };
        2 * (self.pairs.len() * (self.sampling.votes + 1) + tuning + best) as u64
    }
}

/// A judge's results, and those of every pair behind them.
pub struct PairResults {
    pub report: PairReport,
    /// By the key of what they are of: 1 for a right pair, 0 for a wrong one, and for accuracies of one judgement the share
    /// of votes for which it is right. In the order of the pairs.
    pub values: BTreeMap<&'static str, Vec<f64>>,
}

/// One judgement of each response of every pair, drawn several times: `[pair][role][vote]`.
type Drawn = [[Vec<Judged>; 2]];

/// Judges every pair. It calls `finished` with the number of judgements that have just ended.
pub fn evaluate_pairs<B: Backend>(
    judge: &Judge,
    engine: &mut Engine<B>,
    model: &Qwen3<B>,
    questions: &PairQuestions<'_>,
    stop: Option<&AtomicBool>,
    mut finished: impl FnMut(usize) + Send,
) -> Result<PairResults, EngineError> {
    let at_one = &questions.sampling;
    let mut draw =
        |how: &JudgeSampling, pairs: &[JudgePair]| judge.judge_pairs(engine, model, how, pairs, stop, &mut finished);
    let sampled = draw(at_one, questions.pairs)?;
    let greedy = draw(&JudgeSampling { votes: 1, sampling: Sampling::GREEDY, ..*at_one }, questions.pairs)?;
    let at = |temperature, votes| JudgeSampling { votes, sampling: Sampling::temperature(temperature), ..*at_one };
    let best = match questions.tuning.is_empty() {
        true => None,
        false => {
            let temperature = best_temperature(|t| draw(&at(t, TUNING_VOTES), questions.tuning))?;
            Some((temperature, draw(&at(temperature, VOTES.min(at_one.votes)), questions.pairs)?))
        }
    };
    let tasks: Vec<&str> = questions.pairs.iter().map(|pair| pair.pair.task.as_str()).collect();
    let best = best.as_ref().map(|(temperature, drawn)| (*temperature, &drawn[..]));
    Ok(results(&tasks, at_one.votes, &sampled, &greedy, best))
}

/// The temperature at which one judgement of each response is right most often; the lower one of two equal ones.
fn best_temperature<E>(mut draw: impl FnMut(f32) -> Result<Vec<[Vec<Judged>; 2]>, E>) -> Result<f32, E> {
    let mut best = (TEMPERATURES[0], f64::NEG_INFINITY);
    for temperature in TEMPERATURES {
        let accuracy = mean(&each_vote(&draw(temperature)?, usize::MAX, right));
        if accuracy > best.1 {
            best = (temperature, accuracy);
        }
    }
    Ok(best.0)
}

/// `tasks`: of the pairs; `drawn`: judgements of each response in `sampled`; `best`: those at the best temperature.
fn results(tasks: &[&str], drawn: usize, sampled: &Drawn, greedy: &Drawn, best: Option<(f32, &Drawn)>) -> PairResults {
    let votes = VOTES.min(drawn);
    let mut values = BTreeMap::from([
        ("accuracy", each_vote(sampled, votes, right)),
        ("accuracy_greedy", each_vote(greedy, 1, right)),
        ("accuracy_mean", by_mean(sampled, votes)),
        ("tie_rate", each_vote(sampled, votes, |chosen, rejected| chosen == rejected)),
    ]);
    values.extend(best.map(|(_, drawn)| ("accuracy_best", each_vote(drawn, votes, right))));
    values.extend((drawn >= MANY_VOTES).then(|| ("accuracy_many", by_mean(sampled, MANY_VOTES))));
    let shares: BTreeMap<&'static str, Estimate> =
        values.iter().map(|(key, values)| (*key, interval::share(values))).collect();
    let share = |key: &str| shares.get(key).map(|share| share.mean);
    let by_task = |key: &str| values.get(key).map_or_else(BTreeMap::new, |values| by_task(tasks, values));
    let margins: Vec<f64> = sampled.iter().filter_map(|sides| margin(sides, votes)).collect();
    let all = || sampled.iter().flatten().flatten();
    let scored: Vec<f64> = all().map(|judged| f64::from(u8::from(score(judged).is_some()))).collect();
    let report = PairReport {
        pairs: tasks.len(),
        votes,
        accuracy: share("accuracy").unwrap_or(0.0),
        best_temperature: best.map(|(temperature, _)| f64::from(temperature)),
        accuracy_best: share("accuracy_best"),
        accuracy_greedy: share("accuracy_greedy").unwrap_or(0.0),
        accuracy_mean: share("accuracy_mean").unwrap_or(0.0),
        accuracy_many: share("accuracy_many"),
        tie_rate: share("tie_rate").unwrap_or(0.0),
        margin_mean: mean(&margins),
        format_valid: mean(&scored),
        length_mean: mean(&all().map(|judged| judged.completion.tokens.len() as f64).collect::<Vec<_>>()),
        by_task: by_task("accuracy"),
        best_by_task: by_task("accuracy_best"),
        greedy_by_task: by_task("accuracy_greedy"),
        intervals: shares.iter().map(|(key, share)| (*key, [share.low, share.high])).collect(),
    };
    PairResults { report, values }
}

/// The mean of the values of each task's pairs.
fn by_task(tasks: &[&str], values: &[f64]) -> BTreeMap<String, f64> {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (task, value) in tasks.iter().zip(values) {
        found.entry((*task).to_owned()).or_default().push(*value);
    }
    found.into_iter().map(|(task, values)| (task, mean(&values))).collect()
}

/// 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn right(chosen: f64, rejected: f64) -> bool {
    chosen > rejected
}

/// For each pair the share of its first votes, chosen and rejected side by side, whose two scores pass a test.
fn each_vote(drawn: &Drawn, votes: usize, test: impl Fn(f64, f64) -> bool) -> Vec<f64> {
    let passes = |(chosen, rejected): (&Judged, &Judged)| {
        f64::from(u8::from(score(chosen).zip(score(rejected)).is_some_and(|(chosen, rejected)| test(chosen, rejected))))
    };
    let of_pair = |[chosen, rejected]: &[Vec<Judged>; 2]| {
        mean(&chosen.iter().zip(rejected).take(votes).map(passes).collect::<Vec<_>>())
    };
    drawn.iter().map(of_pair).collect()
}

/// For each pair 1 if the mean score of the chosen response's first votes is higher than the rejected one's.
fn by_mean(drawn: &Drawn, votes: usize) -> Vec<f64> {
    drawn.iter().map(|sides| f64::from(u8::from(margin(sides, votes).is_some_and(|margin| margin > 0.0)))).collect()
}

fn score(judged: &Judged) -> Option<f64> {
    judged.verdict.score()
}

/// Mean score of the chosen − mean score of the rejected response over their first votes, if both have one.
fn margin(sides: &[Vec<Judged>; 2], votes: usize) -> Option<f64> {
    let mean_score = |side: &Vec<Judged>| {
        let scores: Vec<f64> = side.iter().take(votes).filter_map(score).collect();
        (!scores.is_empty()).then(|| mean(&scores))
    };
    Some(mean_score(&sides[0])? - mean_score(&sides[1])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Failure, Verdict};
    use crate::rollout::{Completion, FinishReason};

    /// 0 stands for a failed judgement.
    fn judged(scores: &[u32]) -> Vec<Judged> {
        let judged = |score: &u32| Judged {
            sections: Default::default(),
            completion: Completion { tokens: vec![7; 10], logprobs: vec![0.0; 10], finish_reason: FinishReason::Stop },
            text: String::new(),
            verdict: match score {
                0 => Verdict::Failed(Failure::Malformed),
                score => Verdict::Score(f64::from(*score)),
            },
        };
        scores.iter().map(judged).collect()
    }

    #[test]
    fn results_worked_by_hand() {
        let drawn = [
            // Right, then a tie; 7 against 5 by the mean.
            [judged(&[8, 6]), judged(&[4, 6])],
            // Failed, then wrong; 3 against 4.
            [judged(&[0, 3]), judged(&[4, 4])],
            // Right twice.
            [judged(&[9, 9]), judged(&[1, 2])],
        ];
        let greedy = [[judged(&[5]), judged(&[5])], [judged(&[6]), judged(&[5])], [judged(&[9]), judged(&[0])]];
        let best = [
            [judged(&[5, 6]), judged(&[5, 5])],
            [judged(&[6, 6]), judged(&[5, 5])],
            [judged(&[9, 9]), judged(&[0, 1])],
        ];
        let PairResults { report, values } = results(&["chat", "math", "math"], 2, &drawn, &greedy, Some((0.5, &best)));
        assert_eq!((report.pairs, report.votes), (3, 2));
        assert_eq!(values["accuracy"], [0.5, 0.0, 1.0]);
        assert_eq!(values["accuracy_greedy"], [0.0, 1.0, 0.0]);
        assert_eq!(values["accuracy_mean"], [1.0, 0.0, 1.0]);
        assert_eq!(values["accuracy_best"], [0.5, 1.0, 0.5]);
        assert_eq!(values["tie_rate"], [0.5, 0.0, 0.0]);
        assert_eq!((report.accuracy, report.accuracy_many, report.best_temperature), (0.5, None, Some(0.5)));
        assert!((report.margin_mean - (2.0 - 1.0 + 7.5) / 3.0).abs() < 1e-12);
        assert_eq!((report.format_valid, report.length_mean), (11.0 / 12.0, 10.0));
        assert_eq!(report.by_task["math"], 0.5);
        assert_eq!(report.greedy_by_task["chat"], 0.0);
        assert!(report.intervals["accuracy"][0] < 0.5 && 0.5 < report.intervals["accuracy"][1]);
    }

    #[test]
    fn the_temperature_that_is_right_most_often_is_taken_and_the_lower_of_two() {
        let right_at = |good: [f32; 2]| {
            best_temperature(|temperature| {
                let chosen = if good.contains(&temperature) { 9 } else { 1 };
                Ok::<_, ()>(vec![[judged(&[chosen]), judged(&[5])]])
            })
        };
        assert_eq!(right_at([0.75, 1.0]), Ok(0.75));
        assert_eq!(right_at([1.0, 1.0]), Ok(1.0));
        assert_eq!(best_temperature(|_| Err::<_, _>("stopped")), Err("stopped"));
    }
}
