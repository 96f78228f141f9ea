//! The model: its master weights, and the form of them that the backend multiplies with.

use std::sync::Arc;

use super::parameters::Matrix;
use super::rope::rope_table;
use super::{ParameterTable, Qwen3Config};
use crate::ops::adamw::{Prepared, Tensor};
use crate::ops::{Backend, OpError};
use crate::tensor::Mut;

/// Prepared weights of one layer.
pub struct LayerWeights<B: Backend> {
    pub qkv: B::Weight,
    pub o: B::Weight,
    pub gate_up: B::Weight,
    pub down: B::Weight,
}

/// A Qwen3 with weights.
pub struct Qwen3<B: Backend> {
    pub backend: B,
    pub config: Qwen3Config,
    pub table: Arc<ParameterTable>,
    /// [arena], the master weights; call [`refresh`](Self::refresh) after changing them
    pub master: B::Buffer<f32>,
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
        let weight = |matrix: &Matrix| backend.linear_weight(matrix.sizes);
        let layers = table
            .layers
            .iter()
            .map(|layer| {
                Ok(LayerWeights {
                    qkv: weight(&layer.qkv)?,
                    o: weight(&layer.o)?,
                    gate_up: weight(&layer.gate_up)?,
                    down: weight(&layer.down)?,
                })
            })
            .collect::<Result<_, OpError>>()?;
        let rope_rows = context.clamp(1, config.max_position_embeddings);
        let rope = backend.upload(&rope_table(rope_rows, config.head_dim, config.rope_theta))?;
        let mut model = Self {
            backend: backend.clone(),
            head: weight(&table.head)?,
            master: backend.upload(weights)?,
            layers,
            rope,
            rope_rows,
            table,
            config,
        };
        model.refresh()?;
        Ok(model)
    }

    /// A second model with the same weights: the frozen reference of RL.
    pub fn duplicate(&self) -> Result<Self, OpError> {
        let weights = self.backend.download(self.backend.view(&self.master, 0..self.table.arena_len()))?;
        Self::new(&self.backend, self.config.clone(), &weights, self.rope_rows)
    }

    /// Longest sequence the model was made for.
    pub fn context(&self) -> usize {
        self.rope_rows
    }

    /// Master weights and what an update has to know of them: every tensor in the order of the arena, with the prepared weight
    /// that it brings up to date; matrices decay by `weight_decay`, norm weights do not.
    pub fn tensors(&mut self, weight_decay: f32) -> (Mut<'_, B, f32>, Vec<Tensor<'_, B>>) {
        let Self { backend, table, master, layers, head, .. } = self;
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
