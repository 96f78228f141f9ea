//! The model: its master weights, and the form of them that the backend multiplies with.
//!
//! A model that learns holds both. A frozen one, such as RL's reference, holds no master weights of what it multiplies with.

use std::ops::Range;
use std::sync::Arc;

use super::parameters::{LayerTable, Matrix};
use super::rope::rope_table;
use super::{ParameterTable, Qwen3Config};
use crate::ops::adamw::{Prepared, Tensor};
use crate::ops::{Backend, OpError};
use crate::tensor::{Mut, Ref};

/// Prepared weights of one layer.
pub struct LayerWeights<B: Backend> {
    pub qkv: B::Weight,
    pub o: B::Weight,
    pub gate_up: B::Weight,
    pub down: B::Weight,
}

/// What a model holds of its weights in f32.
enum Master<B: Backend> {
    /// [arena]: all of them, which an update changes
    Whole(B::Buffer<f32>),
    /// What a forward pass reads in f32 and nothing more
    Frozen {
        /// The part of the arena that takes no weight decay
        norms: B::Buffer<f32>,
        /// [vocab, hidden]; `None` where the head is the embedding and serves as it
        embedding: Option<B::Buffer<f32>>,
    },
}

/// Where a forward pass looks up its tokens.
pub(super) enum EmbeddingTable<'a, B: Backend> {
    Master(Ref<'a, B, f32>),
    LmHead(&'a B::Weight),
}

/// A Qwen3 with weights.
pub struct Qwen3<B: Backend> {
    pub backend: B,
    pub config: Qwen3Config,
    pub table: Arc<ParameterTable>,
    /// Rows of logits that the LM head works on at a time, in scoring and in training alike
    pub lm_head_chunk_rows: usize,
    master: Master<B>,
    pub(super) layers: Vec<LayerWeights<B>>,
    pub(super) head: B::Weight,
    /// [rope_rows, head_dim]
    pub(super) rope: B::Buffer<f32>,
    pub(super) rope_rows: usize,
}

impl<B: Backend> Qwen3<B> {
    /// A model from an arena of weights. Sequences may be up to `context` tokens long (at most the model's own limit).
    pub fn new(backend: &B, config: Qwen3Config, weights: &[f32], context: usize) -> Result<Self, OpError> {
        backend.named("weights", || Self::with_buffers(backend, config, weights, context))
    }

    fn with_buffers(backend: &B, config: Qwen3Config, weights: &[f32], context: usize) -> Result<Self, OpError> {
        let table = Arc::new(ParameterTable::new(&config));
        assert_eq!(weights.len(), table.arena_len(), "an arena of another model");
        let (layers, head) = unprepared(backend, &table)?;
        let rope_rows = context.clamp(1, config.max_position_embeddings);
        let mut model = Self {
            backend: backend.clone(),
            lm_head_chunk_rows: backend.lm_head_chunk_rows(table.head.sizes),
            master: Master::Whole(backend.upload(weights)?),
            layers,
            head,
            rope: backend.upload(&rope_table(rope_rows, config.head_dim, config.rope_theta))?,
            rope_rows,
            table,
            config,
        };
        model.refresh()?;
        Ok(model)
    }

    /// A second model with the same weights and the same bits in every forward pass, which never learns: the reference of RL. It
    /// holds the prepared weights, and in f32 the norms and an embedding that is not the head as well.
    pub fn frozen(&self) -> Result<Self, OpError> {
        self.backend.named("reference", || self.freeze())
    }

    fn freeze(&self) -> Result<Self, OpError> {
        let Self { backend, table, config, rope_rows, .. } = self;
        let (mut layers, mut head) = unprepared(backend, table)?;
        prepare(backend, table, self.master(), &mut layers, &mut head)?;
        let copy = |range: Range<usize>| -> Result<B::Buffer<f32>, OpError> {
            Ok(backend.upload(&backend.download(backend.view(self.master(), range))?)?)
        };
        let tied = table.embedding == table.head;
        let embedding = if tied { None } else { Some(copy(table.embedding.range.clone())?) };
        Ok(Self {
            backend: backend.clone(),
            lm_head_chunk_rows: self.lm_head_chunk_rows,
            master: Master::Frozen { norms: copy(table.decay_ranges().1)?, embedding },
            layers,
            head,
            rope: backend.upload(&rope_table(*rope_rows, config.head_dim, config.rope_theta))?,
            rope_rows: *rope_rows,
            table: table.clone(),
            config: config.clone(),
        })
    }

    /// [arena], the master weights. Panics for a frozen model, which has none.
    pub fn master(&self) -> &B::Buffer<f32> {
        match &self.master {
            Master::Whole(master) => master,
            Master::Frozen { .. } => panic!("a frozen model has no master weights"),
        }
    }

    /// [arena], the master weights, to be changed: call [`refresh`](Self::refresh) afterwards. Panics for a frozen model.
    pub fn master_mut(&mut self) -> &mut B::Buffer<f32> {
        match &mut self.master {
            Master::Whole(master) => master,
            Master::Frozen { .. } => panic!("a frozen model has no master weights"),
        }
    }

    /// The weight of a norm, by its range in the arena.
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
            Master::Frozen { embedding: None, .. } => EmbeddingTable::LmHead(&self.head),
        }
    }

    /// Longest sequence the model was made for.
    pub fn context(&self) -> usize {
        self.rope_rows
    }

    /// Master weights and what an update has to know of them: every tensor in the order of the arena, with the prepared weight
    /// that it brings up to date; matrices decay by `weight_decay`, norm weights do not. Panics for a frozen model.
    pub fn tensors(&mut self, weight_decay: f32) -> (Mut<'_, B, f32>, Vec<Tensor<'_, B>>) {
        let Self { backend, table, master, layers, head, .. } = self;
        let Master::Whole(master) = master else { panic!("a frozen model is not updated") };
        let matrix = |weight, matrix: &Matrix| {
            let prepared = Some(Prepared { weight, sizes: matrix.sizes });
            Tensor { range: matrix.range.clone(), weight_decay, prepared }
        };
        let mut tensors = Vec::with_capacity(4 * layers.len() + 3);
        // An embedding that is not the head as well is looked up in the master weights.
        if table.embedding != table.head {
            tensors.push(Tensor { range: table.embedding.range.clone(), weight_decay, prepared: None });
        }
        tensors.push(matrix(head, &table.head));
        for (weights, places) in layers.iter_mut().zip(&table.layers) {
            tensors.push(matrix(&mut weights.qkv, &places.qkv));
            tensors.push(matrix(&mut weights.o, &places.o));
            tensors.push(matrix(&mut weights.gate_up, &places.gate_up));
            tensors.push(matrix(&mut weights.down, &places.down));
        }
        let (_, norms) = table.decay_ranges();
        tensors.push(Tensor { range: norms, weight_decay: 0.0, prepared: None });
        tensors.sort_by_key(|tensor| tensor.range.start);
        (backend.view_mut(master, 0..table.arena_len()), tensors)
    }

    /// Makes the prepared weights anew from the master weights, after these were changed by other hands than an update's.
    pub fn refresh(&mut self) -> Result<(), OpError> {
        let Self { backend, table, master, layers, head, .. } = self;
        let Master::Whole(master) = master else { panic!("a frozen model has no master weights") };
        prepare(backend, table, master, layers, head)
    }
}

/// Memory for the prepared weights of every layer and of the head.
fn unprepared<B: Backend>(backend: &B, table: &ParameterTable) -> Result<(Vec<LayerWeights<B>>, B::Weight), OpError> {
    let weight = |matrix: &Matrix| backend.linear_weight(matrix.sizes);
    let layer = |layer: &LayerTable| {
        Ok(LayerWeights {
            qkv: weight(&layer.qkv)?,
            o: weight(&layer.o)?,
            gate_up: weight(&layer.gate_up)?,
            down: weight(&layer.down)?,
        })
    };
    Ok((table.layers.iter().map(layer).collect::<Result<_, OpError>>()?, weight(&table.head)?))
}

/// Fills prepared weights from an arena of master weights.
fn prepare<B: Backend>(
    backend: &B,
    table: &ParameterTable,
    master: &B::Buffer<f32>,
    layers: &mut [LayerWeights<B>],
    head: &mut B::Weight,
) -> Result<(), OpError> {
    let prepare = |weight: &mut B::Weight, matrix: &Matrix| {
        backend.linear_prepare(weight, backend.view(master, matrix.range.clone()), matrix.sizes)
    };
    for (weights, places) in layers.iter_mut().zip(&table.layers) {
        prepare(&mut weights.qkv, &places.qkv)?;
        prepare(&mut weights.o, &places.o)?;
        prepare(&mut weights.gate_up, &places.gate_up)?;
        prepare(&mut weights.down, &places.down)?;
    }
    prepare(head, &table.head)
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
                let homes: Vec<_> = tensors.iter().filter(holds).collect();
                let [home] = homes[..] else { panic!("{} lies in {} tensors", parameter.name, homes.len()) };
                assert_eq!(home.weight_decay, if parameter.shape.len() == 2 { 0.5 } else { 0.0 }, "{}", parameter.name);
            }
            // All that `refresh` prepares: four matrices a layer and the head.
            let prepared = tensors.iter().filter(|tensor| tensor.prepared.is_some()).count();
            assert_eq!(prepared, 4 * config.num_hidden_layers + 1, "tied {tied}");
        }
    }
}
