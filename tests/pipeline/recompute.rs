//! What the backward pass computes again is what the forward pass computed.

use patarm::model::Recompute;
use patarm::ops::{Backend, Cpu};
use patarm::random::Stream;
use patarm::setting::Valid;
use patarm::train::sft::{Example, micro_batches};
use patarm::train::{Learner, TokenObjective};

use crate::common::suite::model;

const VOCAB: usize = 61;

fn examples(count: u64) -> Vec<Example> {
    let stream = Stream::new(3);
    let example = |i: u64| {
        let length = 5 + stream.fold(i).below(0, 40);
        let ids = (0..length as u32).map(|p| stream.fold(i).below(p + 1, VOCAB) as u32).collect();
        Example { ids, mask: (0..length).map(|p| p > length / 2).collect() }
    };
    (0..count).map(example).collect()
}

/// Losses and gradient of so many updates.
fn steps<B: Backend>(
    backend: &B,
    examples: &[Example],
    recompute: Recompute,
    updates: usize,
) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut learner = Learner::recomputing(model(backend, VOCAB, 1), Valid::default(), 100, recompute).unwrap();
    let step = |_| {
        let mut losses = Vec::new();
        for (mut batch, targets) in micro_batches(examples, 100).unwrap() {
            let weights = vec![1.0; targets.rows.len()];
            let objective = TokenObjective::cross_entropy(&targets, &weights);
            losses.extend(learner.accumulate(&mut batch, &objective).unwrap().get().unwrap().loss);
            // New buffers, whose content is another's.
            learner.release();
        }
        let len = backend.len(&learner.gradients.weights);
        let gradient = backend.download(backend.view(&learner.gradients.weights, 0..len)).unwrap();
        assert!(learner.update_if(true, 1e-3).unwrap().applied);
        (losses, gradient)
    };
    (0..updates).map(step).collect()
}

#[test]
fn on_the_cpu_losses_and_gradients_have_the_same_bits() {
    let examples = examples(7);
    let kept = steps(&Cpu, &examples, Recompute::Nothing, 2);
    assert!(kept[0].0 != kept[1].0, "an update changes losses");
    for recompute in Recompute::ALL {
        assert!(steps(&Cpu, &examples, recompute, 2) == kept, "{recompute:?}");
    }
}

#[cfg(has_cuda)]
#[test]
fn on_cuda_losses_have_the_same_bits_and_gradients_are_close() {
    let examples = examples(2);
    for device in crate::common::devices::devices() {
        let kept = steps(device, &examples, Recompute::Nothing, 1).remove(0);
        for recompute in [Recompute::Norms, Recompute::AttentionInputs, Recompute::Block] {
            let again = steps(device, &examples, recompute, 1).remove(0);
            assert_eq!(again.0, kept.0, "{recompute:?}");
            // A norm in the backward pass reads the residual stream in bf16, not the f32 sum that it was rounded from.
            let square = |x: f32| f64::from(x) * f64::from(x);
            let norm: f64 = kept.1.iter().map(|x| square(*x)).sum();
            let difference: f64 = again.1.iter().zip(&kept.1).map(|(a, k)| square(a - k)).sum();
            let relative = (difference / norm).sqrt();
            println!("{recompute:?}: relative difference {relative:.2e}");
            assert!(relative < 1.0 / 128.0, "{recompute:?}: relative difference {relative:.2e}");
        }
    }
}
