//! The model: its master weights, and the projections with the prepared weights that matmuls read.
//!
//! A model that learns holds both. A frozen one, such as RL's reference, holds master weights only of what it does not multiply.

use std::ops::Range;
use std::sync::Arc;

use super::projection::Projection;
use super::rope::rope_table;
use super::weights::{LoadError, PIECE, Weights};
use super::{ParameterTable, Qwen3Config};
use crate::ops::adamw::Tensor;
use crate::ops::{Backend, OpError};
use crate::tensor::{Mut, Ref};

/// The weight matrices of one layer.
pub(super) struct LayerProjections<B: Backend> {
    pub qkv: Projection<B>,
    pub o: Projection<B>,
    pub gate_up: Projection<B>,
    pub down: Projection<B>,
}

/// What a model holds of its weights in f32.
enum Master<B: Backend> {
    /// [arena]: all of them, which an update changes
    Whole(B::Buffer<f32>),
    /// Only what a forward pass reads in f32
    Frozen {
        /// The range of the arena that takes no weight decay
        norms: B::Buffer<f32>,
        /// [vocab, hidden]; `None` where it is tied: the LM head is looked up instead
        embedding: Option<B::Buffer<f32>>,
    },
}

/// What a forward pass looks up its tokens in.
pub(super) enum EmbeddingTable<'a, B: Backend> {
    Master(Ref<'a, B, f32>),
    LmHead(&'a Projection<B>),
}

/// A Qwen3 with weights.
pub struct Qwen3<B: Backend> {
    pub backend: B,
    pub config: Qwen3Config,
    pub table: Arc<ParameterTable>,
    /// Rows whose logits the LM head computes at a time, in scoring and in training alike
    pub lm_head_chunk_rows: usize,
    master: Master<B>,
    pub(super) layers: Vec<LayerProjections<B>>,
    pub(super) lm_head: Projection<B>,
    /// [rope_rows, head_dim]
    pub(super) rope: B::Buffer<f32>,
    pub(super) rope_rows: usize,
}

impl<B: Backend> Qwen3<B> {
    /// A model of which all weights are trained. Sequences may be up to `context` tokens long (at most the model's own limit).
    pub fn new<W: Weights + ?Sized>(
        backend: &B,
        config: Qwen3Config,
        weights: &W,
        context: usize,
    ) -> Result<Self, LoadError> {
        Self::with_table(backend, ParameterTable::new(&config), weights, context)
    }

    /// The same with a table that may have frozen parameters.
    pub fn with_table<W: Weights + ?Sized>(
        backend: &B,
        table: ParameterTable,
        weights: &W,
        context: usize,
    ) -> Result<Self, LoadError> {
        let master = backend.named("weights", || filled(backend, &table, weights))?;
        let mut model = Self::with_master(backend, table, Master::Whole(master), context)?;
        model.refresh()?;
        Ok(model)
    }

    /// A model that is only read, all of it frozen: what it does not need in f32 it never holds in f32.
    pub fn for_inference<W: Weights + ?Sized>(
        backend: &B,
        config: Qwen3Config,
        weights: &W,
        context: usize,
    ) -> Result<Self, LoadError> {
        let mut table = ParameterTable::new(&config);
        table.freeze(|_| true);
        let copy = |range: Range<usize>| backend.named("weights", || filled_range(backend, &table, weights, range));
        let embedding = if table.tied() { None } else { Some(copy(table.embedding.range.clone())?) };
        let master = Master::Frozen { norms: copy(table.decay_ranges().1)?, embedding };
        let mut model = Self::with_master(backend, table, master, context)?;
        let Self { table, layers, lm_head, .. } = &mut model;
        for projection in projections(layers, lm_head) {
            let range = projection.range();
            let staged = backend.named("staging", || filled_range(backend, table, weights, range))?;
            projection.prepare(backend, &staged)?;
        }
        Ok(model)
    }

    /// The parts of a model beside its master weights; prepared weights are not filled yet.
    fn with_master(backend: &B, table: ParameterTable, master: Master<B>, context: usize) -> Result<Self, OpError> {
        let (layers, lm_head) = backend.named("prepared weights", || new_projections(backend, &table))?;
        let config = table.config().clone();
        let rope_rows = context.clamp(1, config.context());
        let rope = rope_table(rope_rows, config.head_dim, &config.rope);
        Ok(Self {
            backend: backend.clone(),
            lm_head_chunk_rows: backend.lm_head_chunk_rows(lm_head.sizes()),
            master,
            layers,
            lm_head,
            rope: backend.named("positions", || backend.upload(&rope))?,
            rope_rows,
            table: Arc::new(table),
            config,
        })
    }

    /// A second model with the same weights and the same bits in every forward pass, all of it frozen: the reference of RL. It
    /// holds the prepared weights, in f32 the norms, and also the embedding unless that is tied to the LM head.
    pub fn frozen(&self) -> Result<Self, OpError> {
        self.backend.named("reference", || self.frozen_copy())
    }

    fn frozen_copy(&self) -> Result<Self, OpError> {
        let Self { backend, config, rope_rows, .. } = self;
        let mut table = ParameterTable::clone(&self.table);
        table.freeze(|_| true);
        let (mut layers, mut lm_head) = new_projections(backend, &table)?;
        for projection in projections(&mut layers, &mut lm_head) {
            projection.refresh(backend, self.master())?;
        }
        let copy = |range: Range<usize>| -> Result<B::Buffer<f32>, OpError> {
            let mut to = backend.zeros(range.len())?;
            backend.copy(backend.view_mut(&mut to, 0..range.len()), backend.view(self.master(), range))?;
            Ok(to)
        };
        let embedding = if table.tied() { None } else { Some(copy(table.embedding.range.clone())?) };
        Ok(Self {
            backend: backend.clone(),
            lm_head_chunk_rows: self.lm_head_chunk_rows,
            master: Master::Frozen { norms: copy(table.decay_ranges().1)?, embedding },
            layers,
            lm_head,
            rope: backend.upload(&rope_table(*rope_rows, config.head_dim, &config.rope))?,
            rope_rows: *rope_rows,
            table: Arc::new(table),
            config: config.clone(),
        })
    }

    /// The matrix that gives logits.
    pub fn lm_head(&self) -> &Projection<B> {
        &self.lm_head
    }

    /// [arena], the master weights. Panics for a frozen model, which has none.
    pub fn master(&self) -> &B::Buffer<f32> {
        match &self.master {
            Master::Whole(master) => master,
            Master::Frozen { .. } => panic!("a frozen model has no master weights"),
        }
    }

    /// [arena], the master weights, to be written: call [`refresh`](Self::refresh) afterwards. Panics for a frozen model.
    pub fn master_mut(&mut self) -> &mut B::Buffer<f32> {
        match &mut self.master {
            Master::Whole(master) => master,
            Master::Frozen { .. } => panic!("a frozen model has no master weights"),
        }
    }

    /// The weight of a norm, given its range in the arena.
    pub(super) fn norm(&self, range: &Range<usize>) -> Ref<'_, B, f32> {
        let Range { start, end } = *range;
        match &self.master {
            Master::Whole(master) => self.backend.view(master, start..end),
            Master::Frozen { norms, .. } => {
                let first = self.table.decay_ranges().1.start;
                self.backend.view(norms, start - first..end - first)
            }
        }
    }

    pub(super) fn embedding(&self) -> EmbeddingTable<'_, B> {
        let Range { start, end } = self.table.embedding.range;
        match &self.master {
            Master::Whole(master) => EmbeddingTable::Master(self.backend.view(master, start..end)),
            Master::Frozen { embedding: Some(table), .. } => {
                EmbeddingTable::Master(self.backend.view(table, 0..end - start))
            }
            Master::Frozen { embedding: None, .. } => EmbeddingTable::LmHead(&self.lm_head),
        }
    }

    /// Longest sequence the model was made for.
    pub fn context(&self) -> usize {
        self.rope_rows
    }

    /// Master weights, and every tensor that an update changes, in the order of the arena, with the prepared weight that the
    /// update writes too. Matrices decay by `weight_decay`, norm weights do not; frozen parameters are left out. Panics for a
    /// frozen model.
    pub fn tensors(&mut self, weight_decay: f32) -> (Mut<'_, B, f32>, Vec<Tensor<'_, B>>) {
        let Self { backend, table, master, layers, lm_head, .. } = self;
        let Master::Whole(master) = master else { panic!("a frozen model is not updated") };
        let mut tensors = Vec::with_capacity(4 * layers.len() + 3);
        // An untied embedding has no prepared weight: forward looks it up in the master weights.
        let embedding = table.embedding.range.clone();
        if !table.tied() && table.trains(&embedding) {
            tensors.push(Tensor { range: embedding, weight_decay, prepared: None });
        }
        tensors.extend(projections(layers, lm_head).filter_map(|projection| projection.tensor(weight_decay)));
        let norm = |range| Tensor { range, weight_decay: 0.0, prepared: None };
        tensors.extend(table.trained_norms().into_iter().map(norm));
        tensors.sort_by_key(|tensor| tensor.range.start);
        (backend.view_mut(master, 0..table.arena_len()), tensors)
    }

    /// Rebuilds the prepared weights from the master weights. Needed after anything but `Optimizer::update` wrote them.
    pub fn refresh(&mut self) -> Result<(), OpError> {
        let Self { backend, master, layers, lm_head, .. } = self;
        let Master::Whole(master) = master else { panic!("a frozen model has no master weights") };
        projections(layers, lm_head).try_for_each(|projection| projection.refresh(backend, master))
    }
}

/// An arena with these weights.
fn filled<B: Backend, W: Weights + ?Sized>(
    backend: &B,
    table: &ParameterTable,
    weights: &W,
) -> Result<B::Buffer<f32>, LoadError> {
    filled_range(backend, table, weights, 0..table.arena_len())
}

/// A range of such an arena, which holds whole tensors.
fn filled_range<B: Backend, W: Weights + ?Sized>(
    backend: &B,
    table: &ParameterTable,
    weights: &W,
    range: Range<usize>,
) -> Result<B::Buffer<f32>, LoadError> {
    let mut buffer = backend.zeros(range.len())?;
    let parameters = table.parameters().iter().enumerate();
    for (index, parameter) in parameters.filter(|(_, parameter)| range.contains(&parameter.offset)) {
        for first in (0..parameter.len()).step_by(PIECE) {
            let piece = first..parameter.len().min(first + PIECE);
            let at = parameter.offset - range.start;
            let view = backend.view_mut(&mut buffer, at + piece.start..at + piece.end);
            backend.write_with(view, |to| weights.read(index, parameter, piece, to))?;
        }
    }
    Ok(buffer)
}

/// Allocates the projections of every layer and the LM head.
fn new_projections<B: Backend>(
    backend: &B,
    table: &ParameterTable,
) -> Result<(Vec<LayerProjections<B>>, Projection<B>), OpError> {
    let mut layers = Vec::with_capacity(table.layers.len());
    for layer in &table.layers {
        layers.push(LayerProjections {
            qkv: Projection::new(backend, table, &layer.qkv)?,
            o: Projection::new(backend, table, &layer.o)?,
            gate_up: Projection::new(backend, table, &layer.gate_up)?,
            down: Projection::new(backend, table, &layer.down)?,
        });
    }
    Ok((layers, Projection::new(backend, table, &table.lm_head)?))
}

/// All of a model, in the order of the layers.
fn projections<'a, B: Backend>(
    layers: &'a mut [LayerProjections<B>],
    lm_head: &'a mut Projection<B>,
) -> impl Iterator<Item = &'a mut Projection<B>> {
    let of_layer = |LayerProjections { qkv, o, gate_up, down }: &'a mut _| [qkv, o, gate_up, down];
    layers.iter_mut().flat_map(of_layer).chain([lm_head])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters::random_weights;
    use crate::ops::Cpu;

    #[test]
    fn an_update_reaches_every_parameter_once_and_norms_do_not_decay() {
        for tied in [true, false] {
            let mut config = Qwen3Config::named("nano").unwrap();
            config.tie_word_embeddings = tied;
            let mut model = Qwen3::new(&Cpu, config.clone(), &random_weights(&config, 1), 16).unwrap();
            let (table, (master, tensors)) = (model.table.clone(), model.tensors(0.5));
            assert_eq!(master.len(), table.arena_len());
            assert!(tensors.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            for parameter in table.parameters() {
                let range = parameter.range();
                let holds =
                    |tensor: &&Tensor<'_, Cpu>| tensor.range.start <= range.start && range.end <= tensor.range.end;
                let containing: Vec<_> = tensors.iter().filter(holds).collect();
                let [tensor] = containing[..] else { panic!("{} is in {} tensors", parameter.name, containing.len()) };
                assert_eq!(
                    tensor.weight_decay,
                    if parameter.shape.len() == 2 { 0.5 } else { 0.0 },
                    "{}",
                    parameter.name
                );
            }
            // All that `refresh` prepares: four matrices a layer and the LM head.
            let prepared = tensors.iter().filter(|tensor| tensor.prepared.is_some()).count();
            assert_eq!(prepared, 4 * config.num_hidden_layers + 1, "tied {tied}");
        }
    }
}
