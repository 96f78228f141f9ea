//! The optimizer: both moments of every parameter, clipping, and one update of the whole arena.

use serde::{Deserialize, Serialize};

use crate::ops::adamw::AdamW;
use crate::ops::global_norm::GlobalNorm;
use crate::ops::{Backend, OpError};
use crate::tensor::{Device, DeviceError};

use crate::model::Qwen3;

/// Constants of AdamW and of clipping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// On matrices, the embedding included; norm weights do not decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 switches clipping off.
    pub clip_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 }
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// False when the gradient was not finite: nothing was changed.
    pub applied: bool,
}

/// The state of AdamW.
pub struct Optimizer<D: Device> {
    pub config: AdamWConfig,
    /// [arena] each
    pub moment1: D::Buffer<f32>,
    pub moment2: D::Buffer<f32>,
    /// Updates so far.
    pub updates: u64,
}

impl<D: Device> Optimizer<D> {
    pub fn new(device: &D, config: AdamWConfig, arena_len: usize) -> Result<Self, DeviceError> {
        let [moment1, moment2] = device.named("moments", || [device.zeros(arena_len), device.zeros(arena_len)]);
        Ok(Self { config, moment1: moment1?, moment2: moment2?, updates: 0 })
    }
}

impl<B: Backend> Optimizer<B> {
    /// Clips the gradient and updates the model's weights, unless the gradient is not finite.
    pub fn update(
        &mut self,
        model: &mut Qwen3<B>,
        gradient: &B::Buffer<f32>,
        learning_rate: f64,
    ) -> Result<Update, OpError> {
        let backend = model.backend.clone();
        let len = model.table.arena_len();
        let gradient_norm = backend.global_norm(GlobalNorm { gradient: backend.view(gradient, 0..len) })?;
        if !gradient_norm.is_finite() {
            return Ok(Update { gradient_norm, applied: false });
        }
        // As torch.nn.utils.clip_grad_norm_: the scale never exceeds 1.
        let clip = self.config.clip_norm;
        let scale = if clip > 0.0 { (clip / (gradient_norm + 1e-6)).min(1.0) } else { 1.0 };
        self.updates += 1;
        let (matrices, norms) = model.table.decay_ranges();
        for (range, weight_decay) in [(matrices, self.config.weight_decay), (norms, 0.0)] {
            backend.adamw(AdamW {
                weight: backend.view_mut(&mut model.master, range.clone()),
                moment1: backend.view_mut(&mut self.moment1, range.clone()),
                moment2: backend.view_mut(&mut self.moment2, range.clone()),
                gradient: backend.view(gradient, range),
                gradient_scale: scale as f32,
                learning_rate: learning_rate as f32,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                epsilon: self.config.epsilon,
                weight_decay,
                step: self.updates,
            })?;
        }
        model.refresh()?;
        Ok(Update { gradient_norm, applied: true })
    }
}
