//! Tests of the op `swiglu`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};

use crate::ops::numbers::{assert_near, bits, normal, on_threads, refused};

fn forward(gate_up: &[f32], cols: usize) -> Vec<f32> {
    let rows = gate_up.len() / (2 * cols);
    let mut out = vec![0.0f32; rows * cols];
    Cpu.swiglu_forward(SwigluForward { out: &mut out, gate_up, rows, cols }).unwrap();
    out
}

fn backward(d_out: &[f32], gate_up: &[f32], cols: usize) -> Vec<f32> {
    let rows = gate_up.len() / (2 * cols);
    let mut d_gate_up = vec![9.0f32; gate_up.len()];
    Cpu.swiglu_backward(SwigluBackward { d_gate_up: &mut d_gate_up, d_out, gate_up, rows, cols }).unwrap();
    d_gate_up
}

/// silu(g)·u, and with d its gradients (by g, by u).
fn formula(g: f64, u: f64, d: f64) -> (f64, f64, f64) {
    let s = 1.0 / (1.0 + (-g).exp());
    (g * s * u, d * u * s * (1.0 + g * (1.0 - s)), d * g * s)
}

#[test]
fn both_directions_are_the_formula_for_large_inputs_too() {
    for (rows, cols) in [(1, 1), (2, 5), (3, 17), (90, 100)] {
        let mut gate_up: Vec<f32> = normal(1, 2 * rows * cols).iter().map(|x| 3.0 * x).collect();
        gate_up[0] = if rows == 1 { 95.0 } else { -95.0 };
        let d_out = normal(2, rows * cols);
        let (out, d_gate_up) = (forward(&gate_up, cols), backward(&d_out, &gate_up, cols));
        let at = |row: usize, col: usize| f64::from(gate_up[row * 2 * cols + col]);
        let (mut expected, mut gradient) = (Vec::new(), vec![0.0; gate_up.len()]);
        for row in 0..rows {
            for col in 0..cols {
                let d = f64::from(d_out[row * cols + col]);
                let (y, dg, du) = formula(at(row, col), at(row, cols + col), d);
                expected.push(y);
                gradient[row * 2 * cols + col] = dg;
                gradient[row * 2 * cols + cols + col] = du;
            }
        }
        // A few roundings and an exponential within 2 ulp; terms of silu' cancel near its zero.
        assert_near("out", &out, &expected, 1e-6, 1e-6);
        assert_near("d_gate_up", &d_gate_up, &gradient, 2e-6, 2e-6);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_and_on_any_threads() {
    let (rows, cols) = (200, 33);
    let (gate_up, d_out) = (normal(1, 2 * rows * cols), normal(2, rows * cols));
    let all = || (bits(&forward(&gate_up, cols)), bits(&backward(&d_out, &gate_up, cols)));
    let together = on_threads(1, all);
    assert_eq!(together, on_threads(3, all));
    let alone = forward(&gate_up[2 * cols * 150..][..2 * cols], cols);
    assert_eq!(bits(&alone), together.0[150 * cols..][..cols]);
}

#[test]
fn wrong_sizes_are_named() {
    let mut out = [0.0f32; 4];
    let args: SwigluForward<Cpu> = SwigluForward { out: &mut out[..], gate_up: &[0.0; 6], rows: 2, cols: 2 };
    assert!(refused(Cpu.swiglu_forward(args)).contains("`gate_up` has the wrong size: expected 8, got 6"));
}
