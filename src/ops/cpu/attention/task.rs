//! A task of the forward pass: the rows that it computes, the arguments that all tasks share, and its scratch.

use std::ops::Range;

use super::tile::Block;
use crate::ops::attention::{AttentionSizes, Segment, SegmentTable};
use crate::ops::cpu::memory::Aligned;
use crate::ops::cpu::shared::SharedMut;

/// One tile of queries of a segment: one key head, or several where the segment is one query.
pub struct Task<'a> {
    pub segment: &'a Segment,
    /// First query of the tile, counted from the segment's first, and how many.
    pub first: usize,
    pub queries: usize,
    pub kv_heads: Range<usize>,
}

/// Inputs and outputs that all tasks share; a task writes only its own rows (its queries, the query heads of its key heads).
pub struct Shared<'a> {
    pub out: SharedMut<'a>,
    pub log_sum_exp: Option<SharedMut<'a>>,
    pub q: &'a [f32],
    pub k_pool: &'a [f32],
    pub v_pool: &'a [f32],
    pub segments: &'a SegmentTable,
    pub sizes: AttentionSizes,
}

/// Memory of a thread, reused from task to task.
#[derive(Default)]
pub struct Scratch {
    pub offsets: Vec<usize>,
    pub blocks: Aligned<Block>,
    /// [ROWS or heads, keys padded]
    pub scores: Aligned<f32>,
    /// [ROWS or heads, head_dim]
    pub sums: Aligned<f32>,
    /// [heads]
    pub inverse: Vec<f32>,
}
