//! Per-head RMSNorm of queries and keys, rotary positions, and the write of keys and values into their pool, in one pass.
//!
//! RoPE pairs element i with i + head_dim/2 (half-split, as Qwen3 does): with c = cos(p·f_i), s = sin(p·f_i),
//! `y_i = x_i·c − x_{i+h}·s`, `y_{i+h} = x_{i+h}·c + x_i·s` (Su et al., 2021).

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// Sizes shared by the forward and the backward pass. `qkv` rows hold q heads, then k heads, then v heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    pub tokens: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Rows of the key and value pools.
    pub pool_rows: usize,
    /// Rows of the rotary table.
    pub rope_rows: usize,
}

impl HeadSizes {
    /// Columns of `qkv`.
    pub fn qkv_cols(&self) -> usize {
        (self.q_heads + 2 * self.kv_heads) * self.head_dim
    }

    fn pool_len(&self) -> usize {
        self.pool_rows * self.kv_heads * self.head_dim
    }

    fn check(&self, check: Check) -> OpResult {
        check.that(self.head_dim.is_multiple_of(16) && self.head_dim > 0, || {
            format!("`head_dim` must be a positive multiple of 16, got {}", self.head_dim)
        })
    }

    /// Elements of `qkv`, and those of its queries and keys (values are neither normed nor rotated).
    fn elements(&self) -> (usize, usize) {
        (self.tokens * self.qkv_cols(), self.tokens * (self.q_heads + self.kv_heads) * self.head_dim)
    }

    /// f32 and u32 of both passes: `inv_rms`, positions, rows of the pool, and `vectors` of head_dim. The rotary table is left
    /// out, because tokens at one position share its row and only the device knows the positions.
    fn small_bytes(&self, vectors: usize) -> usize {
        4 * (self.tokens * (self.q_heads + self.kv_heads + 2) + vectors * self.head_dim)
    }
}

/// Norms and rotates queries and keys, and writes keys and values into the pool.
pub struct QkNormRopeForward<'a, D: Device> {
    /// [tokens, q_heads, head_dim], normed and rotated
    pub q: Mut<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]; rows `kv_rows` are written, normed and rotated
    pub k_pool: Mut<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]; rows `kv_rows` are written, as they are
    pub v_pool: Mut<'a, D, D::Compute>,
    /// [tokens, q_heads + kv_heads], kept for the backward pass
    pub inv_rms: Mut<'a, D, f32>,
    /// [tokens, (q_heads + 2·kv_heads)·head_dim]
    pub qkv: Ref<'a, D, D::Compute>,
    /// [head_dim]
    pub q_weight: Ref<'a, D, f32>,
    /// [head_dim]
    pub k_weight: Ref<'a, D, f32>,
    /// [rope_rows, head_dim]: cosines of the head_dim/2 frequencies, then their sines
    pub rope: Ref<'a, D, f32>,
    /// [tokens], each below `rope_rows`
    pub positions: Ref<'a, D, u32>,
    /// [tokens], distinct, each below `pool_rows`
    pub kv_rows: Ref<'a, D, u32>,
    pub sizes: HeadSizes,
    pub epsilon: f32,
}

impl<D: Device> QkNormRopeForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, s) = (Check("qk_norm_rope_forward"), &self.sizes);
        s.check(check)?;
        check.size("q", self.q.len(), s.tokens * s.q_heads * s.head_dim)?;
        check.size("k_pool", self.k_pool.len(), s.pool_len())?;
        check.size("v_pool", self.v_pool.len(), s.pool_len())?;
        check.size("inv_rms", self.inv_rms.len(), s.tokens * (s.q_heads + s.kv_heads))?;
        check.size("qkv", self.qkv.len(), s.tokens * s.qkv_cols())?;
        check.size("q_weight", self.q_weight.len(), s.head_dim)?;
        check.size("k_weight", self.k_weight.len(), s.head_dim)?;
        check.size("rope", self.rope.len(), s.rope_rows * s.head_dim)?;
        check.size("positions", self.positions.len(), s.tokens)?;
        check.size("kv_rows", self.kv_rows.len(), s.tokens)
    }

    /// `qkv` is read, and as many elements of `q` and the pools are written. An element of a query or key is squared, added
    /// and scaled twice (4), and rotated (3); values are copied.
    pub fn cost(&self) -> Cost {
        let (all, rotated) = self.sizes.elements();
        let bytes = 2 * all * size_of::<D::Compute>() + self.sizes.small_bytes(2);
        Cost { bytes: bytes as u64, flops: 7 * rotated as u64 }
    }
}

/// Gradients of the same: `d_qkv` is overwritten from `d_q` and the pool rows `kv_rows` of `d_k_pool`, `d_v_pool`.
pub struct QkNormRopeBackward<'a, D: Device> {
    /// [tokens, (q_heads + 2·kv_heads)·head_dim]
    pub d_qkv: Mut<'a, D, D::Compute>,
    /// [head_dim], accumulated in a fixed order; `None` for a frozen weight
    pub d_q_weight: Option<Mut<'a, D, f32>>,
    /// [head_dim], accumulated in a fixed order; `None` for a frozen weight
    pub d_k_weight: Option<Mut<'a, D, f32>>,
    /// [tokens, q_heads, head_dim]
    pub d_q: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub d_k_pool: Ref<'a, D, D::Compute>,
    /// [pool_rows, kv_heads, head_dim]
    pub d_v_pool: Ref<'a, D, D::Compute>,
    /// [tokens, (q_heads + 2·kv_heads)·head_dim], as in the forward pass
    pub qkv: Ref<'a, D, D::Compute>,
    /// [tokens, q_heads + kv_heads]
    pub inv_rms: Ref<'a, D, f32>,
    /// [head_dim]
    pub q_weight: Ref<'a, D, f32>,
    /// [head_dim]
    pub k_weight: Ref<'a, D, f32>,
    /// [rope_rows, head_dim]
    pub rope: Ref<'a, D, f32>,
    /// [tokens]
    pub positions: Ref<'a, D, u32>,
    /// [tokens]
    pub kv_rows: Ref<'a, D, u32>,
    pub sizes: HeadSizes,
}

impl<D: Device> QkNormRopeBackward<'_, D> {
    pub fn check(&self) -> OpResult {
        let (check, s) = (Check("qk_norm_rope_backward"), &self.sizes);
        s.check(check)?;
        check.size("d_qkv", self.d_qkv.len(), s.tokens * s.qkv_cols())?;
        if let Some(d_weight) = &self.d_q_weight {
            check.size("d_q_weight", d_weight.len(), s.head_dim)?;
        }
        if let Some(d_weight) = &self.d_k_weight {
            check.size("d_k_weight", d_weight.len(), s.head_dim)?;
        }
        check.size("d_q", self.d_q.len(), s.tokens * s.q_heads * s.head_dim)?;
        check.size("d_k_pool", self.d_k_pool.len(), s.pool_len())?;
        check.size("d_v_pool", self.d_v_pool.len(), s.pool_len())?;
        check.size("qkv", self.qkv.len(), s.tokens * s.qkv_cols())?;
        check.size("inv_rms", self.inv_rms.len(), s.tokens * (s.q_heads + s.kv_heads))?;
        check.size("q_weight", self.q_weight.len(), s.head_dim)?;
        check.size("k_weight", self.k_weight.len(), s.head_dim)?;
        check.size("rope", self.rope.len(), s.rope_rows * s.head_dim)?;
        check.size("positions", self.positions.len(), s.tokens)?;
        check.size("kv_rows", self.kv_rows.len(), s.tokens)
    }

    /// The gradients of q, k and v are read and `d_qkv` is written; of `qkv` queries and keys are read again. The weights are
    /// read, their gradients read and written. Operations an element of a query or key: rotated back (3), g and n (2), g · n
    /// into the mean (2), inv_rms · (g − n · mean) (3), the gradient of the weight (2).
    pub fn cost(&self) -> Cost {
        let (all, rotated) = self.sizes.elements();
        let trained = [&self.d_q_weight, &self.d_k_weight].iter().filter(|weight| weight.is_some()).count();
        let bytes = (2 * all + rotated) * size_of::<D::Compute>() + self.sizes.small_bytes(2 + 2 * trained);
        Cost { bytes: bytes as u64, flops: 12 * rotated as u64 }
    }
}

/// Norm, rotation and pool write on a device, and their gradient.
pub trait QkNormRope: Device {
    fn qk_norm_rope_forward(&self, args: QkNormRopeForward<'_, Self>) -> OpResult;
    fn qk_norm_rope_backward(&self, args: QkNormRopeBackward<'_, Self>) -> OpResult;
}
