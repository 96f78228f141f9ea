//! The CUDA backend as paper imitates it, without a toolkit: constants of kernels are repeated here, and
//! `ops::cuda` holds them to the kernels'.
//!
//! The scratch of an op is bounded, not counted to the byte: an arena sets a region of the plan's size aside, and what is left of
//! it is left.

use half::bf16;

use super::{Imitated, Op};
use crate::ops::OpResult;
use crate::ops::attention::SegmentTable;
use crate::ops::chunk::{check_chunk, chunk_rows};
use crate::ops::linear::LinearSizes;
use crate::tensor::{LOGITS_MAX, replay_size};

/// A card, of which a plan needs the memory alone.
#[derive(Clone, Debug)]
pub struct OfCuda {
    pub name: String,
    /// In all, used or free
    pub memory_bytes: usize,
}

/// Every piece of scratch begins at a multiple of so many bytes.
const ALIGNMENT: usize = 512;
/// Blocks of a backward pass of norms, each of which writes a row of partial sums.
const NORM_BLOCKS: usize = 256;
/// Blocks of the global norm, each of which writes an f64.
pub(in crate::ops) const GLOBAL_NORM_BLOCKS: usize = 1024;
/// Keys of a split in decoding.
pub(in crate::ops) const SPLIT: usize = 256;
/// Segments of at most so many queries are decoded by splits.
pub(in crate::ops) const FEW: usize = 16;
/// Words of a draw.
pub(in crate::ops) const DRAW_WORDS: usize = 12;
/// Words of a tensor in the table of an update.
const ROW_WORDS: usize = 8;
/// Elements of the shortest list.
const LIST: usize = 1024;

/// Bytes of a piece of scratch.
fn piece(elements: usize, bytes: usize) -> usize {
    (elements * bytes).next_multiple_of(ALIGNMENT)
}

/// At most the bytes of what attention holds of a table of segments: the segments, the pool row of every key, and eight lists of
/// tiles, splits, joins and users, which are padded and have room to grow.
fn lists(table: &SegmentTable) -> usize {
    let (segments, queries) = (table.segments().len(), table.queries());
    let keys: usize = table.segments().iter().map(|segment| segment.keys).sum();
    let runs: usize = table.segments().iter().map(|segment| table.runs(segment).len()).sum();
    let numbers = keys + keys / 8 + 6 * queries + 24 * segments + 16 * runs;
    // A prefill has a second table, of the rows that are read.
    2 * piece(5 * numbers / 2 + 8 * LIST, size_of::<u32>())
}

impl Imitated for OfCuda {
    type Compute = bf16;
    const ROLLOUTS_EQUAL_TRAINING: bool = false;
    const ALIGNMENT: usize = ALIGNMENT;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn weight_len(&self, sizes: LinearSizes) -> usize {
        sizes.len()
    }

    fn workers(&self) -> usize {
        1
    }

    fn replay_size(&self, rows: usize) -> usize {
        replay_size(rows)
    }

    fn logits_max(&self) -> Option<usize> {
        Some(LOGITS_MAX)
    }

    fn kv_cache_budget(&self, _weight_bytes: usize) -> usize {
        usize::MAX
    }

    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize {
        chunk_rows(self.memory_bytes, sizes.out_features)
    }

    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        check_chunk(chunk_rows, self.memory_bytes, sizes)
    }

    fn kept_logits(&self, _logits: usize) -> usize {
        0
    }

    fn scratch(&self, op: &Op<'_>) -> [usize; 2] {
        let (f32s, bf16s, words) = (size_of::<f32>(), size_of::<bf16>(), size_of::<u32>());
        match *op {
            // Where a token occurs first and last.
            Op::EmbeddingBackward { vocab } => [piece(2 * vocab, words), 0],
            Op::RmsNormBackward { cols } => [piece(NORM_BLOCKS * cols, f32s), 0],
            Op::QkNormRopeBackward { head_dim } => [2 * piece(NORM_BLOCKS * head_dim, f32s), 0],
            Op::AttentionForward { segments, q_heads, head_dim } => {
                let splits =
                    |queries: usize, keys: usize| if queries <= FEW { queries * keys.div_ceil(SPLIT) } else { 0 };
                let partials: usize = segments.segments().iter().map(|s| splits(s.queries.len(), s.keys)).sum();
                let rows = replay_size(partials) * q_heads;
                [piece(rows * head_dim, f32s) + piece(2 * rows, f32s), lists(segments)]
            }
            Op::AttentionBackward { segments, q_heads } => [piece(segments.queries() * q_heads, f32s), lists(segments)],
            Op::LmHeadLogits { rows, sizes } => [piece(rows * sizes.in_features, bf16s), 0],
            Op::LmHeadLoss { chunk_rows, gradient, sizes: LinearSizes { out_features, in_features } } => {
                let rows = if gradient { 2 } else { 1 };
                [piece(chunk_rows * out_features, f32s) + rows * piece(chunk_rows * in_features, bf16s), 0]
            }
            Op::Sample { draws } => [piece(DRAW_WORDS * draws, words), 0],
            Op::AdamW { tensors } => [0, piece(ROW_WORDS * tensors, words)],
            // Means of both sides, and a key for every slot of a power of two of judgements.
            Op::ScoreMargin { pairs, rollouts } => {
                [piece(4 * pairs + 4 * pairs * rollouts + LIST, words) + ALIGNMENT, 0]
            }
            Op::GlobalNorm => [piece(GLOBAL_NORM_BLOCKS, size_of::<f64>()), 0],
        }
    }
}
