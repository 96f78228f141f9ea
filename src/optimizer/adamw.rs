//! The optimizer: both moments of every parameter, clipping, and one update of all that is trained.

use crate::ops::adamw::AdamW;
use crate::ops::global_norm::GlobalNorm;
use crate::ops::{Backend, OpError};
use crate::setting::{Finding, Relations, Severity, Valid, below, number, section};
use crate::tensor::{Device, DeviceError};

use crate::model::Qwen3;

section! {
    /// Constants of AdamW and of clipping.
    pub struct AdamWConfig {
        /// Decay of the mean of gradients.
        pub beta1: f32 = 0.9 => below(0.0, 1.0);
        /// Decay of the mean of squared gradients.
        pub beta2: f32 = 0.95 => below(0.0, 1.0);
        /// Added to the root of the second moment.
        pub epsilon: f32 = 1e-8 => number(1e-30, 1.0);
        /// On matrices, the embedding included; norm weights do not decay.
        pub weight_decay: f32 = 0.1 => number(0.0, 10.0);
        /// Gradients are scaled down to this norm; 0 switches clipping off.
        pub clip_norm: f64 = 1.0 => number(0.0, 1e6);
    }
}

impl Copy for AdamWConfig {}

impl Relations for AdamWConfig {
    fn relations(&self) -> Vec<Finding> {
        if self.clip_norm == 0.0 || self.clip_norm >= f64::from(self.epsilon) {
            return Vec::new();
        }
        let reason = "a gradient that is scaled below epsilon hardly changes a weight: raise clip_norm (0 switches clipping off)";
        vec![Finding::new(Severity::Refused, &["clip_norm", "epsilon"], reason)]
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
    pub config: Valid<AdamWConfig>,
    /// [arena] each
    pub moment1: D::Buffer<f32>,
    pub moment2: D::Buffer<f32>,
    /// [1], of the latest gradient
    norm: D::Buffer<f64>,
    /// Updates so far.
    pub updates: u64,
}

impl<D: Device> Optimizer<D> {
    /// Zero moments for an arena of `arena_len` elements.
    pub fn new(device: &D, config: Valid<AdamWConfig>, arena_len: usize) -> Result<Self, DeviceError> {
        let [moment1, moment2] = device.named("moments", || [device.zeros(arena_len), device.zeros(arena_len)]);
        let norm = device.named("gradient norm", || device.zeros(1))?;
        Ok(Self { config, moment1: moment1?, moment2: moment2?, norm, updates: 0 })
    }
}

impl<B: Backend> Optimizer<B> {
    /// Clips the gradient and updates the model's weights, prepared ones included, unless the gradient is not finite. Waits
    /// for the device once, after all work has been submitted, to read the norm.
    pub fn update(
        &mut self,
        model: &mut Qwen3<B>,
        gradient: &B::Buffer<f32>,
        learning_rate: f64,
    ) -> Result<Update, OpError> {
        let backend = model.backend.clone();
        let arena = 0..model.table.arena_len();
        let Self { config, moment1, moment2, norm, updates } = self;
        backend.global_norm(GlobalNorm {
            norm: backend.view_mut(norm, 0..1),
            gradient: backend.view(gradient, arena.clone()),
        })?;
        let (weight, tensors) = model.tensors(config.weight_decay);
        backend.adamw(AdamW {
            weight,
            moment1: backend.view_mut(moment1, arena.clone()),
            moment2: backend.view_mut(moment2, arena.clone()),
            gradient: backend.view(gradient, arena),
            tensors,
            norm: backend.view(norm, 0..1),
            clip_norm: config.clip_norm,
            learning_rate: learning_rate as f32,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            step: *updates + 1,
        })?;
        let mut read = [0.0];
        backend.read(backend.view(norm, 0..1), &mut read)?;
        let [gradient_norm] = read;
        let applied = gradient_norm.is_finite();
        *updates += u64::from(applied);
        Ok(Update { gradient_norm, applied })
    }
}
