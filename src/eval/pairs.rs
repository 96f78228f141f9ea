//! Accuracy of a judge on preference pairs: does it score the chosen response above the rejected one?

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::judge::{Judge, JudgePair, JudgeSampling, Judged, Verdict};
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::rollout::{Engine, EngineError};

/// What an evaluation found. A tie is never right; a failed judgement makes its comparison wrong, and is counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    pub pairs: usize,
    /// One sampled judgement a side, strictly higher.
    pub accuracy: f64,
    /// Means of the sampled judgements a side (eight in a whole evaluation), over those that have a score.
    pub accuracy_mean8: f64,
    /// One greedy judgement a side.
    pub accuracy_greedy: f64,
    /// Share of pairs whose two sampled scores are equal.
    pub tie_rate: f64,
    /// Mean over pairs of mean score of the chosen − mean score of the rejected side, over pairs where both have one.
    pub margin_mean: f64,
    /// Share of sampled judgements with a verdict.
    pub format_valid: f64,
    /// Mean tokens of a sampled judgement.
    pub length_mean: f64,
    /// `accuracy` by task.
    pub by_task: BTreeMap<String, f64>,
}

/// Sampled judgements a side in a whole evaluation.
pub const VOTES: usize = 8;

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
    Ok(report(pairs, &sampled, &greedy))
}

fn report(pairs: &[JudgePair], sampled: &[[Vec<Judged>; 2]], greedy: &[[Vec<Judged>; 2]]) -> PairReport {
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
            let members: Vec<usize> = (0..pairs.len()).filter(|i| pairs[*i].pair.task == task).collect();
            (task.to_string(), share(members.iter().filter(|i| right(i)).count(), members.len()))
        })
        .collect();
    PairReport {
        pairs: pairs.len(),
        accuracy: count(&|i| right(&i)),
        accuracy_mean8: count(&|i| margin(&sampled[i]).is_some_and(|m| m > 0.0)),
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

/// Scores of the first judgement of both sides, if both have one.
fn first_scores(sides: &[Vec<Judged>; 2]) -> Option<[f64; 2]> {
    Some([score(sides[0].first()?)?, score(sides[1].first()?)?])
}

/// Mean score of the chosen side − mean score of the rejected side, if both have one.
fn margin(sides: &[Vec<Judged>; 2]) -> Option<f64> {
    let mean = |side: &Vec<Judged>| {
        let scores: Vec<f64> = side.iter().filter_map(score).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    Some(mean(&sides[0])? - mean(&sides[1])?)
}
