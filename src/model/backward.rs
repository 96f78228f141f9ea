//! The backward pass, written out in the reverse order of the forward pass.

use super::qwen3::Qwen3;
use super::{Activations, Batch, KvPool, Qwen3Config};
use crate::ops::attention::AttentionBackward;
use crate::ops::embedding::EmbeddingBackward;
use crate::ops::linear::{LinearBackwardInput, LinearBackwardWeight};
use crate::ops::qk_norm_rope::QkNormRopeBackward;
use crate::ops::rmsnorm::RmsNormBackward;
use crate::ops::swiglu::SwigluBackward;
use crate::ops::{Backend, OpResult};
use crate::tensor::{Device, DeviceError};

/// Gradients of the weights, and the buffers a backward pass works in. T = tokens, H = hidden, I = intermediate.
pub struct Gradients<D: Device> {
    /// [arena], accumulated over micro-batches until cleared
    pub weights: D::Buffer<f32>,
    /// [T, H], of the model's last hidden state: where the loss puts its gradient
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

impl<D: Device> Gradients<D> {
    /// Buffers for batches of up to `capacity` tokens and an arena of `arena_len`.
    pub fn new(device: &D, c: &Qwen3Config, arena_len: usize, capacity: usize) -> Result<Self, DeviceError> {
        let t = capacity;
        let weights = device.named("gradients of weights", || device.zeros(arena_len))?;
        device.named("gradients of activations", || {
            Ok(Self {
                weights,
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

    /// Sets the weights' gradients to zero.
    pub fn clear(&mut self, device: &D) -> Result<(), DeviceError> {
        let len = device.len(&self.weights);
        device.clear(device.view_mut(&mut self.weights, 0..len))
    }
}

impl<B: Backend> Qwen3<B> {
    /// Adds the gradients of all weights, given `grads.d_hidden` and a forward pass that kept its activations.
    ///
    /// `pool` must be the pool of that forward pass and hold this batch alone: as many rows as the batch has tokens.
    pub fn backward(
        &self,
        batch: &Batch,
        pool: &KvPool<B>,
        acts: &Activations<B>,
        grads: &mut Gradients<B>,
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        assert!(acts.keeps_all_layers(), "a backward pass after a forward pass that kept nothing");
        let hidden = 0..t * c.hidden_size;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut grads.d_residual, hidden.clone()),
            d_weight: Some(b.view_mut(&mut grads.weights, self.table.final_norm.clone())),
            d_out: b.view(&grads.d_hidden, hidden.clone()),
            sum: b.view(acts.residual(2 * c.num_hidden_layers), hidden.clone()),
            inv_rms: b.view(&acts.final_inv_rms, 0..t),
            weight: self.norm(&self.table.final_norm),
            rows: t,
            cols: c.hidden_size,
            overwrite: true,
        })?;
        for layer in (0..c.num_hidden_layers).rev() {
            b.range(|| format!("layer {layer} mlp backward"), || self.mlp_backward(layer, t, acts, grads))?;
            b.range(
                || format!("layer {layer} attention backward"),
                || self.attention_block_backward(layer, batch, pool, acts, grads),
            )?;
        }
        b.embedding_backward(EmbeddingBackward {
            d_table: b.view_mut(&mut grads.weights, self.table.embedding.range.clone()),
            d_out: b.view(&grads.d_residual, hidden),
            ids: b.view(&acts.ids, 0..t),
            tokens: t,
            hidden: c.hidden_size,
            vocab: c.vocab_size,
        })
    }

    fn mlp_backward(&self, layer: usize, t: usize, acts: &Activations<B>, grads: &mut Gradients<B>) -> OpResult {
        let (b, c) = (&self.backend, &self.config);
        let (weights, places, saved) = (&self.layers[layer], &self.table.layers[layer], acts.layer(layer));
        let (hidden, inter) = (0..t * c.hidden_size, 0..t * c.intermediate_size);
        b.linear_backward_weight(LinearBackwardWeight {
            d_weight: b.view_mut(&mut grads.weights, places.down.range.clone()),
            d_out: b.view(&grads.d_residual, hidden.clone()),
            x: b.view(&saved.gated, inter.clone()),
            rows: t,
            sizes: places.down.sizes,
        })?;
        b.linear_backward_input(LinearBackwardInput {
            d_x: b.view_mut(&mut grads.d_gated, inter.clone()),
            d_out: b.view(&grads.d_residual, hidden.clone()),
            weight: &weights.down,
            rows: t,
            sizes: places.down.sizes,
            accumulate: false,
        })?;
        b.swiglu_backward(SwigluBackward {
            d_gate_up: b.view_mut(&mut grads.d_gate_up, 0..2 * inter.end),
            d_out: b.view(&grads.d_gated, inter.clone()),
            gate_up: b.view(&saved.gate_up, 0..2 * inter.end),
            rows: t,
            cols: c.intermediate_size,
        })?;
        b.linear_backward_weight(LinearBackwardWeight {
            d_weight: b.view_mut(&mut grads.weights, places.gate_up.range.clone()),
            d_out: b.view(&grads.d_gate_up, 0..2 * inter.end),
            x: b.view(&saved.mlp_norm, hidden.clone()),
            rows: t,
            sizes: places.gate_up.sizes,
        })?;
        b.linear_backward_input(LinearBackwardInput {
            d_x: b.view_mut(&mut grads.d_norm, hidden.clone()),
            d_out: b.view(&grads.d_gate_up, 0..2 * inter.end),
            weight: &weights.gate_up,
            rows: t,
            sizes: places.gate_up.sizes,
            accumulate: false,
        })?;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut grads.d_residual, hidden.clone()),
            d_weight: Some(b.view_mut(&mut grads.weights, places.mlp_norm.clone())),
            d_out: b.view(&grads.d_norm, hidden.clone()),
            sum: b.view(acts.residual(2 * layer + 1), hidden),
            inv_rms: b.view(&saved.mlp_inv_rms, 0..t),
            weight: self.norm(&places.mlp_norm),
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
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        let (weights, places, saved) = (&self.layers[layer], &self.table.layers[layer], acts.layer(layer));
        let (hidden, q) = (0..t * c.hidden_size, 0..t * c.q_dim());
        b.linear_backward_weight(LinearBackwardWeight {
            d_weight: b.view_mut(&mut grads.weights, places.o.range.clone()),
            d_out: b.view(&grads.d_residual, hidden.clone()),
            x: b.view(&saved.attention, q.clone()),
            rows: t,
            sizes: places.o.sizes,
        })?;
        b.linear_backward_input(LinearBackwardInput {
            d_x: b.view_mut(&mut grads.d_attention, q),
            d_out: b.view(&grads.d_residual, hidden.clone()),
            weight: &weights.o,
            rows: t,
            sizes: places.o.sizes,
            accumulate: false,
        })?;
        self.attention_core_backward(layer, batch, pool, acts, grads)?;
        b.linear_backward_weight(LinearBackwardWeight {
            d_weight: b.view_mut(&mut grads.weights, places.qkv.range.clone()),
            d_out: b.view(&grads.d_qkv, 0..t * c.qkv_dim()),
            x: b.view(&saved.attention_norm, hidden.clone()),
            rows: t,
            sizes: places.qkv.sizes,
        })?;
        b.linear_backward_input(LinearBackwardInput {
            d_x: b.view_mut(&mut grads.d_norm, hidden.clone()),
            d_out: b.view(&grads.d_qkv, 0..t * c.qkv_dim()),
            weight: &weights.qkv,
            rows: t,
            sizes: places.qkv.sizes,
            accumulate: false,
        })?;
        b.rmsnorm_backward(RmsNormBackward {
            d_sum: b.view_mut(&mut grads.d_residual, hidden.clone()),
            d_weight: Some(b.view_mut(&mut grads.weights, places.attention_norm.clone())),
            d_out: b.view(&grads.d_norm, hidden.clone()),
            sum: b.view(acts.residual(2 * layer), hidden),
            inv_rms: b.view(&saved.attention_inv_rms, 0..t),
            weight: self.norm(&places.attention_norm),
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
    ) -> OpResult {
        let (b, c, t) = (&self.backend, &self.config, batch.tokens());
        let (places, saved, kv) = (&self.table.layers[layer], acts.layer(layer), pool.layer(layer));
        let (q, k) = (0..t * c.q_dim(), 0..t * c.kv_dim());
        let heads = c.num_attention_heads;
        b.clear(b.view_mut(&mut grads.d_k, k.clone()))?;
        b.clear(b.view_mut(&mut grads.d_v, k.clone()))?;
        b.attention_backward(AttentionBackward {
            d_q: b.view_mut(&mut grads.d_q, q.clone()),
            d_k_pool: b.view_mut(&mut grads.d_k, k.clone()),
            d_v_pool: b.view_mut(&mut grads.d_v, k.clone()),
            d_out: b.view(&grads.d_attention, q.clone()),
            out: b.view(&saved.attention, q.clone()),
            log_sum_exp: b.view(&saved.log_sum_exp, 0..t * heads),
            q: b.view(&saved.q, q.clone()),
            k_pool: b.view(&kv.k, k.clone()),
            v_pool: b.view(&kv.v, k.clone()),
            segments: &batch.segments,
            sizes: self.attention_sizes(t),
        })?;
        // Two norm weights are two disjoint stretches of one arena: split it between them.
        let (first, second) = (places.q_norm.clone(), places.k_norm.clone());
        let [d_q_weight, d_k_weight] = b.view_two(&mut grads.weights, [first, second]);
        b.qk_norm_rope_backward(QkNormRopeBackward {
            d_qkv: b.view_mut(&mut grads.d_qkv, 0..t * c.qkv_dim()),
            d_q_weight: Some(d_q_weight),
            d_k_weight: Some(d_k_weight),
            d_q: b.view(&grads.d_q, q),
            d_k_pool: b.view(&grads.d_k, k.clone()),
            d_v_pool: b.view(&grads.d_v, k),
            qkv: b.view(&saved.qkv, 0..t * c.qkv_dim()),
            inv_rms: b.view(&saved.qk_inv_rms, 0..t * (heads + c.num_key_value_heads)),
            q_weight: self.norm(&places.q_norm),
            k_weight: self.norm(&places.k_norm),
            rope: b.view(&self.rope, 0..self.rope_rows * c.head_dim),
            positions: b.view(&acts.positions, 0..t),
            kv_rows: b.view(&acts.kv_rows, 0..t),
            sizes: self.head_sizes(t, t),
        })
    }
}
