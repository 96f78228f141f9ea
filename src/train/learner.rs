//! A model that learns: buffers of a training step, micro-batches in, one update out.

use crate::model::forward::HeadOutput;
use crate::model::{Activations, Batch, Gradients, KvPool, Qwen3};
use crate::ops::head::{GrpoLoss, HeadGradient, TokenLoss};
use crate::ops::{Backend, OpError};
use crate::optimizer::{AdamWConfig, Optimizer, Update};
use crate::tensor::Fetch;

/// Tokens whose successors are predicted, all arrays [rows].
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Rows of the batch, ascending and distinct.
    pub rows: Vec<u32>,
    /// The token that each row should predict.
    pub ids: Vec<u32>,
}

impl Targets {
    pub fn push(&mut self, row: usize, id: u32) {
        self.rows.push(row as u32);
        self.ids.push(id);
    }
}

/// What is minimised, with its inputs, all arrays [rows]; of `advantages` see [`GrpoLoss`].
pub enum Loss<'a> {
    CrossEntropy,
    Grpo { loss: GrpoLoss, old_logprob: &'a [f32], reference_logprob: &'a [f32], advantages: &'a [[f32; 2]] },
}

/// Numbers of each target row, on their way from the device: asked for after every micro-batch, waited for at the step's end.
pub struct RowFetch {
    logprob: Fetch<f32>,
    entropy: Fetch<f32>,
    loss: Fetch<f32>,
}

impl RowFetch {
    pub fn get(self) -> Result<RowResults, OpError> {
        Ok(RowResults { logprob: self.logprob.get()?, entropy: self.entropy.get()?, loss: self.loss.get()? })
    }
}

/// Numbers of each target row.
#[derive(Clone, Debug, Default)]
pub struct RowResults {
    pub logprob: Vec<f32>,
    /// In nats.
    pub entropy: Vec<f32>,
    /// Before the row's weight.
    pub loss: Vec<f32>,
}

/// Buffers for forward passes that score tokens and keep nothing else.
pub struct Scorer<B: Backend> {
    pool: KvPool<B>,
    acts: Activations<B>,
}

impl<B: Backend> Scorer<B> {
    /// For batches of up to `capacity` tokens of models of this shape.
    pub fn new(model: &Qwen3<B>, capacity: usize) -> Result<Self, OpError> {
        Ok(Self {
            pool: KvPool::with_layers(&model.backend, &model.config, capacity, 1)?,
            acts: Activations::for_inference(&model.backend, &model.config, capacity)?,
        })
    }

    /// Log-probabilities of targets under a model.
    pub fn score(
        &mut self,
        model: &Qwen3<B>,
        batch: &Batch,
        targets: &Targets,
        temperature: f32,
    ) -> Result<RowFetch, OpError> {
        let score = || {
            model.forward(batch, &mut self.pool, &mut self.acts)?;
            head_pass(model, &self.acts, batch.tokens(), targets, temperature, None)
        };
        model.backend.together(|| model.backend.range(|| "score".into(), score))
    }
}

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
    pub fn new(model: Qwen3<B>, optimizer: AdamWConfig, capacity: usize) -> Result<Self, OpError> {
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

    /// Adds the gradient of Σ row_weight · loss over the targets of one micro-batch.
    ///
    /// Weights carry the mask and the global denominator, so any split into micro-batches gives the same sum.
    pub fn accumulate(
        &mut self,
        batch: &mut Batch,
        targets: &Targets,
        row_weights: &[f32],
        temperature: f32,
        loss: &Loss<'_>,
    ) -> Result<RowFetch, OpError> {
        batch.segments.group();
        let tokens = batch.tokens();
        let backend = self.model.backend.clone();
        backend.together(|| {
            self.model.forward(batch, &mut self.pool, &mut self.acts)?;
            let gradient = Some((&mut self.gradients, row_weights, loss));
            let results = head_pass(&self.model, &self.acts, tokens, targets, temperature, gradient)?;
            let backward = || self.model.backward(batch, &self.pool, &self.acts, &mut self.gradients);
            backend.range(|| "backward".into(), backward)?;
            Ok(results)
        })
    }

    /// Clips, updates the weights and clears the gradient. Nothing is updated when the loss was not finite
    /// (`loss_is_finite`) or the gradient is not.
    pub fn update_if(&mut self, loss_is_finite: bool, learning_rate: f64) -> Result<Update, OpError> {
        let update = if loss_is_finite {
            let backend = self.model.backend.clone();
            let Self { optimizer, model, gradients, .. } = self;
            backend.range(|| "optimizer".into(), || optimizer.update(model, &gradients.weights, learning_rate))?
        } else {
            Update { gradient_norm: f64::NAN, applied: false }
        };
        let backend = self.model.backend.clone();
        backend.range(|| "optimizer".into(), || self.gradients.clear(&backend))?;
        Ok(update)
    }
}

type GradientRequest<'a, B> = (&'a mut Gradients<B>, &'a [f32], &'a Loss<'a>);

/// The head over chosen rows of the last forward pass, with the loss and its gradient when asked for.
fn head_pass<B: Backend>(
    model: &Qwen3<B>,
    acts: &Activations<B>,
    tokens: usize,
    targets: &Targets,
    temperature: f32,
    gradient: Option<GradientRequest<'_, B>>,
) -> Result<RowFetch, OpError> {
    let (b, n) = (&model.backend, targets.rows.len());
    let (rows, ids) = (b.upload(&targets.rows)?, b.upload(&targets.ids)?);
    let (mut logprob, mut entropy, mut loss) = (b.zeros::<f32>(n)?, b.zeros::<f32>(n)?, b.zeros::<f32>(n)?);
    let empty: &[f32] = &[];
    let (weights, inputs) = match &gradient {
        None => (empty, [empty; 3]),
        Some((_, weights, Loss::CrossEntropy)) => (*weights, [empty; 3]),
        Some((_, weights, Loss::Grpo { old_logprob, reference_logprob, advantages, .. })) => {
            (*weights, [*old_logprob, *reference_logprob, advantages.as_flattened()])
        }
    };
    let weights = b.upload(weights)?;
    let [old, reference, advantages] = [b.upload(inputs[0])?, b.upload(inputs[1])?, b.upload(inputs[2])?];
    let whole = |buffer| b.view(buffer, 0..b.len(buffer));
    let gradient = gradient.map(|(gradients, _, kind)| HeadGradient {
        d_hidden: b.view_mut(&mut gradients.d_hidden, 0..tokens * model.config.hidden_size),
        d_weight: Some(b.view_mut(&mut gradients.weights, model.table.head.range.clone())),
        row_weight: whole(&weights),
        loss: match kind {
            Loss::CrossEntropy => TokenLoss::CrossEntropy,
            Loss::Grpo { loss, .. } => TokenLoss::Grpo {
                loss: *loss,
                old_logprob: whole(&old),
                reference_logprob: whole(&reference),
                advantages: whole(&advantages),
            },
        },
    });
    let out = HeadOutput {
        logprob: b.view_mut(&mut logprob, 0..n),
        entropy: b.view_mut(&mut entropy, 0..n),
        loss: b.view_mut(&mut loss, 0..n),
    };
    model.head_loss(acts, tokens, b.view(&rows, 0..n), b.view(&ids, 0..n), temperature, out, gradient)?;
    let fetch = |buffer| b.fetch(b.view(buffer, 0..n));
    Ok(RowFetch { logprob: fetch(&logprob)?, entropy: fetch(&entropy)?, loss: fetch(&loss)? })
}
