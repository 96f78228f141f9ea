//! The backward pass comes with a branch of its own, which replaces this file.

use super::Cuda;
use crate::ops::attention::AttentionBackward;
use crate::ops::{Check, OpResult};

pub(super) fn backward(_: &Cuda, args: AttentionBackward<'_, Cuda>) -> OpResult {
    args.check()?;
    Check("attention_backward").that(false, || "the CUDA kernels of the backward pass come with another branch".into())
}
