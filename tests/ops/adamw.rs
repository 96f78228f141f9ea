//! Tests of the op `adamw`.

#[cfg(has_cuda)]
mod cuda;

use patarm::ops::Cpu;
use patarm::ops::adamw::{AdamW, AdamWStep};

use crate::numbers::{assert_near, bits, normal, on_threads, refused};

fn args<'a>(w: &'a mut [f32], m: &'a mut [f32], v: &'a mut [f32], g: &'a [f32], step: u64) -> AdamW<'a, Cpu> {
    AdamW {
        weight: w,
        moment1: m,
        moment2: v,
        gradient: g,
        gradient_scale: 0.5,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step,
    }
}

/// Twenty steps with a gradient of its own each: (weights, m, v).
fn twenty(len: usize) -> [Vec<f32>; 3] {
    let (mut w, mut m, mut v) = (normal(1, len), vec![0.0; len], vec![0.0; len]);
    for step in 1..=20 {
        Cpu.adamw(args(&mut w, &mut m, &mut v, &normal(10 + step, len), step)).unwrap();
    }
    [w, m, v]
}

#[test]
fn twenty_steps_are_those_of_an_f64_reference() {
    for len in [1, 5, 17, 1000] {
        let mut w: Vec<f64> = normal(1, len).into_iter().map(f64::from).collect();
        let (mut m, mut v) = (vec![0.0f64; len], vec![0.0f64; len]);
        for step in 1..=20u64 {
            for (i, g) in normal(10 + step, len).into_iter().enumerate() {
                let g = 0.5 * f64::from(g);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powf(step as f64)), v[i] / (1.0 - 0.95f64.powf(step as f64)));
                w[i] = w[i] * (1.0 - 1e-2 * 0.1) - 1e-2 * mh / (vh.sqrt() + 1e-8);
            }
        }
        let [got_w, got_m, got_v] = twenty(len);
        // Twenty steps of a few roundings each; the betas themselves are rounded to f32.
        assert_near("weight", &got_w, &w, 3e-6, 3e-6);
        assert_near("moment1", &got_m, &m, 3e-6, 3e-6);
        assert_near("moment2", &got_v, &v, 3e-6, 3e-6);
    }
}

#[test]
fn threads_change_no_bit() {
    let run = || twenty(40_000).map(|x| bits(&x));
    assert_eq!(on_threads(1, run), on_threads(3, run));
}

#[test]
fn wrong_sizes_and_step_zero_are_named() {
    let (mut w, mut m, mut v) = (vec![0.0; 3], vec![0.0; 3], vec![0.0; 2]);
    assert!(refused(Cpu.adamw(args(&mut w, &mut m, &mut v, &[0.0; 3], 1))).contains("`moment2`"));
    let mut v = vec![0.0; 3];
    assert!(refused(Cpu.adamw(args(&mut w, &mut m, &mut v, &[0.0; 3], 0))).contains("`step`"));
}
