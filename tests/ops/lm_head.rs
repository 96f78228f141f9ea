//! Tests of the op `lm_head`: against f64 and finite differences, and its promise that log-probabilities never change bits.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::loss::grpo::{GrpoLoss, KlEstimator};
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::ops::lm_head::*;
use patarm::ops::{Cpu, OpError};

use super::linear::{bits, prepared, values, with_threads};

const TOKENS: usize = 90;
const SIZES: LinearSizes = LinearSizes { out_features: 45, in_features: 20 };

/// Inputs of a call; `run` makes the outputs.
#[derive(Clone)]
struct Case {
    sizes: LinearSizes,
    tokens: usize,
    hidden: Vec<f32>,
    master: Vec<f32>,
    rows: Vec<u32>,
    targets: Vec<u32>,
    temperature: f32,
    row_weight: Vec<f32>,
    grpo: Option<Grpo>,
}

#[derive(Clone)]
struct Grpo {
    loss: GrpoLoss,
    old: Vec<f32>,
    reference: Vec<f32>,
    /// [selected, 2]
    advantages: Vec<f32>,
    /// `old`, and `reference` if the KL term is off, are not given to the op. It then uses the call's own log-probabilities.
    own: bool,
}

struct Out {
    logprob: Vec<f32>,
    entropy: Vec<f32>,
    loss: Vec<f32>,
    d_hidden: Vec<f32>,
    d_weight: Vec<f32>,
}

impl Case {
    fn new(sizes: LinearSizes, tokens: usize, rows: Vec<u32>, temperature: f32) -> Self {
        let n = rows.len();
        Self {
            sizes,
            tokens,
            hidden: values(tokens * sizes.in_features, 1),
            master: values(sizes.len(), 2),
            targets: (0..n).map(|i| (i * 31 % sizes.out_features) as u32).collect(),
            row_weight: values(n, 3),
            rows,
            temperature,
            grpo: None,
        }
    }

    /// Every third token of the small size.
    fn small(temperature: f32) -> Self {
        Self::new(SIZES, TOKENS, (0..TOKENS as u32).filter(|r| r % 3 != 1).collect(), temperature)
    }

    /// GRPO with ratios spread over [0.5, 2] and advantages of both signs: all four branches occur, in tokens of one
    /// sequence (every other one) and in shared ones.
    fn grpo(mut self, kl: KlEstimator) -> Self {
        let logprob = self.run(false).logprob;
        let shifted = |by: Vec<f32>| logprob.iter().zip(by).map(|(l, d)| l + 0.7 * d).collect();
        let n = logprob.len();
        self.grpo = Some(Grpo {
            loss: GrpoLoss { clip_low: 0.2, clip_high: 0.28, kl, kl_coefficient: 0.1 },
            old: shifted(values(n, 11)),
            reference: shifted(values(n, 12)),
            advantages: (values(n, 13).iter().zip(values(n, 14)).enumerate())
                .flat_map(|(i, (a, b))| if i % 2 == 0 { [*a, 0.0] } else { [a.abs(), -b.abs()] })
                .collect(),
            own: false,
        });
        self
    }

    /// As in the first update of a step: the old log-probabilities are `logprob`, and the op is not given them.
    fn own(mut self, kl_coefficient: f32, logprob: &[f32]) -> Self {
        let g = self.grpo.as_mut().expect("a case of GRPO");
        (g.loss.kl_coefficient, g.own, g.old) = (kl_coefficient, true, logprob.to_vec());
        if kl_coefficient == 0.0 {
            g.reference.clone_from(&g.old);
        }
        self
    }

    /// The same with all optional inputs given.
    fn given(&self) -> Self {
        let mut given = self.clone();
        given.grpo.as_mut().expect("a case of GRPO").own = false;
        given
    }

    fn run(&self, gradient: bool) -> Out {
        let weight = prepared(&self.master, self.sizes);
        let n = self.rows.len();
        let mut out = Out {
            logprob: vec![0.5; n],
            entropy: vec![0.5; n],
            loss: vec![0.5; n],
            d_hidden: vec![0.5; self.hidden.len()],
            d_weight: vec![0.0; self.master.len()],
        };
        let loss = || match &self.grpo {
            None => TokenLoss::CrossEntropy,
            Some(g) => TokenLoss::Grpo {
                loss: g.loss,
                old_logprob: (!g.own).then_some(&g.old[..]),
                reference_logprob: (!g.own || g.loss.kl_coefficient != 0.0).then_some(&g.reference[..]),
                advantages: &g.advantages[..],
            },
        };
        let (d_hidden, d_weight) = (&mut out.d_hidden[..], &mut out.d_weight[..]);
        let gradient = gradient.then(|| LmHeadGradient {
            d_hidden,
            d_weight: Some(d_weight),
            row_weight: &self.row_weight[..],
            loss: loss(),
        });
        Cpu.lm_head_loss(LmHeadLoss {
            logprob: &mut out.logprob,
            entropy: &mut out.entropy,
            loss: &mut out.loss,
            gradient,
            hidden: &self.hidden,
            weight: &weight,
            rows: &self.rows,
            targets: &self.targets,
            temperature: self.temperature,
            tokens: self.tokens,
            chunk_rows: Cpu.lm_head_chunk_rows(self.sizes),
            sizes: self.sizes,
        })
        .unwrap();
        out
    }

    fn logits(&self, rows: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.sizes.out_features];
        let weight = prepared(&self.master, self.sizes);
        let (hidden, tokens, sizes) = (&self.hidden[..], self.tokens, self.sizes);
        Cpu.lm_head_logits(LmHeadLogits { out: &mut out, hidden, weight: &weight, rows, tokens, sizes }).unwrap();
        out
    }

    /// f64 reference: (logprob, entropy, loss) of selected row `i`.
    fn exact(&self, i: usize) -> (f64, f64, f64) {
        let width = self.sizes.in_features;
        let x = &self.hidden[self.rows[i] as usize * width..][..width];
        let dot = |w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let z: Vec<f64> = self.master.chunks(width).map(|w| dot(w) / f64::from(self.temperature)).collect();
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let logprob = z[self.targets[i] as usize] - log_sum;
        let entropy = z.iter().map(|z| -(z - log_sum).exp() * (z - log_sum)).sum();
        (logprob, entropy, self.exact_loss(i, logprob))
    }

    /// The formulas of the contract, in f64.
    fn exact_loss(&self, i: usize, logprob: f64) -> f64 {
        let Some(g) = &self.grpo else { return -logprob };
        let [old, reference, a, b] =
            [g.old[i], g.reference[i], g.advantages[2 * i], g.advantages[2 * i + 1]].map(f64::from);
        let [low, high, beta] = [g.loss.clip_low, g.loss.clip_high, g.loss.kl_coefficient].map(f64::from);
        let ratio = (logprob - old).exp();
        let d = reference - logprob;
        let kl = match g.loss.kl {
            KlEstimator::K1 => -d,
            KlEstimator::K2 => d * d / 2.0,
            KlEstimator::K3 => d.exp() - d - 1.0,
        };
        let surrogate = |a: f64| (ratio * a).min(ratio.clamp(1.0 - low, 1.0 + high) * a);
        -surrogate(a) - surrogate(b) + beta * kl
    }

    /// Σ row_weight · loss in f64.
    fn exact_total(&self) -> f64 {
        (0..self.rows.len()).map(|i| f64::from(self.row_weight[i]) * self.exact(i).2).sum()
    }
}

fn cases() -> Vec<Case> {
    let estimators = [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3];
    let mut cases = vec![Case::small(1.0), Case::small(0.6)];
    cases.extend(estimators.map(|kl| Case::small(1.0).grpo(kl)));
    cases.extend(estimators.map(|kl| Case::small(0.6).grpo(kl)));
    cases
}

#[test]
fn values_equal_f64() {
    for case in cases() {
        let out = case.run(true);
        for i in 0..case.rows.len() {
            let (logprob, entropy, loss) = case.exact(i);
            // Logits up to √20/T with 20 roundings, then a handful: 1e-5 is ten times the error of f32.
            assert!((f64::from(out.logprob[i]) - logprob).abs() < 1e-5, "logprob[{i}]");
            assert!((f64::from(out.entropy[i]) - entropy).abs() < 1e-5, "entropy[{i}]");
            assert!((f64::from(out.loss[i]) - loss).abs() < 3e-5, "loss[{i}] {} {loss}", out.loss[i]);
        }
    }
}

#[test]
fn every_branch_of_the_clip_occurs() {
    let case = Case::small(1.0).grpo(KlEstimator::K3);
    let (g, logprob) = (case.grpo.as_ref().unwrap(), case.run(false).logprob);
    let mut seen = [[false; 4]; 2];
    for i in 0..logprob.len() {
        for advantage in g.advantages[2 * i..][..2].iter().filter(|a| **a != 0.0) {
            let clips = g.loss.clips(logprob[i], g.old[i], *advantage);
            seen[i % 2][usize::from(clips) * 2 + usize::from(*advantage > 0.0)] = true;
        }
    }
    assert_eq!(seen, [[true; 4]; 2]);
}

/// Central differences of the f64 reference: error h²·f'''/6 ≈ 1e-8 against gradients in f32.
#[test]
fn gradients_equal_finite_differences() {
    const H: f32 = 1.0 / 4096.0;
    for case in cases() {
        let out = case.run(true);
        let slope = |change: &dyn Fn(&mut Case, f32)| {
            let at = |h: f32| {
                let mut moved = case.clone();
                change(&mut moved, h);
                moved.exact_total()
            };
            (at(H) - at(-H)) / f64::from(2.0 * H)
        };
        // Adding `h` is exact: numbers below 2 are multiples of 2⁻²³.
        for at in (0..case.hidden.len()).step_by(37) {
            let want = slope(&|c, h| c.hidden[at] += h);
            assert!((f64::from(out.d_hidden[at]) - want).abs() < 2e-5, "d_hidden[{at}] = {}, {want}", out.d_hidden[at]);
        }
        for at in (0..case.master.len()).step_by(41) {
            let want = slope(&|c, h| c.master[at] += h);
            assert!((f64::from(out.d_weight[at]) - want).abs() < 1e-4, "d_weight[{at}] = {}, {want}", out.d_weight[at]);
        }
    }
}

#[test]
fn rows_that_are_not_selected_or_not_weighted_have_no_gradient() {
    let mut case = Case::small(1.0).grpo(KlEstimator::K3);
    let masked = case.rows[4];
    case.row_weight[4] = 0.0;
    case.grpo.as_mut().unwrap().old[4] = -1000.0; // an infinite ratio
    let out = case.run(true);
    for (row, d) in out.d_hidden.chunks(20).enumerate() {
        let selected = case.rows.contains(&(row as u32)) && row as u32 != masked;
        assert!(d.iter().all(|x| (*x != 0.0) == selected && x.is_finite()), "row {row}");
    }
    assert!(out.d_weight.iter().all(|x| x.is_finite()));
}

#[test]
fn the_weight_gradient_accumulates_and_may_be_left_out() {
    let case = Case::small(0.9);
    let whole = case.run(true);
    let (weight, n) = (prepared(&case.master, case.sizes), case.rows.len());
    for d_weight in [Some(values(case.master.len(), 9)), None] {
        let before = d_weight.clone();
        let (mut d_weight, mut d_hidden) = (d_weight, vec![0.5; case.hidden.len()]);
        let [mut logprob, mut entropy, mut loss] = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
        let gradient = LmHeadGradient {
            d_hidden: &mut d_hidden[..],
            d_weight: d_weight.as_deref_mut(),
            row_weight: &case.row_weight[..],
            loss: TokenLoss::CrossEntropy,
        };
        Cpu.lm_head_loss(LmHeadLoss {
            logprob: &mut logprob,
            entropy: &mut entropy,
            loss: &mut loss,
            gradient: Some(gradient),
            hidden: &case.hidden,
            weight: &weight,
            rows: &case.rows,
            targets: &case.targets,
            temperature: case.temperature,
            tokens: case.tokens,
            chunk_rows: 7,
            sizes: case.sizes,
        })
        .unwrap();
        assert_eq!(bits(&d_hidden), bits(&whole.d_hidden));
        let (Some(after), Some(before)) = (d_weight, before) else { continue };
        for ((after, before), step) in after.iter().zip(before).zip(&whole.d_weight) {
            assert!((after - before - step).abs() < 1e-5);
        }
    }
}

/// Ratios are 1, so clipping is far away, and the gradient is that of −A · logprob.
#[test]
fn old_log_probabilities_that_are_not_given_are_the_calls_own() {
    for (kl, coefficient) in [(KlEstimator::K1, 0.0), (KlEstimator::K3, 0.0), (KlEstimator::K2, 0.1)] {
        let case = Case::small(0.7).grpo(kl);
        let own = case.clone().own(coefficient, &case.run(false).logprob);
        let (got, expected) = (own.run(true), own.given().run(true));
        let all = |out: &Out| [&out.logprob, &out.entropy, &out.loss, &out.d_hidden, &out.d_weight].map(|x| bits(x));
        assert!(all(&got) == all(&expected), "{kl:?}, {coefficient}");
        for i in (0..own.rows.len()).filter(|_| coefficient == 0.0) {
            let advantage: f32 = own.grpo.as_ref().unwrap().advantages[2 * i..][..2].iter().sum();
            assert_eq!(got.loss[i], -advantage, "row {i}");
        }
    }
}

#[test]
fn rows_of_the_weight_are_those_of_the_master_weight() {
    for sizes in [SIZES, LinearSizes { out_features: 64, in_features: 33 }] {
        let (master, width) = (values(sizes.len(), 2), sizes.in_features);
        let weight = prepared(&master, sizes);
        let last = sizes.out_features as u32 - 1;
        let ids = [3, 0, last, 3, 31, 32];
        let mut out = vec![0.5; ids.len() * width];
        Cpu.lm_head_embedding(LmHeadEmbedding { out: &mut out, weight: &weight, ids: &ids, sizes }).unwrap();
        for (row, id) in out.chunks(width).zip(ids) {
            assert_eq!(bits(row), bits(&master[id as usize * width..][..width]), "row {id}");
        }
        let beyond = [last + 1; 6];
        let result = Cpu.lm_head_embedding(LmHeadEmbedding { out: &mut out, weight: &weight, ids: &beyond, sizes });
        assert!(result.unwrap_err().to_string().contains("ids[0]"));
    }
}

/// The bytes of the contract, counted by hand: n rows of V logits and H numbers, in f32 as on the CPU.
#[test]
fn costs_count_what_moves_once_a_chunk_and_once_a_row() {
    let (n, v, h) = (60u64, 45u64, 20u64);
    let case = Case::small(1.0);
    let weight = prepared(&case.master, case.sizes);
    let cost = |chunk_rows: usize, d_hidden: Option<&mut [f32]>, d_weight: Option<&mut [f32]>| {
        let [mut logprob, mut entropy, mut loss] = [(); 3].map(|()| vec![0.0; 60]);
        let args = LmHeadLoss::<Cpu> {
            logprob: &mut logprob,
            entropy: &mut entropy,
            loss: &mut loss,
            gradient: d_hidden.map(|d_hidden| LmHeadGradient {
                d_hidden,
                d_weight,
                row_weight: &case.row_weight[..],
                loss: TokenLoss::CrossEntropy,
            }),
            hidden: &case.hidden,
            weight: &weight,
            rows: &case.rows,
            targets: &case.targets,
            temperature: 1.0,
            tokens: TOKENS,
            chunk_rows,
            sizes: SIZES,
        };
        args.check().unwrap();
        (args.loss_cost().bytes, args.cost())
    };
    let (mut d_hidden, mut d_weight) = (vec![0.0; case.hidden.len()], vec![0.0; case.master.len()]);
    for (chunk_rows, chunks) in [(60, 1), (59, 2), (10, 6), (1000, 1)] {
        // Hidden states in, logits out and in again; the weight once a chunk.
        let scored = 4 * (n * h + 2 * n * v + chunks * v * h);
        let (losses, cost_of_scoring) = cost(chunk_rows, None, None);
        assert_eq!((losses, cost_of_scoring.bytes, cost_of_scoring.flops), (4 * n * v, scored, 2 * n * v * h));
        // Logits in once more, their gradient out and in again; the weight once a chunk; a gradient for every token.
        let frozen = scored + 4 * (3 * n * v + chunks * v * h + TOKENS as u64 * h);
        let (losses, cost_frozen) = cost(chunk_rows, Some(&mut d_hidden), None);
        assert_eq!((losses, cost_frozen.bytes, cost_frozen.flops), (12 * n * v, frozen, 4 * n * v * h));
        // The gradient and the hidden states in once more; the weight's gradient in and out once a chunk.
        let learned = frozen + 4 * (n * v + n * h + 2 * chunks * v * h);
        let (losses, cost_learned) = cost(chunk_rows, Some(&mut d_hidden), Some(&mut d_weight));
        assert_eq!((losses, cost_learned.bytes, cost_learned.flops), (12 * n * v, learned, 6 * n * v * h));
    }
}

/// Large enough for several chunks and threads.
fn many_rows() -> Case {
    let sizes = LinearSizes { out_features: 600, in_features: 24 };
    Case::new(sizes, 1500, (0..1500).filter(|r| r % 5 != 2).collect(), 0.8)
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_and_as_its_logits() {
    let case = many_rows();
    let whole = case.run(true);
    assert_eq!(bits(&whole.logprob), bits(&case.run(false).logprob), "with and without gradient");
    for i in [0, 1, 511, 512, 777, case.rows.len() - 1] {
        let mut one = case.clone();
        (one.rows, one.targets) = (vec![case.rows[i]], vec![case.targets[i]]);
        let alone = one.run(false);
        assert_eq!(alone.logprob[0].to_bits(), whole.logprob[i].to_bits(), "row {i}");
        assert_eq!(alone.entropy[0].to_bits(), whole.entropy[i].to_bits(), "row {i}");
        let inverse = 1.0 / case.temperature;
        let logits = case.logits(&one.rows);
        let stats = patarm::ops::cpu::log_softmax::stats(&logits, inverse);
        let logprob = stats.logprob(logits[case.targets[i] as usize], inverse);
        assert_eq!(logprob.to_bits(), whole.logprob[i].to_bits(), "row {i} from its logits");
    }
    let all = case.logits(&case.rows);
    let some = case.logits(&case.rows[100..103]);
    assert_eq!(bits(&all[100 * 600..103 * 600]), bits(&some));
}

/// Several draws from one row, in any order, get as many copies of its logits.
#[test]
fn logits_may_be_of_rows_in_any_order_and_again() {
    let case = Case::small(1.0);
    let columns = SIZES.out_features;
    // The first and the last of these are as far apart as in a contiguous run.
    for rows in [vec![5, 9, 7], vec![9, 8, 7], vec![4, 4, 4], vec![3, 2]] {
        let together = case.logits(&rows);
        for (row, got) in rows.iter().zip(together.chunks(columns)) {
            assert_eq!(bits(got), bits(&case.logits(&[*row])), "row {row} of {rows:?}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = many_rows().grpo(KlEstimator::K3);
    let run = || {
        let out = case.run(true);
        [out.logprob, out.entropy, out.loss, out.d_hidden, out.d_weight].map(|x| bits(&x))
    };
    let one = with_threads(1, run);
    for threads in [2, 5] {
        assert!(with_threads(threads, run) == one, "{threads} threads");
    }
}

#[test]
fn the_vocabulary_of_qwen3_works() {
    let sizes = LinearSizes { out_features: 151_936, in_features: 8 };
    let case = Case::new(sizes, 40, (0..37).collect(), 1.0);
    let out = case.run(true);
    for i in [0, 36] {
        let (logprob, entropy, _) = case.exact(i);
        assert!((f64::from(out.logprob[i]) - logprob).abs() < 1e-5);
        assert!((f64::from(out.entropy[i]) - entropy).abs() < 3e-5);
    }
    assert!(out.d_hidden[37 * 8..].iter().all(|x| *x == 0.0));
}

#[test]
fn nan_is_never_made_finite() {
    let mut case = Case::small(1.0);
    let bad = 7;
    case.hidden[case.rows[bad] as usize * 20] = f32::NAN;
    let out = case.run(true);
    for i in 0..case.rows.len() {
        for (name, x) in [("logprob", &out.logprob), ("entropy", &out.entropy), ("loss", &out.loss)] {
            assert_eq!(x[i].is_nan(), i == bad, "{name}[{i}]");
        }
    }
    assert!(out.d_hidden[case.rows[bad] as usize * 20].is_nan());
}

#[test]
fn nothing_selected_is_no_error() {
    let mut case = Case::small(1.0);
    (case.rows, case.targets, case.row_weight) = (vec![], vec![], vec![]);
    assert!(case.run(true).d_hidden.iter().all(|x| *x == 0.0));
    assert!(case.logits(&[]).is_empty());
}

#[test]
fn wrong_arguments_are_named() {
    let weight = prepared(&values(SIZES.len(), 1), SIZES);
    let hidden = values(TOKENS * 20, 2);
    let run = |n: usize, hidden: &[f32], rows: &[u32], targets: &[u32], temperature: f32, sizes| {
        let [mut logprob, mut entropy, mut loss] = [vec![0.0; n], vec![0.0; 2], vec![0.0; 2]];
        Cpu.lm_head_loss(LmHeadLoss {
            logprob: &mut logprob,
            entropy: &mut entropy,
            loss: &mut loss,
            gradient: None,
            hidden,
            weight: &weight,
            rows,
            targets,
            temperature,
            tokens: TOKENS,
            chunk_rows: 8,
            sizes,
        })
    };
    let named = |result: Result<(), OpError>, name: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}`")), "{message}");
    };
    assert!(run(2, &hidden, &[1, 89], &[0, 44], 1.0, SIZES).is_ok());
    named(run(3, &hidden, &[1, 2], &[0, 1], 1.0, SIZES), "logprob");
    named(run(2, &hidden[1..], &[1, 2], &[0, 1], 1.0, SIZES), "hidden");
    named(run(2, &hidden, &[2, 1], &[0, 1], 1.0, SIZES), "rows");
    named(run(2, &hidden, &[1, 1], &[0, 1], 1.0, SIZES), "rows");
    named(run(2, &hidden, &[1, 90], &[0, 1], 1.0, SIZES), "rows");
    named(run(2, &hidden, &[1, 2], &[0], 1.0, SIZES), "targets");
    named(run(2, &hidden, &[1, 2], &[0, 45], 1.0, SIZES), "targets");
    named(run(2, &hidden, &[1, 2], &[0, 1], 0.0, SIZES), "temperature");
    named(run(2, &hidden, &[1, 2], &[0, 1], f32::NAN, SIZES), "temperature");
    let other = LinearSizes { out_features: 44, in_features: 20 };
    named(run(2, &hidden, &[1, 2], &[0, 1], 1.0, other), "weight");
    let mut out = vec![0.0; 45];
    let logits = |out: &mut [f32], rows: &[u32]| {
        let (weight, hidden) = (&weight, &hidden[..]);
        Cpu.lm_head_logits(LmHeadLogits { out, hidden, weight, rows, tokens: TOKENS, sizes: SIZES })
    };
    named(logits(&mut out[1..], &[1]), "out");
    named(logits(&mut out, &[90]), "rows");
    let _ = Cpu.linear_weight(SIZES).unwrap();
}
