//! The op on the CUDA device against the CPU's, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::OpResult;
use patarm::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use patarm::tensor::Device;

use super::{Case, EPSILON, Gradients, Outputs, UNIT, Upstream, bits};
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};

/// Half a unit in the last place of bf16, relative to the value.
const BF16: f64 = 1.0 / 256.0;

/// (q, kv, dim), tokens: every count of lanes a head, groups with idle lanes, more tokens than one block takes at once.
const CASES: [((usize, usize, usize), usize); 7] = [
    ((4, 2, 32), 1),
    ((5, 1, 16), 7),
    ((8, 4, 64), 33),
    ((2, 1, 48), 70),
    ((16, 8, 128), 9),
    ((3, 3, 112), 3),
    ((1, 1, 512), 5),
];

/// Rounded as on the device. Every second token is so small that epsilon is as large as its mean square.
fn case(heads: (usize, usize, usize), tokens: usize) -> Case {
    let mut case = Case::new(heads, tokens);
    let cols = case.sizes.qkv_cols();
    for token in case.qkv.chunks_mut(cols).skip(1).step_by(2) {
        token.iter_mut().for_each(|x| *x *= 1e-3);
    }
    case.qkv = rounded(&case.qkv);
    case
}

fn upstream(case: &Case) -> Upstream {
    let from = case.upstream();
    Upstream { q: rounded(&from.q), k_pool: rounded(&from.k_pool), v_pool: rounded(&from.v_pool) }
}

fn forward(device: &Cuda, case: &Case) -> Outputs {
    let (s, start) = (case.sizes, case.outputs());
    let [mut q, mut k, mut v] = [&start.q, &start.k_pool, &start.v_pool].map(|x| upload(device, &narrow(x)));
    let mut inv_rms = upload(device, &start.inv_rms);
    let qkv = upload(device, &narrow(&case.qkv));
    let [q_weight, k_weight, rope] = [&case.q_weight, &case.k_weight, &case.rope].map(|x| upload(device, x));
    let [positions, kv_rows] = [&case.positions, &case.kv_rows].map(|x| upload(device, x));
    let result: OpResult = device.qk_norm_rope_forward(QkNormRopeForward::<Cuda> {
        q: device.view_mut(&mut q, 0..start.q.len()),
        k_pool: device.view_mut(&mut k, 0..start.k_pool.len()),
        v_pool: device.view_mut(&mut v, 0..start.v_pool.len()),
        inv_rms: device.view_mut(&mut inv_rms, 0..start.inv_rms.len()),
        qkv: device.view(&qkv, 0..case.qkv.len()),
        q_weight: device.view(&q_weight, 0..s.head_dim),
        k_weight: device.view(&k_weight, 0..s.head_dim),
        rope: device.view(&rope, 0..case.rope.len()),
        positions: device.view(&positions, 0..s.tokens),
        kv_rows: device.view(&kv_rows, 0..s.tokens),
        sizes: s,
        epsilon: EPSILON,
    });
    result.unwrap();
    let back = |buffer| widen(&download(device, buffer));
    Outputs { q: back(&q), k_pool: back(&k), v_pool: back(&v), inv_rms: download(device, &inv_rms) }
}

/// Gradients of weights are added to 1.
fn backward(device: &Cuda, case: &Case, inv_rms: &[f32], from: &Upstream, frozen: bool) -> Gradients {
    let s = case.sizes;
    let mut d_qkv = upload(device, &vec![bf16::NAN; case.qkv.len()]);
    let [mut d_q_weight, mut d_k_weight] = [(); 2].map(|()| upload(device, &vec![1.0f32; s.head_dim]));
    let [d_q, d_k, d_v] = [&from.q, &from.k_pool, &from.v_pool].map(|x| upload(device, &narrow(x)));
    let (qkv, inverse) = (upload(device, &narrow(&case.qkv)), upload(device, inv_rms));
    let [q_weight, k_weight, rope] = [&case.q_weight, &case.k_weight, &case.rope].map(|x| upload(device, x));
    let [positions, kv_rows] = [&case.positions, &case.kv_rows].map(|x| upload(device, x));
    let result: OpResult = device.qk_norm_rope_backward(QkNormRopeBackward::<Cuda> {
        d_qkv: device.view_mut(&mut d_qkv, 0..case.qkv.len()),
        d_q_weight: (!frozen).then(|| device.view_mut(&mut d_q_weight, 0..s.head_dim)),
        d_k_weight: (!frozen).then(|| device.view_mut(&mut d_k_weight, 0..s.head_dim)),
        d_q: device.view(&d_q, 0..from.q.len()),
        d_k_pool: device.view(&d_k, 0..from.k_pool.len()),
        d_v_pool: device.view(&d_v, 0..from.v_pool.len()),
        qkv: device.view(&qkv, 0..case.qkv.len()),
        inv_rms: device.view(&inverse, 0..inv_rms.len()),
        q_weight: device.view(&q_weight, 0..s.head_dim),
        k_weight: device.view(&k_weight, 0..s.head_dim),
        rope: device.view(&rope, 0..case.rope.len()),
        positions: device.view(&positions, 0..s.tokens),
        kv_rows: device.view(&kv_rows, 0..s.tokens),
        sizes: s,
    });
    result.unwrap();
    let weights = [&d_q_weight, &d_k_weight].map(|buffer| download(device, buffer));
    let [q_weight, k_weight] = weights;
    Gradients { qkv: widen(&download(device, &d_qkv)), q_weight, k_weight }
}

/// For each element of rows of heads: itself and the one it rotates with, in magnitude.
fn with_partner(values: &[f32], dim: usize) -> Vec<f64> {
    let partner = |i: usize| i / dim * dim + (i % dim + dim / 2) % dim;
    (0..values.len()).map(|i| f64::from(values[i].abs()) + f64::from(values[partner(i)].abs())).collect()
}

#[test]
fn forward_is_the_cpus() {
    for device in devices() {
        for (heads, tokens) in CASES {
            assert_forward_is_the_cpus(device, heads, tokens);
        }
    }
}

pub fn assert_forward_is_the_cpus(device: &Cuda, heads: (usize, usize, usize), tokens: usize) {
    let (case, dim) = (case(heads, tokens), heads.2);
    let (got, expected) = (forward(device, &case), case.forward());
    // Sums of squares in other orders (count half in the root), then five roundings, then one to bf16. The two terms of
    // a rotation may cancel: their sizes are those of the element and its partner before it, at most √2 after it.
    let relative = (dim as f64 / 16.0 + 20.0) * UNIT;
    let what = |name: &str| format!("{name} of {heads:?}, {tokens} tokens");
    let inverses = &expected.inv_rms;
    assert_within(&what("inv_rms"), &got.inv_rms, inverses, |i| relative * f64::from(inverses[i]));
    for (name, got, expected) in [("q", &got.q, &expected.q), ("k", &got.k_pool, &expected.k_pool)] {
        let sizes = with_partner(expected, dim);
        assert_within(&what(name), got, expected, |i| {
            BF16 * f64::from(expected[i].abs()) + 3.0 * (relative + 4.0 * UNIT) * sizes[i]
        });
    }
    assert_eq!(bits(&got.v_pool), bits(&expected.v_pool), "values are moved, other rows stay");
    let again = forward(device, &case);
    assert_eq!([bits(&got.q), bits(&got.k_pool)], [bits(&again.q), bits(&again.k_pool)]);
}

#[test]
fn backward_is_the_cpus() {
    for device in devices() {
        for (heads, tokens) in CASES {
            assert_backward_is_the_cpus(device, heads, tokens);
        }
    }
}

pub fn assert_backward_is_the_cpus(device: &Cuda, heads: (usize, usize, usize), tokens: usize) {
    let (case, (q_heads, kv_heads, dim)) = (case(heads, tokens), heads);
    let (from, inv_rms) = (upstream(&case), case.forward().inv_rms);
    let got = backward(device, &case, &inv_rms, &from, false);
    let mut expected = Gradients { qkv: vec![0.0; case.qkv.len()], q_weight: vec![1.0; dim], k_weight: vec![1.0; dim] };
    case.try_backward(&inv_rms, &from, &mut expected, false).unwrap();
    let what = |name: &str| format!("{name} of {heads:?}, {tokens} tokens");
    // Terms that cancel: a rotation's two, and the mean over the head, each of the size of a typical gradient (weights
    // up to 2, inv_rms up to a few): bounded by the head's largest gradient and 32 roundings of its sum.
    let largest = |values: &[f32]| f64::from(values.iter().fold(0f32, |max, x| max.max(x.abs())));
    let (cols, sizes) = (case.sizes.qkv_cols(), expected.qkv.chunks(dim).map(largest).collect::<Vec<_>>());
    assert_within(&what("d_qkv"), &got.qkv, &expected.qkv, |i| {
        BF16 * f64::from(expected.qkv[i].abs()) + 64.0 * (1.0 + dim as f64 / 16.0) * UNIT * sizes[i / dim]
    });
    let first_v = (q_heads + kv_heads) * dim;
    for token in 0..tokens {
        let values = token * cols + first_v..(token + 1) * cols;
        assert_eq!(got.qkv[values.clone()], expected.qkv[values], "gradients of values are moved");
    }
    // Sums over tokens and heads in other orders: n terms, each with the roundings of a rotation.
    let terms = (tokens * q_heads) as f64;
    let pairs = [("d_q_weight", &got.q_weight, &expected.q_weight), ("d_k_weight", &got.k_weight, &expected.k_weight)];
    for (name, got, expected) in pairs {
        assert_within(&what(name), got, expected, |_| 8.0 * UNIT * terms * (4.0 + terms.sqrt()));
    }
    let again = backward(device, &case, &inv_rms, &from, false);
    assert_eq!([bits(&got.q_weight), bits(&got.qkv)], [bits(&again.q_weight), bits(&again.qkv)]);
    let frozen = backward(device, &case, &inv_rms, &from, true);
    assert_eq!((bits(&frozen.qkv), frozen.q_weight), (bits(&got.qkv), vec![1.0; dim]));
}

#[test]
fn a_token_has_the_same_bits_alone_and_when_warps_take_whole_tokens() {
    let (heads, tokens) = ((2, 1, 32), 2050);
    let all = case(heads, tokens);
    let from = upstream(&all);
    for device in devices() {
        let together = forward(device, &all);
        let d_together = backward(device, &all, &together.inv_rms, &from, true);
        for token in [0, 1024, 2049] {
            let HeadSizes { q_heads, head_dim, .. } = all.sizes;
            let (cols, q, normed) = (all.sizes.qkv_cols(), q_heads * head_dim, heads.0 + heads.1);
            let mut alone = all.clone();
            alone.sizes.tokens = 1;
            alone.qkv = all.qkv[token * cols..][..cols].to_vec();
            alone.positions = vec![all.positions[token]];
            alone.kv_rows = vec![all.kv_rows[token]];
            let got = forward(device, &alone);
            assert_eq!(bits(&got.q), bits(&together.q[token * q..][..q]), "token {token}");
            let d_q = from.q[token * q..][..q].to_vec();
            let from = Upstream { q: d_q, k_pool: from.k_pool.clone(), v_pool: from.v_pool.clone() };
            let inv_rms = &together.inv_rms[token * normed..][..normed];
            let got = backward(device, &alone, inv_rms, &from, true);
            assert_eq!(bits(&got.qkv), bits(&d_together.qkv[token * cols..][..cols]), "token {token}");
        }
    }
}

#[test]
fn indices_outside_their_tables_give_nan_and_harm_nothing_else() {
    let mut bad = case((2, 1, 32), 3);
    let good = bad.clone();
    bad.positions[0] = bad.sizes.rope_rows as u32;
    bad.kv_rows[1] = bad.sizes.pool_rows as u32;
    for device in devices() {
        let (got, expected) = (forward(device, &bad), forward(device, &good));
        assert!(got.q[..64].iter().all(|x| x.is_nan()));
        assert_eq!(got.q[64..], expected.q[64..]);
        let row = 32 * good.kv_rows[1] as usize..32 * (good.kv_rows[1] as usize + 1);
        assert!(got.k_pool[row.clone()].iter().chain(&got.v_pool[row]).all(|x| *x == 7.0), "nothing is written");
        let from = upstream(&good);
        let gradients = backward(device, &bad, &expected.inv_rms, &from, true);
        let cols = good.sizes.qkv_cols();
        let lost: Vec<usize> = (0..3 * cols).filter(|i| gradients.qkv[*i].is_nan()).collect();
        let rotated = 0..3 * 32;
        assert_eq!(lost, rotated.chain(cols + 2 * 32..2 * cols).collect::<Vec<_>>());
    }
}

#[test]
fn an_empty_batch_is_fine_and_too_wide_heads_are_refused() {
    let device = &devices()[0];
    assert!(forward(device, &case((2, 1, 32), 0)).q.is_empty());
    let wide = case((1, 1, 528), 1);
    let message = std::panic::catch_unwind(|| forward(device, &wide)).err().expect("refused");
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("`head_dim` must be at most 512"), "{message}");
}
