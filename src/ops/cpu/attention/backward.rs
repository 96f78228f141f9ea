//! The backward pass: a task is one key head of a group of segments that share pool rows with no other group.
//!
//! With P = exp(S − log Σ exp S) recomputed, D = Σ_d d_out · out a row: dV += Pᵀ·d_out, dP = d_out·Vᵀ,
//! dS = P ∘ (dP − D) · scale, dQ = dS·K, dK += dSᵀ·Q.
//!
//! Keys are taken in panels that stay in cache while all rows (query, head) that see them are processed.

use std::cell::RefCell;

use super::tile::{Block, ROWS, add_weighted, key_offsets, rows_together, sums_in_registers, transpose};
use crate::ops::attention::{AttentionBackward, AttentionSizes, Segment, SegmentTable};
use crate::ops::cpu::Cpu;
use crate::ops::cpu::memory::Aligned;
use crate::ops::cpu::shared::SharedMut;
use crate::ops::cpu::simd::{self, LANES, Simd, WithSimd};
use crate::ops::cpu::team;

/// Keys of a panel.
const PANEL: usize = 64;
/// Multiply-adds below which the tasks stay on the caller's thread.
const SERIAL_WORK: u64 = 100_000;

#[derive(Default)]
struct Scratch {
    offsets: Vec<usize>,
    k_blocks: Aligned<Block>,
    v_blocks: Aligned<Block>,
    /// D of every row (query, head) of the segment
    delta: Vec<f32>,
    /// [PANEL, head_dim] each: sums of the panel
    d_k: Aligned<f32>,
    d_v: Aligned<f32>,
    /// [ROWS, head_dim]
    d_q: Aligned<f32>,
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

/// Gradients of queries, keys and values. The arguments have been checked, and their table is grouped.
pub fn backward(args: AttentionBackward<'_, Cpu>) {
    let (segments, sizes) = (args.segments, args.sizes);
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
        segments,
        sizes,
    };
    let tasks: Vec<(&[usize], usize)> = (segments.groups().iter())
        .flat_map(|group| (0..sizes.kv_heads).map(move |kv_head| (group.as_slice(), kv_head)))
        .collect();
    let run = |(group, kv_head): &(&[usize], usize)| {
        SCRATCH.with_borrow_mut(|scratch| {
            for index in group.iter() {
                let segment = &segments.segments()[*index];
                simd::run(SegmentBackward { segment, kv_head: *kv_head, shared: &shared, scratch });
            }
        });
    };
    if segments.pairs() * (sizes.q_heads * sizes.head_dim) as u64 <= SERIAL_WORK {
        tasks.iter().for_each(run);
    } else {
        team::each(tasks.len(), |i| run(&tasks[i]));
    }
}

struct SegmentBackward<'a> {
    segment: &'a Segment,
    kv_head: usize,
    shared: &'a Shared<'a>,
    scratch: &'a mut Scratch,
}

impl WithSimd for SegmentBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { segment, kv_head, shared, scratch } = self;
        let AttentionSizes { q_heads, kv_heads, head_dim: dim, .. } = shared.sizes;
        let Scratch { offsets, k_blocks, v_blocks, delta, d_k, d_v, d_q } = scratch;
        key_offsets(shared.segments, segment, kv_heads * dim, shared.k_pool.len(), offsets);
        d_q.resize(ROWS * dim);
        let (k, v) = (&shared.k_pool[kv_head * dim..], &shared.v_pool[kv_head * dim..]);
        let before = segment.keys - segment.queries.len();
        let (group, first_query) = (q_heads / kv_heads, segment.queries.start);
        let rows = Rows { shared, first_query, first_head: kv_head * group, group, before };
        let count = segment.queries.len() * group;
        delta.clear();
        for row in 0..count {
            let at = rows.index(row) * dim;
            delta.push(dot(s, &shared.d_out[at..][..dim], &shared.out[at..][..dim]));
        }
        for (start, offsets) in (0..).step_by(PANEL).zip(offsets.chunks(PANEL)) {
            transpose(k, offsets, dim, k_blocks);
            transpose(v, offsets, dim, v_blocks);
            for sums in [&mut *d_k, &mut *d_v] {
                sums.resize(offsets.len() * dim);
                sums.fill(0.0);
            }
            let mut panel = Panel { start, offsets, k, k_blocks, v_blocks, d_k, d_v, d_q };
            // The first query that sees a key of this panel.
            let mut first = start.saturating_sub(before) * group;
            while first < count {
                first += match rows_together::<S>(count - first) {
                    ROWS => panel.run::<S, ROWS>(s, &rows, first, delta),
                    6 => panel.run::<S, 6>(s, &rows, first, delta),
                    4 => panel.run::<S, 4>(s, &rows, first, delta),
                    2 => panel.run::<S, 2>(s, &rows, first, delta),
                    _ => panel.run::<S, 1>(s, &rows, first, delta),
                };
            }
            for (k, offset) in offsets.iter().enumerate() {
                for (pool, own) in [(&shared.d_k_pool, &*d_k), (&shared.d_v_pool, &*d_v)] {
                    // Safety: pool rows of this group of segments belong to no other group, this head to this task.
                    let to = unsafe { pool.slice(offset + kv_head * dim, dim) };
                    to.iter_mut().zip(&own[k * dim..][..dim]).for_each(|(to, from)| *to += from);
                }
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        lanes = s.mul_add(s.load(a), s.load(b), lanes);
    }
    s.sum(lanes)
}

/// The rows (query, head) of a segment and one key head, query by query.
struct Rows<'a> {
    shared: &'a Shared<'a>,
    first_query: usize,
    first_head: usize,
    /// Heads that read this key head.
    group: usize,
    /// Keys before the first query's own.
    before: usize,
}

impl Rows<'_> {
    /// The row of q and out, [queries · q_heads].
    #[inline(always)]
    fn index(&self, row: usize) -> usize {
        let query = self.first_query + row / self.group;
        query * self.shared.sizes.q_heads + self.first_head + row % self.group
    }
}

/// Up to `PANEL` keys of a segment.
struct Panel<'a> {
    /// Index of the first in the sequence.
    start: usize,
    offsets: &'a [usize],
    /// The pool from this key head on.
    k: &'a [f32],
    k_blocks: &'a [Block],
    v_blocks: &'a [Block],
    d_k: &'a mut [f32],
    d_v: &'a mut [f32],
    d_q: &'a mut [f32],
}

impl Panel<'_> {
    /// Adds what rows `first .. first + R` contribute; returns R.
    #[inline(always)]
    fn run<S: Simd, const R: usize>(&mut self, s: S, rows: &Rows<'_>, first: usize, delta: &[f32]) -> usize {
        let shared = rows.shared;
        let dim = shared.sizes.head_dim;
        let index: [usize; R] = std::array::from_fn(|r| rows.index(first + r));
        let q = index.map(|i| shared.q[i * dim..][..dim].as_chunks::<LANES>().0);
        let d_out = index.map(|i| shared.d_out[i * dim..][..dim].as_chunks::<LANES>().0);
        // Keys of this panel inside the causal mask.
        let seen: [usize; R] = std::array::from_fn(|r| {
            (rows.before + (first + r) / rows.group + 1).saturating_sub(self.start).min(self.offsets.len())
        });
        let keys = seen[R - 1];
        let (mut p, mut d_s) = ([[0.0f32; PANEL]; R], [[0.0f32; PANEL]; R]);
        for at in (0..keys).step_by(LANES) {
            let blocks = at / LANES * q[0].len()..(at / LANES + 1) * q[0].len();
            let (k_blocks, v_blocks) = (&self.k_blocks[blocks.clone()], &self.v_blocks[blocks]);
            let (scores, d_p) = if 2 * R <= sums_in_registers::<S>() {
                two_dots(s, q, k_blocks, d_out, v_blocks)
            } else {
                (dots_in_order(s, q, k_blocks), dots_in_order(s, d_out, v_blocks))
            };
            let scale = s.splat(shared.sizes.scale);
            for r in 0..R {
                let shifted = s.mul_add(scores[r], scale, s.splat(-shared.log_sum_exp[index[r]]));
                let probability = s.exp(shifted);
                let centred = s.sub(d_p[r], s.splat(delta[first + r]));
                s.store(&mut p[r][at..], probability);
                s.store(&mut d_s[r][at..], s.mul(s.mul(probability, centred), scale));
            }
        }
        let end = keys.next_multiple_of(LANES).min(PANEL);
        for r in 0..R {
            p[r][seen[r]..end].fill(0.0);
            d_s[r][seen[r]..end].fill(0.0);
        }
        let d_q = &mut self.d_q[..R * dim];
        for (d_q, index) in d_q.chunks_exact_mut(dim).zip(index) {
            // Safety: the rows (a query of this segment, a head of this key head) belong to this task alone.
            let so_far = unsafe { shared.d_q.slice(index * dim, dim) };
            if self.start == 0 { d_q.fill(0.0) } else { d_q.copy_from_slice(so_far) }
        }
        let weights: [&[f32]; R] = std::array::from_fn(|r| &d_s[r][..keys]);
        // Safety: `key_offsets` accepts only whole rows of the pool, and this head is a part of a row.
        unsafe { add_weighted(s, weights, self.k.as_ptr(), &self.offsets[..keys], dim, d_q) };
        for (d_q, index) in d_q.chunks_exact(dim).zip(index) {
            // Safety: as above.
            unsafe { shared.d_q.slice(index * dim, dim) }.copy_from_slice(d_q);
        }
        add_outer_products(s, &p, d_out, &mut self.d_v[..keys * dim]);
        add_outer_products(s, &d_s, q, &mut self.d_k[..keys * dim]);
        R
    }
}

/// Dot products of `R` vectors with sixteen others: chains over elements.
#[inline(always)]
fn dots_in_order<S: Simd, const R: usize>(s: S, x: [&[[f32; LANES]]; R], block: &[Block]) -> [S::V; R] {
    let x = x.map(|x| &x[..block.len()]);
    let mut sums = [s.splat(0.0); R];
    for (c, keys) in block.iter().enumerate() {
        for d in 0..LANES {
            let keys = s.load(&keys[d * LANES..]);
            for r in 0..R {
                sums[r] = s.mul_add(s.splat(x[r][c][d]), keys, sums[r]);
            }
        }
    }
    sums
}

/// Two [`dots_in_order`] at once: twice as many chains at a time.
#[inline(always)]
fn two_dots<S: Simd, const R: usize>(
    s: S,
    a: [&[[f32; LANES]]; R],
    a_block: &[Block],
    b: [&[[f32; LANES]]; R],
    b_block: &[Block],
) -> ([S::V; R], [S::V; R]) {
    let n = a_block.len().min(b_block.len());
    let (a, b) = (a.map(|a| &a[..n]), b.map(|b| &b[..n]));
    let (mut a_sums, mut b_sums) = ([s.splat(0.0); R], [s.splat(0.0); R]);
    for c in 0..n {
        for d in 0..LANES {
            let (a_keys, b_keys) = (s.load(&a_block[c][d * LANES..]), s.load(&b_block[c][d * LANES..]));
            for r in 0..R {
                a_sums[r] = s.mul_add(s.splat(a[r][c][d]), a_keys, a_sums[r]);
                b_sums[r] = s.mul_add(s.splat(b[r][c][d]), b_keys, b_sums[r]);
            }
        }
    }
    (a_sums, b_sums)
}

/// `to[k] += Σ_r weights[r][k] · rows[r]` for every key of `to`, [keys, dim].
#[inline(always)]
fn add_outer_products<S: Simd, const R: usize>(
    s: S,
    weights: &[[f32; PANEL]; R],
    rows: [&[[f32; LANES]]; R],
    to: &mut [f32],
) {
    let chunks = rows[0].len();
    let mut chunk = 0;
    while 2 * R <= sums_in_registers::<S>() && chunk + 2 <= chunks {
        add_outer_columns::<S, R, 2>(s, weights, rows.map(|row| &row[chunk..]), chunks, chunk, to);
        chunk += 2;
    }
    while chunk < chunks {
        add_outer_columns::<S, R, 1>(s, weights, rows.map(|row| &row[chunk..]), chunks, chunk, to);
        chunk += 1;
    }
}

/// `N` vectors of columns, from vector `chunk` of the `chunks` of a row on.
#[inline(always)]
fn add_outer_columns<S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: &[[f32; PANEL]; R],
    rows: [&[[f32; LANES]]; R],
    chunks: usize,
    chunk: usize,
    to: &mut [f32],
) {
    let mut vectors = [[s.splat(0.0); N]; R];
    for r in 0..R {
        for n in 0..N {
            vectors[r][n] = s.load(&rows[r][n]);
        }
    }
    for (k, to) in to.chunks_exact_mut(chunks * LANES).take(PANEL).enumerate() {
        let to = &mut to[chunk * LANES..][..N * LANES];
        let mut acc = [s.splat(0.0); N];
        for n in 0..N {
            acc[n] = s.load(&to[n * LANES..]);
        }
        for r in 0..R {
            let weight = s.splat(weights[r][k]);
            for n in 0..N {
                acc[n] = s.mul_add(weight, vectors[r][n], acc[n]);
            }
        }
        for n in 0..N {
            s.store(&mut to[n * LANES..], acc[n]);
        }
    }
}
