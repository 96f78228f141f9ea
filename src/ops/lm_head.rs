//! The LM head fused with log-softmax, the loss and its gradient.
//!
//! Selected rows of the last hidden state are multiplied with the vocabulary chunk by chunk: [rows × vocab] never exists for
//! a whole batch. For a row with logits z, temperature T and target t: `logprob = log softmax(z / T)[t]`. Every loss here is a
//! function of that log-probability, so its gradient is one number c = ∂loss/∂logprob for each row, and
//! `∂loss/∂z = c · (onehot(t) − softmax(z/T)) / T`.

use super::linear::{Linear, LinearSizes};
use super::{Check, Cost, OpResult};
use crate::loss::grpo::GrpoLoss;
use crate::tensor::{Mut, Ref, View};

/// The loss that is differentiated. All arrays are [selected rows] unless said otherwise.
pub enum TokenLoss<'a, D: Linear> {
    /// −logprob
    CrossEntropy,
    /// See [`GrpoLoss`].
    Grpo {
        loss: GrpoLoss,
        /// `None`: the log-probabilities that this call computes, as constants. This is for the first update on a rollout batch,
        /// whose old policy is the one of this forward pass: every ratio is 1 and has the log-probability's gradient.
        old_logprob: Option<Ref<'a, D, f32>>,
        /// `None`: there is no reference model. The KL coefficient must then be 0, and the KL term is that of equal policies.
        reference_logprob: Option<Ref<'a, D, f32>>,
        /// [selected, 2]
        advantages: Ref<'a, D, f32>,
    },
}

/// Where gradients go.
pub struct LmHeadGradient<'a, D: Linear> {
    /// [tokens, hidden]: selected rows are written, all others set to zero
    pub d_hidden: Mut<'a, D, D::Compute>,
    /// [vocab, hidden], accumulated; `None` for a frozen LM head
    pub d_weight: Option<Mut<'a, D, f32>>,
    /// [selected]: multiplies a row's loss in the gradient (mask ÷ global denominator)
    pub row_weight: Ref<'a, D, f32>,
    pub loss: TokenLoss<'a, D>,
}

/// Log-probabilities of targets, entropies, and with `gradient` the loss and its gradients.
pub struct LmHeadLoss<'a, D: Linear> {
    /// [selected]
    pub logprob: Mut<'a, D, f32>,
    /// [selected], entropy of softmax(z/T) in nats
    pub entropy: Mut<'a, D, f32>,
    /// [selected], the loss of the row before `row_weight`; −logprob without `gradient`
    pub loss: Mut<'a, D, f32>,
    pub gradient: Option<LmHeadGradient<'a, D>>,
    /// [tokens, hidden], after the last norm
    pub hidden: Ref<'a, D, D::Compute>,
    /// The LM head, [vocab, hidden]
    pub weight: &'a D::Weight,
    /// [selected], rows of `hidden`, ascending and distinct
    pub rows: Ref<'a, D, u32>,
    /// [selected], each below vocab
    pub targets: Ref<'a, D, u32>,
    pub temperature: f32,
    pub tokens: usize,
    /// Rows whose logits exist at the same time; see [`LmHead::lm_head_chunk_rows`]. On CUDA it changes the order of sums,
    /// so calls whose log-probabilities must agree need the same value.
    pub chunk_rows: usize,
    /// vocab = `sizes.out_features`, hidden = `sizes.in_features`
    pub sizes: LinearSizes,
}

impl<D: Linear> LmHeadLoss<'_, D> {
    /// Rows whose loss is computed, at most `tokens`.
    pub fn selected(&self) -> usize {
        self.rows.len()
    }

    pub fn check(&self) -> OpResult {
        let (check, n) = (Check("lm_head_loss"), self.selected());
        check.size("logprob", self.logprob.len(), n)?;
        check.size("entropy", self.entropy.len(), n)?;
        check.size("loss", self.loss.len(), n)?;
        check.size("hidden", self.hidden.len(), self.tokens * self.sizes.in_features)?;
        check.size("targets", self.targets.len(), n)?;
        check.that(self.temperature > 0.0 && self.temperature.is_finite(), || {
            format!("`temperature` must be a positive number, got {}", self.temperature)
        })?;
        check.that(self.chunk_rows > 0, || "`chunk_rows` must be 1 or more, got 0".into())?;
        let Some(gradient) = &self.gradient else { return Ok(()) };
        check.size("gradient.d_hidden", gradient.d_hidden.len(), self.tokens * self.sizes.in_features)?;
        if let Some(d_weight) = &gradient.d_weight {
            check.size("gradient.d_weight", d_weight.len(), self.sizes.len())?;
        }
        check.size("gradient.row_weight", gradient.row_weight.len(), n)?;
        if let TokenLoss::Grpo { loss, old_logprob, reference_logprob, advantages } = &gradient.loss {
            check.size("old_logprob", old_logprob.as_ref().map_or(n, |view| view.len()), n)?;
            check.size("reference_logprob", reference_logprob.as_ref().map_or(n, |view| view.len()), n)?;
            check.that(reference_logprob.is_some() || loss.kl_coefficient == 0.0, || {
                format!("a `kl_coefficient` of {} needs a `reference_logprob`", loss.kl_coefficient)
            })?;
            check.size("advantages", advantages.len(), 2 * n)?;
        }
        Ok(())
    }

    /// The whole op: up to three matmuls, with the losses after the first.
    ///
    /// Logits are larger than any cache, so each use moves them: the matmul writes them, the losses use them
    /// ([`Self::loss_cost`]), and each matmul of the backward pass reads their gradient. Arrays of the weight's size are moved
    /// once a chunk: the weight for the logits and for `d_hidden`, and `d_weight` twice, because it is read and written.
    pub fn cost(&self) -> Cost {
        let (selected, chunks) = (self.selected(), self.selected().div_ceil(self.chunk_rows.max(1)));
        let LinearSizes { out_features: vocab, in_features: width } = self.sizes;
        let compute = size_of::<D::Compute>();
        let (hidden, logits, weight) = (selected * width, selected * vocab, chunks * self.sizes.len());
        let mut bytes = compute * (hidden + weight) + size_of::<f32>() * logits;
        let mut matmuls = 1;
        if let Some(gradient) = &self.gradient {
            bytes += compute * (logits + weight + self.tokens * width);
            matmuls += 1;
            if gradient.d_weight.is_some() {
                bytes += compute * (logits + hidden) + 2 * size_of::<f32>() * weight;
                matmuls += 1;
            }
        }
        let mut cost = self.loss_cost();
        cost += Cost { bytes: bytes as u64, flops: 2 * (matmuls * selected * self.sizes.len()) as u64 };
        cost
    }

    /// The part between the matmuls: from logits to log-probabilities and losses, and with `gradient` to their gradient. A row is
    /// read once for its sum of exponentials and again for its gradient, because it does not fit in on-chip memory. Its few
    /// flops a logit are not counted: the matmuls have thousands.
    pub fn loss_cost(&self) -> Cost {
        let passes =
            if self.gradient.is_some() { 2 * size_of::<f32>() + size_of::<D::Compute>() } else { size_of::<f32>() };
        Cost { bytes: (passes * self.selected() * self.sizes.out_features) as u64, flops: 0 }
    }
}

/// Logits of selected rows, for sampling: `out = hidden[rows] · Wᵀ`.
pub struct LmHeadLogits<'a, D: Linear> {
    /// [selected, vocab]
    pub out: Mut<'a, D, f32>,
    /// [tokens, hidden]
    pub hidden: Ref<'a, D, D::Compute>,
    pub weight: &'a D::Weight,
    /// [selected], rows of `hidden`
    pub rows: Ref<'a, D, u32>,
    pub tokens: usize,
    pub sizes: LinearSizes,
}

impl<D: Linear> LmHeadLogits<'_, D> {
    pub fn check(&self) -> OpResult {
        let check = Check("lm_head_logits");
        check.size("out", self.out.len(), self.rows.len() * self.sizes.out_features)?;
        check.size("hidden", self.hidden.len(), self.tokens * self.sizes.in_features)
    }

    pub fn cost(&self) -> Cost {
        let n = self.rows.len();
        let moved = (n * self.sizes.in_features + self.sizes.len()) * size_of::<D::Compute>();
        let out = 4 * n * self.sizes.out_features;
        Cost { bytes: (moved + out) as u64, flops: 2 * (n * self.sizes.len()) as u64 }
    }
}

/// Rows of the LM head's weight as hidden states: `out[t] = W[ids[t]]`. For a model with tied embeddings that keeps no other copy
/// of the table; the same bits as `embedding_forward` from the master weights.
pub struct LmHeadEmbedding<'a, D: Linear> {
    /// [tokens, hidden]
    pub out: Mut<'a, D, D::Compute>,
    pub weight: &'a D::Weight,
    /// [tokens], each below vocab
    pub ids: Ref<'a, D, u32>,
    pub sizes: LinearSizes,
}

impl<D: Linear> LmHeadEmbedding<'_, D> {
    pub fn check(&self) -> OpResult {
        Check("lm_head_embedding").size("out", self.out.len(), self.ids.len() * self.sizes.in_features)
    }

    pub fn cost(&self) -> Cost {
        let moved = self.ids.len() * (2 * self.sizes.in_features * size_of::<D::Compute>() + 4);
        Cost { bytes: moved as u64, flops: 0 }
    }
}

/// The LM head on a device: logits of a few rows, or losses of many without all of their logits at once.
pub trait LmHead: Linear {
    /// The default number of rows of a chunk on this device. It depends on the sizes and on the device's total memory, never on
    /// what happens to be free, so equal cards choose the same; a run records it for a resume on another card.
    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize;
    /// Refuses a chunk that can never fit on this device.
    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult;
    /// Makes room for the logits of such chunks ahead of the first call, where a backend keeps it between calls.
    fn lm_head_reserve(&self, _chunk_rows: usize, _sizes: LinearSizes) -> OpResult {
        Ok(())
    }
    fn lm_head_embedding(&self, args: LmHeadEmbedding<'_, Self>) -> OpResult;
    fn lm_head_logits(&self, args: LmHeadLogits<'_, Self>) -> OpResult;
    fn lm_head_loss(&self, args: LmHeadLoss<'_, Self>) -> OpResult;
}
