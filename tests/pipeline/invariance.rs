//! The loss and its gradient do not depend on how a batch is packed or split.

use patarm::model::Batch;
use patarm::ops::Cpu;
use patarm::optimizer::AdamWConfig;
use patarm::random::Stream;
use patarm::train::sft::{Example, micro_batches};
use patarm::train::shared_prefix::{Group, pack_groups};
use patarm::train::{Learner, Loss, Targets};

use crate::world::model;

const VOCAB: usize = 61;

fn assert_close(what: &str, got: &[f32], expected: &[f32], limit: f64) {
    let square = |x: f64| x * x;
    let norm = expected.iter().map(|x| square(f64::from(*x))).sum::<f64>().sqrt();
    let difference = got.iter().zip(expected).map(|(g, e)| square(f64::from(*g) - f64::from(*e))).sum::<f64>().sqrt();
    assert!(norm > 0.0 && difference <= limit * norm, "{what}: relative difference {:.2e}", difference / norm);
}

/// Loss and gradient of SFT examples in micro-batches of up to `capacity` tokens.
fn sft(examples: &[Example], capacity: usize) -> (f64, Vec<f32>) {
    let mut learner = Learner::new(model(&Cpu, VOCAB, 1), AdamWConfig::default(), 512).unwrap();
    let count: usize = examples.iter().map(|e| e.mask.iter().filter(|m| **m).count()).sum();
    let mut loss = 0.0;
    for (mut batch, targets) in micro_batches(examples, capacity).unwrap() {
        let weights = vec![1.0 / count as f32; targets.rows.len()];
        let results = learner.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
        loss += results.get().unwrap().loss.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
    }
    (loss, learner.gradients.weights.clone())
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

#[test]
fn a_prompt_computed_once_has_the_gradient_of_whole_sequences() {
    let stream = Stream::new(4);
    let tokens = |key: u64, n: u32| -> Vec<u32> { (0..n).map(|p| stream.fold(key).below(p, VOCAB) as u32).collect() };
    let prompt = tokens(0, 33);
    let completions: Vec<Vec<u32>> = [9, 1, 20, 14].iter().enumerate().map(|(i, n)| tokens(1 + i as u64, *n)).collect();
    let weight = |member: usize| [0.7, -1.3, 0.4, 0.2][member] / 44.0;
    let learner = || Learner::new(model(&Cpu, VOCAB, 1), AdamWConfig::default(), 512).unwrap();

    let mut plain = learner();
    for (member, completion) in completions.iter().enumerate() {
        let ids: Vec<u32> = prompt.iter().chain(completion).copied().collect();
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        batch.push_sequence(&ids[..ids.len() - 1]);
        (prompt.len()..ids.len()).for_each(|place| targets.push(place - 1, ids[place]));
        let weights = vec![weight(member); completion.len()];
        plain.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
    }
    let group = Group { prompt: &prompt, completions: completions.iter().map(Vec::as_slice).collect() };
    for capacity in [512, 60] {
        let mut shared = learner();
        for mut micro in pack_groups(std::slice::from_ref(&group), capacity).unwrap() {
            let weights: Vec<f32> = (micro.members.iter())
                .flat_map(|(_, member)| vec![weight(*member); completions[*member].len()])
                .collect();
            shared.accumulate(&mut micro.batch, &micro.targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
        }
        assert_close(&format!("capacity {capacity}"), &shared.gradients.weights, &plain.gradients.weights, 1e-5);
    }
}
