//! The table of contents of the maths: one contract per op, one implementation per backend.
//!
//! An op is one name in six files: `kernels/NAME.cu` · `src/ops/NAME.rs` (this folder: argument structs with `check()`
//! and `cost()`, and a trait) · `src/ops/cpu/NAME.rs` · `src/ops/cuda/NAME.rs` · `tests/ops/NAME.rs` ·
//! `benches/ops/NAME.rs`. `tests/tidy.rs` fails when the sets differ.
//!
//! To add an op: write the contract here, add its trait to [`Backend`], and the compiler names what is missing.

pub mod chunk;
mod cost;
mod error;

pub mod adamw;
pub mod attention;
pub mod embedding;
pub mod global_norm;
pub mod linear;
pub mod lm_head;
pub mod qk_norm_rope;
pub mod rmsnorm;
pub mod sample;
pub mod score_margin;
pub mod swiglu;

pub mod cpu;
#[cfg(has_cuda)]
pub mod cuda;
pub mod paper;

pub use cost::Cost;
pub use cpu::Cpu;
#[cfg(has_cuda)]
pub use cuda::Cuda;
pub use error::{Check, OpError, OpResult};
pub use paper::Paper;

/// Everything a model, a rollout and an optimizer need of a backend.
pub trait Backend:
    embedding::Embedding
    + rmsnorm::RmsNorm
    + qk_norm_rope::QkNormRope
    + linear::Linear
    + attention::Attention
    + swiglu::Swiglu
    + lm_head::LmHead
    + sample::Sampler
    + score_margin::ScoreMargins
    + adamw::AdamWStep
    + global_norm::Norm
{
    /// Whether log-probabilities recorded while decoding equal those of the training forward bit for bit, for any batch. If
    /// not, a step of several updates takes its old log-probabilities from a separate forward pass. The difference is
    /// measured on every backend.
    const ROLLOUTS_EQUAL_TRAINING: bool;

    /// The name of the hardware, for people: "CPU", or the name of the device.
    fn name(&self) -> String;

    /// GFLOP/s that matmuls alone reach here, measured by this call: what "% of peak" is quoted against.
    fn matmul_gflops(&self) -> Result<f64, OpError>;
}
