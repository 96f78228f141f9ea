//! The ops on paper: each checks its arguments and counts its cost.

use super::{Imitated, Op, Paper, PaperBuffer, PaperView};
use crate::ops::adamw::{AdamW, AdamWStep};
use crate::ops::attention::{Attention, AttentionBackward, AttentionForward};
use crate::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use crate::ops::global_norm::{GlobalNorm, Norm};
use crate::ops::linear::{Linear, LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use crate::ops::lm_head::{LmHead, LmHeadEmbedding, LmHeadLogits, LmHeadLoss};
use crate::ops::qk_norm_rope::{QkNormRope, QkNormRopeBackward, QkNormRopeForward};
use crate::ops::rmsnorm::{RmsNorm, RmsNormBackward, RmsNormForward};
use crate::ops::sample::{Sample, Sampler};
use crate::ops::score_margin::{ScoreMargin, ScoreMargins};
use crate::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use crate::ops::{Backend, OpError, OpResult};
use crate::tensor::Device;

impl<I: Imitated> Backend for Paper<I> {
    const ROLLOUTS_EQUAL_TRAINING: bool = I::ROLLOUTS_EQUAL_TRAINING;

    fn name(&self) -> String {
        self.imitated.name()
    }

    fn matmul_gflops(&self) -> Result<f64, OpError> {
        Err(OpError::Argument { op: "matmul_gflops", reason: "paper computes nothing".into() })
    }
}

impl<I: Imitated> Embedding for Paper<I> {
    fn embedding_forward(&self, args: EmbeddingForward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn embedding_backward(&self, args: EmbeddingBackward<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::EmbeddingBackward { vocab: args.vocab });
        self.count(args.cost())
    }
}

impl<I: Imitated> RmsNorm for Paper<I> {
    fn rmsnorm_forward(&self, args: RmsNormForward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn rmsnorm_backward(&self, args: RmsNormBackward<'_, Self>) -> OpResult {
        args.check()?;
        if args.d_weight.is_some() {
            self.takes(&Op::RmsNormBackward { cols: args.cols });
        }
        self.count(args.cost())
    }
}

impl<I: Imitated> QkNormRope for Paper<I> {
    fn qk_norm_rope_forward(&self, args: QkNormRopeForward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn qk_norm_rope_backward(&self, args: QkNormRopeBackward<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::QkNormRopeBackward { head_dim: args.sizes.head_dim });
        self.count(args.cost())
    }
}

impl<I: Imitated> Linear for Paper<I> {
    type Weight = PaperBuffer<I::Compute>;

    fn linear_weight(&self, sizes: LinearSizes) -> Result<Self::Weight, OpError> {
        Ok(self.zeros(self.imitated.weight_len(sizes))?)
    }

    fn linear_prepare(&self, _: &mut Self::Weight, _: PaperView<'_, f32>, _: LinearSizes) -> OpResult {
        Ok(())
    }

    fn linear_forward(&self, args: LinearForward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }
}

impl<I: Imitated> Attention for Paper<I> {
    fn attention_forward(&self, args: AttentionForward<'_, Self>) -> OpResult {
        args.check()?;
        let (segments, sizes) = (args.segments, args.sizes);
        self.takes(&Op::AttentionForward { segments, q_heads: sizes.q_heads, head_dim: sizes.head_dim });
        self.count(args.cost())
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::AttentionBackward { segments: args.segments, q_heads: args.sizes.q_heads });
        self.count(args.cost())
    }
}

impl<I: Imitated> Swiglu for Paper<I> {
    fn swiglu_forward(&self, args: SwigluForward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn swiglu_backward(&self, args: SwigluBackward<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }
}

impl<I: Imitated> LmHead for Paper<I> {
    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize {
        self.imitated.lm_head_chunk_rows(sizes)
    }

    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        self.imitated.lm_head_check_chunk(chunk_rows, sizes)
    }

    fn lm_head_reserve(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        self.keep_logits(chunk_rows * sizes.out_features)
    }

    fn lm_head_embedding(&self, args: LmHeadEmbedding<'_, Self>) -> OpResult {
        args.check()?;
        self.count(args.cost())
    }

    fn lm_head_logits(&self, args: LmHeadLogits<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::LmHeadLogits { rows: args.rows.len, sizes: args.sizes });
        self.count(args.cost())
    }

    fn lm_head_loss(&self, args: LmHeadLoss<'_, Self>) -> OpResult {
        args.check()?;
        let (chunk_rows, sizes) = (args.chunk_rows, args.sizes);
        self.takes(&Op::LmHeadLoss { chunk_rows, gradient: args.gradient.is_some(), sizes });
        self.count(args.cost())
    }
}

impl<I: Imitated> Sampler for Paper<I> {
    fn sample(&self, args: Sample<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::Sample { draws: args.draws.len() });
        self.count(args.cost())
    }
}

impl<I: Imitated> ScoreMargins for Paper<I> {
    fn score_margin(&self, args: ScoreMargin<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::ScoreMargin { pairs: args.pairs, rollouts: args.n });
        self.count(args.cost())
    }
}

impl<I: Imitated> AdamWStep for Paper<I> {
    fn adamw(&self, args: AdamW<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::AdamW { tensors: args.tensors.len() });
        self.count(args.cost())
    }
}

impl<I: Imitated> Norm for Paper<I> {
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> OpResult {
        args.check()?;
        self.takes(&Op::GlobalNorm);
        self.count(args.cost())
    }
}
