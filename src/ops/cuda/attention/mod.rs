//! Attention on CUDA: FlashAttention-2 style tiles for many queries, splits over the keys for few.

mod segments;
