//! Ten steps of AdamW with clipping.

use patarm::optimizer::AdamWConfig;
use patarm::train::{Learner, Loss};

use crate::golden::{Golden, floats};
use crate::model::packed;

#[test]
fn ten_steps_have_the_losses_and_gradient_norms_of_torch() {
    let golden = Golden::load("packed");
    let adamw = &golden.json["adamw"];
    let number = |key: &str| adamw[key].as_f64().unwrap();
    let config = AdamWConfig {
        beta1: number("beta1") as f32,
        beta2: number("beta2") as f32,
        epsilon: number("epsilon") as f32,
        weight_decay: number("weight_decay") as f32,
        clip_norm: number("clip_norm"),
    };
    let mut learner = Learner::new(golden.model(), config, 64).unwrap();
    let (mut batch, targets, weights) = packed(&golden);
    let mut step = || {
        let results = learner.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
        let loss: f64 = results.loss.iter().zip(&weights).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum();
        let update = learner.update_if(true, number("learning_rate")).unwrap();
        assert!(update.applied);
        (loss, update.gradient_norm)
    };
    for (index, (loss, norm)) in floats(&adamw["losses"]).into_iter().zip(floats(&adamw["grad_norms"])).enumerate() {
        let (got_loss, got_norm) = step();
        assert!((got_loss - loss).abs() <= 2e-5 * loss.abs(), "step {index}: loss {got_loss}, expected {loss}");
        assert!((got_norm - norm).abs() <= 1e-4 * norm, "step {index}: gradient norm {got_norm}, expected {norm}");
    }
    let (after, expected) = (step().0, number("loss_after"));
    assert!((after - expected).abs() <= 2e-5 * expected.abs(), "after ten steps: loss {after}, expected {expected}");
}
