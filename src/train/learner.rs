//! A model that learns: buffers of a training step, micro-batches in, one update out.

use super::token_loss::Objective;
use crate::checkpoint::{NamedArena, NamedArenaMut};
use crate::model::{Activations, Batch, Gradients, KvPool, Qwen3};
use crate::ops::{Backend, OpError};
use crate::optimizer::{AdamWConfig, Optimizer, Update};
use crate::setting::Valid;

/// A model with its gradients, optimizer and the activations of a training step.
pub struct Learner<B: Backend> {
    pub model: Qwen3<B>,
    pub optimizer: Optimizer<B>,
    pub gradients: Gradients<B>,
    pool: KvPool<B>,
    acts: Activations<B>,
    capacity: usize,
}

impl<B: Backend> Learner<B> {
    /// For micro-batches of up to `capacity` tokens.
    pub fn new(model: Qwen3<B>, optimizer: Valid<AdamWConfig>, capacity: usize) -> Result<Self, OpError> {
        let (backend, config, arena) = (&model.backend, &model.config, model.table.arena_len());
        Ok(Self {
            optimizer: Optimizer::new(backend, optimizer, arena)?,
            gradients: Gradients::new(backend, config, arena, capacity)?,
            pool: KvPool::new(backend, config, capacity)?,
            acts: Activations::for_training(backend, config, capacity)?,
            capacity,
            model,
        })
    }

    /// Tokens that a micro-batch may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Adds the gradient of the objective over one micro-batch. The objective's weights carry the mask and the global
    /// denominator, so any split into micro-batches gives the same sum.
    pub fn accumulate<O: Objective<B>>(&mut self, batch: &mut Batch, objective: &O) -> Result<O::Results, OpError> {
        batch.segments.group();
        let tokens = batch.tokens();
        let backend = self.model.backend.clone();
        backend.together(|| {
            self.model.forward(batch, &mut self.pool, &mut self.acts)?;
            let results = objective.gradient(&self.model, &self.acts, tokens, &mut self.gradients)?;
            let backward = || self.model.backward(batch, &self.pool, &self.acts, &mut self.gradients);
            backend.range(|| "backward".into(), backward)?;
            Ok(results)
        })
    }

    /// Clips, updates the weights and clears the gradient. Nothing is updated when the loss was not finite
    /// (`loss_is_finite`) or the gradient is not.
    pub fn update_if(&mut self, loss_is_finite: bool, learning_rate: f64) -> Result<Update, OpError> {
        let backend = self.model.backend.clone();
        let Self { optimizer, model, gradients, .. } = self;
        let update = || {
            let update = match loss_is_finite {
                true => optimizer.update(model, &gradients.weights, learning_rate)?,
                false => Update { gradient_norm: f64::NAN, applied: false },
            };
            gradients.clear(&backend)?;
            Ok::<_, OpError>(update)
        };
        backend.range(|| "optimizer".into(), update)
    }

    /// What a checkpoint holds of it.
    pub fn arenas(&self) -> [NamedArena<'_, B>; 3] {
        let Self { model, optimizer, .. } = self;
        [("master", model.master()), ("moment1", &optimizer.moment1), ("moment2", &optimizer.moment2)]
    }

    /// The same, to be read into: call [`Self::restored`] afterwards.
    pub fn arenas_mut(&mut self) -> [NamedArenaMut<'_, B>; 3] {
        let Self { model, optimizer, .. } = self;
        [("master", model.master_mut()), ("moment1", &mut optimizer.moment1), ("moment2", &mut optimizer.moment2)]
    }

    /// Takes over that its arenas were read from a checkpoint made after so many updates.
    pub fn restored(&mut self, updates: u64) -> Result<(), OpError> {
        self.optimizer.updates = updates;
        self.model.refresh()
    }
}
