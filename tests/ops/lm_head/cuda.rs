//! The LM head on the CUDA device against the CPU's, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::loss::grpo::KlEstimator;
use patarm::ops::OpResult;
use patarm::ops::embedding::{Embedding, EmbeddingForward};
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::ops::lm_head::*;
use patarm::tensor::Device;
use rayon::prelude::*;

use super::{Case, Out, SIZES, TOKENS, cases, values};
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::{bits, refused};

/// Half a unit in the last place of bf16 and of f32, relative to the value.
const BF16: f64 = 1.0 / 256.0;
const F32: f64 = 1.0 / 16_777_216.0;
const ESTIMATORS: [KlEstimator; 3] = [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3];

impl Case {
    /// With inputs that the device holds exactly; call `grpo` after this.
    fn narrowed(mut self) -> Self {
        (self.hidden, self.master) = (rounded(&self.hidden), rounded(&self.master));
        self
    }

    fn device_weight(&self, device: &Cuda) -> <Cuda as Linear>::Weight {
        let mut weight = device.linear_weight(self.sizes).unwrap();
        let master = upload(device, &self.master);
        device.linear_prepare(&mut weight, device.view(&master, 0..self.master.len()), self.sizes).unwrap();
        weight
    }

    /// As `run`, on the device: the weight's gradient starts at zero, and without `d_weight` stays zero.
    fn run_on(&self, device: &Cuda, gradient: bool, d_weight: bool) -> Out {
        let (weight, n) = (self.device_weight(device), self.rows.len());
        let [mut logprob, mut entropy, mut loss] = [(); 3].map(|()| upload(device, &vec![f32::NAN; n]));
        let mut d_hidden = upload(device, &vec![bf16::from_f32(0.5); self.hidden.len()]);
        let mut d_master = upload(device, &vec![0.0f32; self.master.len()]);
        let (hidden, row_weight) = (upload(device, &narrow(&self.hidden)), upload(device, &self.row_weight));
        let (rows, targets) = (upload(device, &self.rows), upload(device, &self.targets));
        let numbers = self.grpo.as_ref().map(|g| [&g.old, &g.reference, &g.advantages].map(|x| upload(device, x)));
        let token_loss = match (&self.grpo, &numbers) {
            (Some(g), Some([old, reference, advantages])) => TokenLoss::Grpo {
                loss: g.loss,
                old_logprob: (!g.own).then(|| device.view(old, 0..n)),
                reference_logprob: (!g.own || g.loss.kl_coefficient != 0.0).then(|| device.view(reference, 0..n)),
                advantages: device.view(advantages, 0..2 * n),
            },
            _ => TokenLoss::CrossEntropy,
        };
        let gradient = gradient.then(|| LmHeadGradient {
            d_hidden: device.view_mut(&mut d_hidden, 0..self.hidden.len()),
            d_weight: d_weight.then(|| device.view_mut(&mut d_master, 0..self.master.len())),
            row_weight: device.view(&row_weight, 0..n),
            loss: token_loss,
        });
        let result: OpResult = device.lm_head_loss(LmHeadLoss::<Cuda> {
            logprob: device.view_mut(&mut logprob, 0..n),
            entropy: device.view_mut(&mut entropy, 0..n),
            loss: device.view_mut(&mut loss, 0..n),
            gradient,
            hidden: device.view(&hidden, 0..self.hidden.len()),
            weight: &weight,
            rows: device.view(&rows, 0..n),
            targets: device.view(&targets, 0..n),
            temperature: self.temperature,
            tokens: self.tokens,
            chunk_rows: device.lm_head_chunk_rows(self.sizes),
            sizes: self.sizes,
        });
        result.unwrap();
        Out {
            logprob: download(device, &logprob),
            entropy: download(device, &entropy),
            loss: download(device, &loss),
            d_hidden: widen(&download(device, &d_hidden)),
            d_weight: download(device, &d_master),
        }
    }

    fn logits_on(&self, device: &Cuda, rows: &[u32]) -> Vec<f32> {
        let (weight, len) = (self.device_weight(device), rows.len() * self.sizes.out_features);
        let (hidden, rows) = (upload(device, &narrow(&self.hidden)), upload(device, rows));
        let mut out = upload(device, &vec![9.0f32; len]);
        let result: OpResult = device.lm_head_logits(LmHeadLogits::<Cuda> {
            out: device.view_mut(&mut out, 0..len),
            hidden: device.view(&hidden, 0..self.hidden.len()),
            weight: &weight,
            rows: device.view(&rows, 0..device.len(&rows)),
            tokens: self.tokens,
            sizes: self.sizes,
        });
        result.unwrap();
        download(device, &out)
    }

    /// For selected row `i` in f64: the error bound of a scaled logit, and the gradient by logits.
    fn row(&self, i: usize) -> RowBounds {
        let (width, temperature) = (self.sizes.in_features, f64::from(self.temperature));
        let x = &self.hidden[self.rows[i] as usize * width..][..width];
        // Each logit, and the sum of its terms' sizes.
        let product = |w: &[f32]| {
            let terms = x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        let products: Vec<(f64, f64)> = self.master.chunks(width).map(product).collect();
        let z: Vec<f64> = products.iter().map(|(sum, _)| sum / temperature).collect();
        let size = products.iter().map(|(_, size)| *size).fold(0.0, f64::max) / temperature;
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let target = self.targets[i] as usize;
        let (slope, steepness) = self.slope(i, z[target] - log_sum);
        let factor = f64::from(self.row_weight[i]) / temperature;
        let shape = z.iter().enumerate().map(|(v, z)| f64::from(u8::from(v == target)) - (z - log_sum).exp()).collect();
        // Both sides sum `width` products in f32 in their own order, and scale.
        RowBounds {
            logit: 2.0 * (width as f64 + 2.0) * F32 * size,
            slope: factor * slope,
            steepness: factor.abs() * steepness,
            shape,
        }
    }

    /// ∂loss/∂logprob, and the sum of its parts' magnitudes, which bounds it and the growth of its error.
    fn slope(&self, i: usize, logprob: f64) -> (f64, f64) {
        let Some(g) = &self.grpo else { return (-1.0, 1.0) };
        let [old, reference] = [g.old[i], g.reference[i]].map(f64::from);
        let [low, high, beta] = [g.loss.clip_low, g.loss.clip_high, g.loss.kl_coefficient].map(f64::from);
        let (ratio, d) = ((logprob - old).exp(), reference - logprob);
        for edge in [1.0 - low, 1.0 + high] {
            assert!((ratio - edge).abs() > 1e-4, "row {i}: too close to the clip bound to know the side");
        }
        let (mut surrogate, mut size) = (0.0, 0.0);
        for a in g.advantages[2 * i..][..2].iter().copied().map(f64::from) {
            let through = ratio * a <= ratio.clamp(1.0 - low, 1.0 + high) * a;
            surrogate -= if through { ratio * a } else { 0.0 };
            size += ratio * a.abs();
        }
        let kl = match g.loss.kl {
            KlEstimator::K1 => 1.0,
            KlEstimator::K2 => -d,
            KlEstimator::K3 => -d.exp_m1(),
        };
        (surrogate + beta * kl, size + beta * (1.0 + d.abs() + d.exp()))
    }
}

struct RowBounds {
    logit: f64,
    slope: f64,
    steepness: f64,
    /// onehot − softmax
    shape: Vec<f64>,
}

fn assert_is_the_cpus(device: &Cuda, case: &Case) {
    let (got, expected) = (case.run_on(device, true, true), case.run(true));
    let LinearSizes { out_features: vocab, in_features: width } = case.sizes;
    let rows: Vec<RowBounds> = (0..case.rows.len()).into_par_iter().map(|i| case.row(i)).collect();
    let what = |name: &str| format!("{device:?}: {name}, {} rows of {vocab} × {width}", rows.len());
    let nats = (vocab as f64).ln() + 1.0;
    // Sums of exponentials: terms within 3 ulp there, here within 4 + 1.5·|d| halves of one, which is at most 4 + 1.5 · ln vocab
    // of the sum; the additions of a thread and of a block here, of a block of 1024 there; then a handful of roundings of numbers
    // of the size of ln vocab and of the largest logit.
    let sums = (10.0 + 1.5 * nats + (4 * vocab.div_ceil(8192) + 22 + 264) as f64) * F32;
    let logprob = |i: usize| 2.0 * rows[i].logit + sums + 8.0 * F32 * (nats + f64::from(expected.logprob[i].abs()));
    assert_within(&what("logprob"), &got.logprob, &expected.logprob, logprob);
    // H = ln sum − Σ p·d: d and the weights move with the logits.
    assert_within(&what("entropy"), &got.entropy, &expected.entropy, |i| {
        2.0 * nats * (2.0 * rows[i].logit + sums) + 16.0 * F32 * nats
    });
    // Losses are no steeper than `steepness` before the row's weight; their own roundings are a few ulp of their parts.
    let weight = |i: usize| f64::from(case.row_weight[i].abs()).max(f64::MIN_POSITIVE) / f64::from(case.temperature);
    let steepness =
        |i: usize| case.slope(i, f64::from(expected.logprob[i])).1.max(rows[i].steepness / weight(i)).max(1.0);
    assert_within(&what("loss"), &got.loss, &expected.loss, |i| steepness(i) * (1.01 * logprob(i) + 16.0 * F32));

    // A gradient by a logit is rounded to bf16 once, and has the errors of its slope and its softmax.
    let d_logit = |row: &RowBounds, v: usize| {
        let off = 4.0 * (2.0 * row.logit + sums + 32.0 * F32 * nats);
        (BF16 * row.slope.abs() + off * row.steepness) * row.shape[v].abs()
    };
    let mut by_token = vec![None; case.tokens];
    case.rows.iter().enumerate().for_each(|(i, row)| by_token[*row as usize] = Some(i));
    let bounds: Vec<Vec<f64>> = rows.par_iter().map(|row| (0..vocab).map(|v| d_logit(row, v)).collect()).collect();
    // Gradients by the matmul's operands are sums of these times the other operand, whose magnitudes add up.
    let add = |sums: &mut [f64], bound: f64, operand: &[f32]| {
        sums.iter_mut().zip(operand).for_each(|(sum, x)| *sum += bound * f64::from(x.abs()));
    };
    let of_row = |bounds: &Vec<f64>| {
        let mut sums = vec![0.0; width];
        bounds.iter().zip(case.master.chunks(width)).for_each(|(bound, weight)| add(&mut sums, *bound, weight));
        sums
    };
    let by_hidden: Vec<Vec<f64>> = bounds.par_iter().map(of_row).collect();
    assert_within(&what("d_hidden"), &got.d_hidden, &expected.d_hidden, |at| {
        let Some(i) = by_token[at / width] else { return 0.0 };
        BF16 * f64::from(expected.d_hidden[at].abs()) + 1.01 * by_hidden[i][at % width]
    });
    let mut by_weight = vec![0.0; case.master.len()];
    by_weight.par_chunks_mut(width).enumerate().for_each(|(v, sums)| {
        for (bounds, row) in bounds.iter().zip(&case.rows) {
            add(sums, bounds[v], &case.hidden[*row as usize * width..][..width]);
        }
    });
    assert_within(&what("d_weight"), &got.d_weight, &expected.d_weight, |at| 1.01 * by_weight[at]);
    let again = case.run_on(device, true, true);
    let all = |out: &Out| [&out.logprob, &out.entropy, &out.loss, &out.d_hidden, &out.d_weight].map(|x| bits(x));
    assert!(all(&got) == all(&again), "{}", what("the same bits every time"));
}

/// All rows of a vocabulary, by cross-entropy and by GRPO; logits as far apart as a language model's.
pub fn assert_rows_are_the_cpus(device: &Cuda, rows: usize, vocab: usize, width: usize) {
    let sizes = LinearSizes { out_features: vocab, in_features: width };
    let mut case = Case::new(sizes, rows, (0..rows as u32).collect(), 1.0);
    // A product of two numbers in [-1, 1) has variance 1/9.
    let scale = 6.0 / (width as f32).sqrt();
    case.hidden.iter_mut().for_each(|x| *x *= scale);
    let case = case.narrowed();
    assert_is_the_cpus(device, &case);
    assert_is_the_cpus(device, &case.grpo(KlEstimator::K3));
}

#[test]
fn losses_and_gradients_are_the_cpus() {
    for device in devices() {
        let narrowed = |case: &Case| Case { grpo: None, ..case.clone() }.narrowed();
        for case in cases() {
            let grpo = case.grpo.as_ref().map(|g| g.loss.kl);
            let case = narrowed(&case);
            assert_is_the_cpus(device, &grpo.map_or(case.clone(), |kl| case.clone().grpo(kl)));
        }
    }
}

/// Odd and even widths, more columns than an iteration of the block, one token, one row of one token, vocabularies of Qwen3.
#[test]
fn any_size_works() {
    for device in devices() {
        for (vocab, width, tokens) in
            [(1000, 32, 40), (1001, 24, 9), (9001, 8, 3), (1, 4, 3), (7, 3, 1), (30_000, 8, 2)]
        {
            let sizes = LinearSizes { out_features: vocab, in_features: width };
            let rows = (0..tokens as u32).filter(|row| row % 4 != 1).collect();
            let case = Case::new(sizes, tokens, rows, 0.8).narrowed();
            assert_is_the_cpus(device, &case);
            assert_is_the_cpus(device, &case.grpo(KlEstimator::K3));
        }
        let sizes = LinearSizes { out_features: 151_936, in_features: 16 };
        let case = Case::new(sizes, 3, vec![0, 2], 1.0).narrowed();
        assert_is_the_cpus(device, &case.grpo(KlEstimator::K2));
    }
}

/// All four branches: advantages of both signs, on both sides of both bounds, which are not the same distance from 1.
#[test]
fn each_side_of_the_clip_bounds_is_right() {
    let case = Case::small(1.0).narrowed();
    let logprob = case.run(false).logprob;
    for device in devices() {
        for (i, ratio) in [0.5f32, 0.75, 0.85, 1.0, 1.15, 1.24, 1.35, 2.0].into_iter().enumerate() {
            let mut case = case.clone().grpo(ESTIMATORS[i % 3]);
            let g = case.grpo.as_mut().unwrap();
            g.loss.kl_coefficient = if i % 2 == 0 { 0.0 } else { 0.3 };
            g.old = logprob.iter().map(|l| l - ratio.ln()).collect();
            assert_is_the_cpus(device, &case);
        }
    }
}

#[test]
fn rows_without_weight_change_nothing_for_other_rows() {
    for device in devices() {
        let mut case = Case::small(0.9).narrowed().grpo(KlEstimator::K3);
        let masked = [4, 5, 31];
        masked.iter().for_each(|i| case.row_weight[*i] = 0.0);
        let g = case.grpo.as_mut().unwrap();
        (g.old[4], g.advantages[8]) = (-1000.0, -1.0); // an infinite ratio and loss
        let out = case.run_on(device, true, true);
        assert!(!out.loss[4].is_finite() && out.d_weight.iter().all(|x| x.is_finite()));
        // The same call without those rows.
        let keep = |x: &[f32]| -> Vec<f32> {
            x.iter().enumerate().filter(|(i, _)| !masked.contains(i)).map(|(_, x)| *x).collect()
        };
        let mut fewer = case.clone();
        let chosen = |x: &[u32]| -> Vec<u32> {
            x.iter().enumerate().filter(|(i, _)| !masked.contains(i)).map(|(_, x)| *x).collect()
        };
        (fewer.rows, fewer.targets) = (chosen(&case.rows), chosen(&case.targets));
        fewer.row_weight = keep(&case.row_weight);
        let g = fewer.grpo.as_mut().unwrap();
        (g.old, g.reference) = (keep(&g.old), keep(&g.reference));
        let unmasked = (0..case.rows.len()).filter(|i| !masked.contains(i));
        g.advantages = unmasked.flat_map(|i| g.advantages[2 * i..][..2].to_vec()).collect();
        assert_is_the_cpus(device, &fewer);
        let without = fewer.run_on(device, true, true);
        // The matmul may add in another order for another number of rows.
        let near = |x: &[f32]| {
            let largest = x.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
            move |_| (BF16 + 1e-4) * largest
        };
        assert_within("d_hidden", &out.d_hidden, &without.d_hidden, near(&without.d_hidden));
        assert_within("d_weight", &out.d_weight, &without.d_weight, near(&without.d_weight));
        for (row, d) in out.d_hidden.chunks(20).enumerate() {
            let counts = fewer.rows.contains(&(row as u32));
            assert!(d.iter().all(|x| (*x != 0.0) == counts), "row {row}");
        }
    }
}

#[test]
fn scoring_is_the_same_numbers_and_a_frozen_weight_stays() {
    for device in devices() {
        let case = Case::small(0.7).narrowed();
        let (whole, frozen, scored) =
            (case.run_on(device, true, true), case.run_on(device, true, false), case.run_on(device, false, false));
        for out in [&frozen, &scored] {
            assert_eq!(bits(&out.logprob), bits(&whole.logprob));
            assert_eq!(bits(&out.entropy), bits(&whole.entropy));
            assert_eq!(bits(&out.loss), bits(&whole.loss));
            assert!(out.d_weight.iter().all(|x| *x == 0.0));
        }
        assert_eq!(bits(&frozen.d_hidden), bits(&whole.d_hidden));
        assert!(scored.d_hidden.iter().all(|x| *x == 0.5), "without gradient nothing is written");
    }
}

/// The same bits as with the results of a scoring pass, without that pass.
#[test]
fn old_log_probabilities_that_are_not_given_are_the_calls_own() {
    for device in devices() {
        for (kl, coefficient) in [(KlEstimator::K1, 0.0), (KlEstimator::K3, 0.1)] {
            let case = Case::small(0.7).narrowed().grpo(kl);
            let own = case.clone().own(coefficient, &case.run_on(device, false, true).logprob);
            let (got, expected) = (own.run_on(device, true, true), own.given().run_on(device, true, true));
            let all =
                |out: &Out| [&out.logprob, &out.entropy, &out.loss, &out.d_hidden, &out.d_weight].map(|x| bits(x));
            assert!(all(&got) == all(&expected), "{device:?}, {kl:?}, {coefficient}");
            assert!(got.d_weight.iter().any(|x| *x != 0.0));
        }
    }
}

/// The embedding of a tied model, from the LM head's copy of it, equals the lookup in the master weights.
#[test]
fn rows_of_the_weight_are_the_embedding_of_the_master_weight() {
    for device in devices() {
        for sizes in [SIZES, LinearSizes { out_features: 33, in_features: 7 }] {
            let LinearSizes { out_features: vocab, in_features: hidden } = sizes;
            let mut case = Case::new(sizes, 1, vec![0], 1.0);
            case.master[5] = f32::NAN;
            let (weight, master) = (case.device_weight(device), upload(device, &case.master));
            let (ids, tokens) = (upload(device, &[3, 0, vocab as u32 - 1, 3, vocab as u32]), 5);
            let size = tokens * hidden;
            let [mut out, mut expected] = [(); 2].map(|()| upload(device, &vec![bf16::ONE; size]));
            let ids = device.view(&ids, 0..tokens);
            let args = LmHeadEmbedding::<Cuda> { out: device.view_mut(&mut out, 0..size), weight: &weight, ids, sizes };
            device.lm_head_embedding(args).unwrap();
            let (to, table) = (device.view_mut(&mut expected, 0..size), device.view(&master, 0..sizes.len()));
            device.embedding_forward(EmbeddingForward::<Cuda> { out: to, table, ids, tokens, hidden, vocab }).unwrap();
            let [out, expected] = [&out, &expected].map(|x| bits(&widen(&download(device, x))));
            assert_eq!(out, expected, "{device:?}, {sizes:?}");
        }
    }
}

#[test]
fn none_one_and_all_rows() {
    for device in devices() {
        let none = Case::new(SIZES, TOKENS, vec![], 1.0).narrowed();
        let out = none.run_on(device, true, true);
        assert!(out.d_hidden.iter().chain(&out.d_weight).all(|x| *x == 0.0));
        assert!(none.logits_on(device, &[]).is_empty());
        for rows in [vec![0], vec![TOKENS as u32 - 1], (0..TOKENS as u32).collect()] {
            assert_is_the_cpus(device, &Case::new(SIZES, TOKENS, rows, 1.0).narrowed());
        }
    }
}

#[test]
fn logits_are_of_rows_in_any_order_and_again() {
    for device in devices() {
        let case = Case::small(1.0).narrowed();
        for rows in [vec![5, 9, 7], vec![4, 4, 4], vec![89], vec![3, 2]] {
            let (got, expected) = (case.logits_on(device, &rows), case.logits(&rows));
            let terms = case.sizes.in_features as f64;
            // All numbers are below 1.
            assert_within("logits", &got, &expected, |_| 2.0 * (terms + 2.0) * F32 * terms);
        }
        let (got, expected) = (case.logits_on(device, &[3, TOKENS as u32, 4]), case.logits(&[3, 4]));
        let columns = SIZES.out_features;
        assert!(got[columns..2 * columns].iter().all(|x| x.is_nan()), "a row that is not there");
        assert_within("logits", &got[..columns], &expected[..columns], |_| 1e-4);
        assert_within("logits", &got[2 * columns..], &expected[columns..], |_| 1e-4);
    }
}

/// Mistakes that the CPU refuses and the host cannot see here.
#[test]
fn nan_and_missing_rows_show_in_their_own_row_alone() {
    for device in devices() {
        let clean = Case::small(1.0).narrowed().grpo(KlEstimator::K3);
        let good = clean.run_on(device, true, true);
        let check = |case: &Case, bad: &[usize]| {
            let out = case.run_on(device, true, true);
            for i in 0..case.rows.len() {
                for (x, good) in [(&out.logprob, &good.logprob), (&out.entropy, &good.entropy), (&out.loss, &good.loss)]
                {
                    assert_eq!(x[i].is_nan(), bad.contains(&i), "row {i}");
                    assert!(bad.contains(&i) || x[i] == good[i], "row {i} knows nothing of {bad:?}");
                }
            }
            assert!(out.d_weight.iter().any(|x| x.is_nan()), "it shows in the gradient of the weight");
            out.d_hidden
        };
        let bad = 7;
        let at = clean.rows[bad] as usize * 20;
        for value in [f32::NAN, f32::INFINITY] {
            let mut case = clean.clone();
            case.hidden[at] = value;
            let d_hidden = check(&case, &[bad]);
            for (i, (d, good)) in d_hidden.iter().zip(&good.d_hidden).enumerate() {
                let inside = (at..at + 20).contains(&i);
                assert!(if inside { d.is_nan() } else { d == good }, "d_hidden[{i}] = {d}");
            }
        }
        let mut case = clean.clone();
        case.targets[bad] = 45;
        assert!(check(&case, &[bad])[at..at + 20].iter().all(|d| d.is_nan()));
        for wrong in [TOKENS as u32, u32::MAX, clean.rows[bad - 1], 0] {
            let mut case = clean.clone();
            case.rows[bad] = wrong;
            // The row after one that is too large is not above it.
            let next = if wrong >= TOKENS as u32 { &[bad, bad + 1][..] } else { &[bad] };
            let d_hidden = check(&case, next);
            assert!(d_hidden.iter().all(|d| d.is_finite()), "no row of the hidden states is that row's");
        }
    }
}

#[test]
fn wrong_sizes_are_named() {
    let device = &devices()[0];
    let case = Case::small(1.0).narrowed();
    let weight = case.device_weight(device);
    let (hidden, rows) = (upload(device, &narrow(&case.hidden)), upload(device, &[1u32]));
    let mut out = upload(device, &values(45, 1));
    let mut run = |columns: usize, sizes: LinearSizes| {
        device.lm_head_logits(LmHeadLogits::<Cuda> {
            out: device.view_mut(&mut out, 0..columns),
            hidden: device.view(&hidden, 0..case.hidden.len()),
            weight: &weight,
            rows: device.view(&rows, 0..1),
            tokens: TOKENS,
            sizes,
        })
    };
    assert!(run(45, SIZES).is_ok());
    assert!(refused(run(44, SIZES)).contains("`out`"));
    assert!(refused(run(44, LinearSizes { out_features: 44, in_features: 20 })).contains("`weight`"));
}
