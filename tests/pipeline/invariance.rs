//! The loss and its gradient do not depend on how a batch is packed or split.

use patarm::loss::grpo::{GrpoLoss, KlEstimator};
use patarm::ops::Cpu;
use patarm::random::Stream;
use patarm::setting::Valid;
use patarm::train::prefix_tree::{Sequence, pack};
use patarm::train::sft::{Example, micro_batches};
use patarm::train::trajectory::{Inputs, Rows};
use patarm::train::{Learner, Loss, TokenObjective};

use crate::common::suite::model;

const VOCAB: usize = 61;

fn assert_close(what: &str, got: &[f32], expected: &[f32], limit: f64) {
    let square = |x: f64| x * x;
    let norm = expected.iter().map(|x| square(f64::from(*x))).sum::<f64>().sqrt();
    let difference = got.iter().zip(expected).map(|(g, e)| square(f64::from(*g) - f64::from(*e))).sum::<f64>().sqrt();
    assert!(norm > 0.0 && difference <= limit * norm, "{what}: relative difference {:.2e}", difference / norm);
}

/// Loss and gradient of SFT examples in micro-batches of up to `capacity` tokens.
fn sft(examples: &[Example], capacity: usize) -> (f64, Vec<f32>) {
    let mut learner = Learner::new(model(&Cpu, VOCAB, 1), Valid::default(), 512).unwrap();
    let count: usize = examples.iter().map(|e| e.mask.iter().filter(|m| **m).count()).sum();
    let mut loss = 0.0;
    for (mut batch, targets) in micro_batches(examples, capacity).unwrap() {
        let weights = vec![1.0 / count as f32; targets.rows.len()];
        let results = learner.accumulate(&mut batch, &TokenObjective::cross_entropy(&targets, &weights)).unwrap();
        loss += results.get().unwrap().loss.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
    }
    (loss, learner.gradients.weights.to_vec())
}

#[test]
fn sft_is_the_same_however_a_batch_is_split_packed_or_ordered() {
    let stream = Stream::new(2);
    let example = |i: u64| {
        let length = 5 + stream.fold(i).below(0, 40);
        let ids = (0..length as u32).map(|p| stream.fold(i).below(p + 1, VOCAB) as u32).collect();
        Example { ids, mask: (0..length).map(|p| p > length / 2).collect() }
    };
    let mut examples: Vec<Example> = (0..9).map(example).collect();
    let (loss, gradient) = sft(&examples, 512);
    for capacity in [45, 90, 200] {
        let (other_loss, other) = sft(&examples, capacity);
        assert!((loss - other_loss).abs() <= 1e-6 * loss, "capacity {capacity}: loss {other_loss}, expected {loss}");
        assert_close(&format!("capacity {capacity}"), &other, &gradient, 1e-6);
    }
    examples.reverse();
    let (other_loss, other) = sft(&examples, 100);
    assert!((loss - other_loss).abs() <= 1e-6 * loss);
    assert_close("reversed", &other, &gradient, 1e-6);
}

/// A completion of one of several prompts.
struct Judged {
    prompt: usize,
    completion: Vec<u32>,
    advantage: f32,
}

/// Prompts and completions that have more and less in common.
fn judgements() -> (Vec<Vec<u32>>, Vec<Judged>) {
    let stream = Stream::new(4);
    let tokens = |key: u64, n: u32| -> Vec<u32> { (0..n).map(|p| stream.fold(key).below(p, VOCAB) as u32).collect() };
    let stem = tokens(1, 12);
    let prompts = vec![[tokens(0, 20), tokens(2, 9)].concat(), [tokens(0, 20), tokens(3, 13)].concat()];
    let judged = [
        (0, tokens(4, 9), 0.7),
        (0, [stem.clone(), tokens(5, 8)].concat(), -1.3),
        (0, [stem.clone(), tokens(5, 8)].concat(), 0.4),
        (0, [stem.clone(), tokens(5, 4)].concat(), 0.9),
        (0, [stem[..9].to_vec(), tokens(6, 14)].concat(), -0.2),
        (1, tokens(7, 1), 1.1),
        (1, [stem, tokens(8, 5)].concat(), -0.8),
        (1, tokens(4, 9), -0.5),
    ]
    .map(|(prompt, completion, advantage)| Judged { prompt, completion, advantage });
    (prompts, judged.into())
}

/// The GRPO loss of sequences in micro-batches of up to `capacity` tokens, the tokens of each, and its gradient.
fn grpo(sequences: &[Sequence<'_>], advantages: &[f32], capacity: usize) -> (f64, usize, Vec<f32>) {
    let loss = GrpoLoss { clip_low: 0.2, clip_high: 0.28, kl: KlEstimator::K3, kl_coefficient: 0.1 };
    let mut learner = Learner::new(model(&Cpu, VOCAB, 1), Valid::default(), 512).unwrap();
    // Like log-probabilities of a policy and a reference near this one: what is predicted where decides.
    let near = |sequence: &Sequence<'_>, key: u64| -> Vec<f32> {
        let positions = sequence.completion.iter().enumerate();
        positions.map(|(i, id)| -4.1 + 0.6 * Stream::new(key).fold(u64::from(*id)).uniform(i as u32)).collect()
    };
    let (old, reference): (Vec<_>, Vec<_>) = sequences.iter().map(|s| (near(s, 1), near(s, 2))).unzip();
    let (mut total, mut rows_trained) = (0.0, 0);
    for mut micro in pack(sequences, capacity).unwrap() {
        let rows = Rows::gather(&micro, |sequence| Inputs {
            weight: 1.0 / (8 * sequences[sequence].completion.len()) as f32,
            advantage: advantages[sequence],
            rollout: &old[sequence],
            old: Some(&old[sequence]),
            reference: Some(&reference[sequence]),
        });
        let Rows { old, reference, advantages, .. } = &rows;
        let (old_logprob, reference_logprob) = (old.as_deref(), reference.as_deref());
        let loss = Loss::Grpo { loss, old_logprob, reference_logprob, advantages };
        let results = learner
            .accumulate(
                &mut micro.batch,
                &TokenObjective { targets: &micro.targets, row_weights: &rows.weight, temperature: 1.0, loss: &loss },
            )
            .unwrap();
        let losses = results.get().unwrap().loss;
        total += losses.iter().zip(&rows.weight).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum::<f64>();
        rows_trained += losses.len();
    }
    (total, rows_trained, learner.gradients.weights.to_vec())
}

#[test]
fn what_judgements_share_has_the_loss_and_gradient_of_each_by_itself() {
    let (prompts, judged) = judgements();
    let sequences = |tree: &dyn Fn(usize) -> usize| -> Vec<Sequence<'_>> {
        (judged.iter().enumerate())
            .map(|(i, j)| Sequence { tree: tree(i), prompt: &prompts[j.prompt], completion: &j.completion })
            .collect()
    };
    let advantages: Vec<f32> = judged.iter().map(|j| j.advantage).collect();
    let tokens: usize = judged.iter().map(|j| j.completion.len()).sum();
    let (loss, alone, gradient) = grpo(&sequences(&|i| i), &advantages, 64);
    assert_eq!(alone, tokens);
    for capacity in [512, 120, 60] {
        let (shared_loss, rows, shared) = grpo(&sequences(&|_| 0), &advantages, capacity);
        assert!(rows < tokens, "capacity {capacity}: nothing was shared");
        assert!((shared_loss - loss).abs() <= 1e-6 * loss.abs(), "capacity {capacity}: {shared_loss}, expected {loss}");
        assert_close(&format!("capacity {capacity}"), &shared, &gradient, 1e-5);
    }
}
