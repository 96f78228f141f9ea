//! The table of every buffer a forward pass fills, with its shape.

use std::ops::Range;

use super::Qwen3Config;
use crate::tensor::{Device, DeviceError};

/// Buffers of one layer. T = tokens, H = hidden, I = intermediate, D = head_dim.
pub struct LayerActivations<D: Device> {
    /// [T, H]
    pub attention_norm: D::Buffer<D::Compute>,
    /// [T]
    pub attention_inv_rms: D::Buffer<f32>,
    /// [T, (q_heads + 2·kv_heads)·D]
    pub qkv: D::Buffer<D::Compute>,
    /// [T, q_heads, D], normed and rotated
    pub q: D::Buffer<D::Compute>,
    /// [T, q_heads + kv_heads]
    pub qk_inv_rms: D::Buffer<f32>,
    /// [T, q_heads, D]
    pub attention: D::Buffer<D::Compute>,
    /// [T, q_heads]
    pub log_sum_exp: D::Buffer<f32>,
    /// [T, H]
    pub mlp_norm: D::Buffer<D::Compute>,
    /// [T]
    pub mlp_inv_rms: D::Buffer<f32>,
    /// [T, 2·I]
    pub gate_up: D::Buffer<D::Compute>,
    /// [T, I]
    pub gated: D::Buffer<D::Compute>,
}

/// All buffers of a forward pass, for up to `capacity` tokens.
///
/// A training pass keeps every layer; in an inference pass all layers write to the buffers of one. Stage s of the residual
/// stream is the embedding for s = 0, after layer l's attention for s = 2l + 1, after its MLP for s = 2l + 2.
pub struct Activations<D: Device> {
    pub capacity: usize,
    pub(super) layers: Vec<LayerActivations<D>>,
    /// [T, H] a stage: all 2·layers + 1 of them, or two that stages share alternately
    pub(super) residual: Vec<D::Buffer<D::Compute>>,
    /// [T, H], what a block adds to the residual stream
    pub delta: D::Buffer<D::Compute>,
    /// [T, H], after the last norm: what the LM head reads
    pub hidden: D::Buffer<D::Compute>,
    /// [T]
    pub final_inv_rms: D::Buffer<f32>,
    /// [T] each: the batch's numbers on the device
    pub ids: D::Buffer<u32>,
    pub positions: D::Buffer<u32>,
    pub kv_rows: D::Buffer<u32>,
}

impl<D: Device> Activations<D> {
    /// Buffers that keep what a backward pass needs.
    pub fn for_training(device: &D, config: &Qwen3Config, capacity: usize) -> Result<Self, DeviceError> {
        let layers = config.num_hidden_layers;
        device.named("activations", || Self::new(device, config, capacity, layers, 2 * layers + 1))
    }

    /// Buffers of a forward pass alone.
    pub fn for_inference(device: &D, config: &Qwen3Config, capacity: usize) -> Result<Self, DeviceError> {
        device.named("activations", || Self::new(device, config, capacity, 1, 2))
    }

    fn new(device: &D, c: &Qwen3Config, t: usize, layers: usize, stages: usize) -> Result<Self, DeviceError> {
        let (hidden, inter, heads) = (t * c.hidden_size, t * c.intermediate_size, c.num_attention_heads);
        let layer = |_| {
            Ok(LayerActivations {
                attention_norm: device.zeros(hidden)?,
                attention_inv_rms: device.zeros(t)?,
                qkv: device.zeros(t * c.qkv_dim())?,
                q: device.zeros(t * c.q_dim())?,
                qk_inv_rms: device.zeros(t * (heads + c.num_key_value_heads))?,
                attention: device.zeros(t * c.q_dim())?,
                log_sum_exp: device.zeros(t * heads)?,
                mlp_norm: device.zeros(hidden)?,
                mlp_inv_rms: device.zeros(t)?,
                gate_up: device.zeros(2 * inter)?,
                gated: device.zeros(inter)?,
            })
        };
        Ok(Self {
            capacity: t,
            layers: (0..layers).map(layer).collect::<Result<_, DeviceError>>()?,
            residual: (0..stages).map(|_| device.zeros(hidden)).collect::<Result<_, DeviceError>>()?,
            delta: device.zeros(hidden)?,
            hidden: device.zeros(hidden)?,
            final_inv_rms: device.zeros(t)?,
            ids: device.zeros(t)?,
            positions: device.zeros(t)?,
            kv_rows: device.zeros(t)?,
        })
    }

    /// Whether a backward pass can follow.
    pub fn keeps_all_layers(&self) -> bool {
        self.residual.len() > 2
    }

    /// Activations of layer `index`; without a backward pass all layers share one set.
    pub fn layer(&self, index: usize) -> &LayerActivations<D> {
        &self.layers[index % self.layers.len()]
    }

    /// [tokens, hidden]: the residual stream of `stage`; without a backward pass two buffers alternate.
    pub fn residual(&self, stage: usize) -> &D::Buffer<D::Compute> {
        &self.residual[stage % self.residual.len()]
    }
}

/// Residual stages `stage − 1`, to be read, and `stage`, to be written.
pub(super) fn two_stages<T>(residual: &mut [T], stage: usize) -> (&T, &mut T) {
    let count = residual.len();
    let [before, after] = residual.get_disjoint_mut([(stage - 1) % count, stage % count]).expect("two stages or more");
    (before, after)
}

/// The elements of `rows` of a [_, cols] buffer.
pub(super) fn elements(rows: &Range<usize>, cols: usize) -> Range<usize> {
    rows.start * cols..rows.end * cols
}
