//! Attention on CUDA: FlashAttention-2 style tiles for many queries, splits of the keys for few.
//!
//! | file | what it is for |
//! |---|---|
//! | `segments.rs` | the segment table on the device, cached across layers |
//! | `splits.rs` | the blocks of the forward pass: tiles of queries, splits of keys, joins of splits |
//! | `key_tiles.rs` | the blocks of the backward pass: tiles of queries, ranges of pool rows with all their users |
//! | `lists.rs` | tiles of queries, and the upload of lists |
//! | `forward.rs`, `backward.rs` | the launchers |

mod backward;
mod forward;
mod key_tiles;
mod lists;
mod segments;
mod splits;

use super::{COUNT_MAX, Cuda};
use crate::ops::attention::{Attention, AttentionBackward, AttentionForward, AttentionSizes, SegmentTable};
use crate::ops::{Check, OpResult};

/// The kernels are compiled for these.
const HEAD_DIMS: [usize; 3] = [32, 64, 128];

impl Attention for Cuda {
    fn attention_prepare(&self, segments: &SegmentTable, sizes: &AttentionSizes) -> OpResult {
        forward::prepare(self, segments, sizes).map(|_| ())
    }

    fn attention_forward(&self, args: AttentionForward<'_, Self>) -> OpResult {
        forward::forward(self, args)
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) -> OpResult {
        backward::backward(self, args)
    }
}

/// Exponentials are powers of two on the device.
fn scale_log2(sizes: &AttentionSizes) -> f32 {
    (f64::from(sizes.scale) * std::f64::consts::LOG2_E) as f32
}

/// The limits of the kernels, in addition to the contract's checks.
fn check(op: &'static str, table: &SegmentTable, sizes: &AttentionSizes) -> OpResult {
    let check = Check(op);
    check.that(HEAD_DIMS.contains(&sizes.head_dim), || {
        format!("`head_dim` must be 32, 64 or 128 on CUDA, got {}", sizes.head_dim)
    })?;
    check.that(sizes.scale > 0.0 && sizes.scale.is_finite(), || {
        format!("`scale` must be positive and finite on CUDA, got {}", sizes.scale)
    })?;
    let keys: usize = table.segments().iter().map(|segment| segment.keys).sum();
    let counts = [table.queries(), keys, sizes.pool_rows, sizes.q_heads * sizes.head_dim];
    // Kernels compute indices up to two tiles beyond the last key.
    check.that(counts.iter().all(|count| *count <= COUNT_MAX - 4096), || {
        format!("queries, keys, pool rows and elements of a query must be below 2³¹ on CUDA, got {counts:?}")
    })
}
