//! Ten steps of AdamW with clipping.

use patarm::ops::{Backend, Cpu};
use patarm::optimizer::AdamWConfig;
use patarm::train::{Learner, Loss};

use crate::golden::{Golden, floats};
use crate::model::packed;

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
    let mut learner = Learner::new(golden.model(backend), config, 64).unwrap();
    let (mut batch, targets, weights) = packed(golden);
    let mut step = || {
        let results = learner.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
        let loss: f64 = results.loss.iter().zip(&weights).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum();
        let update = learner.update_if(true, number("learning_rate")).unwrap();
        assert!(update.applied);
        (loss, update.gradient_norm)
    };
    let steps = (0..10).map(|_| step()).collect();
    (steps, step().0)
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
