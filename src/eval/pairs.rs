//! Accuracy of a judge on preference pairs: how often it scores the chosen response above the rejected one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::judge::{Judge, JudgePair, JudgeSampling, Judged, Verdict};
use crate::log::charts::keys_of;
use crate::log::columns::{Column, Evaluation, Form};
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::rollout::{Engine, EngineError};

/// The results of an evaluation. A pair is right if the score of its chosen response is strictly higher. A tie is not
/// right; a pair with a failed judgement is not right and counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PairReport {
    pub pairs: usize,
    /// Sampled judgements of each response.
    pub votes: usize,
    /// By the score of one sampled judgement of each response.
    pub accuracy: f64,
    /// By the mean score of all sampled judgements of each response, over those that have a score.
    pub accuracy_mean: f64,
    /// By the score of one greedy judgement of each response.
    pub accuracy_greedy: f64,
    /// Share of pairs whose first sampled scores are equal.
    pub tie_rate: f64,
    /// Mean over pairs of (mean score of the chosen − mean score of the rejected response), where both have a score.
    pub margin_mean: f64,
    /// Share of sampled judgements with a verdict.
    pub format_valid: f64,
    /// Mean tokens of a sampled judgement.
    pub length_mean: f64,
    /// `accuracy` by task.
    pub by_task: BTreeMap<String, f64>,
}

/// Sampled judgements of each response in a whole evaluation.
pub const VOTES: usize = 8;

/// The results' columns, for the report.
pub const PAIRS: Evaluation = Evaluation {
    columns: &[
        Column {
            first: true,
            meaning: "share of held-out pairs whose chosen response has the higher score",
            ..column("accuracy", "Accuracy", Form::Percent)
        },
        Column {
            meaning: "the same by the mean score of all votes",
            ..column("accuracy_mean", "Accuracy, mean of votes", Form::Percent)
        },
        Column {
            meaning: "the same by one judgement at temperature 0",
            ..column("accuracy_greedy", "Accuracy, greedy", Form::Percent)
        },
        Column { more_is_better: false, ..column("tie_rate", "Ties", Form::Percent) },
        Column {
            first: true,
            meaning: "mean score of the chosen minus mean score of the rejected response, in points",
            ..column("margin_mean", "Margin", Form::Points)
        },
        Column { first: true, ..column("format_valid", "Valid format", Form::Percent) },
    ],
    keys: keys_of::<PairReport>,
};

const fn column(key: &'static str, name: &'static str, form: Form) -> Column {
    Column { key, name, form, more_is_better: true, first: false, meaning: "" }
}

/// Judges every pair: the sampled judgements that `how` asks for and a greedy one of each response.
pub fn evaluate_pairs<B: Backend>(
    judge: &Judge,
    engine: &mut Engine<B>,
    model: &Qwen3<B>,
    how: &JudgeSampling,
    pairs: &[JudgePair],
    stop: Option<&AtomicBool>,
    mut finished: impl FnMut(usize) + Send,
) -> Result<PairReport, EngineError> {
    let sampled = judge.judge_pairs(engine, model, how, pairs, stop, &mut finished)?;
    let greedy = JudgeSampling { votes: 1, sampling: Sampling::GREEDY, ..*how };
    let greedy = judge.judge_pairs(engine, model, &greedy, pairs, stop, &mut finished)?;
    Ok(report(pairs, how.votes, &sampled, &greedy))
}

fn report(pairs: &[JudgePair], votes: usize, sampled: &[[Vec<Judged>; 2]], greedy: &[[Vec<Judged>; 2]]) -> PairReport {
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let count = |test: &dyn Fn(usize) -> bool| share((0..pairs.len()).filter(|i| test(*i)).count(), pairs.len());
    let right = |i: &usize| first_scores(&sampled[*i]).is_some_and(|[chosen, rejected]| chosen > rejected);
    let margins: Vec<f64> = sampled.iter().filter_map(margin).collect();
    let all = || sampled.iter().flatten().flatten();
    let judgements = all().count();
    let tasks: std::collections::BTreeSet<&str> = pairs.iter().map(|p| p.pair.task.as_str()).collect();
    let by_task = tasks
        .into_iter()
        .map(|task| {
            let of_task: Vec<usize> = (0..pairs.len()).filter(|i| pairs[*i].pair.task == task).collect();
            (task.to_string(), share(of_task.iter().filter(|i| right(i)).count(), of_task.len()))
        })
        .collect();
    PairReport {
        pairs: pairs.len(),
        votes,
        accuracy: count(&|i| right(&i)),
        accuracy_mean: count(&|i| margin(&sampled[i]).is_some_and(|m| m > 0.0)),
        accuracy_greedy: count(&|i| first_scores(&greedy[i]).is_some_and(|[chosen, rejected]| chosen > rejected)),
        tie_rate: count(&|i| first_scores(&sampled[i]).is_some_and(|[chosen, rejected]| chosen == rejected)),
        margin_mean: if margins.is_empty() { 0.0 } else { margins.iter().sum::<f64>() / margins.len() as f64 },
        format_valid: share(all().filter(|j| score(j).is_some()).count(), judgements),
        length_mean: share(all().map(|j| j.completion.tokens.len()).sum(), judgements),
        by_task,
    }
}

fn score(judged: &Judged) -> Option<f64> {
    match judged.verdict {
        Verdict::Score(score) => Some(score),
        _ => None,
    }
}

/// Scores of the first judgement of both responses, if both have one.
fn first_scores(sides: &[Vec<Judged>; 2]) -> Option<[f64; 2]> {
    Some([score(sides[0].first()?)?, score(sides[1].first()?)?])
}

/// Mean score of the chosen − mean score of the rejected response, if both have one.
fn margin(sides: &[Vec<Judged>; 2]) -> Option<f64> {
    let mean = |side: &Vec<Judged>| {
        let scores: Vec<f64> = side.iter().filter_map(score).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    Some(mean(&sides[0])? - mean(&sides[1])?)
}
