//! Causal grouped-query attention over segments.
//!
//! A segment is a run of queries that follow each other in one sequence, and the list of pool rows that hold the keys of
//! that sequence from its first position on: any number of runs of rows. Packing (one run a sequence), chunked prefill
//! (earlier chunks, then the own one), paged caches (a run a page) and n rollouts trained with their prompt computed once
//! (the prompt's run, shared, then the own one) all fit this one contract.
//!
//! Query i of a segment with q queries and k keys sees keys 0 ..= k − q + i.
//! `out = softmax(q·Kᵀ · scale) · V`; query head h reads key head h / (q_heads / kv_heads).
//!
//! However a sequence is cut into segments and runs, a query's result has the same bits: every sum runs over keys in the
//! order of their index in the sequence.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// Consecutive rows of the key and value pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u32,
    pub len: u32,
}

/// Consecutive queries of one sequence, and the pool rows of the keys of that sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of `q` and `out`.
    pub queries: Range<usize>,
    /// Which of the table's runs hold the keys, from the sequence's first position to the last query's own.
    pub runs: Range<usize>,
    /// Keys in those runs; at least as many as queries.
    pub keys: usize,
}

/// The segments of one batch. Segments are in the order of their queries and cover all of them.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    segments: Vec<Segment>,
    runs: Vec<Run>,
    /// Segments grouped so that no two groups touch the same pool row: the unit of parallel work in the backward pass.
    groups: Vec<Vec<usize>>,
    made: Made,
}

/// A backend's own form of a table, cached until the table changes. A clone starts without one.
#[derive(Default)]
struct Made(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl Clone for Made {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made")
    }
}

impl SegmentTable {
    /// Adds the next `queries` queries, of a sequence whose keys are in `runs` (empty runs are dropped).
    pub fn push(&mut self, queries: usize, runs: impl IntoIterator<Item = Run>) {
        let first_query = self.queries();
        let first_run = self.runs.len();
        self.runs.extend(runs.into_iter().filter(|run| run.len > 0));
        let keys = self.runs[first_run..].iter().map(|run| run.len as usize).sum();
        self.segments.push(Segment {
            queries: first_query..first_query + queries,
            runs: first_run..self.runs.len(),
            keys,
        });
        self.groups.clear();
        self.made = Made::default();
    }

    /// A table of the segments from query `first` on, which becomes query 0; panics if no segment begins there.
    pub fn from_query(&self, first: usize) -> Self {
        let mut table = Self::default();
        let later = self.segments.iter().skip_while(|segment| segment.queries.start < first);
        for segment in later {
            table.push(segment.queries.len(), self.runs(segment).iter().copied());
        }
        assert_eq!(table.queries(), self.queries() - first, "no segment begins at query {first}");
        table
    }

    /// A backend's own form of this table: the cached one if it is a `T` that `fits`, otherwise a new one from `make`.
    pub fn form<T: Any + Send + Sync, E>(
        &self,
        fits: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut made = self.made.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.as_ref().and_then(|made| made.clone().downcast::<T>().ok());
        if let Some(known) = known.filter(|known| fits(known)) {
            return Ok(known);
        }
        *made = None;
        let new = Arc::new(make()?);
        *made = Some(new.clone());
        Ok(new)
    }

    /// Finds which segments share pool rows. The backward pass needs this; call it after the last `push`.
    pub fn group(&mut self) {
        // Sort runs by first row and join segments whose runs overlap: a sweep over the pool with union-find.
        let mut spans: Vec<(u32, u32, usize)> = Vec::with_capacity(self.runs.len());
        for (index, segment) in self.segments.iter().enumerate() {
            spans.extend(self.runs[segment.runs.clone()].iter().map(|run| (run.start, run.start + run.len, index)));
        }
        spans.sort_unstable();
        let mut parent: Vec<usize> = (0..self.segments.len()).collect();
        fn root(parent: &mut [usize], mut i: usize) -> usize {
            while parent[i] != i {
                parent[i] = parent[parent[i]];
                i = parent[i];
            }
            i
        }
        let mut open: Option<(u32, usize)> = None;
        for (start, end, index) in spans {
            match open {
                Some((open_end, other)) if start < open_end => {
                    let (a, b) = (root(&mut parent, index), root(&mut parent, other));
                    parent[a.max(b)] = a.min(b);
                    open = Some((open_end.max(end), index));
                }
                _ => open = Some((end, index)),
            }
        }
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); self.segments.len()];
        for index in 0..self.segments.len() {
            groups[root(&mut parent, index)].push(index);
        }
        groups.retain(|group| !group.is_empty());
        self.groups = groups;
    }

    /// The segments, in the order of their queries.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The runs of one segment, in the order of the sequence.
    pub fn runs(&self, segment: &Segment) -> &[Run] {
        &self.runs[segment.runs.clone()]
    }

    /// Indices of segments, grouped so that no two groups touch the same pool row.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// Queries of all segments.
    pub fn queries(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.queries.end)
    }

    /// Query–key pairs inside the causal mask: the work of attention.
    pub fn pairs(&self) -> u64 {
        self.segments
            .iter()
            .map(|s| {
                let (q, k) = (s.queries.len() as u64, s.keys as u64);
                q * (k - q) + q * (q + 1) / 2
            })
            .sum()
    }

    /// Pool rows that are keys of any segment, each counted once even if several segments share it.
    pub fn distinct_keys(&self) -> usize {
        let with_queries = self.segments.iter().filter(|segment| !segment.queries.is_empty());
        let mut spans: Vec<(usize, usize)> = with_queries
            .flat_map(|segment| self.runs(segment))
            .map(|run| (run.start as usize, run.start as usize + run.len as usize))
            .collect();
        spans.sort_unstable();
        let (mut count, mut covered) = (0, 0);
        for (start, end) in spans {
            count += end.saturating_sub(start.max(covered));
            covered = covered.max(end);
        }
        count
    }

    fn check(&self, check: Check, pool_rows: usize) -> OpResult {
        for (index, segment) in self.segments.iter().enumerate() {
            check.that(segment.keys >= segment.queries.len(), || {
                let (q, k) = (segment.queries.len(), segment.keys);
                format!("segment {index} must have at least as many keys as queries, got {k} keys, {q} queries")
            })?;
            for run in self.runs(segment) {
                check.that(run.start as usize + run.len as usize <= pool_rows, || {
                    format!("segment {index}: run {run:?} must be inside a pool of {pool_rows} rows")
                })?;
            }
        }
        Ok(())
    }
}

/// Sizes shared by the forward and the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSizes {
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Rows of the key and value pools.
    pub pool_rows: usize,
    /// Multiplies q·k; 1/√head_dim for Qwen3.
    pub scale: f32,
}

impl AttentionSizes {
    fn check(&self, check: Check) -> OpResult {
        check.that(self.head_dim > 0 && self.head_dim.is_multiple_of(16), || {
            format!("`head_dim` must be a positive multiple of 16, got {}", self.head_dim)
        })?;
        check.that(self.kv_heads > 0 && self.q_heads.is_multiple_of(self.kv_heads), || {
            format!("`q_heads` must be a multiple of `kv_heads`, got {} and {}", self.q_heads, self.kv_heads)
        })
    }

    fn pool_len(&self) -> usize {
        self.pool_rows * self.kv_heads * self.head_dim
    }

    /// `per_query` and `per_key` passes over the heads of all queries and of all distinct keys, in elements of `size` bytes;
    /// `dots` multiply-adds for each dimension of each visible pair.
    fn cost(&self, table: &SegmentTable, size: usize, (per_query, per_key): (usize, usize), dots: u64) -> Cost {
        let heads = per_query * table.queries() * self.q_heads + per_key * table.distinct_keys() * self.kv_heads;
        let flops = 2 * dots * table.pairs() * (self.q_heads * self.head_dim) as u64;
        Cost { bytes: (heads * self.head_dim * size) as u64, flops }
    }
}

/// Attention of every query to the keys of its segment that it may see.
pub struct AttentionForward<'a, D: Device> {
    /// [queries, q_heads, head_dim]
    pub out: Mut<'a, D, D::Compute>,
    /// [queries, q_heads], log Σ exp(score), kept for the backward pass; `None` without a backward pass
    pub log_sum_exp: Option<Mut<'a, D, f32>>,
    /// [queries, q_heads, head_dim]
    pub q: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub k_pool: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub v_pool: Ref<'a, D, D::Compute>,
    pub segments: &'a SegmentTable,
    pub sizes: AttentionSizes,
}

impl<D: Device> AttentionForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, s, queries) = (Check("attention_forward"), &self.sizes, self.segments.queries());
        s.check(check)?;
        check.size("out", self.out.len(), queries * s.q_heads * s.head_dim)?;
        if let Some(log_sum_exp) = &self.log_sum_exp {
            check.size("log_sum_exp", log_sum_exp.len(), queries * s.q_heads)?;
        }
        check.size("q", self.q.len(), queries * s.q_heads * s.head_dim)?;
        check.size("k_pool", self.k_pool.len(), s.pool_len())?;
        check.size("v_pool", self.v_pool.len(), s.pool_len())?;
        self.segments.check(check, s.pool_rows)
    }

    /// q is read, `out` written; a pool row's key and value are read once, even if segments share it. `log_sum_exp` is one
    /// f32 for each head of a query. Two matmuls over the visible pairs, q·Kᵀ and P·V; the softmax is left out.
    pub fn cost(&self) -> Cost {
        let mut cost = self.sizes.cost(self.segments, size_of::<D::Compute>(), (2, 2), 2);
        cost.bytes += self.log_sum_exp.as_ref().map_or(0, |sums| 4 * sums.len() as u64);
        cost
    }
}

/// Gradients. `d_q` is overwritten; `d_k_pool` and `d_v_pool` are accumulated (rows outside all segments do not
/// change). A shared row receives its contributions in the order of the segments.
pub struct AttentionBackward<'a, D: Device> {
    /// [queries, q_heads, head_dim]
    pub d_q: Mut<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim], accumulated
    pub d_k_pool: Mut<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim], accumulated
    pub d_v_pool: Mut<'a, D, D::Compute>,
    /// [queries, q_heads, head_dim]
    pub d_out: Ref<'a, D, D::Compute>,
    /// [queries, q_heads, head_dim], of the forward pass
    pub out: Ref<'a, D, D::Compute>,
    /// [queries, q_heads]
    pub log_sum_exp: Ref<'a, D, f32>,
    /// [queries, q_heads, head_dim]
    pub q: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub k_pool: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub v_pool: Ref<'a, D, D::Compute>,
    /// Grouped: `SegmentTable::group` has been called.
    pub segments: &'a SegmentTable,
    pub sizes: AttentionSizes,
}

impl<D: Device> AttentionBackward<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, s, queries) = (Check("attention_backward"), &self.sizes, self.segments.queries());
        s.check(check)?;
        let query_len = queries * s.q_heads * s.head_dim;
        check.size("d_q", self.d_q.len(), query_len)?;
        check.size("d_k_pool", self.d_k_pool.len(), s.pool_len())?;
        check.size("d_v_pool", self.d_v_pool.len(), s.pool_len())?;
        check.size("d_out", self.d_out.len(), query_len)?;
        check.size("out", self.out.len(), query_len)?;
        check.size("log_sum_exp", self.log_sum_exp.len(), queries * s.q_heads)?;
        check.size("q", self.q.len(), query_len)?;
        check.size("k_pool", self.k_pool.len(), s.pool_len())?;
        check.size("v_pool", self.v_pool.len(), s.pool_len())?;
        self.segments.check(check, s.pool_rows)?;
        let grouped: usize = self.segments.groups().iter().map(Vec::len).sum();
        check.size("segments.groups", grouped, self.segments.segments().len())
    }

    /// q, `out` and `d_out` are read, `d_q` written; a pool row's key and value are read and their gradients read and written,
    /// once even if segments share it. `log_sum_exp` is one f32 for each head of a query. Five matmuls over the visible pairs:
    /// q·Kᵀ again, d_out·Vᵀ, and those for d_q, d_k and d_v. A kernel that computes the first two twice, as ours does, does
    /// more than this.
    pub fn cost(&self) -> Cost {
        let mut cost = self.sizes.cost(self.segments, size_of::<D::Compute>(), (4, 6), 5);
        cost.bytes += 4 * self.log_sum_exp.len() as u64;
        cost
    }
}

/// Attention on a device: the module's text has the formulas, the arguments have the shapes.
pub trait Attention: Device {
    /// Builds what a backend needs of a table of segments ahead of the forward pass. The forward pass would otherwise build it
    /// itself, which it may not do inside [`Device::replayed`].
    fn attention_prepare(&self, _segments: &SegmentTable, _sizes: &AttentionSizes) -> OpResult {
        Ok(())
    }

    fn attention_forward(&self, args: AttentionForward<'_, Self>) -> OpResult;
    fn attention_backward(&self, args: AttentionBackward<'_, Self>) -> OpResult;
}
