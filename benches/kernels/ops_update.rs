//! Rows of the ops after the model: sampling, rewards, the norm of all gradients and the optimizer.

use patarm::ops::OpResult;
use patarm::ops::adamw::{AdamW, Prepared, Tensor};
use patarm::ops::global_norm::GlobalNorm;
use patarm::ops::sample::{Draw, Sample, Sampling};
use patarm::ops::score_margin::{AdvantageNorm, MarginKind, PreferenceReward, RewardShape, ScoreMargin, VALID};
use patarm::random::Stream;

use super::measure::Bench;
use super::{ROLLOUTS, Shape};

pub const ROWS: [fn(&Bench, &Shape) -> OpResult; 4] = [sampling, score_margin, global_norm, adamw];

/// Rows of a decode step that are sampled from.
const DRAWS: usize = 64;
/// Pairs of an RL step.
const PAIRS: usize = 32;

fn sampling(bench: &Bench, shape: &Shape) -> OpResult {
    let filtered = Sampling { temperature: 1.0, top_k: 50, top_p: 0.95, min_p: 0.0 };
    for (name, sampling) in [
        ("sample greedy", Sampling::GREEDY),
        ("sample temperature", Sampling::temperature(1.0)),
        ("sample top-k, top-p", filtered),
    ] {
        let Some(row) = bench.row(name, shape) else { continue };
        let vocab = shape.vocab;
        let draw = |row| Draw { row, sampling, stream: Stream::new(1).fold(row.into()), position: 7 };
        let draws: Vec<Draw> = (0..DRAWS as u32).map(draw).collect();
        let (copies, (mut ids, mut logprobs, logits)) =
            bench.buffers(|set| Ok((set.output(DRAWS)?, set.output(DRAWS)?, set.input(DRAWS * vocab)?)))?;
        // The host uploads the draws with every call.
        let measured = row.eager().measure(format!("{DRAWS} × {vocab}"), copies, |caller, copy| {
            let (logprobs, logits) = (logprobs.at_mut(copy), logits.at(copy));
            caller.call(Sample { ids: ids.at_mut(copy), logprobs, logits, draws: &draws, vocab })
        });
        measured.check(&[("ids", &ids), ("logprobs", &logprobs)]);
    }
    Ok(())
}

fn score_margin(bench: &Bench, shape: &Shape) -> OpResult {
    for (name, norm) in [("score_margin group", AdvantageNorm::Group), ("score_margin batch", AdvantageNorm::Batch)] {
        let Some(row) = bench.row(name, shape) else { continue };
        let (pairs, n) = (PAIRS, ROLLOUTS);
        let (sides, size) = (2 * pairs, 2 * pairs * n);
        let graded = RewardShape::Graded { low: 1.2, high: 1.4, threshold: 2.0 };
        let preference = PreferenceReward { shape: graded, margin: MarginKind::Rollout };
        let (copies, (by_side, by_slot, inputs)) = bench.buffers(|set| {
            let by_slot = [set.output(size)?, set.output(size)?, set.output(size)?, set.output(size)?];
            let inputs = (set.input(size)?, set.words(size, |_, _| VALID)?, set.input(size)?);
            Ok(((set.output(sides)?, set.output(sides)?), by_slot, inputs))
        })?;
        let ((mut means, mut valid_count), (scores, state, penalty)) = (by_side, inputs);
        let [mut delta, mut par, mut reward, mut advantage] = by_slot;
        let measured = row.measure(format!("{pairs} × 2 × {n}"), copies, |caller, copy| {
            caller.call(ScoreMargin {
                means: means.at_mut(copy),
                valid_count: valid_count.at_mut(copy),
                delta: delta.at_mut(copy),
                par: par.at_mut(copy),
                reward: reward.at_mut(copy),
                advantage: advantage.at_mut(copy),
                scores: scores.at(copy),
                state: state.at(copy),
                penalty: penalty.at(copy),
                pairs,
                n,
                preference,
                norm,
                epsilon: 1e-6,
            })
        });
        measured.check(&[
            ("means", &means),
            ("valid_count", &valid_count),
            ("delta", &delta),
            ("par", &par),
            ("reward", &reward),
            ("advantage", &advantage),
        ]);
    }
    Ok(())
}

/// Elements of a layer's matrices.
fn layer_len(shape: &Shape) -> usize {
    shape.matrices().iter().map(|(_, sizes)| sizes.len()).sum()
}

fn global_norm(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("global norm", shape) else { return Ok(()) };
    let len = layer_len(shape);
    let (copies, (mut norm, gradient)) = bench.buffers(|set| Ok((set.output(1)?, set.input(len)?)))?;
    let measured = row.measure(format!("{len}"), copies, |caller, copy| {
        caller.call(GlobalNorm { norm: norm.at_mut(copy), gradient: gradient.at(copy) })
    });
    measured.check(&[("norm", &norm)]);
    Ok(())
}

/// A layer's matrices with their prepared weights, and its norms: the update of one layer in a step.
fn adamw(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("adamw", shape) else { return Ok(()) };
    let (matrices, norms) = (shape.matrices().map(|(_, sizes)| sizes), 2 * shape.hidden);
    let matrices_len = layer_len(shape);
    let len = matrices_len + norms;
    let (copies, ((mut weight, mut moment1, mut moment2), gradient, norm, prepared)) = bench.buffers(|set| {
        let state = (set.changed(len)?, set.changed(len)?, set.changed_positive(len)?);
        let prepared = matrices.map(|sizes| set.weight(sizes));
        Ok((state, set.input(len)?, set.positive(1)?, prepared))
    })?;
    let [a, b, c, d] = prepared;
    let mut prepared = [a?, b?, c?, d?];
    // Eager, because the table of tensors is uploaded if it differs from the last call's. A layer is larger than the cache.
    let measured = row.eager().measure(format!("{len}"), copies, |caller, copy| {
        let (mut tensors, mut first) = (Vec::new(), 0);
        for (sizes, weights) in matrices.iter().zip(&mut prepared) {
            let prepared = Some(Prepared { weight: &mut weights[copy], sizes: *sizes });
            tensors.push(Tensor { range: first..first + sizes.len(), weight_decay: 0.1, prepared });
            first += sizes.len();
        }
        tensors.push(Tensor { range: matrices_len..len, weight_decay: 0.0, prepared: None });
        caller.call(AdamW {
            weight: weight.at_mut(copy),
            moment1: moment1.at_mut(copy),
            moment2: moment2.at_mut(copy),
            gradient: gradient.at(copy),
            tensors,
            norm: norm.at(copy),
            clip_norm: 1.0,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            step: 10,
        })
    });
    measured.check(&[("weight", &weight), ("moment1", &moment1), ("moment2", &moment2)]);
    Ok(())
}
