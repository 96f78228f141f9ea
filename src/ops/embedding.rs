//! Embedding: token ids to rows of a table, and the gradient of that table.

use super::{Check, Cost, OpResult};
use crate::tensor::{Device, Mut, Ref, View};

/// `out[t] = table[ids[t]]`.
pub struct EmbeddingForward<'a, D: Device> {
    /// [tokens, hidden]
    pub out: Mut<'a, D, D::Compute>,
    /// [vocab, hidden], master weights
    pub table: Ref<'a, D, f32>,
    /// [tokens], each below `vocab`
    pub ids: Ref<'a, D, u32>,
    pub tokens: usize,
    pub hidden: usize,
    pub vocab: usize,
}

impl<D: Device> EmbeddingForward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("embedding_forward");
        check.size("out", self.out.len(), self.tokens * self.hidden)?;
        check.size("table", self.table.len(), self.vocab * self.hidden)?;
        check.size("ids", self.ids.len(), self.tokens)
    }

    /// `out` is written and `ids` are read once. Of the table one f32 row a token is read, at most once each: only
    /// the device knows the ids, so they are assumed to differ as far as the vocabulary allows.
    pub fn cost(&self) -> Cost {
        let rows = 4 * self.tokens.min(self.vocab) + size_of::<D::Compute>() * self.tokens;
        Cost { bytes: (rows * self.hidden + 4 * self.tokens) as u64, flops: 0 }
    }
}

/// `d_table[ids[t]] += d_out[t]`, rows of one id added in the order of t.
pub struct EmbeddingBackward<'a, D: Device> {
    /// [vocab, hidden], accumulated
    pub d_table: Mut<'a, D, f32>,
    /// [tokens, hidden]
    pub d_out: Ref<'a, D, D::Compute>,
    /// [tokens], each below `vocab`
    pub ids: Ref<'a, D, u32>,
    pub tokens: usize,
    pub hidden: usize,
    pub vocab: usize,
}

impl<D: Device> EmbeddingBackward<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("embedding_backward");
        check.size("d_table", self.d_table.len(), self.vocab * self.hidden)?;
        check.size("d_out", self.d_out.len(), self.tokens * self.hidden)?;
        check.size("ids", self.ids.len(), self.tokens)
    }

    /// `d_out` and `ids` are read once; rows of `d_table` are read and written, counted as in [`EmbeddingForward::cost`]. One
    /// addition an element of `d_out`.
    pub fn cost(&self) -> Cost {
        let rows = 8 * self.tokens.min(self.vocab) + size_of::<D::Compute>() * self.tokens;
        let flops = self.tokens * self.hidden;
        Cost { bytes: (rows * self.hidden + 4 * self.tokens) as u64, flops: flops as u64 }
    }
}

/// Rows of the embedding on a device, and their gradient.
pub trait Embedding: Device {
    fn embedding_forward(&self, args: EmbeddingForward<'_, Self>) -> OpResult;
    fn embedding_backward(&self, args: EmbeddingBackward<'_, Self>) -> OpResult;
}
