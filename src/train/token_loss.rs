//! What follows the forward pass of a micro-batch: the LM head with losses of single tokens.

use super::step_buffers::{RowWeights, ScoreBuffers, StepBuffers, TargetRows};
use crate::loss::grpo::GrpoLoss;
use crate::memory::Phase;
use crate::model::forward::LmHeadOutput;
use crate::model::{ActivationGradients, Activations, Batch, Gradients, Qwen3};
use crate::ops::lm_head::{LmHeadGradient, TokenLoss};
use crate::ops::{Backend, OpError};
use crate::tensor::{Fetch, Ref};

/// What a learner minimises. It starts where the forward pass ends: at the last hidden states of a micro-batch.
pub trait Objective<B: Backend>: Sync {
    /// What a step wants to know of the micro-batch, usually on its way from the device.
    type Results: Send;

    /// Writes the gradient by the last hidden states to `buffers.gradients.d_hidden` (all of its first `tokens` rows), and adds
    /// those of its own weights to `gradients`.
    fn gradient(
        &self,
        model: &Qwen3<B>,
        tokens: usize,
        buffers: &mut StepBuffers<B>,
        gradients: &mut Gradients<B>,
    ) -> Result<Self::Results, OpError>;
}

/// Σ row_weight · loss over the targets of a micro-batch.
pub struct TokenObjective<'a> {
    pub targets: &'a Targets,
    /// [rows]: mask ÷ global denominator.
    pub row_weights: &'a [f32],
    pub temperature: f32,
    pub loss: &'a Loss<'a>,
}

impl<'a> TokenObjective<'a> {
    /// Cross-entropy at temperature 1.
    pub fn cross_entropy(targets: &'a Targets, row_weights: &'a [f32]) -> Self {
        Self { targets, row_weights, temperature: 1.0, loss: &Loss::CrossEntropy }
    }
}

impl<B: Backend> Objective<B> for TokenObjective<'_> {
    type Results = RowFetch;

    fn gradient(
        &self,
        model: &Qwen3<B>,
        tokens: usize,
        buffers: &mut StepBuffers<B>,
        gradients: &mut Gradients<B>,
    ) -> Result<RowFetch, OpError> {
        let StepBuffers { acts, gradients: flow, rows, .. } = buffers;
        let gradient = GradientRequest { gradients, flow, weights: self.row_weights, loss: self.loss };
        lm_head_pass(model, acts, rows, tokens, self.targets, self.temperature, Some(gradient))
    }
}

/// Tokens whose successors are predicted, all arrays [rows].
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Rows of the batch, ascending and distinct.
    pub rows: Vec<u32>,
    /// The token that each row should predict.
    pub ids: Vec<u32>,
}

impl Targets {
    /// Row `row` of the batch should predict `id`; rows must be pushed in ascending order.
    pub fn push(&mut self, row: usize, id: u32) {
        self.rows.push(row as u32);
        self.ids.push(id);
    }
}

/// What is minimised, with its inputs, all arrays [rows]. [`TokenLoss`] says what it means that one is not there, and
/// [`GrpoLoss`] what `advantages` are.
pub enum Loss<'a> {
    CrossEntropy,
    Grpo {
        loss: GrpoLoss,
        old_logprob: Option<&'a [f32]>,
        reference_logprob: Option<&'a [f32]>,
        advantages: &'a [[f32; 2]],
    },
}

/// Numbers of each target row, on their way from the device: asked for after every micro-batch, waited for at the step's end.
pub struct RowFetch {
    logprob: Fetch<f32>,
    entropy: Fetch<f32>,
    loss: Fetch<f32>,
}

impl RowFetch {
    /// Waits for the device and returns the numbers.
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

/// Forward passes that score tokens and keep nothing else.
pub struct Scorer<B: Backend> {
    capacity: usize,
    /// `None` between [`Self::release`] and the next micro-batch
    buffers: Option<ScoreBuffers<B>>,
}

impl<B: Backend> Scorer<B> {
    /// For batches of up to `capacity` tokens of models of this shape.
    pub fn new(model: &Qwen3<B>, capacity: usize) -> Result<Self, OpError> {
        Ok(Self { capacity, buffers: Some(ScoreBuffers::new(model, capacity)?) })
    }

    /// Gives back what only scoring needs. The next micro-batch allocates it again.
    pub fn release(&mut self) {
        self.buffers = None;
    }

    /// Log-probabilities of targets under a model.
    pub fn score(
        &mut self,
        model: &Qwen3<B>,
        batch: &Batch,
        targets: &Targets,
        temperature: f32,
    ) -> Result<RowFetch, OpError> {
        let ScoreBuffers { pool, acts, rows } = match &mut self.buffers {
            Some(buffers) => buffers,
            none => none.insert(ScoreBuffers::new(model, self.capacity)?),
        };
        let score = || {
            model.forward(batch, pool, acts)?;
            lm_head_pass(model, acts, rows, batch.tokens(), targets, temperature, None)
        };
        let b = &model.backend;
        b.together(|| b.phase(Phase::Score, || b.range(|| "score".into(), score)))
    }
}

/// Where gradients go, the weight of each row, and the loss.
struct GradientRequest<'a, B: Backend> {
    gradients: &'a mut Gradients<B>,
    flow: &'a mut ActivationGradients<B>,
    weights: &'a [f32],
    loss: &'a Loss<'a>,
}

/// The head over chosen rows of the last forward pass, with the loss and its gradient when asked for.
fn lm_head_pass<B: Backend>(
    model: &Qwen3<B>,
    acts: &Activations<B>,
    buffers: &mut TargetRows<B>,
    tokens: usize,
    targets: &Targets,
    temperature: f32,
    gradient: Option<GradientRequest<'_, B>>,
) -> Result<RowFetch, OpError> {
    let (b, n) = (&model.backend, targets.rows.len());
    let TargetRows { rows, ids, logprob, entropy, loss, weights } = buffers;
    b.write(b.view_mut(rows, 0..n), &targets.rows)?;
    b.write(b.view_mut(ids, 0..n), &targets.ids)?;
    let gradient = match gradient {
        Some(request) => {
            let weights = weights.as_mut().expect("buffers of a training step have room for weights");
            Some(lm_head_gradient(model, tokens, n, weights, request)?)
        }
        None => None,
    };
    let out = LmHeadOutput {
        logprob: b.view_mut(logprob, 0..n),
        entropy: b.view_mut(entropy, 0..n),
        loss: b.view_mut(loss, 0..n),
    };
    model.lm_head_loss(acts, tokens, b.view(rows, 0..n), b.view(ids, 0..n), temperature, out, gradient)?;
    let fetch = |buffer| b.fetch(b.view(buffer, 0..n));
    Ok(RowFetch { logprob: fetch(logprob)?, entropy: fetch(entropy)?, loss: fetch(loss)? })
}

/// Writes what the loss of `n` rows needs to the device.
fn lm_head_gradient<'a, B: Backend>(
    model: &Qwen3<B>,
    tokens: usize,
    n: usize,
    buffers: &'a mut RowWeights<B>,
    request: GradientRequest<'a, B>,
) -> Result<LmHeadGradient<'a, B>, OpError> {
    let b = &model.backend;
    let GradientRequest { gradients, flow, weights, loss } = request;
    let RowWeights { weight, old_logprob, reference_logprob, advantages } = buffers;
    b.write(b.view_mut(weight, 0..n), weights)?;
    let loss = match loss {
        Loss::CrossEntropy => TokenLoss::CrossEntropy,
        Loss::Grpo { loss, old_logprob: old, reference_logprob: reference, advantages: of_rows } => {
            b.write(b.view_mut(advantages, 0..2 * n), of_rows.as_flattened())?;
            TokenLoss::Grpo {
                loss: *loss,
                old_logprob: written(b, old_logprob, *old)?,
                reference_logprob: written(b, reference_logprob, *reference)?,
                advantages: b.view(advantages, 0..2 * n),
            }
        }
    };
    Ok(LmHeadGradient {
        d_hidden: b.view_mut(&mut flow.d_hidden, 0..tokens * model.config.hidden_size),
        d_weight: model.lm_head().gradient(b, &mut gradients.weights),
        row_weight: b.view(weight, 0..n),
        loss,
    })
}

/// Values in the first elements of a buffer, if there are any.
fn written<'a, B: Backend>(
    b: &B,
    buffer: &'a mut B::Buffer<f32>,
    values: Option<&[f32]>,
) -> Result<Option<Ref<'a, B, f32>>, OpError> {
    let Some(values) = values else { return Ok(None) };
    b.write(b.view_mut(buffer, 0..values.len()), values)?;
    Ok(Some(b.view(buffer, 0..values.len())))
}
