//! What follows the forward pass of a micro-batch: the LM head with losses of single tokens.

use crate::loss::grpo::GrpoLoss;
use crate::model::forward::LmHeadOutput;
use crate::model::{Activations, Batch, Gradients, KvPool, Qwen3};
use crate::ops::lm_head::{LmHeadGradient, TokenLoss};
use crate::ops::{Backend, OpError};
use crate::tensor::Fetch;

/// What a learner minimises. It starts where the forward pass ends: at the last hidden states of a micro-batch.
pub trait Objective<B: Backend>: Sync {
    /// What a step wants to know of the micro-batch, usually on its way from the device.
    type Results: Send;

    /// Writes the gradient by the last hidden states to `gradients.d_hidden` (all of its first `tokens` rows), and adds those
    /// of its own weights to `gradients.weights`.
    fn gradient(
        &self,
        model: &Qwen3<B>,
        acts: &Activations<B>,
        tokens: usize,
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
        acts: &Activations<B>,
        tokens: usize,
        gradients: &mut Gradients<B>,
    ) -> Result<RowFetch, OpError> {
        let gradient = Some((gradients, self.row_weights, self.loss));
        lm_head_pass(model, acts, tokens, self.targets, self.temperature, gradient)
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
            lm_head_pass(model, &self.acts, batch.tokens(), targets, temperature, None)
        };
        model.backend.together(|| model.backend.range(|| "score".into(), score))
    }
}

/// Where gradients go, the weight of each row, and the loss.
type GradientRequest<'a, B> = (&'a mut Gradients<B>, &'a [f32], &'a Loss<'a>);

/// The head over chosen rows of the last forward pass, with the loss and its gradient when asked for.
fn lm_head_pass<B: Backend>(
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
    let (weights, [old, reference], advantages) = match &gradient {
        None => (empty, [None; 2], empty),
        Some((_, weights, Loss::CrossEntropy)) => (*weights, [None; 2], empty),
        Some((_, weights, Loss::Grpo { old_logprob, reference_logprob, advantages, .. })) => {
            (*weights, [*old_logprob, *reference_logprob], advantages.as_flattened())
        }
    };
    let (weights, advantages) = (b.upload(weights)?, b.upload(advantages)?);
    let upload = |values: Option<&[f32]>| values.map(|values| b.upload(values)).transpose();
    let (old, reference) = (upload(old)?, upload(reference)?);
    let whole = |buffer| b.view(buffer, 0..b.len(buffer));
    let gradient = gradient.map(|(gradients, _, kind)| LmHeadGradient {
        d_hidden: b.view_mut(&mut gradients.d_hidden, 0..tokens * model.config.hidden_size),
        d_weight: model.lm_head().gradient(b, &mut gradients.weights),
        row_weight: whole(&weights),
        loss: match kind {
            Loss::CrossEntropy => TokenLoss::CrossEntropy,
            Loss::Grpo { loss, .. } => TokenLoss::Grpo {
                loss: *loss,
                old_logprob: old.as_ref().map(whole),
                reference_logprob: reference.as_ref().map(whole),
                advantages: whole(&advantages),
            },
        },
    });
    let out = LmHeadOutput {
        logprob: b.view_mut(&mut logprob, 0..n),
        entropy: b.view_mut(&mut entropy, 0..n),
        loss: b.view_mut(&mut loss, 0..n),
    };
    model.lm_head_loss(acts, tokens, b.view(&rows, 0..n), b.view(&ids, 0..n), temperature, out, gradient)?;
    let fetch = |buffer| b.fetch(b.view(buffer, 0..n));
    Ok(RowFetch { logprob: fetch(&logprob)?, entropy: fetch(&entropy)?, loss: fetch(&loss)? })
}
