//! Tests of the op `qk_norm_rope`: a plain f64 reference, finite differences, and rows that do not depend on their batch.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use patarm::random::Stream;
use proptest::prelude::*;

const EPSILON: f32 = 1e-6;
/// Half an ulp of 1.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
/// Heads (q, kv, dim): every kind of head_dim, with and without halves of whole vectors.
const HEADS: [(usize, usize, usize); 6] = [(4, 2, 32), (5, 1, 16), (8, 4, 64), (2, 1, 48), (2, 2, 128), (3, 3, 112)];

fn normals(seed: u64, count: usize) -> Vec<f32> {
    let stream = Stream::new(seed);
    (0..count).map(|i| stream.normal(i as u64)).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[derive(Clone)]
struct Case {
    sizes: HeadSizes,
    qkv: Vec<f32>,
    q_weight: Vec<f32>,
    k_weight: Vec<f32>,
    rope: Vec<f32>,
    positions: Vec<u32>,
    kv_rows: Vec<u32>,
}

struct Outputs {
    q: Vec<f32>,
    k_pool: Vec<f32>,
    v_pool: Vec<f32>,
    inv_rms: Vec<f32>,
}

/// Gradients with respect to the outputs.
struct Upstream {
    q: Vec<f32>,
    k_pool: Vec<f32>,
    v_pool: Vec<f32>,
}

struct Gradients {
    qkv: Vec<f32>,
    q_weight: Vec<f32>,
    k_weight: Vec<f32>,
}

impl Case {
    fn new((q_heads, kv_heads, head_dim): (usize, usize, usize), tokens: usize) -> Self {
        let sizes = HeadSizes { tokens, q_heads, kv_heads, head_dim, pool_rows: 2 * tokens + 3, rope_rows: 50 };
        let stream = Stream::new(9);
        let kv_rows = stream.permutation(sizes.pool_rows)[..tokens].iter().map(|row| *row as u32).collect();
        let rope = (0..sizes.rope_rows * head_dim)
            .map(|i| {
                let (position, j) = (i / head_dim, i % head_dim);
                let angle = position as f32 * 1e4f32.powf(-2.0 * (j % (head_dim / 2)) as f32 / head_dim as f32);
                if j < head_dim / 2 { angle.cos() } else { angle.sin() }
            })
            .collect();
        Self {
            qkv: normals(1, tokens * sizes.qkv_cols()),
            q_weight: normals(2, head_dim).iter().map(|w| 1.0 + 0.3 * w).collect(),
            k_weight: normals(3, head_dim).iter().map(|w| 1.0 + 0.3 * w).collect(),
            rope,
            positions: (0..tokens as u32).map(|t| stream.below(t, sizes.rope_rows) as u32).collect(),
            kv_rows,
            sizes,
        }
    }

    fn pool_len(&self) -> usize {
        self.sizes.pool_rows * self.sizes.kv_heads * self.sizes.head_dim
    }

    fn outputs(&self) -> Outputs {
        let s = &self.sizes;
        Outputs {
            q: vec![f32::NAN; s.tokens * s.q_heads * s.head_dim],
            k_pool: vec![7.0; self.pool_len()],
            v_pool: vec![7.0; self.pool_len()],
            inv_rms: vec![f32::NAN; s.tokens * (s.q_heads + s.kv_heads)],
        }
    }

    fn try_forward(&self, out: &mut Outputs) -> Result<(), String> {
        let args = QkNormRopeForward::<Cpu> {
            q: &mut out.q,
            k_pool: &mut out.k_pool,
            v_pool: &mut out.v_pool,
            inv_rms: &mut out.inv_rms,
            qkv: &self.qkv,
            q_weight: &self.q_weight,
            k_weight: &self.k_weight,
            rope: &self.rope,
            positions: &self.positions,
            kv_rows: &self.kv_rows,
            sizes: self.sizes,
            epsilon: EPSILON,
        };
        Cpu.qk_norm_rope_forward(args).map_err(|error| error.to_string())
    }

    fn forward(&self) -> Outputs {
        let mut out = self.outputs();
        self.try_forward(&mut out).unwrap();
        out
    }

    fn upstream(&self) -> Upstream {
        let s = &self.sizes;
        Upstream {
            q: normals(4, s.tokens * s.q_heads * s.head_dim),
            k_pool: normals(5, self.pool_len()),
            v_pool: normals(6, self.pool_len()),
        }
    }

    fn try_backward(&self, inv_rms: &[f32], from: &Upstream, to: &mut Gradients, frozen: bool) -> Result<(), String> {
        let args = QkNormRopeBackward::<Cpu> {
            d_qkv: &mut to.qkv,
            d_q_weight: (!frozen).then_some(&mut to.q_weight),
            d_k_weight: (!frozen).then_some(&mut to.k_weight),
            d_q: &from.q,
            d_k_pool: &from.k_pool,
            d_v_pool: &from.v_pool,
            qkv: &self.qkv,
            inv_rms,
            q_weight: &self.q_weight,
            k_weight: &self.k_weight,
            rope: &self.rope,
            positions: &self.positions,
            kv_rows: &self.kv_rows,
            sizes: self.sizes,
        };
        Cpu.qk_norm_rope_backward(args).map_err(|error| error.to_string())
    }

    /// Gradients; those of the weights are added to `start`.
    fn backward(&self, start: f32, frozen: bool) -> Gradients {
        let dim = self.sizes.head_dim;
        let mut to =
            Gradients { qkv: vec![f32::NAN; self.qkv.len()], q_weight: vec![start; dim], k_weight: vec![start; dim] };
        self.try_backward(&self.forward().inv_rms, &self.upstream(), &mut to, frozen).unwrap();
        to
    }

    fn exact(&self) -> Exact<'_> {
        Exact {
            case: self,
            qkv: wide(&self.qkv),
            q_weight: wide(&self.q_weight),
            k_weight: wide(&self.k_weight),
            rope: wide(&self.rope),
        }
    }
}

/// A plain f64 version of the op.
struct Exact<'a> {
    case: &'a Case,
    qkv: Vec<f64>,
    q_weight: Vec<f64>,
    k_weight: Vec<f64>,
    rope: Vec<f64>,
}

impl Exact<'_> {
    /// Head `head` of a token (q heads, then k heads), normed and rotated; (elements, 1/rms).
    fn head(&self, token: usize, head: usize) -> (Vec<f64>, f64) {
        let HeadSizes { q_heads, head_dim: dim, .. } = self.case.sizes;
        let x = &self.qkv[token * self.case.sizes.qkv_cols() + head * dim..][..dim];
        let weight = if head < q_heads { &self.q_weight } else { &self.k_weight };
        let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
        let inverse = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        let y: Vec<f64> = x.iter().zip(weight).map(|(x, w)| x * inverse * w).collect();
        let rope = &self.rope[self.case.positions[token] as usize * dim..][..dim];
        let half = dim / 2;
        let rotated = (0..dim).map(|i| {
            let (cos, sin) = (rope[i % half], rope[half + i % half]);
            if i < half { y[i] * cos - y[i + half] * sin } else { y[i] * cos + y[i - half] * sin }
        });
        (rotated.collect(), inverse)
    }

    /// Σ (gradient · output) over all that the op writes for one token.
    fn token_loss(&self, token: usize, from: &Upstream) -> f64 {
        let HeadSizes { q_heads, kv_heads, head_dim: dim, .. } = self.case.sizes;
        let pool = self.case.kv_rows[token] as usize * kv_heads * dim;
        let product = |gradient: &[f32], y: &[f64]| gradient.iter().zip(y).map(|(g, y)| f64::from(*g) * y).sum::<f64>();
        let mut loss = 0.0;
        for head in 0..q_heads {
            loss += product(&from.q[(token * q_heads + head) * dim..], &self.head(token, head).0);
        }
        for head in 0..kv_heads {
            loss += product(&from.k_pool[pool + head * dim..], &self.head(token, q_heads + head).0);
        }
        let v = &self.qkv[token * self.case.sizes.qkv_cols() + (q_heads + kv_heads) * dim..][..kv_heads * dim];
        loss + product(&from.v_pool[pool..], v)
    }
}

fn assert_near(what: &str, got: f32, want: f64, tolerance: f64) {
    let error = (f64::from(got) - want).abs();
    assert!(error <= tolerance, "{what} = {got}, expected {want}, error {error:e} > {tolerance:e}");
}

#[test]
fn forward_equals_an_f64_reference_and_writes_only_the_given_rows() {
    for (heads, tokens) in HEADS.into_iter().zip([1, 7, 33, 70, 100, 3]) {
        let case = Case::new(heads, tokens);
        let (out, exact, (q_heads, kv_heads, dim)) = (case.forward(), case.exact(), heads);
        let normed = q_heads + kv_heads;
        for token in 0..tokens {
            let pool = case.kv_rows[token] as usize * kv_heads * dim;
            for head in 0..normed {
                let (want, inverse) = exact.head(token, head);
                let got = if head < q_heads {
                    &out.q[(token * q_heads + head) * dim..][..dim]
                } else {
                    &out.k_pool[pool + (head - q_heads) * dim..][..dim]
                };
                // A sum of squares in sixteen lanes, then five roundings.
                let relative = (dim / 16 + 4 + 6) as f64 * UNIT;
                assert_near("inv_rms", out.inv_rms[token * normed + head], inverse, relative * inverse);
                for i in 0..dim {
                    let size = want[i].abs() + want[(i + dim / 2) % dim].abs();
                    let what = format!("{heads:?} token {token} head {head} element {i}");
                    assert_near(&what, got[i], want[i], 3.0 * (relative + 4.0 * UNIT) * size);
                }
            }
            let v = &case.qkv[token * case.sizes.qkv_cols() + normed * dim..][..kv_heads * dim];
            assert_eq!(bits(&out.v_pool[pool..][..kv_heads * dim]), bits(v), "values are moved");
        }
        for row in (0..case.sizes.pool_rows).filter(|row| !case.kv_rows.contains(&(*row as u32))) {
            for pool in [&out.k_pool, &out.v_pool] {
                assert!(pool[row * kv_heads * dim..][..kv_heads * dim].iter().all(|x| *x == 7.0), "row {row}");
            }
        }
    }
}

#[test]
fn backward_equals_finite_differences() {
    let step = 1e-5;
    for (heads, tokens) in HEADS.into_iter().zip([2, 5, 1, 3, 1, 2]) {
        let case = Case::new(heads, tokens);
        let (got, from, mut exact) = (case.backward(0.0, false), case.upstream(), case.exact());
        // Central differences in f64 are good to 1e-9; the rest is f32: sums over the head and the tokens.
        let tolerance = 1e-8 + 64.0 * (heads.2 + tokens * heads.0) as f64 * UNIT;
        for i in 0..case.qkv.len() {
            let (token, before) = (i / case.sizes.qkv_cols(), exact.qkv[i]);
            exact.qkv[i] = before + step;
            let above = exact.token_loss(token, &from);
            exact.qkv[i] = before - step;
            let slope = (above - exact.token_loss(token, &from)) / (2.0 * step);
            exact.qkv[i] = before;
            assert_near(&format!("{heads:?} d_qkv[{i}]"), got.qkv[i], slope, tolerance);
        }
        for i in 0..heads.2 {
            let loss = |exact: &Exact<'_>| (0..tokens).map(|token| exact.token_loss(token, &from)).sum::<f64>();
            for (which, got) in [&got.q_weight, &got.k_weight].into_iter().enumerate() {
                let mut at = |by: f64| {
                    let weight = if which == 0 { &mut exact.q_weight } else { &mut exact.k_weight };
                    weight[i] += by;
                    loss(&exact)
                };
                let (above, below) = (at(step), at(-2.0 * step));
                at(step);
                assert_near(
                    &format!("{heads:?} weight {which}[{i}]"),
                    got[i],
                    (above - below) / (2.0 * step),
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn weight_gradients_are_added_and_frozen_weights_skipped() {
    let case = Case::new((4, 2, 32), 40);
    let (zero, one, frozen) = (case.backward(0.0, false), case.backward(1.0, false), case.backward(1.0, true));
    assert_eq!(bits(&zero.qkv), bits(&one.qkv));
    assert_eq!(bits(&zero.qkv), bits(&frozen.qkv));
    for (zero, one) in zero.q_weight.iter().chain(&zero.k_weight).zip(one.q_weight.iter().chain(&one.k_weight)) {
        // The order of the sum differs by its start: two blocks of tokens.
        assert!((one - zero - 1.0).abs() <= 4.0 * UNIT as f32 * (1.0 + zero.abs()) * 2.0, "{zero} {one}");
    }
    assert!(frozen.q_weight.iter().chain(&frozen.k_weight).all(|d| *d == 1.0));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = Case::new((4, 2, 32), 333);
    let with = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (out, back) = (case.forward(), case.backward(0.25, false));
            let parts = [&out.q, &out.k_pool, &out.v_pool, &out.inv_rms, &back.qkv, &back.q_weight, &back.k_weight];
            parts.map(|x| bits(x))
        })
    };
    let one = with(1);
    assert!(with(2) == one && with(5) == one);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tokens_bits_do_not_depend_on_its_batch(which in 0..HEADS.len(), tokens in 1..150usize, pick in any::<u32>()) {
        let case = Case::new(HEADS[which], tokens);
        let (token, s) = (pick as usize % tokens, case.sizes);
        let alone = Case {
            sizes: HeadSizes { tokens: 1, ..s },
            qkv: case.qkv[token * s.qkv_cols()..][..s.qkv_cols()].to_vec(),
            positions: vec![case.positions[token]],
            kv_rows: vec![case.kv_rows[token]],
            ..case.clone()
        };
        let (all, one) = (case.forward(), alone.forward());
        let (q_len, pool) = (s.q_heads * s.head_dim, s.kv_heads * s.head_dim);
        let row = case.kv_rows[token] as usize * pool;
        prop_assert_eq!(bits(&all.q[token * q_len..][..q_len]), bits(&one.q));
        prop_assert_eq!(bits(&all.k_pool[row..][..pool]), bits(&one.k_pool[row..][..pool]));
        prop_assert_eq!(bits(&all.v_pool[row..][..pool]), bits(&one.v_pool[row..][..pool]));
    }
}

#[test]
fn no_tokens_are_fine() {
    let case = Case::new((4, 2, 32), 0);
    assert!(case.forward().q.is_empty());
    let gradients = case.backward(3.0, false);
    assert!(gradients.qkv.is_empty() && gradients.q_weight.iter().all(|d| *d == 3.0));
}

#[test]
fn forward_names_the_wrong_argument() {
    let good = Case::new((4, 2, 32), 5);
    let assert_names = |name: &str, change: &dyn Fn(&mut Case, &mut Outputs)| {
        let (mut case, mut out) = (good.clone(), good.outputs());
        change(&mut case, &mut out);
        let error = case.try_forward(&mut out).unwrap_err();
        assert!(error.contains("qk_norm_rope_forward") && error.contains(name), "{error}, expected {name}");
    };
    assert_names("`q`", &|_, out| out.q.truncate(1));
    assert_names("`k_pool`", &|_, out| out.k_pool.truncate(1));
    assert_names("`v_pool`", &|_, out| out.v_pool.truncate(1));
    assert_names("`inv_rms`", &|_, out| out.inv_rms.truncate(1));
    assert_names("`qkv`", &|case, _| case.qkv.truncate(1));
    assert_names("`q_weight`", &|case, _| case.q_weight.truncate(1));
    assert_names("`k_weight`", &|case, _| case.k_weight.truncate(1));
    assert_names("`rope`", &|case, _| case.rope.truncate(1));
    assert_names("`positions`", &|case, _| case.positions.truncate(1));
    assert_names("`kv_rows`", &|case, _| case.kv_rows.truncate(1));
    assert_names("`head_dim`", &|case, _| case.sizes.head_dim = 8);
    assert_names("`positions[2]`", &|case, _| case.positions[2] = 50);
    assert_names("`kv_rows[3]`", &|case, _| case.kv_rows[3] = case.sizes.pool_rows as u32);
    assert_names("distinct", &|case, _| case.kv_rows[4] = case.kv_rows[0]);
}

#[test]
fn backward_names_the_wrong_argument() {
    let case = Case::new((4, 2, 32), 5);
    let assert_names = |name: &str, change: &dyn Fn(&mut Vec<f32>, &mut Upstream, &mut Gradients)| {
        let (mut inv_rms, mut from, mut to) = (case.forward().inv_rms, case.upstream(), case.backward(0.0, false));
        change(&mut inv_rms, &mut from, &mut to);
        let error = case.try_backward(&inv_rms, &from, &mut to, false).unwrap_err();
        assert!(error.contains("qk_norm_rope_backward") && error.contains(name), "{error}, expected {name}");
    };
    assert_names("`d_qkv`", &|_, _, to| to.qkv.truncate(1));
    assert_names("`d_q_weight`", &|_, _, to| to.q_weight.truncate(1));
    assert_names("`d_k_weight`", &|_, _, to| to.k_weight.truncate(1));
    assert_names("`d_q`", &|_, from, _| from.q.truncate(1));
    assert_names("`d_k_pool`", &|_, from, _| from.k_pool.truncate(1));
    assert_names("`d_v_pool`", &|_, from, _| from.v_pool.truncate(1));
    assert_names("`inv_rms`", &|inv_rms, _, _| inv_rms.truncate(1));
}
