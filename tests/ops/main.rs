//! Every op against a plain reference, finite differences and its promises: one file per op.

mod adamw;
mod attention;
#[cfg(has_cuda)]
mod cuda_device;
mod embedding;
mod global_norm;
mod head;
mod linear;
mod numbers;
mod qk_norm_rope;
mod rmsnorm;
mod sample;
mod score_margin;
mod swiglu;
