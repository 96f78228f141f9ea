//! Tests of every op against a plain reference, finite differences and its promises: one file per op.

mod common;

mod ops {
    mod adamw;
    mod attention;
    mod embedding;
    mod global_norm;
    mod linear;
    mod lm_head;
    #[cfg(has_cuda)]
    mod model_sizes;
    mod numbers;
    mod qk_norm_rope;
    mod rmsnorm;
    mod sample;
    mod score_margin;
    #[cfg(has_cuda)]
    mod smoke;
    mod swiglu;
}
