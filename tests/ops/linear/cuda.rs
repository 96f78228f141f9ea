//! Matmuls on the CUDA device against f64, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::linear::*;
use patarm::tensor::Device;
use rayon::prelude::*;

use super::values;
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::refused;

/// (rows, outputs, inputs): one of each, odd ones, more than a tile.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (1, 33, 7), (3, 64, 1), (13, 48, 5), (25, 100, 65), (130, 96, 136)];

/// Half a unit in the last place of bf16, relative to the value.
const BF16: f64 = 1.0 / 256.0;

struct Case {
    sizes: LinearSizes,
    rows: usize,
    x: Vec<f32>,
    d_out: Vec<f32>,
    master: Vec<f32>,
}

impl Case {
    fn new((rows, out_features, in_features): (usize, usize, usize)) -> Self {
        let sizes = LinearSizes { out_features, in_features };
        let x = rounded(&values(rows * in_features, 1));
        let d_out = rounded(&values(rows * out_features, 2));
        Self { sizes, rows, x, d_out, master: values(sizes.len(), 3) }
    }

    fn weight(&self, device: &Cuda) -> <Cuda as Linear>::Weight {
        let mut weight = device.linear_weight(self.sizes).unwrap();
        let master = upload(device, &self.master);
        device.linear_prepare(&mut weight, device.view(&master, 0..self.sizes.len()), self.sizes).unwrap();
        weight
    }

    /// `x · Wᵀ`, `start + d_out · W`, `start + d_outᵀ · x`; the second is overwritten without `accumulate`.
    fn run(&self, device: &Cuda, start: f32, accumulate: bool) -> [Vec<f32>; 3] {
        let LinearSizes { out_features, in_features } = self.sizes;
        let Self { sizes, rows, .. } = *self;
        let (weight, x, d_out) = (self.weight(device), narrow(&self.x), narrow(&self.d_out));
        let (x, d_out) = (upload(device, &x), upload(device, &d_out));
        let mut out = upload(device, &vec![bf16::NAN; rows * out_features]);
        let mut d_x = upload(device, &vec![bf16::from_f32(start); rows * in_features]);
        let mut d_weight = upload(device, &vec![start; sizes.len()]);
        let (x_view, d_out_view) =
            (device.view(&x, 0..rows * in_features), device.view(&d_out, 0..rows * out_features));
        let out_view = device.view_mut(&mut out, 0..rows * out_features);
        device.linear_forward(LinearForward { out: out_view, x: x_view, weight: &weight, rows, sizes }).unwrap();
        let d_x_view = device.view_mut(&mut d_x, 0..rows * in_features);
        let args = LinearBackwardInput { d_x: d_x_view, d_out: d_out_view, weight: &weight, rows, sizes, accumulate };
        device.linear_backward_input(args).unwrap();
        let d_weight_view = device.view_mut(&mut d_weight, 0..sizes.len());
        let args = LinearBackwardWeight { d_weight: d_weight_view, d_out: d_out_view, x: x_view, rows, sizes };
        device.linear_backward_weight(args).unwrap();
        [widen(&download(device, &out)), widen(&download(device, &d_x)), download(device, &d_weight)]
    }

    /// The same in f64 with the weight rounded as matmuls read it, and Σ|a·b| for each index.
    fn exact(&self, start: f64) -> [Vec<(f64, f64)>; 3] {
        let LinearSizes { out_features: n, in_features: k } = self.sizes;
        let (x, d, w) = (&self.x, &self.d_out, rounded(&self.master));
        let index = |i: usize, cols: usize| (i / cols, i % cols);
        let out = |i| {
            let (r, o) = index(i, n);
            sum(0.0, (0..k).map(|c| (x[r * k + c], w[o * k + c])))
        };
        let d_x = |i| {
            let (r, c) = index(i, k);
            sum(start, (0..n).map(|o| (d[r * n + o], w[o * k + c])))
        };
        let d_weight = |i| {
            let (o, c) = index(i, k);
            sum(start, (0..self.rows).map(|r| (d[r * n + o], x[r * k + c])))
        };
        let all = |len: usize, f: &(dyn Fn(usize) -> (f64, f64) + Sync)| (0..len).into_par_iter().map(f).collect();
        [all(self.rows * n, &out), all(self.rows * k, &d_x), all(n * k, &d_weight)]
    }
}

/// `start` and all products, and the sum of their sizes.
fn sum(start: f64, terms: impl Iterator<Item = (f32, f32)>) -> (f64, f64) {
    terms.fold((start, start.abs()), |(sum, size), (a, b)| {
        let product = f64::from(a) * f64::from(b);
        (sum + product, size + product.abs())
    })
}

#[test]
fn matmuls_agree_with_f64_within_their_roundings() {
    for device in devices() {
        for size in SIZES {
            for accumulate in [false, true] {
                assert_matmuls_agree_with_f64(device, size, accumulate);
            }
        }
    }
}

/// `size`: (rows, outputs, inputs).
pub fn assert_matmuls_agree_with_f64(device: &Cuda, size: (usize, usize, usize), accumulate: bool) {
    let case = Case::new(size);
    let got = case.run(device, 0.5, accumulate);
    let mut exact = case.exact(0.5);
    if !accumulate {
        exact[1] = case.exact(0.0)[1].clone();
    }
    let terms = [size.2, size.1, size.0];
    let roundings = [BF16, BF16, 0.0];
    for (i, name) in ["out", "d_x", "d_weight"].into_iter().enumerate() {
        let expected: Vec<f32> = exact[i].iter().map(|(value, _)| *value as f32).collect();
        // A sum of k products in f32 in any order, one more for the initial value, and one rounding of the result.
        let sums = (terms[i] + 2) as f64 * f64::from(f32::EPSILON);
        assert_within(&format!("{device:?} {size:?} {name}"), &got[i], &expected, |index| {
            let (value, size) = exact[i][index];
            value.abs() * roundings[i] + sums * size
        });
    }
    assert!(got == case.run(device, 0.5, accumulate), "{device:?} {size:?}: the same bits every time");
}

#[test]
fn weights_are_rounded_to_nearest_even_and_keep_nan() {
    // 1 + 2⁻⁸ is half-way and rounds to the even 1; 1 + 3·2⁻⁸ rounds to 1 + 2⁻⁶; the largest f32 is beyond bf16.
    let master =
        [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1.0 / 3.0, f32::MAX, f32::NAN, f32::NEG_INFINITY, 0.0, -0.0, 2.0];
    let sizes = LinearSizes { out_features: master.len(), in_features: 1 };
    let expected: Vec<u32> = master.iter().map(|value| bf16::from_f32(*value).to_f32().to_bits()).collect();
    for device in devices() {
        // Each weight shows as an output of the input 1.
        let mut weight = device.linear_weight(sizes).unwrap();
        let buffer = upload(device, &master);
        device.linear_prepare(&mut weight, device.view(&buffer, 0..master.len()), sizes).unwrap();
        let x = upload(device, &[bf16::ONE]);
        let mut out = upload(device, &vec![bf16::NAN; master.len()]);
        let (x, out_view) = (device.view(&x, 0..1), device.view_mut(&mut out, 0..master.len()));
        device.linear_forward(LinearForward { out: out_view, x, weight: &weight, rows: 1, sizes }).unwrap();
        let got = widen(&download(device, &out));
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let same = got.to_bits() == *expected || got.is_nan() && f32::from_bits(*expected).is_nan();
            // A sum that starts at zero loses the sign of zero.
            assert!(same || *got == 0.0 && f32::from_bits(*expected) == 0.0, "{index}: {got} for {}", master[index]);
        }
    }
}

#[test]
fn a_batch_of_no_rows_and_weights_of_other_sizes() {
    let device = &devices()[0];
    let case = Case::new((0, 4, 3));
    let [out, d_x, d_weight] = case.run(device, 0.5, true);
    assert!(out.is_empty() && d_x.is_empty() && d_weight == [0.5; 12]);
    let weight = case.weight(device);
    let other = LinearSizes { out_features: 3, in_features: 4 };
    let (x, mut out) = (upload(device, &[bf16::ONE; 4]), upload(device, &[bf16::ONE; 3]));
    let (x, out) = (device.view(&x, 0..4), device.view_mut(&mut out, 0..3));
    let message = refused(device.linear_forward(LinearForward { out, x, weight: &weight, rows: 1, sizes: other }));
    assert!(message.contains("linear_forward") && message.contains("made for"), "{message}");
}
