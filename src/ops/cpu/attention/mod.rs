//! Attention on the CPU.
//!
//! The bit rule: every sum runs over keys in the order of their index in the sequence, and no sum depends on how many queries
//! are computed at a time or on the keys' pool rows. A score adds its sixteen lanes (element d of a head belongs to lane d mod
//! 16) by the tree of `Simd::sum`; the exponentials of a row are added in sixteen lanes by key index mod 16, then by the
//! tree; an output element is one chain of fused multiply-adds over keys.

mod backward;
mod decode;
mod forward;
mod task;
mod tile;

use crate::ops::OpResult;
use crate::ops::attention::{Attention, AttentionBackward, AttentionForward};

use super::Cpu;
use super::simd::{self, Level};

impl Attention for Cpu {
    fn attention_forward(&self, args: AttentionForward<'_, Self>) -> OpResult {
        forward_at(simd::level(), args)
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) -> OpResult {
        args.check()?;
        backward::backward(args);
        Ok(())
    }
}

/// The forward pass at a given level, which must be one of [`Level::available`]: for tests of bit-equality.
pub fn forward_at(level: Level, args: AttentionForward<'_, Cpu>) -> OpResult {
    args.check()?;
    forward::forward(level, args);
    Ok(())
}
