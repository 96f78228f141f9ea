//! Every op on the CUDA device against the CPU's at the sizes of a model: small ones as part of the smoke test, and those of
//! Qwen3-0.6B, which only a GPU can run. The bounds come from each op's own tests.

use patarm::cuda::Cuda;

use crate::ops::attention::{Heads, cuda_backward, cuda_forward};
use crate::ops::{adamw, embedding, global_norm, linear, lm_head, qk_norm_rope, rmsnorm, sample, score_margin, swiglu};

/// The sizes of a call of each op.
pub struct ModelSizes {
    /// Rows of element-wise ops and norms.
    pub tokens: usize,
    /// Rows of matmuls, whose f64 reference is the slowest.
    pub linear_rows: usize,
    /// Rows of the LM head, and of the sampler.
    pub lm_head_rows: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: Heads,
    pub vocab: usize,
    /// Elements of all gradients.
    pub parameters: usize,
    /// Lengths of packed sequences: attention of a training step.
    pub packed: &'static [usize],
    /// (queries, keys) with paged keys: decoding, and chunks of a prompt.
    pub paged: &'static [(usize, usize)],
    /// A prompt, its samples, and another sequence: attention's backward pass.
    pub prompt: usize,
    pub samples: &'static [usize],
    pub other: usize,
    /// Pairs, rollouts of each response.
    pub pairs: (usize, usize),
}

/// Small sizes: every op runs within seconds on the emulator.
pub const SMALL: ModelSizes = ModelSizes {
    tokens: 9,
    linear_rows: 5,
    lm_head_rows: 4,
    hidden: 64,
    intermediate: 96,
    heads: (4, 2, 32),
    vocab: 300,
    parameters: 20_000,
    packed: &[33, 1],
    paged: &[(1, 20), (1, 300), (20, 50)],
    prompt: 20,
    samples: &[5, 40],
    other: 3,
    pairs: (2, 4),
};

impl ModelSizes {
    /// (outputs, inputs) of a layer's matrices: qkv, o, gate and up, down.
    fn matrices(&self) -> [(usize, usize); 4] {
        let (q_heads, kv_heads, dim) = self.heads;
        [
            ((q_heads + 2 * kv_heads) * dim, self.hidden),
            (self.hidden, q_heads * dim),
            (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        ]
    }

    pub fn adamw(&self, device: &Cuda) {
        adamw::cuda::assert_a_model_has_the_cpus_bits(device, self.vocab, self.hidden, &self.matrices());
    }

    pub fn attention(&self, device: &Cuda) {
        cuda_forward::assert_sequences_equal_the_cpus(device, self.heads, self.packed, self.paged);
        cuda_backward::assert_gradients_are_the_cpus(device, self.heads, self.prompt, self.samples, self.other);
    }

    pub fn embedding(&self, device: &Cuda) {
        embedding::cuda::assert_has_the_cpus_bits(device, (self.vocab, self.hidden, self.tokens));
    }

    pub fn global_norm(&self, device: &Cuda) {
        global_norm::cuda::assert_is_the_cpus(device, self.parameters, 0);
    }

    pub fn lm_head(&self, device: &Cuda) {
        lm_head::cuda::assert_rows_are_the_cpus(device, self.lm_head_rows, self.vocab, self.hidden);
    }

    pub fn linear(&self, device: &Cuda) {
        for (outputs, inputs) in self.matrices() {
            linear::cuda::assert_matmuls_agree_with_f64(device, (self.linear_rows, outputs, inputs), true);
        }
    }

    pub fn qk_norm_rope(&self, device: &Cuda) {
        qk_norm_rope::cuda::assert_forward_is_the_cpus(device, self.heads, self.tokens);
        qk_norm_rope::cuda::assert_backward_is_the_cpus(device, self.heads, self.tokens);
    }

    pub fn rmsnorm(&self, device: &Cuda) {
        rmsnorm::cuda::assert_forward_is_the_cpus(device, (self.tokens, self.hidden));
        rmsnorm::cuda::assert_backward_is_the_cpus(device, (self.tokens, self.hidden));
    }

    pub fn sample(&self, device: &Cuda) {
        sample::cuda::assert_rows_draw_as_on_the_cpu(device, self.lm_head_rows, self.vocab);
    }

    pub fn score_margin(&self, device: &Cuda) {
        let (pairs, n) = self.pairs;
        score_margin::cuda::assert_pairs_equal_the_cpus(device, pairs, n);
    }

    pub fn swiglu(&self, device: &Cuda) {
        swiglu::cuda::assert_is_the_cpus(device, (self.tokens, self.intermediate));
    }
}

mod gpu_only {
    use patarm::cuda::Emulation;

    use super::*;

    /// Qwen3-0.6B. The CPU's part of each takes seconds on 16 cores.
    const QWEN3_06B: ModelSizes = ModelSizes {
        tokens: 4096,
        linear_rows: 512,
        lm_head_rows: 64,
        hidden: 1024,
        intermediate: 3072,
        heads: (16, 8, 128),
        vocab: 151_936,
        parameters: 596_049_920,
        packed: &[1024, 700, 300, 1, 65],
        paged: &[(1, 320), (1, 1800), (1, 1793), (4, 900), (512, 1500), (1, 64), (1, 1)],
        prompt: 500,
        samples: &[150, 100, 130, 7],
        other: 600,
        pairs: (64, 8),
    };

    /// One test for each op, so that each is reported separately and a fault in one does not affect the others.
    macro_rules! at_the_sizes_of_qwen3_06b {
        ($($op:ident)*) => {$(
            #[test]
            #[ignore = "needs a GPU: 0.6b sizes take too long on the emulator"]
            fn $op() {
                let device = Cuda::open(0, Emulation::Refused).unwrap_or_else(|e| panic!("{e}"));
                QWEN3_06B.$op(&device);
            }
        )*};
    }

    at_the_sizes_of_qwen3_06b!(
        adamw attention embedding global_norm linear lm_head qk_norm_rope rmsnorm sample score_margin swiglu
    );
}
