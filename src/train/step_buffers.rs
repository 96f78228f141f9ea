//! What a step works in: buffers that nothing needs between two steps, so that rollouts and training can have the same memory.

use crate::model::{ActivationGradients, Activations, KvPool, Qwen3, Recompute};
use crate::ops::{Backend, OpError};
use crate::tensor::{Device, DeviceError};

/// Buffers of a forward and a backward pass with their loss.
pub struct StepBuffers<B: Backend> {
    pub pool: KvPool<B>,
    pub acts: Activations<B>,
    pub gradients: ActivationGradients<B>,
    pub rows: TargetRows<B>,
}

impl<B: Backend> StepBuffers<B> {
    /// For micro-batches of up to `capacity` tokens.
    pub fn new(model: &Qwen3<B>, capacity: usize, recompute: Recompute) -> Result<Self, OpError> {
        let (b, c) = (&model.backend, &model.config);
        b.lm_head_reserve(model.lm_head_chunk_rows, model.lm_head().sizes())?;
        Ok(Self {
            pool: KvPool::with_layers(b, c, capacity, recompute.pool_layers(c.num_hidden_layers))?,
            acts: Activations::for_training(b, c, capacity, recompute)?,
            gradients: ActivationGradients::new(b, c, capacity)?,
            rows: TargetRows::for_training(b, capacity)?,
        })
    }
}

/// Buffers of a forward pass that scores tokens and keeps nothing else.
pub struct ScoreBuffers<B: Backend> {
    pub pool: KvPool<B>,
    pub acts: Activations<B>,
    pub rows: TargetRows<B>,
}

impl<B: Backend> ScoreBuffers<B> {
    /// For micro-batches of up to `capacity` tokens.
    pub fn new(model: &Qwen3<B>, capacity: usize) -> Result<Self, OpError> {
        let (b, c) = (&model.backend, &model.config);
        b.lm_head_reserve(model.lm_head_chunk_rows, model.lm_head().sizes())?;
        Ok(Self {
            pool: KvPool::with_layers(b, c, capacity, 1)?,
            acts: Activations::for_inference(b, c, capacity)?,
            rows: TargetRows::for_scoring(b, capacity)?,
        })
    }
}

/// Numbers of the rows whose next token is predicted, at most one a token of a micro-batch: [T] each.
pub struct TargetRows<D: Device> {
    pub rows: D::Buffer<u32>,
    pub ids: D::Buffer<u32>,
    pub logprob: D::Buffer<f32>,
    pub entropy: D::Buffer<f32>,
    pub loss: D::Buffer<f32>,
    /// `None` where nothing is learnt
    pub weights: Option<RowWeights<D>>,
}

/// What a loss needs beside the targets: [T] each.
pub struct RowWeights<D: Device> {
    pub weight: D::Buffer<f32>,
    pub old_logprob: D::Buffer<f32>,
    pub reference_logprob: D::Buffer<f32>,
    /// [T, 2]
    pub advantages: D::Buffer<f32>,
}

impl<D: Device> TargetRows<D> {
    /// For losses with a gradient.
    pub fn for_training(device: &D, capacity: usize) -> Result<Self, DeviceError> {
        device.named("targets", || {
            let weights = RowWeights {
                weight: device.zeros(capacity)?,
                old_logprob: device.zeros(capacity)?,
                reference_logprob: device.zeros(capacity)?,
                advantages: device.zeros(2 * capacity)?,
            };
            Self::new(device, capacity, Some(weights))
        })
    }

    /// For log-probabilities alone.
    pub fn for_scoring(device: &D, capacity: usize) -> Result<Self, DeviceError> {
        device.named("targets", || Self::new(device, capacity, None))
    }

    fn new(device: &D, t: usize, weights: Option<RowWeights<D>>) -> Result<Self, DeviceError> {
        let (rows, ids) = (device.zeros(t)?, device.zeros(t)?);
        let (logprob, entropy, loss) = (device.zeros(t)?, device.zeros(t)?, device.zeros(t)?);
        Ok(Self { rows, ids, logprob, entropy, loss, weights })
    }
}
