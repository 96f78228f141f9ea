//! A plain f64 version of the op `attention`, with bounds of the rounding errors that the op may make.

use patarm::ops::attention::{AttentionSizes, SegmentTable};

/// Half an ulp of 1.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// The same inputs in f64, and a plain version of the op.
pub struct Exact {
    pub sizes: AttentionSizes,
    pub segments: SegmentTable,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
}

/// One (query, head): its row of q, and the offsets of the keys that it sees in the pools.
struct ExactRow {
    row: usize,
    keys: Vec<usize>,
}

/// A sum, and the sum of the magnitudes of its terms, which bounds its rounding errors.
pub type Bounded = Vec<(f64, f64)>;

fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| (sum + a * b, size + (a * b).abs()))
}

impl Exact {
    fn rows(&self) -> Vec<ExactRow> {
        let AttentionSizes { q_heads, kv_heads, head_dim, .. } = self.sizes;
        let mut rows = Vec::new();
        for segment in self.segments.segments() {
            let pool: Vec<usize> = (self.segments.runs(segment).iter())
                .flat_map(|run| run.start as usize..(run.start + run.len) as usize)
                .collect();
            for (i, query) in segment.queries.clone().enumerate() {
                let seen = segment.keys - segment.queries.len() + i + 1;
                for head in 0..q_heads {
                    let kv_head = head / (q_heads / kv_heads);
                    let keys = pool[..seen].iter().map(|row| (row * kv_heads + kv_head) * head_dim).collect();
                    rows.push(ExactRow { row: query * q_heads + head, keys });
                }
            }
        }
        rows
    }

    fn q(&self, row: usize) -> &[f64] {
        &self.q[row * self.sizes.head_dim..][..self.sizes.head_dim]
    }

    fn k(&self, at: usize) -> &[f64] {
        &self.k[at..][..self.sizes.head_dim]
    }

    fn v(&self, at: usize) -> &[f64] {
        &self.v[at..][..self.sizes.head_dim]
    }

    /// Weights of a row's keys, log Σ exp(score), and the largest size of a score's terms.
    fn weights(&self, row: &ExactRow) -> (Vec<f64>, f64, f64) {
        let scale = f64::from(self.sizes.scale);
        let scores: Vec<(f64, f64)> = row.keys.iter().map(|at| dot(self.q(row.row), self.k(*at))).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |max, (s, _)| max.max(s * scale));
        let size = scores.iter().fold(0.0f64, |max, (_, size)| max.max(size * scale));
        let sum: f64 = scores.iter().map(|(s, _)| (s * scale - max).exp()).sum();
        let log_sum_exp = max + sum.ln();
        (scores.iter().map(|(s, _)| (s * scale - log_sum_exp).exp()).collect(), log_sum_exp, size)
    }

    /// (out, log Σ exp) with bounds of the op's rounding errors.
    pub fn forward(&self) -> (Bounded, Bounded) {
        let dim = self.sizes.head_dim;
        let (mut out, mut log_sum_exp) = (vec![(0.0, 0.0); self.q.len()], vec![(0.0, 0.0); self.q.len() / dim]);
        for row in self.rows() {
            let (weights, lse, size) = self.weights(&row);
            let error = self.score_error(size);
            for (d, out) in out[row.row * dim..][..dim].iter_mut().enumerate() {
                let (value, size) = (weights.iter().zip(&row.keys))
                    .map(|(p, at)| p * self.v(*at)[d])
                    .fold((0.0, 0.0), |(sum, size), x| (sum + x, size + f64::abs(x)));
                // A chain over the keys, and the error of every weight, in the numerator and in the sum.
                *out = (value, size * (2.0 * error + (2 * weights.len() + 16) as f64 * UNIT));
            }
            let n = weights.len() as f64;
            log_sum_exp[row.row] = (lse, error + (n + 8.0 + 2.0 * lse.abs()) * UNIT);
        }
        (out, log_sum_exp)
    }

    /// Error of exp(score − max), relative: a chain and a tree over the head, the scale, two differences, `Simd::exp`.
    fn score_error(&self, size: f64) -> f64 {
        ((self.sizes.head_dim / 16 + 4 + 6) as f64 * size + 8.0) * UNIT
    }

    /// (d_q, d_k, d_v) with bounds of the op's rounding errors.
    pub fn backward(&self, d_out: &[f32]) -> [Bounded; 3] {
        let (dim, scale) = (self.sizes.head_dim, f64::from(self.sizes.scale));
        let mut d_q = vec![(0.0, 0.0); self.q.len()];
        let (mut d_k, mut d_v) = (vec![(0.0, 0.0); self.k.len()], vec![(0.0, 0.0); self.v.len()]);
        let terms = (2 * self.q.len() / dim + 2 * dim + 64) as f64 * UNIT;
        for row in self.rows() {
            let (weights, lse, size) = self.weights(&row);
            let error = 4.0 * self.score_error(size + lse.abs()) + terms + 2.0 * row.keys.len() as f64 * UNIT;
            let d_out: Vec<f64> = d_out[row.row * dim..][..dim].iter().map(|x| f64::from(*x)).collect();
            let d_p: Vec<(f64, f64)> = row.keys.iter().map(|at| dot(&d_out, self.v(*at))).collect();
            let delta = weights.iter().zip(&d_p).fold((0.0, 0.0), |(a, b), (p, d)| (a + p * d.0, b + p * d.1));
            for ((p, at), d_p) in weights.iter().zip(&row.keys).zip(d_p) {
                let (d_s, d_s_size) = (p * (d_p.0 - delta.0) * scale, p * (d_p.1 + delta.1) * scale);
                let add = |to: &mut (f64, f64), value: f64, size: f64| *to = (to.0 + value, to.1 + size.abs() * error);
                for d in 0..dim {
                    add(&mut d_v[at + d], p * d_out[d], p * d_out[d]);
                    add(&mut d_q[row.row * dim + d], d_s * self.k(*at)[d], d_s_size * self.k(*at)[d]);
                    add(&mut d_k[at + d], d_s * self.q(row.row)[d], d_s_size * self.q(row.row)[d]);
                }
            }
        }
        [d_q, d_k, d_v]
    }
}
