//! RMSNorm on the CUDA device against the CPU's, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::OpResult;
use patarm::ops::rmsnorm::{Residual, RmsNorm, RmsNormBackward, RmsNormForward};
use patarm::tensor::Device;

use super::EPSILON;
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::{bits, normal, refused};

/// Half a unit in the last place of bf16, and of f32.
const BF16: f64 = 1.0 / 256.0;
const F32: f64 = 1.0 / 16_777_216.0;

/// One row and one column, odd widths, each count of warps, more rows than the blocks take at once, the widest row.
const SIZES: [(usize, usize); 12] = [
    (1, 1),
    (3, 5),
    (2, 17),
    (1, 8192),
    (3, 8191),
    (5, 1024),
    (5, 1032),
    (3, 2560),
    (2, 4104),
    (300, 128),
    (2100, 24),
    (259, 1025),
];

struct Forward {
    out: Vec<f32>,
    inv_rms: Vec<f32>,
    sum: Vec<f32>,
}

/// On the device; rows start `offset` elements into their buffers.
fn forward(device: &Cuda, x: &[f32], delta: Option<&[f32]>, weight: &[f32], offset: usize) -> Forward {
    let (cols, rows, size) = (weight.len(), x.len() / weight.len(), x.len());
    let padded = |values: &[f32]| upload(device, &[vec![bf16::NAN; offset], narrow(values)].concat());
    let (x, weight, delta) = (padded(x), upload(device, weight), delta.map(padded));
    let (mut out, mut sum) = (padded(&vec![f32::NAN; size]), padded(&vec![f32::NAN; size]));
    let mut inv_rms = upload(device, &vec![f32::NAN; rows]);
    let result: OpResult = device.rmsnorm_forward(RmsNormForward::<Cuda> {
        out: device.view_mut(&mut out, offset..offset + size),
        inv_rms: device.view_mut(&mut inv_rms, 0..rows),
        residual: delta.as_ref().map(|delta| Residual {
            sum: device.view_mut(&mut sum, offset..offset + size),
            delta: device.view(delta, offset..offset + size),
        }),
        x: device.view(&x, offset..offset + size),
        weight: device.view(&weight, 0..cols),
        rows,
        cols,
        epsilon: EPSILON,
    });
    result.unwrap();
    let back = |buffer| widen(&download(device, buffer)[offset..]);
    Forward { out: back(&out), inv_rms: download(device, &inv_rms), sum: back(&sum) }
}

/// (d_sum, d_weight): d_sum starts from the given values, d_weight from 1.
fn backward(
    device: &Cuda,
    start: &[f32],
    d_out: &[f32],
    sum: &[f32],
    inv_rms: &[f32],
    weight: &[f32],
    overwrite: bool,
) -> [Vec<f32>; 2] {
    let (rows, cols, size) = (inv_rms.len(), weight.len(), sum.len());
    let (mut d_sum, mut d_weight) = (upload(device, &narrow(start)), upload(device, &vec![1.0f32; cols]));
    let (d_out, sum) = (upload(device, &narrow(d_out)), upload(device, &narrow(sum)));
    let (inv_rms, weight) = (upload(device, inv_rms), upload(device, weight));
    let result: OpResult = device.rmsnorm_backward(RmsNormBackward::<Cuda> {
        d_sum: device.view_mut(&mut d_sum, 0..size),
        d_weight: Some(device.view_mut(&mut d_weight, 0..cols)),
        d_out: device.view(&d_out, 0..size),
        sum: device.view(&sum, 0..size),
        inv_rms: device.view(&inv_rms, 0..rows),
        weight: device.view(&weight, 0..cols),
        rows,
        cols,
        overwrite,
    });
    result.unwrap();
    [widen(&download(device, &d_sum)), download(device, &d_weight)]
}

/// Roundings of a sum of `cols` terms on the device (32 in a thread, 5 and 8 levels above it) and on the CPU (16 lanes).
fn roundings_of_row(cols: usize) -> f64 {
    (32 + 5 + 8) as f64 + (cols as f64 / 16.0 + 4.0)
}

#[test]
fn forward_is_the_cpus_with_and_without_the_addition() {
    for device in devices() {
        for size in SIZES {
            assert_forward_is_the_cpus(device, size);
        }
    }
}

pub fn assert_forward_is_the_cpus(device: &Cuda, (rows, cols): (usize, usize)) {
    let size = rows * cols;
    let (x, delta, weight) = (rounded(&normal(1, size)), rounded(&normal(2, size)), normal(3, cols));
    for delta in [None, Some(&delta[..])] {
        let got = forward(device, &x, delta, &weight, 0);
        let added: Vec<f32> = match delta {
            Some(delta) => x.iter().zip(delta).map(|(a, b)| a + b).collect(),
            None => x.clone(),
        };
        let sum = rounded(&added);
        if delta.is_some() {
            assert_eq!(bits(&got.sum), bits(&sum), "{rows}×{cols}: the sum is rounded once");
        }
        let (out, inv_rms, _) = super::forward(&sum, None, &weight);
        // A relative error of the sum counts half in its root; mean, ε, root and quotient round once each.
        let relative = (roundings_of_row(cols) / 2.0 + 8.0) * F32;
        let what = |name: &str| format!("{name} of {rows}×{cols}, addition {}", delta.is_some());
        assert_within(&what("inv_rms"), &got.inv_rms, &inv_rms, |row| relative * f64::from(inv_rms[row]));
        assert_within(&what("out"), &got.out, &out, |i| (BF16 + relative) * f64::from(out[i].abs()));
    }
}

#[test]
fn backward_is_the_cpus() {
    for device in devices() {
        for size in SIZES {
            assert_backward_is_the_cpus(device, size);
        }
    }
}

pub fn assert_backward_is_the_cpus(device: &Cuda, (rows, cols): (usize, usize)) {
    let size = rows * cols;
    let [x, d_out, start] = [1, 2, 4].map(|key| rounded(&normal(key, size)));
    let weight = normal(3, cols);
    let (_, inv_rms, _) = super::forward(&x, None, &weight);
    for overwrite in [false, true] {
        let [d_sum, d_weight] = backward(device, &start, &d_out, &x, &inv_rms, &weight, overwrite);
        let (e_sum, e_weight) = super::backward(&start, &d_out, &x, &inv_rms, &weight, overwrite);
        let what = |name: &str| format!("{name} of {rows}×{cols}, overwrite {overwrite}");
        // Before they cancel, the terms of d_sum are as large as this; the row's sum errs by its roundings.
        let products = |row: usize| {
            let range = row * cols..(row + 1) * cols;
            range.map(|i| f64::from((d_out[i] * weight[i % cols] * x[i]).abs())).sum::<f64>()
        };
        let row_sums: Vec<f64> = (0..rows).map(products).collect();
        let terms = |i: usize| {
            let (row, inverse) = (i / cols, f64::from(inv_rms[i / cols]));
            let own = inverse * f64::from((d_out[i] * weight[i % cols]).abs());
            let mean = row_sums[row] * inverse.powi(3) / cols as f64 * f64::from(x[i].abs());
            8.0 * (f64::from(start[i].abs()) + own) + (roundings_of_row(cols) + 8.0) * mean
        };
        assert_within(&what("d_sum"), &d_sum, &e_sum, |i| BF16 * f64::from(e_sum[i].abs()) + F32 * terms(i));
        // Each side sums `rows` terms in its own order, from 1.
        assert_within(&what("d_weight"), &d_weight, &e_weight, |col| {
            let terms = |row: usize| f64::from((d_out[row * cols + col] * x[row * cols + col] * inv_rms[row]).abs());
            2.0 * (rows as f64 + 4.0) * F32 * (1.0 + (0..rows).map(terms).sum::<f64>())
        });
    }
}

#[test]
fn a_frozen_weight_changes_no_gradient_of_the_stream() {
    for device in devices() {
        let (rows, cols) = (5, 40);
        let [x, d_out, start] = [1, 2, 4].map(|key| rounded(&normal(key, rows * cols)));
        let weight = normal(3, cols);
        let (_, inv_rms, _) = super::forward(&x, None, &weight);
        let [with, _] = backward(device, &start, &d_out, &x, &inv_rms, &weight, false);
        let mut d_sum = upload(device, &narrow(&start));
        let (d_out, x, inv_rms, weight) = (
            upload(device, &narrow(&d_out)),
            upload(device, &narrow(&x)),
            upload(device, &inv_rms),
            upload(device, &weight),
        );
        let result: OpResult = device.rmsnorm_backward(RmsNormBackward::<Cuda> {
            d_sum: device.view_mut(&mut d_sum, 0..rows * cols),
            d_weight: None,
            d_out: device.view(&d_out, 0..rows * cols),
            sum: device.view(&x, 0..rows * cols),
            inv_rms: device.view(&inv_rms, 0..rows),
            weight: device.view(&weight, 0..cols),
            rows,
            cols,
            overwrite: false,
        });
        result.unwrap();
        assert_eq!(bits(&widen(&download(device, &d_sum))), bits(&with));
    }
}

#[test]
fn nan_and_infinity_spread_as_on_the_cpu() {
    for device in devices() {
        let cols = 70;
        let mut x = rounded(&normal(1, 6 * cols));
        x[3] = f32::NAN;
        x[cols + 69] = f32::INFINITY;
        x[2 * cols] = f32::NEG_INFINITY;
        x[3 * cols..4 * cols].fill(0.0);
        x[4 * cols + 5] = rounded(&[3e38])[0]; // its square is not finite
        let (delta, weight) = (vec![0.0; x.len()], normal(3, cols));
        let (out, inv_rms, sum) = super::forward(&x, Some(&delta), &weight);
        let got = forward(device, &x, Some(&delta), &weight, 0);
        assert_within("out", &got.out, &out, |i| 1.01 * BF16 * f64::from(out[i].abs()));
        assert_within("sum", &got.sum, &sum, |_| 0.0);
        assert_within("inv_rms", &got.inv_rms, &inv_rms, |row| 40.0 * F32 * f64::from(inv_rms[row]));
        assert!(got.out[..cols].iter().all(|value| value.is_nan()), "a row with a NaN is NaN");
        assert!(got.out[5 * cols..].iter().all(|value| value.is_finite()), "the next row knows nothing of it");

        let d_out = rounded(&normal(2, x.len()));
        let [d_sum, d_weight] = backward(device, &delta, &d_out, &x, &inv_rms, &weight, true);
        let (e_sum, e_weight) = super::backward(&delta, &d_out, &x, &inv_rms, &weight, true);
        // The row of zeros has inv_rms = 1000: terms of a few thousand.
        assert_within("d_sum", &d_sum, &e_sum, |i| 1.01 * BF16 * f64::from(e_sum[i].abs()) + 1e-5);
        assert_within("d_weight", &d_weight, &e_weight, |col| 1e-5 * f64::from(e_weight[col].abs()) + 1e-5);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_at_any_alignment_and_in_every_run() {
    for device in devices() {
        for (rows, cols) in [(300, 40), (9, 1200)] {
            let (x, weight) = (rounded(&normal(1, rows * cols)), normal(3, cols));
            let together = forward(device, &x, None, &weight, 0);
            assert_eq!(bits(&together.out), bits(&forward(device, &x, None, &weight, 0).out), "run to run");
            assert_eq!(bits(&together.out), bits(&forward(device, &x, None, &weight, 3).out), "unaligned");
            for row in [0, rows / 3, rows - 1] {
                let alone = forward(device, &x[row * cols..][..cols], None, &weight, 0);
                assert_eq!(bits(&alone.out), bits(&together.out[row * cols..][..cols]));
                assert_eq!(alone.inv_rms[0].to_bits(), together.inv_rms[row].to_bits());
            }
            let d_out = rounded(&normal(2, rows * cols));
            let run =
                || backward(device, &x, &d_out, &x, &together.inv_rms, &weight, false).map(|values| bits(&values));
            assert_eq!(run(), run(), "the sum over rows has one order");
        }
    }
}

#[test]
fn an_empty_batch_is_fine_and_too_wide_rows_are_refused() {
    for device in devices() {
        let none = forward(device, &[], None, &[1.0; 8], 0);
        assert!(none.out.is_empty());
        let cols = 8193;
        let (mut out, mut inv_rms) = (upload(device, &vec![bf16::ZERO; cols]), upload(device, &[0.0f32]));
        let (x, weight) = (upload(device, &vec![bf16::ZERO; cols]), upload(device, &vec![0.0f32; cols]));
        let message = refused(device.rmsnorm_forward(RmsNormForward::<Cuda> {
            out: device.view_mut(&mut out, 0..cols),
            inv_rms: device.view_mut(&mut inv_rms, 0..1),
            residual: None,
            x: device.view(&x, 0..cols),
            weight: device.view(&weight, 0..cols),
            rows: 1,
            cols,
            epsilon: EPSILON,
        }));
        assert!(message.contains("rmsnorm_forward") && message.contains("at most 8192") && message.contains("8193"));
    }
}
