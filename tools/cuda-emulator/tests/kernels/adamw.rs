//! An AdamW kernel from outside this project, and a sum in f64 by atomics.

use bytemuck::{Pod, Zeroable};
use cuda_emulator::fault::Fault;
use half::bf16;

use crate::compile::{TARGETS, has_nvcc};
use crate::fixture::{Argument, Fixture, noise};

pub const FILE: &str = "adamw.cu";

/// The kernel's `struct Adam`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Adam {
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    correction1: f32,
    correction2: f32,
}

const ADAM: Adam = Adam {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    correction1: 1.0 - 0.9 * 0.9 * 0.9,
    correction2: 1.0 - 0.999 * 0.999 * 0.999,
};

/// Weights, first and second moments, gradients.
pub struct State {
    pub weights: Vec<f32>,
    pub m: Vec<f32>,
    pub v: Vec<f32>,
    pub gradients: Vec<f32>,
}

impl State {
    pub fn new(count: usize) -> Self {
        let v = noise(3, count).into_iter().map(|x| x * x).collect();
        Self { weights: noise(1, count), m: noise(2, count), v, gradients: noise(4, count) }
    }
}

/// Runs the kernel and returns the addresses of weights, copy, m, v.
pub fn run(fixture: &mut Fixture, state: &State) -> Result<[u64; 4], Fault> {
    let count = state.weights.len();
    let [weights, m, v, gradients] =
        [&state.weights, &state.m, &state.v, &state.gradients].map(|values| fixture.upload(values));
    let copy = fixture.empty::<bf16>(count);
    let [w_, c_, m_, v_, g_] = [weights, copy, m, v, gradients].map(Argument::Address);
    let arguments = [w_, c_, m_, v_, g_, Argument::Int(count as i32), Argument::Bytes(bytemuck::bytes_of(&ADAM))];
    fixture.launch("adamw_f32", [count.div_ceil(1024) as u32, 1, 1], 256, 0, &arguments)?;
    Ok([weights, copy, m, v])
}

#[test]
fn agrees_with_adamw_in_f64() {
    if !has_nvcc() {
        return;
    }
    for target in TARGETS {
        for count in [1, 5, 1024, 4099] {
            let state = State::new(count);
            let mut fixture = Fixture::new(FILE, None, target);
            let [weights, copy, m, v] = run(&mut fixture, &state).unwrap_or_else(|fault| panic!("{fault}"));
            let [weights, m, v] = [weights, m, v].map(|at| fixture.download::<f32>(at, count).unwrap());
            let copy: Vec<bf16> = fixture.download(copy, count).unwrap();
            for i in 0..count {
                let [w, m0, v0, g] = [state.weights[i], state.m[i], state.v[i], state.gradients[i]].map(f64::from);
                let a = |value: f32| f64::from(value);
                let m1 = a(ADAM.beta1) * m0 + (1.0 - a(ADAM.beta1)) * g;
                let v1 = a(ADAM.beta2) * v0 + (1.0 - a(ADAM.beta2)) * g * g;
                let update = m1 / a(ADAM.correction1) / ((v1 / a(ADAM.correction2)).sqrt() + a(ADAM.epsilon));
                let w1 = w - a(ADAM.learning_rate) * (update + a(ADAM.weight_decay) * w);
                let near = |got: f32, expected: f64, scale: f64| (f64::from(got) - expected).abs() <= 4e-7 * scale;
                assert!(near(m[i], m1, 1.0) && near(v[i], v1, 1.0), "sm_{} moments of {i}", target.name);
                // The error of the moments passes through the quotient: 1e-2 · (error of m + update · error of v / 2v).
                let scale = 1.0 + 1e-2 * (update.abs() / v1.max(1e-3));
                assert!(near(weights[i], w1, scale), "sm_{} weight {i}: {w1}, got {}", target.name, weights[i]);
                assert_eq!(copy[i], bf16::from_f32(weights[i]));
            }
        }
    }
}

#[test]
fn a_sum_in_f64_by_atomics() {
    if !has_nvcc() {
        return;
    }
    for target in TARGETS {
        let values = noise(9, 10_007);
        let mut fixture = Fixture::new(FILE, None, target);
        let (sum, from) = (fixture.upload(&[0.0f64]), fixture.upload(&values));
        let arguments = [Argument::Address(sum), Argument::Address(from), Argument::Int(values.len() as i32)];
        fixture.launch("square_sum_f64", [5, 1, 1], 128, 0, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
        let expected: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let got = fixture.download::<f64>(sum, 1).unwrap()[0];
        assert!((got - expected).abs() < 1e-12 * expected, "sm_{}: {expected}, got {got}", target.name);
    }
}
