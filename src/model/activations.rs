//! The table of every buffer a forward pass fills, with its shape.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Qwen3Config;
use crate::tensor::{Device, DeviceError};

/// What a training step computes a second time in its backward pass, instead of keeping it. Each step includes the ones before
/// it; none changes a loss, and on the CPU none changes a bit of a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Every buffer of every layer is kept.
    #[default]
    Nothing,
    /// Outputs of norms and of SwiGLU: no matmul.
    Norms,
    /// Queries, keys and values as well: one of the four matmuls of a layer, no attention.
    AttentionInputs,
    /// Whole layers: the residual stream at their beginning is all that is kept.
    Block,
}

impl Recompute {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["nothing", "norms", "attention_inputs", "block"];
    /// From the one that keeps the most to the one that keeps the least.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Norms, Self::AttentionInputs, Self::Block];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Sets of a layer's buffers: `layers` where a set is kept, one that all layers share where it is computed again.
    fn sets(self, layers: usize, from: Self) -> usize {
        if self >= from { 1 } else { layers }
    }

    /// Layers of keys and values that a training step needs.
    pub fn pool_layers(self, layers: usize) -> usize {
        self.sets(layers, Self::AttentionInputs)
    }
}

/// Outputs of norms and of SwiGLU in one layer. T = tokens, H = hidden, I = intermediate, D = head_dim.
pub struct NormActivations<D: Device> {
    /// [T, H]
    pub attention_norm: D::Buffer<D::Compute>,
    /// [T, H]
    pub mlp_norm: D::Buffer<D::Compute>,
    /// [T, I]
    pub gated: D::Buffer<D::Compute>,
}

/// What attention reads in one layer, beside the pool.
pub struct InputActivations<D: Device> {
    /// [T, (q_heads + 2·kv_heads)·D]
    pub qkv: D::Buffer<D::Compute>,
    /// [T, q_heads, D], normed and rotated
    pub q: D::Buffer<D::Compute>,
    /// [T, q_heads + kv_heads]
    pub qk_inv_rms: D::Buffer<f32>,
    /// [T]
    pub attention_inv_rms: D::Buffer<f32>,
}

/// The rest of a layer.
pub struct BlockActivations<D: Device> {
    /// [T, q_heads, D]
    pub attention: D::Buffer<D::Compute>,
    /// [T, q_heads]
    pub log_sum_exp: D::Buffer<f32>,
    /// [T, H], the residual stream after attention
    pub middle: D::Buffer<D::Compute>,
    /// [T]
    pub mlp_inv_rms: D::Buffer<f32>,
    /// [T, 2·I]
    pub gate_up: D::Buffer<D::Compute>,
}

/// All buffers of one layer, some of which other layers may share.
pub struct LayerActivations<'a, D: Device> {
    pub norms: &'a NormActivations<D>,
    pub inputs: &'a InputActivations<D>,
    pub block: &'a BlockActivations<D>,
}

/// All buffers of a forward pass, for up to `capacity` tokens.
///
/// A training pass keeps every layer's, but for what [`Recompute`] leaves out; in an inference pass all layers share one set.
pub struct Activations<D: Device> {
    pub capacity: usize,
    /// `None` in an inference pass, which no backward pass can follow
    recompute: Option<Recompute>,
    pub(super) norms: Vec<NormActivations<D>>,
    pub(super) inputs: Vec<InputActivations<D>>,
    pub(super) blocks: Vec<BlockActivations<D>>,
    /// [T, H] a layer, the residual stream at its beginning, and after the last one
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
    pub fn for_training(
        device: &D,
        config: &Qwen3Config,
        capacity: usize,
        recompute: Recompute,
    ) -> Result<Self, DeviceError> {
        device.named("activations", || Self::new(device, config, capacity, Some(recompute)))
    }

    /// Buffers of a forward pass alone.
    pub fn for_inference(device: &D, config: &Qwen3Config, capacity: usize) -> Result<Self, DeviceError> {
        device.named("activations", || Self::new(device, config, capacity, None))
    }

    fn new(device: &D, c: &Qwen3Config, t: usize, recompute: Option<Recompute>) -> Result<Self, DeviceError> {
        let (hidden, heads, layers) = (t * c.hidden_size, c.num_attention_heads, c.num_hidden_layers);
        let sets = |from| 0..recompute.map_or(1, |recompute| recompute.sets(layers, from));
        let norms = |_| {
            Ok(NormActivations {
                attention_norm: device.zeros(hidden)?,
                mlp_norm: device.zeros(hidden)?,
                gated: device.zeros(t * c.intermediate_size)?,
            })
        };
        let inputs = |_| {
            Ok(InputActivations {
                qkv: device.zeros(t * c.qkv_dim())?,
                q: device.zeros(t * c.q_dim())?,
                qk_inv_rms: device.zeros(t * (heads + c.num_key_value_heads))?,
                attention_inv_rms: device.zeros(t)?,
            })
        };
        let block = |_| {
            Ok(BlockActivations {
                attention: device.zeros(t * c.q_dim())?,
                log_sum_exp: device.zeros(t * heads)?,
                middle: device.zeros(hidden)?,
                mlp_inv_rms: device.zeros(t)?,
                gate_up: device.zeros(2 * t * c.intermediate_size)?,
            })
        };
        let stages = 0..if recompute.is_some() { layers + 1 } else { 1 };
        Ok(Self {
            capacity: t,
            recompute,
            norms: sets(Recompute::Norms).map(norms).collect::<Result<_, DeviceError>>()?,
            inputs: sets(Recompute::AttentionInputs).map(inputs).collect::<Result<_, DeviceError>>()?,
            blocks: sets(Recompute::Block).map(block).collect::<Result<_, DeviceError>>()?,
            residual: stages.map(|_| device.zeros(hidden)).collect::<Result<_, DeviceError>>()?,
            delta: device.zeros(hidden)?,
            hidden: device.zeros(hidden)?,
            final_inv_rms: device.zeros(t)?,
            ids: device.zeros(t)?,
            positions: device.zeros(t)?,
            kv_rows: device.zeros(t)?,
        })
    }

    /// What a backward pass has to compute again; `None`: no backward pass can follow.
    pub fn recompute(&self) -> Option<Recompute> {
        self.recompute
    }

    /// Activations of layer `index`.
    pub fn layer(&self, index: usize) -> LayerActivations<'_, D> {
        LayerActivations {
            norms: of(&self.norms, index),
            inputs: of(&self.inputs, index),
            block: of(&self.blocks, index),
        }
    }

    /// [tokens, hidden]: the residual stream at the beginning of layer `index`, or after all layers.
    pub fn residual(&self, index: usize) -> &D::Buffer<D::Compute> {
        of(&self.residual, index)
    }
}

/// The set of layer `index`, which the layers may share.
pub(super) fn of<T>(sets: &[T], index: usize) -> &T {
    &sets[index % sets.len()]
}

/// As [`of`], to be written.
pub(super) fn of_mut<T>(sets: &mut [T], index: usize) -> &mut T {
    let count = sets.len();
    &mut sets[index % count]
}

/// The elements of `rows` of a [_, cols] buffer.
pub(super) fn elements(rows: &Range<usize>, cols: usize) -> Range<usize> {
    rows.start * cols..rows.end * cols
}
