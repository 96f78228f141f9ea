//! AdamW on the CUDA device: the CPU's bits, and the copies that `linear_prepare` makes.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::Cpu;
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::tensor::Device;

use super::{HALVED, State, TensorSpec, UNCLIPPED, matrix, odd_tensors, plain};
use crate::common::devices::{devices, download, upload};
use crate::ops::numbers::{bits, normal, refused};

type Copy = <Cuda as Linear>::Weight;

fn values(device: &Cuda, copy: &Copy, sizes: LinearSizes) -> Vec<u16> {
    let values: Vec<bf16> = device.download(copy.view("a test", device, sizes).unwrap()).unwrap();
    values.into_iter().map(bf16::to_bits).collect()
}

/// Bits of all copies.
fn copies(state: &State<Cuda>) -> Vec<Vec<u16>> {
    let prepared = state.prepared.iter().zip(&state.specs);
    prepared.filter_map(|(weight, spec)| Some(values(&state.device, weight.as_ref()?, spec.2?))).collect()
}

/// What `linear_prepare` makes of the current weights.
fn prepared_again(state: &State<Cuda>) -> Vec<Vec<u16>> {
    let (device, weights) = (&state.device, state.weights());
    let made = |(range, _, sizes): &TensorSpec| {
        let sizes = (*sizes)?;
        let master = upload(device, &weights[range.clone()]);
        let mut copy = device.linear_weight(sizes).unwrap();
        device.linear_prepare(&mut copy, device.view(&master, 0..sizes.len()), sizes).unwrap();
        Some(values(device, &copy, sizes))
    };
    state.specs.iter().filter_map(made).collect()
}

/// The CPU's three arenas after steps, behind `offset` elements of NaN.
fn on_the_cpu(specs: (usize, Vec<TensorSpec>), offset: usize, steps: u64, clip: (f64, f64)) -> [Vec<u32>; 3] {
    State::new(&Cpu, specs, offset).steps(steps, clip).bits()
}

#[test]
fn steps_have_the_cpus_bits_and_copies_are_the_prepared_weights() {
    for device in devices() {
        for offset in [0, 1] {
            let state = State::new(device, odd_tensors(), offset).steps(3, HALVED);
            assert!(state.bits() == on_the_cpu(odd_tensors(), offset, 3, HALVED), "{device:?}, {offset} elements on");
            assert!(copies(&state) == prepared_again(&state), "{device:?}, {offset} elements on");
        }
    }
}

/// Two steps of an embedding, of matrices (outputs, inputs) and of a norm of `hidden` weights, as in a model's arena.
pub fn assert_a_model_has_the_cpus_bits(device: &Cuda, vocab: usize, hidden: usize, matrices: &[(usize, usize)]) {
    let sizes = [(vocab, hidden)].into_iter().chain(matrices.iter().copied());
    let (mut specs, mut next) = (Vec::new(), 0);
    for (out_features, in_features) in sizes {
        specs.push((next..next + out_features * in_features, 0.1, matrix(out_features, in_features)));
        next += out_features * in_features;
    }
    specs.push((next..next + hidden, 0.0, None));
    let model = (next + hidden, specs);
    let state = State::new(device, model.clone(), 0).steps(2, HALVED);
    for (name, (got, expected)) in
        ["weight", "moment1", "moment2"].into_iter().zip(state.bits().iter().zip(&on_the_cpu(model, 0, 2, HALVED)))
    {
        let wrong = (0..got.len()).find(|i| got[*i] != expected[*i]);
        assert_eq!(wrong, None, "{device:?}: {name} of a model of {} elements", state.len);
    }
    assert!(copies(&state) == prepared_again(&state), "{device:?}: copies of a model");
}

#[test]
fn one_tensor_of_any_length_has_the_cpus_bits() {
    for len in [0, 1, 3, 4, 5, 1000, 3001, 16_384, 16_385] {
        let expected = on_the_cpu(plain(len), 0, 2, UNCLIPPED);
        for device in devices() {
            assert!(State::new(device, plain(len), 0).steps(2, UNCLIPPED).bits() == expected, "{len}");
        }
    }
}

#[test]
fn gradients_are_scaled_as_on_the_cpu() {
    // Norms around the clip norm, where the scale is just below 1, and far from it; clipping off.
    let clips =
        [(3.0, 1.0), (1e300, 1.0), (1.0, 1.0), (1.0 - 1e-6, 1.0), (0.7, 0.3), (0.5, 1.0), (0.0, 1.0), (9.0, 0.0)];
    for device in devices() {
        for clip in clips {
            let state = State::new(device, plain(100), 0).steps(2, clip);
            assert!(state.bits() == on_the_cpu(plain(100), 0, 2, clip), "{device:?}, norm and clip norm {clip:?}");
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    for device in devices() {
        let mut state = State::new(device, odd_tensors(), 0).steps(1, HALVED);
        // Other weights than those that were copied: copying again would show.
        state.arenas[0] = upload(device, &vec![7.0; state.len]);
        let before = (state.bits(), copies(&state));
        for norm in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
            for clip_norm in [0.0, 1.0] {
                state.step(&normal(3, state.len), (norm, clip_norm), 2).unwrap();
                assert!((state.bits(), copies(&state)) == before, "norm {norm}, clipped to {clip_norm}");
            }
        }
    }
}

#[test]
fn a_step_has_the_same_bits_every_time() {
    for device in devices() {
        let run = || {
            let state = State::new(device, odd_tensors(), 0).steps(2, HALVED);
            (state.bits(), copies(&state))
        };
        assert!(run() == run());
    }
}

/// The table of tensors stays on the device between steps; another model's tensors, or others of the same, must replace it.
#[test]
fn models_that_alternate_do_not_use_each_others_tensors() {
    let specs = |decay: f32| (300, vec![(0..200, decay, matrix(10, 20)), (208..300, 0.0, None)]);
    for device in devices() {
        let mut states = [0.1, 0.3, 0.1].map(|decay| State::new(device, specs(decay), 0));
        for step in 1..=2 {
            for state in &mut states {
                state.step(&normal(10 + step, 300), HALVED, step).unwrap();
            }
        }
        for (state, decay) in states.iter().zip([0.1, 0.3, 0.1]) {
            assert!(state.bits() == on_the_cpu(specs(decay), 0, 2, HALVED), "decay {decay}");
            assert!(copies(state) == prepared_again(state), "decay {decay}");
        }
        // Ranges change, addresses and lengths do not.
        let [state, ..] = &mut states;
        let before = state.bits();
        state.specs = vec![(4..204, 0.1, matrix(10, 20)), (208..300, 0.0, None)];
        state.step(&normal(5, 300), HALVED, 3).unwrap();
        assert_eq!(state.bits()[0][..4], before[0][..4]);
        assert_ne!(state.bits()[0][203], before[0][203]);
    }
}

/// Large weights: numbers too large for bf16 become infinity, and ties go to even, as in `linear_prepare`.
#[test]
fn copies_round_as_prepared_weights_do() {
    let ties =
        [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1.0 - 1.0 / 256.0, f32::MAX, -f32::MAX, f32::MIN_POSITIVE / 4.0, -0.0];
    for device in devices() {
        let mut state = State::new(device, (ties.len(), vec![(0..ties.len(), 0.0, matrix(ties.len(), 1))]), 0);
        state.arenas[0] = upload(device, &ties);
        // A gradient of 0 on moments of 0 does not change weights.
        state.step(&vec![0.0; ties.len()], UNCLIPPED, 1).unwrap();
        assert_eq!(bits(&download(device, &state.arenas[0])), ties.map(f32::to_bits));
        let expected = ties.map(|tie| bf16::from_f32(tie).to_bits());
        assert_eq!(copies(&state), [expected]);
        assert_eq!(prepared_again(&state), [expected]);
    }
}

#[test]
fn a_copy_made_for_other_sizes_is_named() {
    for device in devices() {
        // An empty one too, for which there is nothing to launch.
        for (made_for, asked_for, len) in [(matrix(2, 3), matrix(3, 2), 6), (matrix(0, 3), matrix(3, 0), 0)] {
            let mut state = State::new(device, (6, vec![(0..len, 0.1, made_for)]), 0);
            state.specs[0].2 = asked_for;
            assert!(refused(state.step(&[0.0; 6], UNCLIPPED, 1)).contains("was made for"));
        }
    }
}
