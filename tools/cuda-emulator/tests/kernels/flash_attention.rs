//! A flash attention kernel from outside this project: tensor cores, ldmatrix, asynchronous copies.

use cuda_emulator::fault::Fault;
use half::bf16;

use crate::compile::{TARGETS, Target, has_nvcc};
use crate::fixture::{Argument, Fixture, noise};

pub const FILE: &str = "flash_attention.cu";
pub const HEAD_DIM: usize = 128;
/// Queries per block.
const BLOCK_Q: usize = 64;
const SHARED_BYTES: u32 = 5 * 64 * 2 * HEAD_DIM as u32;

pub struct Shape {
    pub tokens: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
}

pub struct Inputs {
    q: Vec<bf16>,
    k: Vec<bf16>,
    v: Vec<bf16>,
}

impl Shape {
    pub fn inputs(&self) -> Inputs {
        let of = |seed, heads| {
            let values = noise(seed, self.tokens * heads * HEAD_DIM);
            values.into_iter().map(|x| bf16::from_f32(2.0 * x)).collect()
        };
        Inputs { q: of(1, self.q_heads), k: of(2, self.kv_heads), v: of(3, self.kv_heads) }
    }
}

const SCALE: f32 = 0.1;

pub fn run(fixture: &mut Fixture, shape: &Shape, inputs: &Inputs) -> Result<Vec<bf16>, Fault> {
    let &Shape { tokens, q_heads, kv_heads } = shape;
    let size = tokens * q_heads * HEAD_DIM;
    let out = fixture.empty::<bf16>(size);
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|values| Argument::Address(fixture.upload(values)));
    let [tokens_, q_heads_, kv_heads_] = [tokens, q_heads, kv_heads].map(|n| Argument::Int(n as i32));
    let arguments = [Argument::Address(out), q, k, v, tokens_, q_heads_, kv_heads_, Argument::Float(SCALE)];
    let grid = [tokens.div_ceil(BLOCK_Q) as u32, q_heads as u32, 1];
    fixture.launch("flash_attention_bf16", grid, 128, SHARED_BYTES, &arguments)?;
    fixture.download(out, size)
}

/// Softmax attention in f64 for one query.
fn reference(shape: &Shape, inputs: &Inputs, query: usize, head: usize) -> Vec<f64> {
    let &Shape { q_heads, kv_heads, .. } = shape;
    let kv_head = head / (q_heads / kv_heads);
    let row = |values: &[bf16], token: usize, heads: usize, head: usize| -> Vec<f64> {
        values[(token * heads + head) * HEAD_DIM..][..HEAD_DIM].iter().map(|x| x.to_f64()).collect()
    };
    let q = row(&inputs.q, query, q_heads, head);
    let score = |key: usize| {
        let k = row(&inputs.k, key, kv_heads, kv_head);
        f64::from(SCALE) * q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>()
    };
    let scores: Vec<f64> = (0..=query).map(score).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; HEAD_DIM];
    for (key, weight) in weights.iter().enumerate() {
        let v = row(&inputs.v, key, kv_heads, kv_head);
        out.iter_mut().zip(v).for_each(|(o, v)| *o += weight / total * v);
    }
    out
}

fn check(shape: &Shape, target: Target) {
    let inputs = shape.inputs();
    let got = run(&mut Fixture::new(FILE, None, target), shape, &inputs).unwrap_or_else(|fault| panic!("{fault}"));
    for query in (0..shape.tokens).step_by(1 + shape.tokens / 40) {
        for head in 0..shape.q_heads {
            let expected = reference(shape, &inputs, query, head);
            let got = &got[(query * shape.q_heads + head) * HEAD_DIM..][..HEAD_DIM];
            for (dim, (g, e)) in got.iter().zip(expected).enumerate() {
                // |v| ≤ 2. Weights and result are rounded to bf16 (2⁻⁹ each), scores of a few tens to f32.
                let error = (g.to_f64() - e).abs();
                assert!(
                    error <= 2.0 * 3.0 / 512.0,
                    "sm_{}: query {query}, head {head}, {dim}: {e}, got {g}",
                    target.name
                );
            }
        }
    }
}

#[test]
fn agrees_with_attention_in_f64() {
    if !has_nvcc() {
        return;
    }
    for target in TARGETS {
        check(&Shape { tokens: 1, q_heads: 1, kv_heads: 1 }, target);
        check(&Shape { tokens: 64, q_heads: 2, kv_heads: 1 }, target);
        check(&Shape { tokens: 197, q_heads: 4, kv_heads: 2 }, target);
    }
}
