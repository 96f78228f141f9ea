//! Tests of the op `linear`: against f64, and its promise that bits depend only on the numbers of a row.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::linear::*;
use patarm::ops::{Cpu, OpError};
use proptest::prelude::*;

/// Numbers in [-1, 1) that use all bits of the mantissa.
pub fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub fn prepared(master: &[f32], sizes: LinearSizes) -> <Cpu as Linear>::Weight {
    let mut weight = Cpu.linear_weight(sizes).unwrap();
    Cpu.linear_prepare(&mut weight, master, sizes).unwrap();
    weight
}

/// Runs `f` on a separate pool of `threads` threads.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

fn forward(x: &[f32], weight: &<Cpu as Linear>::Weight, rows: usize, sizes: LinearSizes) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * sizes.out_features];
    Cpu.linear_forward(LinearForward { out: &mut out, x, weight, rows, sizes }).unwrap();
    out
}

/// Odd sizes: columns that do not fill a panel, K = 1, one row, more rows than a tile, more k than a block.
const SIZES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 33, 7),
    (2, 129, 40),
    (3, 64, 1),
    (4, 31, 100),
    (5, 300, 17),
    (7, 16, 16),
    (12, 32, 128),
    (13, 48, 5),
    (25, 100, 65),
    (64, 130, 128),
    (193, 65, 33),
    (400, 96, 64),
    (600, 200, 130),
];

/// |Σ of k products, one rounding each| ≤ k · 2⁻²⁴ · Σ|a·b| (Higham, "Accuracy and Stability", §3.1).
fn assert_near(got: f32, exact: f64, absolute: f64, k: usize, what: &str) {
    let bound = (k + 1) as f64 * 2f64.powi(-24) * absolute + 1e-30;
    assert!((f64::from(got) - exact).abs() <= bound, "{what}: {got} is not {exact} ± {bound:e}");
}

fn dot(terms: impl Iterator<Item = (f32, f32)>) -> (f64, f64) {
    terms.fold((0.0, 0.0), |(sum, absolute), (a, b)| {
        let term = f64::from(a) * f64::from(b);
        (sum + term, absolute + term.abs())
    })
}

#[test]
fn forward_equals_f64() {
    for (rows, n, k) in SIZES {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (x, w) = (values(rows * k, 1), values(n * k, 2));
        let out = forward(&x, &prepared(&w, sizes), rows, sizes);
        for r in 0..rows {
            for o in 0..n {
                let (exact, absolute) = dot((0..k).map(|i| (x[r * k + i], w[o * k + i])));
                assert_near(out[r * n + o], exact, absolute, k, &format!("rows {rows} n {n} k {k}: out[{r}, {o}]"));
            }
        }
    }
}

#[test]
fn backward_input_equals_f64_and_accumulates() {
    for (rows, n, k) in SIZES {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (d_out, w) = (values(rows * n, 3), values(n * k, 4));
        let weight = prepared(&w, sizes);
        for accumulate in [false, true] {
            let before = if accumulate { values(rows * k, 5) } else { vec![f32::NAN; rows * k] };
            let mut d_x = before.clone();
            let args = LinearBackwardInput::<Cpu> {
                d_x: &mut d_x[..],
                d_out: &d_out,
                weight: &weight,
                rows,
                sizes,
                accumulate,
            };
            Cpu.linear_backward_input(args).unwrap();
            for r in 0..rows {
                for i in 0..k {
                    let start = if accumulate { before[r * k + i] } else { 0.0 };
                    let terms = (0..n).map(|o| (d_out[r * n + o], w[o * k + i])).chain([(start, 1.0)]);
                    let (exact, absolute) = dot(terms);
                    assert_near(d_x[r * k + i], exact, absolute, n, &format!("{rows} {n} {k}: d_x[{r}, {i}]"));
                }
            }
        }
    }
}

#[test]
fn backward_weight_equals_f64_and_accumulates() {
    for (rows, n, k) in SIZES {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (d_out, x, before) = (values(rows * n, 6), values(rows * k, 7), values(n * k, 8));
        let mut d_weight = before.clone();
        let args = LinearBackwardWeight::<Cpu> { d_weight: &mut d_weight[..], d_out: &d_out, x: &x, rows, sizes };
        Cpu.linear_backward_weight(args).unwrap();
        for o in 0..n {
            for i in 0..k {
                let terms = (0..rows).map(|r| (d_out[r * n + o], x[r * k + i])).chain([(before[o * k + i], 1.0)]);
                let (exact, absolute) = dot(terms);
                assert_near(d_weight[o * k + i], exact, absolute, rows, &format!("{rows} {n} {k}: d_weight[{o}, {i}]"));
            }
        }
    }
}

/// Exactly the contract: one fused multiply-add per k in order.
#[test]
fn every_element_is_one_chain() {
    for (rows, n, k) in SIZES {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (x, w) = (values(rows * k, 1), values(n * k, 2));
        let out = forward(&x, &prepared(&w, sizes), rows, sizes);
        let mut d_weight = vec![0.0; n * k];
        Cpu.linear_backward_weight(LinearBackwardWeight { d_weight: &mut d_weight, d_out: &out, x: &x, rows, sizes })
            .unwrap();
        for (at, got) in out.iter().enumerate() {
            let (r, o) = (at / n, at % n);
            let chain = (0..k).fold(0.0f32, |sum, i| x[r * k + i].mul_add(w[o * k + i], sum));
            assert_eq!(got.to_bits(), chain.to_bits(), "out[{r}, {o}] of {rows} × {n} × {k}");
        }
        for (at, got) in d_weight.iter().enumerate() {
            let (o, i) = (at / k, at % k);
            let chain = (0..rows).fold(0.0f32, |sum, r| out[r * n + o].mul_add(x[r * k + i], sum));
            assert_eq!(got.to_bits(), chain.to_bits(), "d_weight[{o}, {i}] of {rows} × {n} × {k}");
        }
    }
}

/// The same for `d_out · W`, which starts from `d_x` if it accumulates.
#[test]
fn every_element_of_the_gradient_of_the_input_is_one_chain() {
    for (rows, n, k) in SIZES.into_iter().chain([(13, 1100, 150), (200, 2070, 45)]) {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (d_out, w, before) = (values(rows * n, 3), values(n * k, 4), values(rows * k, 5));
        let weight = prepared(&w, sizes);
        for accumulate in [false, true] {
            let mut d_x = before.clone();
            let d_x_view = &mut d_x[..];
            let args =
                LinearBackwardInput::<Cpu> { d_x: d_x_view, d_out: &d_out, weight: &weight, rows, sizes, accumulate };
            Cpu.linear_backward_input(args).unwrap();
            for (at, got) in d_x.iter().enumerate() {
                let (r, i) = (at / k, at % k);
                let start = if accumulate { before[at] } else { 0.0 };
                let chain = (0..n).fold(start, |sum, o| d_out[r * n + o].mul_add(w[o * k + i], sum));
                assert_eq!(got.to_bits(), chain.to_bits(), "d_x[{r}, {i}] of {rows} × {n} × {k}, {accumulate}");
            }
        }
    }
}

/// The bits of all three matmuls.
fn all_bits(rows: usize, n: usize, k: usize) -> [Vec<u32>; 3] {
    let sizes = LinearSizes { out_features: n, in_features: k };
    let (x, w, d_out) = (values(rows * k, 1), values(n * k, 2), values(rows * n, 3));
    let weight = prepared(&w, sizes);
    let (mut d_x, mut d_weight) = (vec![0.0; x.len()], values(w.len(), 4));
    let args = LinearBackwardInput::<Cpu> {
        d_x: &mut d_x[..],
        d_out: &d_out,
        weight: &weight,
        rows,
        sizes,
        accumulate: false,
    };
    Cpu.linear_backward_input(args).unwrap();
    Cpu.linear_backward_weight(LinearBackwardWeight { d_weight: &mut d_weight, d_out: &d_out, x: &x, rows, sizes })
        .unwrap();
    [bits(&forward(&x, &weight, rows, sizes)), bits(&d_x), bits(&d_weight)]
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (rows, n, k) in [(600, 200, 130), (1, 4096, 1024), (4, 2050, 700), (1030, 96, 64)] {
        let one = with_threads(1, || all_bits(rows, n, k));
        for threads in [2, 3, 7] {
            assert!(with_threads(threads, || all_bits(rows, n, k)) == one, "{rows} × {n} × {k} on {threads} threads");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A row has the same bits in any batch as alone.
    #[test]
    fn a_row_has_the_same_bits_in_any_batch(
        n in 1usize..140, k in 1usize..80, rows in 1usize..60, cut in 0usize..60, seed in any::<u64>(),
    ) {
        let sizes = LinearSizes { out_features: n, in_features: k };
        let (x, weight) = (values(rows * k, seed), prepared(&values(n * k, !seed), sizes));
        let whole = bits(&forward(&x, &weight, rows, sizes));
        let cut = cut % (rows + 1);
        let mut parts = forward(&x[..cut * k], &weight, cut, sizes);
        parts.extend(forward(&x[cut * k..], &weight, rows - cut, sizes));
        prop_assert_eq!(&bits(&parts), &whole);
        for r in 0..rows {
            prop_assert_eq!(&bits(&forward(&x[r * k..(r + 1) * k], &weight, 1, sizes))[..], &whole[r * n..(r + 1) * n]);
        }
    }
}

#[test]
fn a_weight_prepared_again_forgets_the_old_one() {
    let sizes = LinearSizes { out_features: 37, in_features: 19 };
    let (first, second, d_out) = (values(sizes.len(), 1), values(sizes.len(), 2), values(37 * 3, 3));
    let d_x = |weight: &_| {
        let mut d_x = vec![0.0; 19 * 3];
        let args =
            LinearBackwardInput::<Cpu> { d_x: &mut d_x[..], d_out: &d_out, weight, rows: 3, sizes, accumulate: false };
        Cpu.linear_backward_input(args).unwrap();
        d_x
    };
    let mut weight = prepared(&first, sizes);
    let old = d_x(&weight);
    Cpu.linear_prepare(&mut weight, &second, sizes).unwrap();
    assert_ne!(d_x(&weight), old);
    assert_eq!(bits(&d_x(&weight)), bits(&d_x(&prepared(&second, sizes))));
}

#[test]
fn nan_stays_in_its_row() {
    let sizes = LinearSizes { out_features: 40, in_features: 8 };
    let weight = prepared(&values(sizes.len(), 1), sizes);
    let mut x = values(8 * 20, 2);
    x[8 * 13] = f32::NAN;
    for (r, row) in forward(&x, &weight, 20, sizes).chunks(40).enumerate() {
        assert!(row.iter().all(|y| y.is_nan() == (r == 13)), "row {r}");
    }
}

#[test]
fn wrong_sizes_are_named() {
    let sizes = LinearSizes { out_features: 4, in_features: 3 };
    let weight = prepared(&[0.0; 12], sizes);
    let named = |result: Result<(), OpError>, name: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}`")), "{message}");
    };
    let (x, y) = ([0.0; 6], [0.0; 8]);
    let forward = |out: &mut [f32], x: &[f32], sizes| {
        Cpu.linear_forward(LinearForward { out, x, weight: &weight, rows: 2, sizes })
    };
    named(forward(&mut [0.0; 7], &x, sizes), "out");
    named(forward(&mut [0.0; 8], &x[1..], sizes), "x");
    named(forward(&mut [0.0; 6], &y, LinearSizes { out_features: 3, in_features: 4 }), "weight");
    let input = |d_x: &mut [f32], d_out: &[f32], sizes| {
        let accumulate = false;
        Cpu.linear_backward_input(LinearBackwardInput { d_x, d_out, weight: &weight, rows: 2, sizes, accumulate })
    };
    named(input(&mut [0.0; 5], &y, sizes), "d_x");
    named(input(&mut [0.0; 6], &y[1..], sizes), "d_out");
    named(input(&mut [0.0; 8], &x, LinearSizes { out_features: 3, in_features: 4 }), "weight");
    let gradient = |d_weight: &mut [f32], d_out: &[f32], x: &[f32]| {
        Cpu.linear_backward_weight(LinearBackwardWeight { d_weight, d_out, x, rows: 2, sizes })
    };
    named(gradient(&mut [0.0; 11], &y, &x), "d_weight");
    named(gradient(&mut [0.0; 12], &y[1..], &x), "d_out");
    named(gradient(&mut [0.0; 12], &y, &x[1..]), "x");
    named(Cpu.linear_prepare(&mut Cpu.linear_weight(sizes).unwrap(), &[0.0; 11], sizes), "master");
}
