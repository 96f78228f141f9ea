//! The one table of parameters: name, shape, place in the flat arena.
//!
//! Weights, gradients and both moments are arenas with this layout. Matrices come first and norm weights last, so that
//! weight decay is one contiguous range; q, k, v and gate, up lie next to each other, so that each group is one product.

use std::ops::Range;

use rayon::prelude::*;

use super::Qwen3Config;
use crate::ops::cpu::memory::untouched_zeros;
use crate::ops::linear::LinearSizes;
use crate::random::{Stream, unit};

/// Elements that every product's weights and every norm start on a multiple of.
const ALIGNMENT: usize = 16;

/// One named tensor of the model, as a checkpoint names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// Whether training changes it; a frozen parameter gets no gradient and no moments.
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

/// A stretch of the arena that is multiplied as one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub range: Range<usize>,
    pub sizes: LinearSizes,
}

/// Where one layer's weights lie.
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

/// Every parameter of a model, and where the model finds its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterTable {
    parameters: Vec<Parameter>,
    pub layers: Vec<LayerTable>,
    /// [vocab, hidden]
    pub embedding: Matrix,
    /// [vocab, hidden]; the embedding itself when tied
    pub head: Matrix,
    /// [hidden]
    pub final_norm: Range<usize>,
    /// Elements of an arena.
    len: usize,
    /// Elements before this one take weight decay, those from it on (norms) do not.
    decayed: usize,
}

/// Lays parameters one after another.
struct Layout {
    parameters: Vec<Parameter>,
    len: usize,
}

impl Layout {
    /// Adds tensors without a gap between them and returns the stretch they cover.
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
    /// The layout of a model with this configuration, which alone decides it: every device and run has the same.
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
        let head = if c.tie_word_embeddings {
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
        Self { parameters: layout.parameters, layers, embedding, head, final_norm, len, decayed }
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

    /// Numbers that are learned, padding left out.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// The stretch of the arena that takes weight decay (matrices), and the one that does not (norms).
    pub fn decay_ranges(&self) -> (Range<usize>, Range<usize>) {
        (0..self.decayed, self.decayed..self.len)
    }
}

/// Random weights: normal with the config's `initializer_range`, norms 1. Each tensor has a stream of its own, and a number is
/// a function of its index in the tensor, so all threads of the current pool draw, and the bits do not depend on how many.
pub fn random_weights(config: &Qwen3Config, seed: u64) -> Vec<f32> {
    drawn_weights(config, seed, |stream, first, values| {
        for (i, value) in (first as u64..).zip(values) {
            *value = config.initializer_range * stream.normal(i);
        }
    })
}

/// Weights for measurements alone: uniform numbers of the same variance as those of [`random_weights`], which take a
/// logarithm, a cosine and a Philox block each. Here a block gives four, so that billions of weights take seconds.
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

/// An arena whose norms are 1. `draw` fills the numbers from an index of a matrix on, with that matrix's stream.
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
            let home = if parameter.shape.len() == 2 { &decayed } else { &plain };
            assert!(home.contains(&parameter.offset), "{}", parameter.name);
        }
    }
}
