//! SwiGLU on the CUDA device against the CPU's, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use patarm::tensor::Device;

use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::normal;

/// Half a unit in the last place of bf16, and of f32.
const BF16: f64 = 1.0 / 256.0;
const F32: f64 = 1.0 / 16_777_216.0;
/// Products of numbers below 1e-38 with gates and gradients up to a thousand.
const FLUSHED: f64 = 1e-35;

/// One number, odd widths, whole chunks, more chunks than one block has threads.
const SIZES: [(usize, usize); 6] = [(1, 1), (2, 5), (3, 17), (1, 8), (7, 96), (40, 136)];

/// Rows of all three start `offset` elements into their buffers. (out, d_gate_up)
fn run(device: &Cuda, gate_up: &[f32], d_out: &[f32], cols: usize, offset: usize) -> [Vec<f32>; 2] {
    let (rows, size) = (d_out.len() / cols, d_out.len());
    let padded = |values: &[f32]| upload(device, &[vec![bf16::NAN; offset], narrow(values)].concat());
    let (from, d) = (padded(gate_up), padded(d_out));
    let (mut out, mut d_gate_up) = (padded(&vec![f32::NAN; size]), padded(&vec![f32::NAN; 2 * size]));
    let gate_up = device.view(&from, offset..offset + 2 * size);
    let d_out = device.view(&d, offset..offset + size);
    let out_view = device.view_mut(&mut out, offset..offset + size);
    device.swiglu_forward(SwigluForward { out: out_view, gate_up, rows, cols }).unwrap();
    let d_view = device.view_mut(&mut d_gate_up, offset..offset + 2 * size);
    device.swiglu_backward(SwigluBackward { d_gate_up: d_view, d_out, gate_up, rows, cols }).unwrap();
    [&out, &d_gate_up].map(|buffer| widen(&download(device, buffer)[offset..]))
}

#[test]
fn both_directions_are_the_cpus_from_any_alignment() {
    for device in devices() {
        for size in SIZES {
            assert_is_the_cpus(device, size);
        }
    }
}

pub fn assert_is_the_cpus(device: &Cuda, (rows, cols): (usize, usize)) {
    let mut gate_up = rounded(&normal(1, 2 * rows * cols).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
    gate_up[0] = if rows == 1 { 95.0 } else { -95.0 };
    let d_out = rounded(&normal(2, rows * cols));
    let [out, d_gate_up] = run(device, &gate_up, &d_out, cols, 0);
    let (e_out, e_gradient) = (super::forward(&gate_up, cols), super::backward(&d_out, &gate_up, cols));
    // One rounding to bf16; a few in f32 and an exponential within 2 ulp on either side. The two terms of silu′
    // cancel near its zero; before that, d_gate is at most |d·up|·(1 + |gate|). Beyond a gate of −88, where the sigmoid is
    // below 1e-38, the device's is 0.
    let what = |name: &str| format!("{name} of {rows}×{cols}");
    assert_within(&what("out"), &out, &e_out, |i| (BF16 + 16.0 * F32) * f64::from(e_out[i].abs()) + FLUSHED);
    assert_within(&what("d_gate_up"), &d_gate_up, &e_gradient, |i| {
        let (row, col) = (i / (2 * cols), i % cols);
        let (gate, up) = (gate_up[row * 2 * cols + col], gate_up[row * 2 * cols + cols + col]);
        let terms = d_out[row * cols + col].abs() * (up.abs() + gate.abs()) * (1.0 + gate.abs());
        BF16 * f64::from(e_gradient[i].abs()) + 16.0 * F32 * f64::from(terms) + FLUSHED
    });
    assert_eq!([out, d_gate_up], run(device, &gate_up, &d_out, cols, 1), "{rows}×{cols}, one element on");
}

#[test]
fn nan_stays_at_its_index() {
    let cols = 8;
    let mut gate_up = rounded(&normal(1, 4 * cols));
    (gate_up[2], gate_up[cols + 5]) = (f32::NAN, f32::INFINITY);
    let d_out = rounded(&normal(2, 2 * cols));
    for device in devices() {
        let [out, d_gate_up] = run(device, &gate_up, &d_out, cols, 0);
        let bad: Vec<usize> = (0..2 * cols).filter(|i| !out[*i].is_finite()).collect();
        assert_eq!(bad, [2, 5]);
        let bad: Vec<usize> = (0..4 * cols).filter(|i| !d_gate_up[*i].is_finite()).collect();
        assert_eq!(bad, [2, 5, cols + 2]);
    }
}

#[test]
fn an_empty_batch_is_fine() {
    let [out, d_gate_up] = run(&devices()[0], &[], &[], 8, 0);
    assert!(out.is_empty() && d_gate_up.is_empty());
}
