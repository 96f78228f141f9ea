//! The one table of parameters: name, shape, whether it is trained, range in the flat arena.
//!
//! Weights, gradients and both moments are arenas with this layout. Matrices come first and norm weights last, so that
//! weight decay is one contiguous range; q, k, v and gate, up lie next to each other, so that each group is one matmul.

use std::ops::Range;

use rayon::prelude::*;

use super::Qwen3Config;
use super::weights::{LoadError, Weights};
use crate::ops::cpu::memory::untouched_zeros;
use crate::ops::linear::LinearSizes;
use crate::random::{Stream, unit};

/// In elements: every matrix and every norm starts on a multiple of this.
const ALIGNMENT: usize = 16;

/// One named tensor of the model, as a checkpoint names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// Whether training changes it. A frozen parameter gets no gradient and no update.
    pub trainable: bool,
}

impl Parameter {
    /// Elements of the tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a size of its shape is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in an arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A range of the arena that is multiplied as one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub range: Range<usize>,
    pub sizes: LinearSizes,
}

/// The ranges of one layer's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTable {
    /// [q_dim + 2·kv_dim, hidden]
    pub qkv: Matrix,
    /// [hidden, q_dim]
    pub o: Matrix,
    /// [2·intermediate, hidden]
    pub gate_up: Matrix,
    /// [hidden, intermediate]
    pub down: Matrix,
    /// [hidden]
    pub attention_norm: Range<usize>,
    /// [head_dim]
    pub q_norm: Range<usize>,
    /// [head_dim]
    pub k_norm: Range<usize>,
    /// [hidden]
    pub mlp_norm: Range<usize>,
}

impl LayerTable {
    fn ranges(&self) -> [&Range<usize>; 8] {
        let Self { qkv, o, gate_up, down, attention_norm, q_norm, k_norm, mlp_norm } = self;
        [&qkv.range, &o.range, &gate_up.range, &down.range, attention_norm, q_norm, k_norm, mlp_norm]
    }
}

/// Every parameter of a model, and the ranges in which the model finds them.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterTable {
    config: Qwen3Config,
    /// In the order of their offsets
    parameters: Vec<Parameter>,
    pub layers: Vec<LayerTable>,
    /// [vocab, hidden]
    pub embedding: Matrix,
    /// [vocab, hidden]; the embedding itself when tied
    pub lm_head: Matrix,
    /// [hidden]
    pub final_norm: Range<usize>,
    /// Elements of an arena.
    len: usize,
    /// Elements before this one take weight decay; the others, which are norms, do not.
    decayed: usize,
}

/// Assigns offsets to parameters, one after another.
struct Layout {
    parameters: Vec<Parameter>,
    len: usize,
}

impl Layout {
    /// Adds tensors without a gap between them and returns their range.
    fn push(&mut self, tensors: &[(String, &[usize])]) -> Range<usize> {
        self.len = self.len.next_multiple_of(ALIGNMENT);
        let start = self.len;
        for (name, shape) in tensors {
            let parameter = Parameter { name: name.clone(), shape: shape.to_vec(), offset: self.len, trainable: true };
            self.len += parameter.len();
            self.parameters.push(parameter);
        }
        start..self.len
    }

    fn matrix(&mut self, in_features: usize, tensors: &[(String, usize)]) -> Matrix {
        let shapes: Vec<_> = tensors.iter().map(|(name, out)| (name.clone(), [*out, in_features])).collect();
        let range = self.push(&shapes.iter().map(|(name, shape)| (name.clone(), &shape[..])).collect::<Vec<_>>());
        let out_features = tensors.iter().map(|(_, out)| out).sum();
        Matrix { range, sizes: LinearSizes { out_features, in_features } }
    }
}

impl ParameterTable {
    /// The layout of a model with this configuration, which alone decides it. All parameters are trained.
    pub fn new(config: &Qwen3Config) -> Self {
        let c = config;
        let mut layout = Layout { parameters: Vec::new(), len: 0 };
        let embedding = layout.matrix(c.hidden_size, &[("model.embed_tokens.weight".into(), c.vocab_size)]);
        let mut layers = Vec::with_capacity(c.num_hidden_layers);
        for l in 0..c.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            layers.push(LayerTable {
                qkv: layout.matrix(
                    c.hidden_size,
                    &[
                        (name("self_attn.q_proj"), c.q_dim()),
                        (name("self_attn.k_proj"), c.kv_dim()),
                        (name("self_attn.v_proj"), c.kv_dim()),
                    ],
                ),
                o: layout.matrix(c.q_dim(), &[(name("self_attn.o_proj"), c.hidden_size)]),
                gate_up: layout.matrix(
                    c.hidden_size,
                    &[(name("mlp.gate_proj"), c.intermediate_size), (name("mlp.up_proj"), c.intermediate_size)],
                ),
                down: layout.matrix(c.intermediate_size, &[(name("mlp.down_proj"), c.hidden_size)]),
                attention_norm: 0..0,
                q_norm: 0..0,
                k_norm: 0..0,
                mlp_norm: 0..0,
            });
        }
        let lm_head = if c.tie_word_embeddings {
            embedding.clone()
        } else {
            layout.matrix(c.hidden_size, &[("lm_head.weight".into(), c.vocab_size)])
        };
        let decayed = layout.len.next_multiple_of(ALIGNMENT);
        let mut norm = |name: String, len: usize| layout.push(&[(name, &[len])]);
        for (l, layer) in layers.iter_mut().enumerate() {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            layer.attention_norm = norm(name("input_layernorm"), c.hidden_size);
            layer.q_norm = norm(name("self_attn.q_norm"), c.head_dim);
            layer.k_norm = norm(name("self_attn.k_norm"), c.head_dim);
            layer.mlp_norm = norm(name("post_attention_layernorm"), c.hidden_size);
        }
        let final_norm = norm("model.norm.weight".into(), c.hidden_size);
        let len = layout.len.next_multiple_of(ALIGNMENT);
        let (config, parameters) = (config.clone(), layout.parameters);
        Self { config, parameters, layers, embedding, lm_head, final_norm, len, decayed }
    }

    /// Excludes parameters from training, by their names. Those that were frozen before stay so.
    ///
    /// # Panics
    /// When it divides parameters that are one matrix, such as q, k and v: their gradient is one matmul.
    pub fn freeze(&mut self, frozen: impl Fn(&str) -> bool) {
        for parameter in &mut self.parameters {
            parameter.trainable &= !frozen(&parameter.name);
        }
        for LayerTable { qkv, gate_up, .. } in &self.layers {
            for Matrix { range, .. } in [qkv, gate_up] {
                let parts = self.parameters.iter().filter(|parameter| range.contains(&parameter.offset));
                let (trained, frozen): (Vec<_>, Vec<_>) = parts.map(|p| (&p.name, p.trainable)).partition(|(_, t)| *t);
                assert!(
                    trained.is_empty() || frozen.is_empty(),
                    "{trained:?} and {frozen:?} are one matrix: freeze all of them or none"
                );
            }
        }
    }

    /// Whether training changes a matrix or a norm of this table.
    pub fn trains(&self, range: &Range<usize>) -> bool {
        self.parameters[self.parameters.partition_point(|parameter| parameter.offset < range.start)].trainable
    }

    /// Whether training changes the embedding or a layer below `layer`: if not, a backward pass can end at `layer`.
    pub fn trains_below(&self, layer: usize) -> bool {
        let trains_layer = |layer: &LayerTable| layer.ranges().into_iter().any(|range| self.trains(range));
        self.trains(&self.embedding.range) || self.layers[..layer].iter().any(trains_layer)
    }

    /// The norms that are trained, as ranges of the arena with the padding behind each norm. One range where all are trained.
    pub fn trained_norms(&self) -> Vec<Range<usize>> {
        let first = self.parameters.partition_point(|parameter| parameter.offset < self.decayed);
        let norms = &self.parameters[first..];
        let ends = norms[1..].iter().map(|next| next.offset).chain([self.len]);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (norm, end) in norms.iter().zip(ends).filter(|(norm, _)| norm.trainable) {
            match ranges.last_mut() {
                Some(last) if last.end == norm.offset => last.end = end,
                _ => ranges.push(norm.offset..end),
            }
        }
        ranges
    }

    /// The shape of the model.
    pub fn config(&self) -> &Qwen3Config {
        &self.config
    }

    /// Whether the embedding is the LM head as well.
    pub fn tied(&self) -> bool {
        self.embedding == self.lm_head
    }

    /// All tensors, in the order of the arena.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The tensor with this name, as Hugging Face spells it.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Elements of an arena, padding included.
    pub fn arena_len(&self) -> usize {
        self.len
    }

    /// Elements of all parameters, without padding.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// The range of the arena that takes weight decay (matrices), and the one that does not (norms).
    pub fn decay_ranges(&self) -> (Range<usize>, Range<usize>) {
        (0..self.decayed, self.decayed..self.len)
    }
}

/// Random weights: normal with the config's `initializer_range`, norms 1. Each tensor has its own random stream, and a number
/// depends only on its index in the tensor: all threads of the current pool draw, and their number changes no bit.
pub fn random_weights(config: &Qwen3Config, seed: u64) -> Vec<f32> {
    drawn_weights(config, seed, |stream, first, values| {
        for (i, value) in (first as u64..).zip(values) {
            *value = config.initializer_range * stream.normal(i);
        }
    })
}

/// The weights of [`random_weights`], drawn when they are read.
pub struct RandomWeights {
    pub config: Qwen3Config,
    pub seed: u64,
}

impl Weights for RandomWeights {
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        if parameter.shape.len() == 1 {
            to.fill(1.0);
            return Ok(());
        }
        let stream = Stream::new(self.seed).fold(index as u64);
        to.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            for (i, value) in (range.start + chunk * CHUNK..).zip(values) {
                *value = self.config.initializer_range * stream.normal(i as u64);
            }
        });
        Ok(())
    }
}

/// Weights for benchmarks only: uniform numbers of the same variance as those of [`random_weights`], which cost a logarithm,
/// a cosine and a Philox block each. Here one block gives four numbers, so that billions of weights take seconds.
pub fn uniform_weights(config: &Qwen3Config, seed: u64) -> Vec<f32> {
    // The numbers from −a to a have the variance a² / 3.
    let bound = config.initializer_range * 3f32.sqrt();
    drawn_weights(config, seed, |stream, first, values| {
        assert!(first.is_multiple_of(4), "chunks begin with a block");
        for (block, values) in (first as u64 / 4..).zip(values.chunks_mut(4)) {
            let words = stream.block(block as u32, (block >> 32) as u32);
            for (value, word) in values.iter_mut().zip(words) {
                *value = bound * (2.0 * unit(word) - 1.0);
            }
        }
    })
}

/// Elements that a thread draws at a time.
const CHUNK: usize = 1 << 16;

/// An arena whose norms are 1. `draw(stream, first, values)` fills elements `first..` of a matrix from the matrix's stream.
fn drawn_weights(config: &Qwen3Config, seed: u64, draw: impl Fn(Stream, usize, &mut [f32]) + Sync) -> Vec<f32> {
    let table = ParameterTable::new(config);
    let mut weights = untouched_zeros(table.arena_len());
    for (index, parameter) in table.parameters().iter().enumerate() {
        let values = &mut weights[parameter.range()];
        if parameter.shape.len() == 1 {
            values.fill(1.0);
        } else {
            let stream = Stream::new(seed).fold(index as u64);
            let chunks = values.par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(chunk, values)| draw(stream, chunk * CHUNK, values));
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_do_not_overlap_and_counts_are_those_published() {
        for (name, count) in [("0.6b", 596_049_920), ("8b", 8_190_735_360), ("nano", 853_376)] {
            let table = ParameterTable::new(&Qwen3Config::named(name).unwrap());
            assert_eq!(table.parameter_count(), count, "{name}");
            let mut ranges: Vec<_> = table.parameters().iter().map(Parameter::range).collect();
            ranges.sort_by_key(|range| range.start);
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(ranges.last().unwrap().end <= table.arena_len());
        }
    }

    /// As `random_weights` is defined: tensor by tensor, element by element.
    fn one_after_another(config: &Qwen3Config, seed: u64) -> Vec<f32> {
        let table = ParameterTable::new(config);
        let mut weights = vec![0.0; table.arena_len()];
        for (index, parameter) in table.parameters().iter().enumerate() {
            let stream = Stream::new(seed).fold(index as u64);
            for (i, value) in weights[parameter.range()].iter_mut().enumerate() {
                let matrix = parameter.shape.len() == 2;
                *value = if matrix { config.initializer_range * stream.normal(i as u64) } else { 1.0 };
            }
        }
        weights
    }

    #[test]
    fn weights_drawn_in_pieces_are_those_of_the_arena() {
        let config = Qwen3Config::named("nano").unwrap();
        let (table, arena) = (ParameterTable::new(&config), random_weights(&config, 3));
        let drawn = RandomWeights { config, seed: 3 };
        for (index, parameter) in table.parameters().iter().enumerate() {
            let (len, third) = (parameter.len(), parameter.len() / 3);
            let mut values = vec![0.0; len];
            for range in [0..third, third..len] {
                drawn.read(index, parameter, range.clone(), &mut values[range]).unwrap();
            }
            assert_eq!(values, arena[parameter.range()], "{}", parameter.name);
        }
    }

    #[test]
    fn random_weights_are_the_same_bits_on_any_number_of_threads() {
        let config = Qwen3Config::named("nano").unwrap();
        let longest = ParameterTable::new(&config).parameters().iter().map(Parameter::len).max().unwrap();
        assert!(longest > CHUNK || longest.is_multiple_of(CHUNK), "a matrix of several chunks");
        let mut wide = config.clone();
        // Matrices that end within a chunk.
        (wide.vocab_size, wide.hidden_size) = (1001, 144);
        let bits = |weights: Vec<f32>| weights.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        for config in [config, wide] {
            let expected = bits(one_after_another(&config, 7));
            let uniform = bits(uniform_weights(&config, 7));
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert!(bits(pool.install(|| random_weights(&config, 7))) == expected, "{threads} threads");
                assert!(bits(pool.install(|| uniform_weights(&config, 7))) == uniform, "{threads} threads, uniform");
            }
            assert_ne!(bits(random_weights(&config, 8)), expected);
        }
    }

    #[test]
    fn uniform_weights_have_the_moments_of_the_normal_ones() {
        let config = Qwen3Config::named("nano").unwrap();
        let table = ParameterTable::new(&config);
        let embedding = table.embedding.range.clone();
        for weights in [random_weights(&config, 3), uniform_weights(&config, 3)] {
            let values = weights[embedding.clone()].iter().map(|value| f64::from(*value));
            let count = embedding.len() as f64;
            let (mean, square) = (values.clone().sum::<f64>() / count, values.map(|v| v * v).sum::<f64>() / count);
            let range = f64::from(config.initializer_range);
            // Five standard errors of the mean, and of the mean square (whose relative one is at most √(2 / count)).
            assert!(mean.abs() < 5.0 * range / count.sqrt(), "mean {mean}");
            assert!((square / (range * range) - 1.0).abs() < 5.0 * (2.0 / count).sqrt(), "mean square {square}");
            assert!(weights[table.final_norm.clone()].iter().all(|weight| *weight == 1.0));
        }
    }

    #[test]
    fn norms_and_nothing_else_lie_outside_weight_decay() {
        let table = ParameterTable::new(&Qwen3Config::named("nano").unwrap());
        let (decayed, plain) = table.decay_ranges();
        for parameter in table.parameters() {
            let expected = if parameter.shape.len() == 2 { &decayed } else { &plain };
            assert!(expected.contains(&parameter.offset), "{}", parameter.name);
        }
    }

    #[test]
    fn freezing_leaves_the_trained_norms_in_one_range_for_each_unbroken_run() {
        let config = Qwen3Config::named("nano").unwrap();
        let mut table = ParameterTable::new(&config);
        assert_eq!(table.trained_norms(), [table.decay_ranges().1]);
        assert!(table.parameters().iter().all(|parameter| table.trains(&parameter.range())));
        table.freeze(|name| name == "model.layers.1.self_attn.q_norm.weight");
        let (frozen, norms) = (table.layers[1].q_norm.clone(), table.decay_ranges().1);
        assert_eq!(table.trained_norms(), [norms.start..frozen.start, table.layers[1].k_norm.start..norms.end]);
        assert!(!table.trains(&frozen) && table.trains(&table.layers[1].k_norm));
        table.freeze(|_| true);
        assert!(table.trained_norms().is_empty() && !table.trains_below(config.num_hidden_layers));
    }

    #[test]
    #[should_panic(expected = "freeze all of them or none")]
    fn one_matrix_is_not_frozen_in_part() {
        let mut table = ParameterTable::new(&Qwen3Config::named("nano").unwrap());
        table.freeze(|name| name.ends_with("k_proj.weight"));
    }
}
