//! AdamW on the CUDA device: the CPU's bits.

use patarm::cuda::Cuda;
use patarm::ops::Cpu;
use patarm::ops::adamw::{AdamW, AdamWStep};
use patarm::tensor::Device;

use super::args;
use crate::cuda_device::{devices, download, upload};
use crate::numbers::{bits, normal};

/// Three steps on the device, from arrays that start `offset` elements into their buffers.
fn three(device: &Cuda, len: usize, offset: usize) -> [Vec<f32>; 3] {
    let padded = |values: Vec<f32>| upload(device, &[vec![f32::NAN; offset], values].concat());
    let mut state = [normal(1, len), vec![0.0; len], vec![0.0; len]].map(padded);
    let place = offset..offset + len;
    for step in 1..=3 {
        let gradient = padded(normal(10 + step, len));
        let host = args(&mut [], &mut [], &mut [], &[], step);
        let [weight, moment1, moment2] = state.each_mut().map(|buffer| device.view_mut(buffer, place.clone()));
        let numbers = AdamW {
            weight,
            moment1,
            moment2,
            gradient: device.view(&gradient, place.clone()),
            gradient_scale: host.gradient_scale,
            learning_rate: host.learning_rate,
            beta1: host.beta1,
            beta2: host.beta2,
            epsilon: host.epsilon,
            weight_decay: host.weight_decay,
            step,
        };
        device.adamw(numbers).unwrap();
    }
    state.each_ref().map(|buffer| download(device, buffer)[offset..].to_vec())
}

#[test]
fn three_steps_have_the_cpus_bits_from_any_alignment() {
    for len in [0, 1, 3, 4, 5, 1000, 3001] {
        let (mut w, mut m, mut v) = (normal(1, len), vec![0.0; len], vec![0.0; len]);
        for step in 1..=3 {
            Cpu.adamw(args(&mut w, &mut m, &mut v, &normal(10 + step, len), step)).unwrap();
        }
        let expected = [w, m, v].map(|x| bits(&x));
        for device in devices() {
            for offset in [0, 1] {
                assert_eq!(three(device, len, offset).map(|x| bits(&x)), expected, "{len}, {offset} elements on");
            }
        }
    }
}
