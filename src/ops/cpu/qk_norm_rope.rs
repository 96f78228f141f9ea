//! Norms of queries and keys, rotary positions and the pool write, on the CPU: a token at a time.

use super::Cpu;
use super::shared::SharedMut;
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use crate::ops::{Check, OpResult};

/// Tokens of one task; fixed, so that partial sums of the weights' gradients do not depend on the threads.
const BLOCK: usize = 32;

impl QkNormRope for Cpu {
    fn qk_norm_rope_forward(&self, args: QkNormRopeForward<'_, Self>) -> OpResult {
        args.check()?;
        check_indices("qk_norm_rope_forward", args.positions, args.kv_rows, &args.sizes)?;
        let QkNormRopeForward { q, k_pool, v_pool, inv_rms, .. } = args;
        let forward = Forward {
            q: SharedMut::new(q),
            k_pool: SharedMut::new(k_pool),
            v_pool: SharedMut::new(v_pool),
            inv_rms: SharedMut::new(inv_rms),
            qkv: args.qkv,
            q_weight: args.q_weight,
            k_weight: args.k_weight,
            rope: args.rope,
            positions: args.positions,
            kv_rows: args.kv_rows,
            sizes: args.sizes,
            epsilon: args.epsilon,
            tokens: 0..args.sizes.tokens,
        };
        let tokens = args.sizes.tokens;
        let piece = team::piece_rows(tokens.max(1), BLOCK);
        team::each(tokens.div_ceil(piece), |i| {
            let tokens = i * piece..tokens.min((i + 1) * piece);
            simd::run(Forward { tokens, ..forward.clone() });
        });
        Ok(())
    }

    fn qk_norm_rope_backward(&self, args: QkNormRopeBackward<'_, Self>) -> OpResult {
        args.check()?;
        check_indices("qk_norm_rope_backward", args.positions, args.kv_rows, &args.sizes)?;
        let sizes = args.sizes;
        if sizes.tokens == 0 {
            return Ok(());
        }
        let dim = sizes.head_dim;
        // [blocks, 2, head_dim]: gradients of the two norm weights.
        let mut partial = vec![0.0f32; sizes.tokens.div_ceil(BLOCK) * 2 * dim];
        let inputs = Inputs {
            d_q: args.d_q,
            d_k_pool: args.d_k_pool,
            d_v_pool: args.d_v_pool,
            qkv: args.qkv,
            inv_rms: args.inv_rms,
            q_weight: args.q_weight,
            k_weight: args.k_weight,
            rope: args.rope,
            positions: args.positions,
            kv_rows: args.kv_rows,
            sizes,
        };
        let outs = args.d_qkv.chunks_mut(BLOCK * sizes.qkv_cols()).zip(partial.chunks_mut(2 * dim));
        team::each_of(outs.enumerate(), |(block, (d_qkv, d_weights))| {
            simd::run(Backward { d_qkv, d_weights, inputs: &inputs, first: block * BLOCK });
        });
        for (index, d_weight) in [args.d_q_weight, args.d_k_weight].into_iter().enumerate() {
            let Some(d_weight) = d_weight else { continue };
            for part in partial.chunks_exact(2 * dim) {
                d_weight.iter_mut().zip(&part[index * dim..]).for_each(|(to, from)| *to += from);
            }
        }
        Ok(())
    }
}

/// Positions must be in the table and rows in the pool, each row once.
fn check_indices(op: &'static str, positions: &[u32], kv_rows: &[u32], sizes: &HeadSizes) -> OpResult {
    let check = Check(op);
    for (token, (position, row)) in positions.iter().zip(kv_rows).enumerate() {
        check.that((*position as usize) < sizes.rope_rows, || {
            format!("`positions[{token}]` must be below {}, got {position}", sizes.rope_rows)
        })?;
        check.that((*row as usize) < sizes.pool_rows, || {
            format!("`kv_rows[{token}]` must be below {}, got {row}", sizes.pool_rows)
        })?;
    }
    // Ascending rows, the usual case, need no search for duplicates.
    if !kv_rows.is_sorted_by(|a, b| a < b) {
        let mut rows = kv_rows.to_vec();
        rows.sort_unstable();
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] == pair[1]) {
            return check.that(false, || format!("`kv_rows` must be distinct, got {} twice", pair[0]));
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Forward<'a> {
    q: SharedMut<'a>,
    k_pool: SharedMut<'a>,
    v_pool: SharedMut<'a>,
    inv_rms: SharedMut<'a>,
    qkv: &'a [f32],
    q_weight: &'a [f32],
    k_weight: &'a [f32],
    rope: &'a [f32],
    positions: &'a [u32],
    kv_rows: &'a [u32],
    sizes: HeadSizes,
    epsilon: f32,
    tokens: std::ops::Range<usize>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    /// The usual head sizes as constants, so that loops over them are unrolled.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.sizes.head_dim {
            32 => self.each_token(s, 32),
            64 => self.each_token(s, 64),
            128 => self.each_token(s, 128),
            dim => self.each_token(s, dim),
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn each_token<S: Simd>(self, s: S, dim: usize) {
        let HeadSizes { q_heads, kv_heads, .. } = self.sizes;
        let (normed_heads, cols) = (q_heads + kv_heads, self.sizes.qkv_cols());
        let (q_weight, k_weight) = (&self.q_weight[..dim], &self.k_weight[..dim]);
        for token in self.tokens.clone() {
            let rope = &self.rope[self.positions[token] as usize * dim..][..dim];
            let (normed, values) = self.qkv[token * cols..][..cols].split_at(normed_heads * dim);
            let (queries, keys) = normed.split_at(q_heads * dim);
            let pool = self.kv_rows[token] as usize * kv_heads * dim;
            // Safety: rows of `q` and `inv_rms` belong to their token, rows of the pools to the one token that names them
            // (checked to be distinct), and each token to one task.
            let (inv_rms, q, k, v) = unsafe {
                (
                    self.inv_rms.slice(token * normed_heads, normed_heads),
                    self.q.slice(token * q_heads * dim, q_heads * dim),
                    self.k_pool.slice(pool, kv_heads * dim),
                    self.v_pool.slice(pool, kv_heads * dim),
                )
            };
            let (of_queries, of_keys) = inv_rms.split_at_mut(q_heads);
            norm_rotate_heads(s, of_queries, q, queries, q_weight, rope, self.epsilon);
            norm_rotate_heads(s, of_keys, k, keys, k_weight, rope, self.epsilon);
            v.copy_from_slice(values);
        }
    }
}

/// [`norm_rotate`] of consecutive heads.
#[inline(always)]
fn norm_rotate_heads<S: Simd>(
    s: S,
    inv_rms: &mut [f32],
    to: &mut [f32],
    x: &[f32],
    weight: &[f32],
    rope: &[f32],
    epsilon: f32,
) {
    let dim = weight.len();
    for ((inverse, to), x) in inv_rms.iter_mut().zip(to.chunks_exact_mut(dim)).zip(x.chunks_exact(dim)) {
        *inverse = norm_rotate(s, to, x, weight, rope, epsilon);
    }
}

/// Norm, weight and rotation of one head; returns its 1/rms.
#[inline(always)]
fn norm_rotate<S: Simd>(s: S, to: &mut [f32], x: &[f32], weight: &[f32], rope: &[f32], epsilon: f32) -> f32 {
    let dim = weight.len();
    let mut lanes = s.splat(0.0);
    for part in x.as_chunks::<LANES>().0 {
        let v = s.load(part);
        lanes = s.mul_add(v, v, lanes);
    }
    let inverse = 1.0 / (s.sum(lanes) / dim as f32 + epsilon).sqrt();
    let half = dim / 2;
    let ((x_low, x_high), (w_low, w_high), (cos, sin)) = (x.split_at(half), weight.split_at(half), rope.split_at(half));
    let (to_low, to_high) = to.split_at_mut(half);
    let inverses = s.splat(inverse);
    for i in (0..half).step_by(LANES) {
        let a = s.mul(s.mul(load(s, &x_low[i..]), inverses), load(s, &w_low[i..]));
        let b = s.mul(s.mul(load(s, &x_high[i..]), inverses), load(s, &w_high[i..]));
        let (cos, sin) = (load(s, &cos[i..]), load(s, &sin[i..]));
        store(s, &mut to_low[i..], s.sub(s.mul(a, cos), s.mul(b, sin)));
        store(s, &mut to_high[i..], s.add(s.mul(b, cos), s.mul(a, sin)));
    }
    inverse
}

/// Sixteen elements, or fewer at the end of half a head.
#[inline(always)]
fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
    if from.len() >= LANES { s.load(from) } else { s.load_part(from, 0.0) }
}

/// Sixteen elements, or fewer at the end of half a head.
#[inline(always)]
fn store<S: Simd>(s: S, to: &mut [f32], v: S::V) {
    if to.len() >= LANES { s.store(to, v) } else { s.store_part(to, v) }
}

struct Inputs<'a> {
    d_q: &'a [f32],
    d_k_pool: &'a [f32],
    d_v_pool: &'a [f32],
    qkv: &'a [f32],
    inv_rms: &'a [f32],
    q_weight: &'a [f32],
    k_weight: &'a [f32],
    rope: &'a [f32],
    positions: &'a [u32],
    kv_rows: &'a [u32],
    sizes: HeadSizes,
}

struct Backward<'a> {
    /// Rows of this block.
    d_qkv: &'a mut [f32],
    /// [2, head_dim]: of the query norm, of the key norm
    d_weights: &'a mut [f32],
    inputs: &'a Inputs<'a>,
    /// First token of the block.
    first: usize,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Inputs { d_q, d_k_pool, d_v_pool, qkv, inv_rms, q_weight, k_weight, rope, positions, kv_rows, sizes } =
            self.inputs;
        let HeadSizes { q_heads, kv_heads, head_dim: dim, .. } = *sizes;
        let (cols, normed_heads) = (sizes.qkv_cols(), q_heads + kv_heads);
        let (d_q_weight, d_k_weight) = self.d_weights.split_at_mut(dim);
        for (offset, d_row) in self.d_qkv.chunks_exact_mut(cols).enumerate() {
            let token = self.first + offset;
            let rope = &rope[positions[token] as usize * dim..][..dim];
            let row = &qkv[token * cols..][..cols];
            let inv_rms = &inv_rms[token * normed_heads..][..normed_heads];
            let pool = kv_rows[token] as usize * kv_heads * dim;
            for head in 0..normed_heads {
                let range = head * dim..(head + 1) * dim;
                let (d_out, weight, d_weight) = if head < q_heads {
                    (&d_q[(token * q_heads + head) * dim..][..dim], q_weight, &mut *d_q_weight)
                } else {
                    (&d_k_pool[pool + (head - q_heads) * dim..][..dim], k_weight, &mut *d_k_weight)
                };
                let head_args = HeadBackward { d_out, x: &row[range.clone()], weight, rope, inverse: inv_rms[head] };
                head_args.run(s, &mut d_row[range], d_weight);
            }
            d_row[normed_heads * dim..].copy_from_slice(&d_v_pool[pool..][..kv_heads * dim]);
        }
    }
}

/// One head of one token: the backward pass of the rotation, then of the norm.
struct HeadBackward<'a> {
    d_out: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    rope: &'a [f32],
    inverse: f32,
}

impl HeadBackward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, d_x: &mut [f32], d_weight: &mut [f32]) {
        let Self { d_out, x, weight, rope, inverse } = *self;
        let dim = x.len();
        let half = dim / 2;
        // The rotation's transpose; d_x holds the gradient of the normed, weighted head for now.
        let ((d_low, d_high), (cos, sin)) = (d_out.split_at(half), rope.split_at(half));
        let (to_low, to_high) = d_x.split_at_mut(half);
        for i in (0..half).step_by(LANES) {
            let (a, b) = (load(s, &d_low[i..]), load(s, &d_high[i..]));
            let (cos, sin) = (load(s, &cos[i..]), load(s, &sin[i..]));
            store(s, &mut to_low[i..], s.add(s.mul(a, cos), s.mul(b, sin)));
            store(s, &mut to_high[i..], s.sub(s.mul(b, cos), s.mul(a, sin)));
        }
        let mut lanes = s.splat(0.0);
        for ((d, x), w) in
            d_x.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0).zip(weight.as_chunks::<LANES>().0)
        {
            lanes = s.mul_add(s.mul(s.load(d), s.load(w)), s.load(x), lanes);
        }
        let factor = s.sum(lanes) * inverse * inverse * inverse / dim as f32;
        let (inverse, factor) = (s.splat(inverse), s.splat(factor));
        let (d_x, d_weight) = (d_x.as_chunks_mut::<LANES>().0, d_weight.as_chunks_mut::<LANES>().0);
        let (x, weight) = (x.as_chunks::<LANES>().0, weight.as_chunks::<LANES>().0);
        for (((d_x, d_weight), x), weight) in d_x.iter_mut().zip(d_weight).zip(x).zip(weight) {
            let (d, x) = (s.load(d_x), s.load(x));
            let sum = s.add(s.load(d_weight), s.mul(s.mul(d, x), inverse));
            s.store(d_weight, sum);
            s.store(d_x, s.sub(s.mul(s.mul(inverse, d), s.load(weight)), s.mul(factor, x)));
        }
    }
}
