//! A model that learns: micro-batches in, one update out.

use super::step_buffers::StepBuffers;
use super::token_loss::Objective;
use crate::checkpoint::{NamedArena, NamedArenaMut};
use crate::memory::Phase;
use crate::model::{Batch, Gradients, Qwen3, Recompute};
use crate::ops::{Backend, OpError};
use crate::optimizer::{AdamWConfig, Optimizer, Update};
use crate::setting::Valid;

/// A model with its gradients, optimizer and the buffers of a training step.
pub struct Learner<B: Backend> {
    pub model: Qwen3<B>,
    pub optimizer: Optimizer<B>,
    pub gradients: Gradients<B>,
    /// `None` between [`Self::release`] and the next micro-batch
    buffers: Option<StepBuffers<B>>,
    capacity: usize,
    recompute: Recompute,
}

impl<B: Backend> Learner<B> {
    /// For micro-batches of up to `capacity` tokens, of which every activation is kept.
    pub fn new(model: Qwen3<B>, optimizer: Valid<AdamWConfig>, capacity: usize) -> Result<Self, OpError> {
        Self::recomputing(model, optimizer, capacity, Recompute::Nothing)
    }

    /// The same, where the backward pass computes a part of the activations again.
    pub fn recomputing(
        model: Qwen3<B>,
        optimizer: Valid<AdamWConfig>,
        capacity: usize,
        recompute: Recompute,
    ) -> Result<Self, OpError> {
        let (backend, arena) = (&model.backend, model.table.arena_len());
        Ok(Self {
            optimizer: Optimizer::new(backend, optimizer, arena)?,
            gradients: Gradients::new(backend, arena)?,
            buffers: Some(StepBuffers::new(&model, capacity, recompute)?),
            capacity,
            recompute,
            model,
        })
    }

    /// Tokens that a micro-batch may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Gives back what only a step needs. The next micro-batch allocates it again.
    pub fn release(&mut self) {
        self.buffers = None;
    }

    /// Adds the gradient of the objective over one micro-batch. The objective's weights carry the mask and the global
    /// denominator, so any split into micro-batches gives the same sum.
    pub fn accumulate<O: Objective<B>>(&mut self, batch: &mut Batch, objective: &O) -> Result<O::Results, OpError> {
        batch.segments.group();
        let backend = self.model.backend.clone();
        let Self { model, gradients, buffers, capacity, recompute, .. } = self;
        let buffers = match buffers {
            Some(buffers) => buffers,
            None => buffers.insert(StepBuffers::new(model, *capacity, *recompute)?),
        };
        backend.together(|| {
            let StepBuffers { pool, acts, .. } = buffers;
            backend.phase(Phase::Forward, || model.forward(batch, pool, acts))?;
            let results =
                backend.phase(Phase::Loss, || objective.gradient(model, batch.tokens(), buffers, gradients))?;
            let StepBuffers { pool, acts, gradients: flow, .. } = buffers;
            let backward = || model.backward(batch, pool, acts, gradients, flow);
            backend.phase(Phase::Backward, || backend.range(|| "backward".into(), backward))?;
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
        backend.phase(Phase::Update, || backend.range(|| "optimizer".into(), update))
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
