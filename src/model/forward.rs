//! The forward pass, written out over the ops: the one for rollouts, log-probabilities, training and judging.

use std::ops::Range;

use super::activations::{BlockActivations, elements, of, of_mut};
use super::qwen3::{EmbeddingTable, Qwen3};
use super::{Activations, Batch, KvPool};
use crate::ops::attention::{AttentionForward, AttentionSizes};
use crate::ops::embedding::EmbeddingForward;
use crate::ops::lm_head::{LmHeadEmbedding, LmHeadGradient, LmHeadLogits, LmHeadLoss};
use crate::ops::qk_norm_rope::{HeadSizes, QkNormRopeForward};
use crate::ops::rmsnorm::{Residual, RmsNormForward};
use crate::ops::swiglu::SwigluForward;
use crate::ops::{Backend, OpResult};
use crate::tensor::{Mut, Ref};

/// Results of the selected rows, as [`LmHeadLoss`] writes them.
pub struct LmHeadOutput<'a, B: Backend> {
    pub logprob: Mut<'a, B, f32>,
    pub entropy: Mut<'a, B, f32>,
    pub loss: Mut<'a, B, f32>,
}

impl<B: Backend> Qwen3<B> {
    /// Runs the layers over a batch. Keys and values go to `pool`; `acts.hidden` [tokens, hidden] is what the LM head
    /// reads. Only the batch's `read_rows` are computed; a backward pass needs them to be all rows.
    pub fn forward(&self, batch: &Batch, pool: &mut KvPool<B>, acts: &mut Activations<B>) -> OpResult {
        self.load(batch, pool, acts)?;
        self.forward_loaded(batch, pool, acts)
    }

    /// Copies to the device what [`Self::forward_loaded`] reads of a batch.
    pub fn load(&self, batch: &Batch, pool: &KvPool<B>, acts: &mut Activations<B>) -> OpResult {
        let (b, t) = (&self.backend, batch.tokens());
        assert!(t <= acts.capacity, "a batch of {t} tokens in activations for {}", acts.capacity);
        let whole = batch.read_rows().start == 0;
        assert!(whole || acts.recompute().is_none(), "a backward pass needs all rows of the last layer");
        b.write(b.view_mut(&mut acts.ids, 0..t), &batch.ids)?;
        b.write(b.view_mut(&mut acts.positions, 0..t), &batch.positions)?;
        b.write(b.view_mut(&mut acts.kv_rows, 0..t), &batch.kv_rows)?;
        if !whole {
            b.attention_prepare(batch.read_segments(), &self.attention_sizes(pool.rows))?;
        }
        b.attention_prepare(&batch.segments, &self.attention_sizes(pool.rows))
    }

    /// [`Self::forward`] of the batch that was loaded last. Nothing is copied from the host, so that it can be replayed.
    pub fn forward_loaded(&self, batch: &Batch, pool: &mut KvPool<B>, acts: &mut Activations<B>) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        b.range(
            || format!("forward, {t} tokens"),
            || {
                self.embed(t, acts)?;
                for layer in 0..c.num_hidden_layers {
                    b.range(|| format!("layer {layer} attention"), || self.attention_block(layer, batch, pool, acts))?;
                    let rows = self.rows(layer, batch);
                    if rows.is_empty() {
                        return Ok(());
                    }
                    b.range(|| format!("layer {layer} mlp"), || self.mlp_block(layer, rows, acts))?;
                }
                self.final_norm(batch.read_rows(), acts)
            },
        )
    }

    /// Rows that a layer computes beyond their keys and values.
    fn rows(&self, layer: usize, batch: &Batch) -> Range<usize> {
        if layer + 1 == self.config.num_hidden_layers { batch.read_rows() } else { 0..batch.tokens() }
    }

    fn embed(&self, t: usize, acts: &mut Activations<B>) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let out = b.view_mut(&mut acts.residual[0], 0..t * c.hidden_size);
        let ids = b.view(&acts.ids, 0..t);
        match self.embedding() {
            EmbeddingTable::Master(table) => {
                let (hidden, vocab) = (c.hidden_size, c.vocab_size);
                b.embedding_forward(EmbeddingForward { out, table, ids, tokens: t, hidden, vocab })
            }
            EmbeddingTable::LmHead(lm_head) => {
                b.lm_head_embedding(LmHeadEmbedding { out, weight: lm_head.weight(), ids, sizes: lm_head.sizes() })
            }
        }
    }

    /// What the previous MLP added, norm, q k v, attention, output projection into `delta`.
    fn attention_block(
        &self,
        layer: usize,
        batch: &Batch,
        pool: &mut KvPool<B>,
        acts: &mut Activations<B>,
    ) -> OpResult {
        self.attention_norm(layer, batch.tokens(), layer > 0, acts)?;
        self.attention_inputs(layer, batch.tokens(), pool, acts)?;
        let rows = self.rows(layer, batch);
        if rows.is_empty() { Ok(()) } else { self.attention(layer, batch, &rows, pool, acts) }
    }

    /// The norm before attention. With `adds`, the residual stream is that of the layer before and what its MLP added.
    pub(super) fn attention_norm(&self, layer: usize, t: usize, adds: bool, acts: &mut Activations<B>) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let size = 0..t * c.hidden_size;
        let Activations { norms, inputs, blocks, residual, delta, .. } = acts;
        let (x, residual) = if adds {
            let sum = b.view_mut(of_mut(residual, layer), size.clone());
            (&of(blocks, layer - 1).middle, Some(Residual { sum, delta: b.view(delta, size.clone()) }))
        } else {
            (of(residual, layer), None)
        };
        b.rmsnorm_forward(RmsNormForward {
            out: b.view_mut(&mut of_mut(norms, layer).attention_norm, size.clone()),
            inv_rms: b.view_mut(&mut of_mut(inputs, layer).attention_inv_rms, 0..t),
            residual,
            x: b.view(x, size),
            weight: self.norm(&self.table.layers[layer].attention_norm),
            rows: t,
            cols: c.hidden_size,
            epsilon: c.rms_norm_eps,
        })
    }

    /// Queries into their buffer, keys and values into the pool.
    pub(super) fn attention_inputs(
        &self,
        layer: usize,
        t: usize,
        pool: &mut KvPool<B>,
        acts: &mut Activations<B>,
    ) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let table = &self.table.layers[layer];
        let pool_rows = pool.rows;
        let (kv, pool_len) = (pool.layer_mut(layer), pool_rows * c.kv_dim());
        let Activations { norms, inputs, positions, kv_rows, .. } = acts;
        let inputs = of_mut(inputs, layer);
        self.layers[layer].qkv.forward(b, &mut inputs.qkv, &of(norms, layer).attention_norm, &(0..t))?;
        b.qk_norm_rope_forward(QkNormRopeForward {
            q: b.view_mut(&mut inputs.q, 0..t * c.q_dim()),
            k_pool: b.view_mut(&mut kv.k, 0..pool_len),
            v_pool: b.view_mut(&mut kv.v, 0..pool_len),
            inv_rms: b.view_mut(&mut inputs.qk_inv_rms, 0..t * (c.num_attention_heads + c.num_key_value_heads)),
            qkv: b.view(&inputs.qkv, 0..t * c.qkv_dim()),
            q_weight: self.norm(&table.q_norm),
            k_weight: self.norm(&table.k_norm),
            rope: b.view(&self.rope, 0..self.rope_rows * c.head_dim),
            positions: b.view(positions, 0..t),
            kv_rows: b.view(kv_rows, 0..t),
            sizes: self.head_sizes(t, pool_rows),
            epsilon: c.rms_norm_eps,
        })
    }

    /// Attention of `rows`, and the output projection into `delta`.
    pub(super) fn attention(
        &self,
        layer: usize,
        batch: &Batch,
        rows: &Range<usize>,
        pool: &KvPool<B>,
        acts: &mut Activations<B>,
    ) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let (kv, pool_len) = (pool.layer(layer), pool.rows * c.kv_dim());
        let Activations { inputs, blocks, delta, .. } = acts;
        let block = of_mut(blocks, layer);
        b.attention_forward(AttentionForward {
            out: b.view_mut(&mut block.attention, elements(rows, c.q_dim())),
            log_sum_exp: Some(b.view_mut(&mut block.log_sum_exp, elements(rows, c.num_attention_heads))),
            q: b.view(&of(inputs, layer).q, elements(rows, c.q_dim())),
            k_pool: b.view(&kv.k, 0..pool_len),
            v_pool: b.view(&kv.v, 0..pool_len),
            segments: if rows.start == 0 { &batch.segments } else { batch.read_segments() },
            sizes: self.attention_sizes(pool.rows),
        })?;
        self.layers[layer].o.forward(b, delta, &block.attention, rows)
    }

    /// What attention added, norm, gate and up, SwiGLU, down projection into `delta`.
    fn mlp_block(&self, layer: usize, rows: Range<usize>, acts: &mut Activations<B>) -> OpResult {
        self.mlp_norm(layer, &rows, true, acts)?;
        self.gate_up(layer, &rows, acts)?;
        self.gated(layer, &rows, acts)?;
        let Activations { norms, delta, .. } = acts;
        self.layers[layer].down.forward(&self.backend, delta, &of(norms, layer).gated, &rows)
    }

    /// The norm before the MLP. With `adds`, the residual stream is that of the layer's beginning and what attention added.
    pub(super) fn mlp_norm(
        &self,
        layer: usize,
        rows: &Range<usize>,
        adds: bool,
        acts: &mut Activations<B>,
    ) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let hidden = elements(rows, c.hidden_size);
        let Activations { norms, blocks, residual, delta, .. } = acts;
        let BlockActivations { middle, mlp_inv_rms, .. } = of_mut(blocks, layer);
        let (x, residual) = if adds {
            let sum = b.view_mut(middle, hidden.clone());
            (b.view(of(residual, layer), hidden.clone()), Some(Residual { sum, delta: b.view(delta, hidden.clone()) }))
        } else {
            (b.view(middle, hidden.clone()), None)
        };
        b.rmsnorm_forward(RmsNormForward {
            out: b.view_mut(&mut of_mut(norms, layer).mlp_norm, hidden),
            inv_rms: b.view_mut(mlp_inv_rms, rows.clone()),
            residual,
            x,
            weight: self.norm(&self.table.layers[layer].mlp_norm),
            rows: rows.len(),
            cols: c.hidden_size,
            epsilon: c.rms_norm_eps,
        })
    }

    pub(super) fn gate_up(&self, layer: usize, rows: &Range<usize>, acts: &mut Activations<B>) -> OpResult {
        let Activations { norms, blocks, .. } = acts;
        let out = &mut of_mut(blocks, layer).gate_up;
        self.layers[layer].gate_up.forward(&self.backend, out, &of(norms, layer).mlp_norm, rows)
    }

    pub(super) fn gated(&self, layer: usize, rows: &Range<usize>, acts: &mut Activations<B>) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let Activations { norms, blocks, .. } = acts;
        b.swiglu_forward(SwigluForward {
            out: b.view_mut(&mut of_mut(norms, layer).gated, elements(rows, c.intermediate_size)),
            gate_up: b.view(&of(blocks, layer).gate_up, elements(rows, 2 * c.intermediate_size)),
            rows: rows.len(),
            cols: c.intermediate_size,
        })
    }

    fn final_norm(&self, rows: Range<usize>, acts: &mut Activations<B>) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let size = elements(&rows, c.hidden_size);
        let Activations { blocks, residual, delta, hidden, final_inv_rms, .. } = acts;
        let before = &of(blocks, c.num_hidden_layers - 1).middle;
        let after = of_mut(residual, c.num_hidden_layers);
        b.rmsnorm_forward(RmsNormForward {
            out: b.view_mut(hidden, size.clone()),
            inv_rms: b.view_mut(final_inv_rms, rows.clone()),
            residual: Some(Residual { sum: b.view_mut(after, size.clone()), delta: b.view(delta, size.clone()) }),
            x: b.view(before, size),
            weight: self.norm(&self.table.final_norm),
            rows: rows.len(),
            cols: c.hidden_size,
            epsilon: c.rms_norm_eps,
        })
    }

    /// Logits [rows, vocab] of chosen rows of the last forward pass.
    pub fn logits<'a>(
        &'a self,
        acts: &'a Activations<B>,
        tokens: usize,
        rows: Ref<'a, B, u32>,
        out: Mut<'a, B, f32>,
    ) -> OpResult {
        self.backend.range(
            || "lm_head logits".into(),
            || {
                self.backend.lm_head_logits(LmHeadLogits {
                    out,
                    hidden: self.backend.view(&acts.hidden, 0..tokens * self.config.hidden_size),
                    weight: self.lm_head.weight(),
                    rows,
                    tokens,
                    sizes: self.lm_head.sizes(),
                })
            },
        )
    }

    /// Log-probabilities of targets at chosen rows of the last forward pass, and with `gradient` the loss and its gradient.
    #[allow(clippy::too_many_arguments)]
    pub fn lm_head_loss<'a>(
        &'a self,
        acts: &'a Activations<B>,
        tokens: usize,
        rows: Ref<'a, B, u32>,
        targets: Ref<'a, B, u32>,
        temperature: f32,
        out: LmHeadOutput<'a, B>,
        gradient: Option<LmHeadGradient<'a, B>>,
    ) -> OpResult {
        self.backend.range(
            || "lm_head loss".into(),
            || {
                self.backend.lm_head_loss(LmHeadLoss {
                    logprob: out.logprob,
                    entropy: out.entropy,
                    loss: out.loss,
                    gradient,
                    hidden: self.backend.view(&acts.hidden, 0..tokens * self.config.hidden_size),
                    weight: self.lm_head.weight(),
                    rows,
                    targets,
                    temperature,
                    tokens,
                    chunk_rows: self.lm_head_chunk_rows,
                    sizes: self.lm_head.sizes(),
                })
            },
        )
    }

    pub(super) fn head_sizes(&self, tokens: usize, pool_rows: usize) -> HeadSizes {
        HeadSizes {
            tokens,
            q_heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            pool_rows,
            rope_rows: self.rope_rows,
        }
    }

    pub(super) fn attention_sizes(&self, pool_rows: usize) -> AttentionSizes {
        AttentionSizes {
            q_heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            pool_rows,
            scale: 1.0 / (self.config.head_dim as f32).sqrt(),
        }
    }
}
