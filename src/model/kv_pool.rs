//! Keys and values of every layer: the cache of a rollout, or what a training step keeps for its backward pass.

use super::Qwen3Config;
use crate::tensor::{Device, DeviceError};

/// Rows of keys and of values, [rows, kv_heads, head_dim] a layer. The caller decides which sequence owns
/// which row.
pub struct KvPool<D: Device> {
    pub rows: usize,
    layers: Vec<Layer<D>>,
}

/// Keys and values of one layer, each [rows, kv_heads, head_dim].
pub struct Layer<D: Device> {
    pub k: D::Buffer<D::Compute>,
    pub v: D::Buffer<D::Compute>,
}

impl<D: Device> KvPool<D> {
    /// A pool with rows for every layer of a model.
    pub fn new(device: &D, config: &Qwen3Config, rows: usize) -> Result<Self, DeviceError> {
        Self::with_layers(device, config, rows, config.num_hidden_layers)
    }

    /// A pool of `layers`, which a model's layers share: one is enough for a forward pass that keeps nothing.
    pub fn with_layers(device: &D, config: &Qwen3Config, rows: usize, layers: usize) -> Result<Self, DeviceError> {
        let len = rows * config.kv_dim();
        let layer = |_| Ok(Layer { k: device.zeros(len)?, v: device.zeros(len)? });
        let layers = device.named("keys and values", || (0..layers).map(layer).collect::<Result<_, DeviceError>>())?;
        Ok(Self { rows, layers })
    }

    /// Keys and values of layer `index`, modulo the number of layers that the pool has.
    pub fn layer(&self, index: usize) -> &Layer<D> {
        &self.layers[index % self.layers.len()]
    }

    /// As [`Self::layer`], to write to.
    pub fn layer_mut(&mut self, index: usize) -> &mut Layer<D> {
        let count = self.layers.len();
        &mut self.layers[index % count]
    }
}
