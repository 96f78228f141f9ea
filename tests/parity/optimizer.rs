//! Ten steps of AdamW with clipping.

use patarm::ops::{Backend, Cpu};
use patarm::optimizer::AdamWConfig;
use patarm::setting::Valid;
use patarm::train::{Learner, TokenObjective};

use crate::parity::golden::{Golden, floats};
use crate::parity::model::{learner, one_sequence, packed};

/// Losses and gradient norms before each of ten steps on the packed golden, and the loss after them.
pub fn ten_steps<B: Backend>(backend: &B, golden: &Golden) -> (Vec<(f64, f64)>, f64) {
    let number = |key: &str| golden.json["adamw"][key].as_f64().unwrap();
    let config = AdamWConfig {
        beta1: number("beta1") as f32,
        beta2: number("beta2") as f32,
        epsilon: number("epsilon") as f32,
        weight_decay: number("weight_decay") as f32,
        clip_norm: number("clip_norm"),
    };
    let mut learner = Learner::new(golden.model(backend), Valid::new(config).unwrap(), 64).unwrap();
    let (mut batch, targets, weights) = packed(golden);
    let mut step = || {
        let results = learner.accumulate(&mut batch, &TokenObjective::cross_entropy(&targets, &weights)).unwrap();
        let loss: f64 =
            results.get().unwrap().loss.iter().zip(&weights).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum();
        let update = learner.update_if(true, number("learning_rate")).unwrap();
        assert!(update.applied);
        (loss, update.gradient_norm)
    };
    let steps = (0..10).map(|_| step()).collect();
    (steps, step().0)
}

/// Bits of logits and gradients of the golden's sequence; gradients are left clear.
fn pass<B: Backend>(golden: &Golden, learner: &mut Learner<B>) -> [Vec<u32>; 2] {
    let (logits, _) = one_sequence(golden, learner);
    let (b, arena) = (learner.model.backend.clone(), 0..learner.model.table.arena_len());
    let gradients = b.download(b.view(&learner.gradients.weights, arena)).unwrap();
    learner.gradients.clear(&b).unwrap();
    [logits, gradients].map(|values| values.into_iter().map(f32::to_bits).collect())
}

/// After updates, preparing all weights again changes nothing: the updates prepared every one of them.
pub fn updates_leave_no_prepared_weight_behind<B: Backend>(backend: &B) {
    for case in ["tied_gqa2", "untied_gqa5"] {
        let golden = Golden::load(case);
        let mut learner = learner(backend, &golden);
        let before = pass(&golden, &mut learner);
        for _ in 0..2 {
            one_sequence(&golden, &mut learner);
            assert!(learner.update_if(true, 1e-3).unwrap().applied);
        }
        let after = pass(&golden, &mut learner);
        assert!(before != after, "{case}: updates change the model");
        learner.model.refresh().unwrap();
        assert!(pass(&golden, &mut learner) == after, "{case}: a prepared weight was not that of its master weights");
    }
}

/// A gradient that is not finite changes no bit and does not count as an update.
pub fn a_gradient_that_is_not_finite_leaves_no_trace<B: Backend>(backend: &B) {
    let golden = Golden::load("tied_gqa2");
    let state = |learner: &Learner<B>| {
        let arenas = [learner.model.master(), &learner.optimizer.moment1, &learner.optimizer.moment2];
        let arenas = arenas.map(|buffer| backend.download(backend.view(buffer, 0..backend.len(buffer))).unwrap());
        (arenas.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>()), learner.optimizer.updates)
    };
    let step = |learner: &mut Learner<B>| {
        one_sequence(&golden, learner);
        learner.update_if(true, 1e-3).unwrap()
    };
    let mut undisturbed = learner(backend, &golden);
    let expected = [step(&mut undisturbed), step(&mut undisturbed)];
    let mut learner = learner(backend, &golden);
    assert_eq!(step(&mut learner), expected[0]);
    let before = (state(&learner), pass(&golden, &mut learner));
    for bad in [f32::NAN, f32::INFINITY] {
        one_sequence(&golden, &mut learner);
        backend.write(backend.view_mut(&mut learner.gradients.weights, 100..101), &[bad]).unwrap();
        let update = learner.update_if(true, 1e-3).unwrap();
        assert!(!update.applied && !update.gradient_norm.is_finite(), "{update:?}");
        assert!((state(&learner), pass(&golden, &mut learner)) == before, "a gradient with {bad} left a trace");
    }
    assert_eq!(step(&mut learner), expected[1]);
    assert!(state(&learner) == state(&undisturbed));
}

#[test]
fn updates_keep_prepared_weights_up_to_date() {
    updates_leave_no_prepared_weight_behind(&Cpu);
}

#[test]
fn gradients_that_are_not_finite_leave_no_trace() {
    a_gradient_that_is_not_finite_leaves_no_trace(&Cpu);
}

#[test]
fn ten_steps_have_the_losses_and_gradient_norms_of_torch() {
    let golden = Golden::load("packed");
    let adamw = &golden.json["adamw"];
    let (steps, after) = ten_steps(&Cpu, &golden);
    for (index, (loss, norm)) in floats(&adamw["losses"]).into_iter().zip(floats(&adamw["grad_norms"])).enumerate() {
        let (got_loss, got_norm) = steps[index];
        assert!((got_loss - loss).abs() <= 2e-5 * loss.abs(), "step {index}: loss {got_loss}, expected {loss}");
        assert!((got_norm - norm).abs() <= 1e-4 * norm, "step {index}: gradient norm {got_norm}, expected {norm}");
    }
    let expected = adamw["loss_after"].as_f64().unwrap();
    assert!((after - expected).abs() <= 2e-5 * expected.abs(), "after ten steps: loss {after}, expected {expected}");
}
