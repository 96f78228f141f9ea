//! Tests of the op `adamw`.

#[cfg(has_cuda)]
pub mod cuda;

use std::ops::Range;

use patarm::ops::adamw::{AdamW, AdamWStep, Prepared, Tensor};
use patarm::ops::linear::{Linear, LinearBackwardInput, LinearForward, LinearSizes};
use patarm::ops::{Cpu, OpResult};

use crate::ops::numbers::{assert_near, bits, normal, on_threads, refused};

/// A tensor's range, weight decay, and sizes if it has a prepared weight.
type TensorSpec = (Range<usize>, f32, Option<LinearSizes>);

const fn matrix(out_features: usize, in_features: usize) -> Option<LinearSizes> {
    Some(LinearSizes { out_features, in_features })
}

/// Every shape that is special to a backend: one element; a start off 16 bytes; shorter than a vector; empty; several times the
/// elements of a block or a thread; with and without a prepared weight; gaps between them and at both ends.
fn odd_tensors() -> (usize, Vec<TensorSpec>) {
    let specs = vec![
        (3..4, 0.1, matrix(1, 1)),
        (5..8, 0.0, None),
        (8..8, 0.1, None),
        (9..26, 0.1, matrix(17, 1)),
        (26..40, 0.2, matrix(2, 7)),
        (48..33_048, 0.1, matrix(110, 300)),
        (33_048..33_053, 0.0, None),
        (33_057..49_541, 0.1, matrix(4, 4121)),
        (49_552..50_052, 0.0, None),
        (50_060..50_060, 0.1, matrix(0, 3)),
    ];
    (50_067, specs)
}

/// What multiplies gradients: 1, 0.5 (their norm and what it is clipped to).
const UNCLIPPED: (f64, f64) = (3.0, 0.0);
const HALVED: (f64, f64) = (2.0 - 1e-6, 1.0);

fn args<'a>(
    [weight, moment1, moment2]: [&'a mut [f32]; 3],
    gradient: &'a [f32],
    tensors: Vec<Tensor<'a, Cpu>>,
    (norm, clip_norm): (&'a f64, f64),
    step: u64,
) -> AdamW<'a, Cpu> {
    AdamW {
        weight,
        moment1,
        moment2,
        gradient,
        tensors,
        norm: std::slice::from_ref(norm),
        clip_norm,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        step,
    }
}

/// Arenas (weight, m, v) and prepared weights of a backend.
struct State<D: Linear> {
    device: D,
    specs: Vec<TensorSpec>,
    arenas: [D::Buffer<f32>; 3],
    prepared: Vec<Option<D::Weight>>,
    /// Elements before the arena in the buffers.
    offset: usize,
    len: usize,
}

impl<D: AdamWStep> State<D> {
    /// Random weights, moments of 0, and prepared weights of zeros.
    fn new(device: &D, (len, specs): (usize, Vec<TensorSpec>), offset: usize) -> Self {
        let arenas = [normal(1, len), vec![0.0; len], vec![0.0; len]]
            .map(|values| device.upload(&[vec![f32::NAN; offset], values].concat()).unwrap());
        let prepared =
            specs.iter().map(|(_, _, sizes)| sizes.map(|sizes| device.linear_weight(sizes).unwrap())).collect();
        Self { device: device.clone(), specs, arenas, prepared, offset, len }
    }

    fn step(&mut self, gradient: &[f32], (norm, clip_norm): (f64, f64), step: u64) -> OpResult {
        let Self { device, specs, arenas, prepared, offset, len } = self;
        let range = *offset..*offset + *len;
        let gradient = device.upload(&[vec![f32::NAN; *offset], gradient.to_vec()].concat()).unwrap();
        let norm = device.upload(&[norm]).unwrap();
        let tensors = specs.iter().zip(prepared).map(|((range, weight_decay, sizes), weight)| {
            let prepared = weight.as_mut().map(|weight| Prepared { weight, sizes: sizes.unwrap() });
            Tensor { range: range.clone(), weight_decay: *weight_decay, prepared }
        });
        let [weight, moment1, moment2] = arenas.each_mut().map(|buffer| device.view_mut(buffer, range.clone()));
        device.adamw(AdamW {
            weight,
            moment1,
            moment2,
            gradient: device.view(&gradient, range),
            tensors: tensors.collect(),
            norm: device.view(&norm, 0..1),
            clip_norm,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            step,
        })
    }

    /// Steps, each with a different gradient.
    fn steps(mut self, count: u64, clip: (f64, f64)) -> Self {
        for step in 1..=count {
            self.step(&normal(10 + step, self.len), clip, step).unwrap();
        }
        self
    }

    /// Bits of weight, m, v, with the elements before the arena.
    fn bits(&self) -> [Vec<u32>; 3] {
        self.arenas.each_ref().map(|buffer| {
            let all = self.device.view(buffer, 0..self.offset + self.len);
            bits(&self.device.download(all).unwrap())
        })
    }

    #[cfg(has_cuda)]
    fn weights(&self) -> Vec<f32> {
        self.device.download(self.device.view(&self.arenas[0], self.offset..self.offset + self.len)).unwrap()
    }
}

/// The weight itself, read back from a packed weight by matmuls, forward and backward.
fn unpacked(weight: &<Cpu as Linear>::Weight, sizes: LinearSizes) -> [Vec<u32>; 2] {
    let identity = |n: usize| (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect::<Vec<_>>();
    let LinearSizes { out_features, in_features } = sizes;
    let (mut out, mut d_x) = (vec![0.0; sizes.len()], vec![0.0; sizes.len()]);
    let x = identity(in_features);
    Cpu.linear_forward(LinearForward { out: &mut out, x: &x, weight, rows: in_features, sizes }).unwrap();
    let d_out = identity(out_features);
    Cpu.linear_backward_input(LinearBackwardInput {
        d_x: &mut d_x,
        d_out: &d_out,
        weight,
        rows: out_features,
        sizes,
        accumulate: false,
    })
    .unwrap();
    [bits(&out), bits(&d_x)]
}

fn plain(len: usize) -> (usize, Vec<TensorSpec>) {
    (len, vec![(0..len, 0.1, None)])
}

#[test]
fn twenty_steps_are_those_of_an_f64_reference() {
    for len in [1, 5, 17, 1000] {
        let mut w: Vec<f64> = normal(1, 2 * len).into_iter().map(f64::from).collect();
        let (mut m, mut v) = (vec![0.0f64; 2 * len], vec![0.0f64; 2 * len]);
        for step in 1..=20u64 {
            for (i, g) in normal(10 + step, 2 * len).into_iter().enumerate() {
                let (g, decay) = (0.5 * f64::from(g), if i < len { 0.1 } else { 0.0 });
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powf(step as f64)), v[i] / (1.0 - 0.95f64.powf(step as f64)));
                w[i] = w[i] * (1.0 - 1e-2 * decay) - 1e-2 * mh / (vh.sqrt() + 1e-8);
            }
        }
        let specs = vec![(0..len, 0.1, None), (len..2 * len, 0.0, None)];
        let state = State::new(&Cpu, (2 * len, specs), 0).steps(20, HALVED);
        // Twenty steps of a few roundings each; the betas themselves are rounded to f32.
        for (name, got, expected) in
            [("weight", &state.arenas[0], &w), ("moment1", &state.arenas[1], &m), ("moment2", &state.arenas[2], &v)]
        {
            assert_near(name, got, expected, 3e-6, 3e-6);
        }
    }
}

#[test]
fn gradients_are_scaled_to_the_clip_norm_and_never_up() {
    let gradient = normal(2, 1000);
    let run = |gradient: &[f32], clip| {
        let mut state = State::new(&Cpu, plain(1000), 0);
        state.step(gradient, clip, 1).unwrap();
        state.bits()
    };
    let unclipped = run(&gradient, UNCLIPPED);
    for (norm, clip_norm) in [(3.0, 1.0), (1e30, 1.0), (1.0, 1.0), (0.7, 0.3)] {
        let scale = (clip_norm / (norm + 1e-6)) as f32;
        assert!(scale < 1.0);
        let scaled: Vec<f32> = gradient.iter().map(|g| g * scale).collect();
        assert_eq!(run(&gradient, (norm, clip_norm)), run(&scaled, UNCLIPPED), "{norm} clipped to {clip_norm}");
        assert_ne!(run(&gradient, (norm, clip_norm)), unclipped);
    }
    for clip in [(0.5, 1.0), (0.0, 1.0), (1e30, 0.0)] {
        assert_eq!(run(&gradient, clip), unclipped, "{clip:?}");
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let mut state = State::new(&Cpu, odd_tensors(), 0).steps(2, HALVED);
    let packed = |state: &State<Cpu>| -> Vec<_> {
        let prepared = state.prepared.iter().zip(&state.specs);
        prepared.filter_map(|(weight, spec)| Some(unpacked(weight.as_ref()?, spec.2?))).collect()
    };
    // Other weights than those that were packed: packing again would show.
    state.arenas[0].fill(7.0);
    let before = (state.bits(), packed(&state));
    for norm in [f64::NAN, f64::INFINITY] {
        for clip_norm in [0.0, 1.0] {
            state.step(&normal(3, state.len), (norm, clip_norm), 3).unwrap();
            assert!((state.bits(), packed(&state)) == before, "norm {norm}, clipped to {clip_norm}");
        }
    }
}

#[test]
fn prepared_weights_are_those_of_the_new_weights() {
    let mut state = State::new(&Cpu, odd_tensors(), 0);
    // Requested now, the backward form exists already in the second step.
    state.step(&normal(3, state.len), HALVED, 1).unwrap();
    for step in 2..4 {
        for ((range, _, sizes), weight) in state.specs.iter().zip(&state.prepared) {
            let (Some(sizes), Some(weight)) = (*sizes, weight) else { continue };
            let mut fresh = Cpu.linear_weight(sizes).unwrap();
            Cpu.linear_prepare(&mut fresh, &state.arenas[0][range.clone()], sizes).unwrap();
            assert!(unpacked(weight, sizes) == unpacked(&fresh, sizes), "{range:?} before step {step}");
        }
        state.step(&normal(3 + step, state.len), HALVED, step).unwrap();
    }
}

#[test]
fn elements_outside_all_tensors_keep_their_bits() {
    let before = State::new(&Cpu, odd_tensors(), 0);
    let after = State::new(&Cpu, odd_tensors(), 0).steps(2, HALVED);
    let inside = |i: usize| before.specs.iter().any(|(range, ..)| range.contains(&i));
    let (before, after) = (before.bits()[0].clone(), after.bits()[0].clone());
    for i in 0..before.len() {
        assert_eq!(before[i] == after[i], !inside(i), "element {i}");
    }
}

#[test]
fn threads_change_no_bit() {
    let run = || State::new(&Cpu, odd_tensors(), 0).steps(3, HALVED).bits();
    assert!(on_threads(1, run) == on_threads(3, run));
}

#[test]
fn wrong_sizes_and_step_zero_are_named() {
    let (mut w, mut m, mut v) = ([0.0; 3], [0.0; 3], [0.0; 2]);
    let clip = (&1.0, 1.0);
    assert!(refused(Cpu.adamw(args([&mut w, &mut m, &mut v], &[0.0; 3], vec![], clip, 1))).contains("`moment2`"));
    let mut v = [0.0; 3];
    assert!(refused(Cpu.adamw(args([&mut w, &mut m, &mut v], &[0.0; 2], vec![], clip, 1))).contains("`gradient`"));
    assert!(refused(Cpu.adamw(args([&mut w, &mut m, &mut v], &[0.0; 3], vec![], clip, 0))).contains("`step`"));
    let two_norms = AdamW { norm: &[1.0, 2.0][..], ..args([&mut w, &mut m, &mut v], &[0.0; 3], vec![], clip, 1) };
    assert!(refused(Cpu.adamw(two_norms)).contains("`norm`"));
}

#[test]
fn tensors_that_overlap_leave_the_arena_or_have_other_sizes_are_named() {
    /// The error for tensors with these specs in an arena of ten.
    fn message(specs: &[(Range<usize>, Option<LinearSizes>)], made_for: LinearSizes) -> String {
        let (mut w, mut m, mut v) = ([1.0; 10], [1.0; 10], [1.0; 10]);
        let mut weights: Vec<_> = specs.iter().map(|_| Cpu.linear_weight(made_for).unwrap()).collect();
        let tensors = specs.iter().zip(&mut weights).map(|((range, sizes), weight)| {
            let prepared = sizes.map(|sizes| Prepared { weight, sizes });
            Tensor { range: range.clone(), weight_decay: 0.1, prepared }
        });
        let args = args([&mut w, &mut m, &mut v], &[1.0; 10], tensors.collect(), (&1.0, 1.0), 1);
        let message = refused(Cpu.adamw(args));
        assert!((w, m, v) == ([1.0; 10], [1.0; 10], [1.0; 10]), "refused, but something was changed");
        message
    }
    let sizes = LinearSizes { out_features: 2, in_features: 3 };
    let backwards = Range { start: 5, end: 3 };
    for second in [3..8, 0..2, 5..11, 11..11, backwards] {
        let text = message(&[(0..4, None), (second.clone(), None)], sizes);
        assert!(text.contains(&format!("`tensors[1]` covers {second:?}")), "{text}");
    }
    assert!(message(&[(0..4, None), (4..9, Some(sizes))], sizes).contains("`tensors[1]` has 5 elements"));
    let other = LinearSizes { out_features: 3, in_features: 2 };
    assert!(message(&[(0..4, None), (4..10, Some(sizes))], other).contains("was made for"));
}
