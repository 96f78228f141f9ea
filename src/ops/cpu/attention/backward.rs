//! The backward pass: a task is one key head of a group of segments that share pool rows with no other group.
//!
//! With P = exp(S − log Σ exp S) recomputed, D = Σ_d d_out · out a row: dV += Pᵀ·d_out, dP = d_out·Vᵀ,
//! dS = P ∘ (dP − D) · scale, dQ = dS·K, dK += dSᵀ·Q.

use std::cell::RefCell;

use rayon::prelude::*;

use super::tile::{ROWS, Values, dots, key_rows, transpose, weighted_sums};
use crate::ops::attention::{AttentionBackward, AttentionSizes, Segment, SegmentTable};
use crate::ops::cpu::Cpu;
use crate::ops::cpu::shared::SharedMut;
use crate::ops::cpu::simd::{self, Kernel, LANES, Simd};

#[derive(Default)]
struct Scratch {
    rows: Vec<u32>,
    k_blocks: Vec<f32>,
    v_blocks: Vec<f32>,
    /// [ROWS, keys padded] each
    p: Vec<f32>,
    ds: Vec<f32>,
    /// [keys, head_dim] each: the segment's own sums
    dk: Vec<f32>,
    dv: Vec<f32>,
    /// [ROWS, head_dim]
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Shared<'a> {
    d_q: SharedMut<'a>,
    d_k_pool: SharedMut<'a>,
    d_v_pool: SharedMut<'a>,
    d_out: &'a [f32],
    out: &'a [f32],
    log_sum_exp: &'a [f32],
    q: &'a [f32],
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    segments: &'a SegmentTable,
    sizes: AttentionSizes,
}

pub fn backward(args: AttentionBackward<'_, Cpu>) {
    let shared = Shared {
        d_q: SharedMut::new(args.d_q),
        d_k_pool: SharedMut::new(args.d_k_pool),
        d_v_pool: SharedMut::new(args.d_v_pool),
        d_out: args.d_out,
        out: args.out,
        log_sum_exp: args.log_sum_exp,
        q: args.q,
        k_pool: args.k_pool,
        v_pool: args.v_pool,
        segments: args.segments,
        sizes: args.sizes,
    };
    let tasks: Vec<(&[usize], usize)> = (args.segments.groups().iter())
        .flat_map(|group| (0..args.sizes.kv_heads).map(move |kv_head| (group.as_slice(), kv_head)))
        .collect();
    tasks.par_iter().for_each(|(group, kv_head)| {
        SCRATCH.with_borrow_mut(|scratch| {
            for index in group.iter() {
                let segment = &args.segments.segments()[*index];
                simd::run(SegmentBackward { segment, kv_head: *kv_head, shared: &shared, scratch });
            }
        });
    });
}

struct SegmentBackward<'a> {
    segment: &'a Segment,
    kv_head: usize,
    shared: &'a Shared<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for SegmentBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { segment, kv_head, shared, scratch } = self;
        let AttentionSizes { q_heads, kv_heads, head_dim: dim, scale, .. } = shared.sizes;
        let (group, queries) = (q_heads / kv_heads, segment.queries.len());
        let (stride, offset) = (kv_heads * dim, kv_head * dim);
        let Scratch { rows, k_blocks, v_blocks, p, ds, dk, dv, sums } = scratch;
        key_rows(shared.segments, segment, rows);
        let keys = rows.len();
        transpose(shared.k_pool, rows, stride, offset, dim, k_blocks);
        transpose(shared.v_pool, rows, stride, offset, dim, v_blocks);
        let padded = keys.next_multiple_of(LANES);
        for (buffer, len) in [(&mut *p, ROWS * padded), (&mut *ds, ROWS * padded)] {
            buffer.resize(len, 0.0);
        }
        sums.resize(ROWS * dim, 0.0);
        for buffer in [&mut *dk, &mut *dv] {
            buffer.clear();
            buffer.resize(keys * dim, 0.0);
        }
        let tile_rows = queries * group;
        for first_row in (0..tile_rows).step_by(ROWS) {
            let count = ROWS.min(tile_rows - first_row);
            let row = |r: usize| (first_row + r).min(tile_rows - 1);
            let index: [usize; ROWS] = std::array::from_fn(|r| {
                (segment.queries.start + row(r) / group) * q_heads + kv_head * group + row(r) % group
            });
            // Rows past the end repeat the last one and count as seeing nothing: their P and dS are zeros.
            let seen: [usize; ROWS] =
                std::array::from_fn(|r| if r < count { keys - queries + row(r) / group + 1 } else { 0 });
            let tile_keys = seen[count - 1];
            let q = index.map(|i| &shared.q[i * dim..][..dim]);
            let d_out = index.map(|i| &shared.d_out[i * dim..][..dim]);
            let log_sum_exp = index.map(|i| shared.log_sum_exp[i]);
            let mut delta = [0.0; ROWS];
            for r in 0..ROWS {
                delta[r] = row_dot(s, d_out[r], &shared.out[index[r] * dim..][..dim]);
            }
            let tile = Tile { q, d_out, log_sum_exp, delta, seen, scale, dim, padded };
            tile.probabilities(s, k_blocks, v_blocks, tile_keys, p, ds);
            let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &ds[r * padded..][..padded]);
            let values = Values { pool: shared.k_pool, rows: &rows[..tile_keys], stride, offset, dim };
            weighted_sums(s, weights, &values, sums);
            for r in 0..count {
                // Safety: the rows (a query of this segment, a head of this key head) belong to this task alone.
                let d_q = unsafe { shared.d_q.slice(index[r] * dim, dim) };
                d_q.copy_from_slice(&sums[r * dim..][..dim]);
            }
            add_outer_products(s, p, d_out, tile_keys, dim, padded, dv);
            add_outer_products(s, ds, q, tile_keys, dim, padded, dk);
        }
        for (k, row) in rows.iter().enumerate() {
            let place = *row as usize * stride + offset;
            for (pool, own) in [(&shared.d_k_pool, &*dk), (&shared.d_v_pool, &*dv)] {
                // Safety: pool rows of this group of segments belong to no other group, and this head to this task.
                let to = unsafe { pool.slice(place, dim) };
                to.iter_mut().zip(&own[k * dim..][..dim]).for_each(|(to, from)| *to += from);
            }
        }
    }
}

#[inline(always)]
fn row_dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        lanes = s.mul_add(s.load(a), s.load(b), lanes);
    }
    s.sum(lanes)
}

/// Four rows (query, head) of one segment.
struct Tile<'a> {
    q: [&'a [f32]; ROWS],
    d_out: [&'a [f32]; ROWS],
    log_sum_exp: [f32; ROWS],
    /// Σ_d d_out · out
    delta: [f32; ROWS],
    /// Keys inside the causal mask.
    seen: [usize; ROWS],
    scale: f32,
    dim: usize,
    padded: usize,
}

impl Tile<'_> {
    /// Fills P and dS, [ROWS, padded] each, for the first `keys` keys; zeros outside the mask.
    #[inline(always)]
    fn probabilities<S: Simd>(
        &self,
        s: S,
        k_blocks: &[f32],
        v_blocks: &[f32],
        keys: usize,
        p: &mut [f32],
        ds: &mut [f32],
    ) {
        let block_len = self.dim * LANES;
        for block in 0..keys.div_ceil(LANES) {
            let scores = dots(s, self.q, &k_blocks[block * block_len..], self.dim);
            let dp = dots(s, self.d_out, &v_blocks[block * block_len..], self.dim);
            for r in 0..ROWS {
                let place = r * self.padded + block * LANES;
                let shifted = s.mul_add(scores[r], s.splat(self.scale), s.splat(-self.log_sum_exp[r]));
                let probability = s.exp(shifted);
                let gradient = s.mul(s.mul(probability, s.sub(dp[r], s.splat(self.delta[r]))), s.splat(self.scale));
                s.store(&mut p[place..], probability);
                s.store(&mut ds[place..], gradient);
                let first_hidden = self.seen[r].saturating_sub(block * LANES);
                if first_hidden < LANES {
                    p[place + first_hidden..place + LANES].fill(0.0);
                    ds[place + first_hidden..place + LANES].fill(0.0);
                }
            }
        }
    }
}

/// `to[k] += Σ_r weights[r][k] · rows[r]` for every key.
#[inline(always)]
fn add_outer_products<S: Simd>(
    s: S,
    weights: &[f32],
    rows: [&[f32]; ROWS],
    keys: usize,
    dim: usize,
    padded: usize,
    to: &mut [f32],
) {
    let weights: [&[f32]; ROWS] = std::array::from_fn(|r| &weights[r * padded..][..keys]);
    for column in (0..dim).step_by(LANES) {
        let mut vectors = [s.splat(0.0); ROWS];
        for r in 0..ROWS {
            vectors[r] = s.load(&rows[r][column..]);
        }
        for k in 0..keys {
            let place = &mut to[k * dim + column..][..LANES];
            let mut acc = s.load(place);
            for r in 0..ROWS {
                acc = s.mul_add(s.splat(weights[r][k]), vectors[r], acc);
            }
            s.store(place, acc);
        }
    }
}
