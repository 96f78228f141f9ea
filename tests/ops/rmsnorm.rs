//! Tests of the op `rmsnorm`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::rmsnorm::{Residual, RmsNorm, RmsNormBackward, RmsNormForward};

use crate::ops::numbers::{assert_near, bits, normal, on_threads, refused};

const EPSILON: f32 = 1e-6;

/// (out, inv_rms, sum)
fn forward(x: &[f32], delta: Option<&[f32]>, weight: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (cols, rows) = (weight.len(), x.len() / weight.len());
    let (mut out, mut inv_rms, mut sum) = (vec![0.0f32; x.len()], vec![0.0f32; rows], vec![0.0f32; x.len()]);
    Cpu.rmsnorm_forward(RmsNormForward {
        out: &mut out,
        inv_rms: &mut inv_rms,
        residual: delta.map(|delta| Residual { sum: &mut sum[..], delta }),
        x,
        weight,
        rows,
        cols,
        epsilon: EPSILON,
    })
    .unwrap();
    (out, inv_rms, sum)
}

/// (d_sum, d_weight), both starting from the given values.
fn backward(
    d_sum: &[f32],
    d_out: &[f32],
    sum: &[f32],
    inv_rms: &[f32],
    weight: &[f32],
    overwrite: bool,
) -> (Vec<f32>, Vec<f32>) {
    let (mut d_sum, mut d_weight) = (d_sum.to_vec(), vec![1.0f32; weight.len()]);
    Cpu.rmsnorm_backward(RmsNormBackward {
        d_sum: &mut d_sum,
        d_weight: Some(&mut d_weight),
        d_out,
        sum,
        inv_rms,
        weight,
        rows: inv_rms.len(),
        cols: weight.len(),
        overwrite,
    })
    .unwrap();
    (d_sum, d_weight)
}

/// Moves one of the inputs (x, weight) by a step.
type Bump<'a> = &'a dyn Fn(&mut Vec<f64>, &mut Vec<f64>, f64);

fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let cols = weight.len();
    x.chunks(cols)
        .flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / cols as f64;
            let inverse = 1.0 / (mean + f64::from(EPSILON)).sqrt();
            row.iter().zip(weight).map(move |(v, w)| v * inverse * w).collect::<Vec<_>>()
        })
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn forward_is_the_formula_with_and_without_the_addition() {
    for (rows, cols) in [(1, 1), (3, 5), (2, 17), (200, 100), (130, 128)] {
        let (x, delta, weight) = (normal(1, rows * cols), normal(2, rows * cols), normal(3, cols));
        let (out, ..) = forward(&x, None, &weight);
        // A sum of `cols` squares errs by at most cols/16 + 4 roundings, the rest by four: 1e-6 is enough up to 128.
        assert_near("out", &out, &reference(&wide(&x), &wide(&weight)), 1e-6, 1e-6);
        let (out, _, sum) = forward(&x, Some(&delta), &weight);
        let added: Vec<f32> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
        assert_eq!(sum, added);
        assert_near("out", &out, &reference(&wide(&added), &wide(&weight)), 1e-6, 1e-6);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let (rows, cols) = (3, 17);
    let (x, d_out, weight) = (normal(1, rows * cols), normal(2, rows * cols), normal(3, cols));
    let (_, inv_rms, _) = forward(&x, None, &weight);
    let start = normal(4, rows * cols);
    let (d_sum, d_weight) = backward(&start, &d_out, &x, &inv_rms, &weight, false);
    let loss = |x: &[f64], w: &[f64]| reference(x, w).iter().zip(&d_out).map(|(o, d)| o * f64::from(*d)).sum::<f64>();
    let slope = |x: &[f64], w: &[f64], bump: Bump<'_>| {
        let at = |h: f64| {
            let (mut x, mut w) = (x.to_vec(), w.to_vec());
            bump(&mut x, &mut w, h);
            loss(&x, &w)
        };
        (at(1e-5) - at(-1e-5)) / 2e-5
    };
    let (x64, w64) = (wide(&x), wide(&weight));
    let expected: Vec<f64> =
        (0..x.len()).map(|i| f64::from(start[i]) + slope(&x64, &w64, &|x, _, h| x[i] += h)).collect();
    assert_near("d_sum", &d_sum, &expected, 3e-6, 3e-6);
    let expected: Vec<f64> = (0..cols).map(|i| 1.0 + slope(&x64, &w64, &|_, w, h| w[i] += h)).collect();
    assert_near("d_weight", &d_weight, &expected, 3e-6, 3e-6);
    let (fresh, _) = backward(&start, &d_out, &x, &inv_rms, &weight, true);
    let (from_zero, _) = backward(&vec![0.0; x.len()], &d_out, &x, &inv_rms, &weight, false);
    assert_eq!(fresh, from_zero, "overwrite ignores what was there");
}

#[test]
fn a_row_and_a_sum_over_rows_have_the_same_bits_in_any_batch_and_on_any_threads() {
    let (rows, cols) = (300, 40);
    let (x, d_out, weight) = (normal(1, rows * cols), normal(2, rows * cols), normal(3, cols));
    let all = || {
        let (out, inv_rms, _) = forward(&x, None, &weight);
        let (d_sum, d_weight) = backward(&x, &d_out, &x, &inv_rms, &weight, false);
        [bits(&out), bits(&d_sum), bits(&d_weight)]
    };
    let together = on_threads(1, all);
    assert_eq!(together, on_threads(3, all));
    for row in [0, 77, 299] {
        let (out, ..) = forward(&x[row * cols..][..cols], None, &weight);
        assert_eq!(bits(&out), together[0][row * cols..][..cols]);
    }
}

#[test]
fn wrong_sizes_are_named() {
    let (mut out, mut inv_rms, x) = (vec![0.0f32; 6], vec![0.0f32; 2], vec![0.0f32; 6]);
    let message = refused(Cpu.rmsnorm_forward(RmsNormForward {
        out: &mut out,
        inv_rms: &mut inv_rms,
        residual: None,
        x: &x,
        weight: &[1.0, 1.0],
        rows: 2,
        cols: 3,
        epsilon: EPSILON,
    }));
    assert!(message.contains("rmsnorm_forward") && message.contains("`weight`") && message.contains("expected 3"));
}
