//! The backward pass, written out over the ops in the reverse order of the forward pass.

use std::ops::Range;

use super::projection::ProjectionBackward;
use super::qwen3::Qwen3;
use super::{Activations, Batch, KvPool, Qwen3Config, Recompute};
use crate::ops::attention::AttentionBackward;
use crate::ops::embedding::EmbeddingBackward;
use crate::ops::qk_norm_rope::QkNormRopeBackward;
use crate::ops::rmsnorm::RmsNormBackward;
use crate::ops::swiglu::SwigluBackward;
use crate::ops::{Backend, OpResult};
use crate::tensor::{Device, DeviceError, Mut};

/// Gradients of the weights.
pub struct Gradients<D: Device> {
    /// [arena], accumulated over micro-batches until cleared
    pub weights: D::Buffer<f32>,
}

impl<D: Device> Gradients<D> {
    /// Zeros for an arena of `arena_len`.
    pub fn new(device: &D, arena_len: usize) -> Result<Self, DeviceError> {
        Ok(Self { weights: device.named("gradients of weights", || device.zeros(arena_len))? })
    }

    /// Sets them to zero.
    pub fn clear(&mut self, device: &D) -> Result<(), DeviceError> {
        let len = device.len(&self.weights);
        device.clear(device.view_mut(&mut self.weights, 0..len))
    }
}

/// Gradients of activations: the buffers that a backward pass works in. T = tokens, H = hidden, I = intermediate.
pub struct ActivationGradients<D: Device> {
    /// [T, H], of the model's last hidden state; the loss writes it
    pub d_hidden: D::Buffer<D::Compute>,
    /// [T, H], of the residual stream
    d_residual: D::Buffer<D::Compute>,
    /// [T, H], of a norm's output
    d_norm: D::Buffer<D::Compute>,
    /// [T, I]
    d_gated: D::Buffer<D::Compute>,
    /// [T, 2·I]
    d_gate_up: D::Buffer<D::Compute>,
    /// [T, q_heads, head_dim]
    d_attention: D::Buffer<D::Compute>,
    /// [T, q_heads, head_dim]
    d_q: D::Buffer<D::Compute>,
    /// [T, kv_heads, head_dim] each
    d_k: D::Buffer<D::Compute>,
    d_v: D::Buffer<D::Compute>,
    /// [T, (q_heads + 2·kv_heads)·head_dim]
    d_qkv: D::Buffer<D::Compute>,
}

impl<D: Device> ActivationGradients<D> {
    /// Buffers for batches of up to `capacity` tokens.
    pub fn new(device: &D, c: &Qwen3Config, capacity: usize) -> Result<Self, DeviceError> {
        let t = capacity;
        device.named("gradients of activations", || {
            Ok(Self {
                d_hidden: device.zeros(t * c.hidden_size)?,
                d_residual: device.zeros(t * c.hidden_size)?,
                d_norm: device.zeros(t * c.hidden_size)?,
                d_gated: device.zeros(t * c.intermediate_size)?,
                d_gate_up: device.zeros(2 * t * c.intermediate_size)?,
                d_attention: device.zeros(t * c.q_dim())?,
                d_q: device.zeros(t * c.q_dim())?,
                d_k: device.zeros(t * c.kv_dim())?,
                d_v: device.zeros(t * c.kv_dim())?,
                d_qkv: device.zeros(t * c.qkv_dim())?,
            })
        })
    }
}

impl<B: Backend> Qwen3<B> {
    /// Adds the gradients of all weights that are trained, given `flow.d_hidden` and a forward pass that kept its activations.
    /// Ends at the lowest weight that is trained.
    ///
    /// `pool` must be the pool of that forward pass and hold this batch alone: as many rows as the batch has tokens. What the
    /// forward pass did not keep is computed again.
    pub fn backward(
        &self,
        batch: &Batch,
        pool: &mut KvPool<B>,
        acts: &mut Activations<B>,
        grads: &mut Gradients<B>,
        flow: &mut ActivationGradients<B>,
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        let recompute = acts.recompute().expect("a backward pass after a forward pass that keeps what it needs");
        let hidden = 0..t * c.hidden_size;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut flow.d_residual, hidden.clone()),
            d_weight: self.norm_gradient(&self.table.final_norm, &mut grads.weights),
            d_out: b.view(&flow.d_hidden, hidden.clone()),
            sum: b.view(acts.residual(c.num_hidden_layers), hidden.clone()),
            inv_rms: b.view(&acts.final_inv_rms, 0..t),
            weight: self.norm(&self.table.final_norm),
            rows: t,
            cols: c.hidden_size,
            overwrite: true,
        })?;
        for layer in (0..c.num_hidden_layers).rev() {
            if !self.table.trains_below(layer + 1) {
                return Ok(());
            }
            b.range(|| format!("layer {layer} again"), || self.again(recompute, layer, batch, pool, acts))?;
            b.range(|| format!("layer {layer} mlp backward"), || self.mlp_backward(layer, t, acts, grads, flow))?;
            b.range(
                || format!("layer {layer} attention backward"),
                || self.attention_block_backward(layer, batch, pool, acts, grads, flow),
            )?;
        }
        if !self.table.trains(&self.table.embedding.range) {
            return Ok(());
        }
        b.embedding_backward(EmbeddingBackward {
            d_table: b.view_mut(&mut grads.weights, self.table.embedding.range.clone()),
            d_out: b.view(&flow.d_residual, hidden),
            ids: b.view(&acts.ids, 0..t),
            tokens: t,
            hidden: c.hidden_size,
            vocab: c.vocab_size,
        })
    }

    /// Computes what a forward pass did not keep of a layer, from the residual stream at its beginning. The down projection
    /// adds to the layers above, which are done.
    fn again(
        &self,
        recompute: Recompute,
        layer: usize,
        batch: &Batch,
        pool: &mut KvPool<B>,
        acts: &mut Activations<B>,
    ) -> OpResult {
        let (t, rows) = (batch.tokens(), 0..batch.tokens());
        // The buffers that layers share still hold the last one's.
        if recompute == Recompute::Nothing || layer + 1 == self.config.num_hidden_layers {
            return Ok(());
        }
        self.attention_norm(layer, t, false, acts)?;
        if recompute >= Recompute::AttentionInputs {
            self.attention_inputs(layer, t, pool, acts)?;
        }
        if recompute == Recompute::Block {
            self.attention(layer, batch, &rows, pool, acts)?;
        }
        self.mlp_norm(layer, &rows, recompute == Recompute::Block, acts)?;
        if recompute == Recompute::Block {
            self.gate_up(layer, &rows, acts)?;
        }
        self.gated(layer, &rows, acts)
    }

    /// The part of the gradients that belongs to a norm; `None` where it is frozen.
    fn norm_gradient<'a>(&self, range: &Range<usize>, gradients: &'a mut B::Buffer<f32>) -> Option<Mut<'a, B, f32>> {
        self.table.trains(range).then(|| self.backend.view_mut(gradients, range.clone()))
    }

    fn mlp_backward(
        &self,
        layer: usize,
        t: usize,
        acts: &Activations<B>,
        grads: &mut Gradients<B>,
        flow: &mut ActivationGradients<B>,
    ) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let (projections, table, saved) = (&self.layers[layer], &self.table.layers[layer], acts.layer(layer));
        let (hidden, inter) = (0..t * c.hidden_size, 0..t * c.intermediate_size);
        projections.down.backward(
            b,
            ProjectionBackward {
                d_x: Some(&mut flow.d_gated),
                d_weights: &mut grads.weights,
                d_out: &flow.d_residual,
                x: &saved.norms.gated,
                rows: t,
            },
        )?;
        b.swiglu_backward(SwigluBackward {
            d_gate_up: b.view_mut(&mut flow.d_gate_up, 0..2 * inter.end),
            d_out: b.view(&flow.d_gated, inter.clone()),
            gate_up: b.view(&saved.block.gate_up, 0..2 * inter.end),
            rows: t,
            cols: c.intermediate_size,
        })?;
        projections.gate_up.backward(
            b,
            ProjectionBackward {
                d_x: Some(&mut flow.d_norm),
                d_weights: &mut grads.weights,
                d_out: &flow.d_gate_up,
                x: &saved.norms.mlp_norm,
                rows: t,
            },
        )?;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut flow.d_residual, hidden.clone()),
            d_weight: self.norm_gradient(&table.mlp_norm, &mut grads.weights),
            d_out: b.view(&flow.d_norm, hidden.clone()),
            sum: b.view(&saved.block.middle, hidden),
            inv_rms: b.view(&saved.block.mlp_inv_rms, 0..t),
            weight: self.norm(&table.mlp_norm),
            rows: t,
            cols: c.hidden_size,
            overwrite: false,
        })
    }

    fn attention_block_backward(
        &self,
        layer: usize,
        batch: &Batch,
        pool: &KvPool<B>,
        acts: &Activations<B>,
        grads: &mut Gradients<B>,
        flow: &mut ActivationGradients<B>,
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        let (projections, table, saved) = (&self.layers[layer], &self.table.layers[layer], acts.layer(layer));
        projections.o.backward(
            b,
            ProjectionBackward {
                d_x: Some(&mut flow.d_attention),
                d_weights: &mut grads.weights,
                d_out: &flow.d_residual,
                x: &saved.block.attention,
                rows: t,
            },
        )?;
        self.attention_core_backward(layer, batch, pool, acts, grads, flow)?;
        let continues = self.table.trains(&table.attention_norm) || self.table.trains_below(layer);
        projections.qkv.backward(
            b,
            ProjectionBackward {
                d_x: continues.then_some(&mut flow.d_norm),
                d_weights: &mut grads.weights,
                d_out: &flow.d_qkv,
                x: &saved.norms.attention_norm,
                rows: t,
            },
        )?;
        if !continues {
            return Ok(());
        }
        let hidden = 0..t * c.hidden_size;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut flow.d_residual, hidden.clone()),
            d_weight: self.norm_gradient(&table.attention_norm, &mut grads.weights),
            d_out: b.view(&flow.d_norm, hidden.clone()),
            sum: b.view(acts.residual(layer), hidden),
            inv_rms: b.view(&saved.inputs.attention_inv_rms, 0..t),
            weight: self.norm(&table.attention_norm),
            rows: t,
            cols: c.hidden_size,
            overwrite: false,
        })
    }

    /// From `d_attention` to `d_qkv`: attention, then rotary positions and the norms of queries and keys.
    fn attention_core_backward(
        &self,
        layer: usize,
        batch: &Batch,
        pool: &KvPool<B>,
        acts: &Activations<B>,
        grads: &mut Gradients<B>,
        flow: &mut ActivationGradients<B>,
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        let (table, saved, kv) = (&self.table.layers[layer], acts.layer(layer), pool.layer(layer));
        let (q, k) = (0..t * c.q_dim(), 0..t * c.kv_dim());
        let heads = c.num_attention_heads;
        b.clear(b.view_mut(&mut flow.d_k, k.clone()))?;
        b.clear(b.view_mut(&mut flow.d_v, k.clone()))?;
        b.attention_backward(AttentionBackward {
            d_q: b.view_mut(&mut flow.d_q, q.clone()),
            d_k_pool: b.view_mut(&mut flow.d_k, k.clone()),
            d_v_pool: b.view_mut(&mut flow.d_v, k.clone()),
            d_out: b.view(&flow.d_attention, q.clone()),
            out: b.view(&saved.block.attention, q.clone()),
            log_sum_exp: b.view(&saved.block.log_sum_exp, 0..t * heads),
            q: b.view(&saved.inputs.q, q.clone()),
            k_pool: b.view(&kv.k, k.clone()),
            v_pool: b.view(&kv.v, k.clone()),
            segments: &batch.segments,
            sizes: self.attention_sizes(t),
        })?;
        // Both gradients lie in one arena: `view_two` borrows it once for both.
        let norms = [table.q_norm.clone(), table.k_norm.clone()];
        let [d_q_weight, d_k_weight] = b.view_two(&mut grads.weights, norms);
        b.qk_norm_rope_backward(QkNormRopeBackward {
            d_qkv: b.view_mut(&mut flow.d_qkv, 0..t * c.qkv_dim()),
            d_q_weight: self.table.trains(&table.q_norm).then_some(d_q_weight),
            d_k_weight: self.table.trains(&table.k_norm).then_some(d_k_weight),
            d_q: b.view(&flow.d_q, q),
            d_k_pool: b.view(&flow.d_k, k.clone()),
            d_v_pool: b.view(&flow.d_v, k),
            qkv: b.view(&saved.inputs.qkv, 0..t * c.qkv_dim()),
            inv_rms: b.view(&saved.inputs.qk_inv_rms, 0..t * (heads + c.num_key_value_heads)),
            q_weight: self.norm(&table.q_norm),
            k_weight: self.norm(&table.k_norm),
            rope: b.view(&self.rope, 0..self.rope_rows * c.head_dim),
            positions: b.view(&acts.positions, 0..t),
            kv_rows: b.view(&acts.kv_rows, 0..t),
            sizes: self.head_sizes(t, t),
        })
    }
}
