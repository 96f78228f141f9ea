//! Criterion benches, one file per op: `cargo bench --bench ops -- linear`.

mod adamw;
mod attention;
mod embedding;
mod global_norm;
mod linear;
mod lm_head;
mod qk_norm_rope;
mod rmsnorm;
mod sample;
mod score_margin;
mod swiglu;

criterion::criterion_main!(
    adamw::benches,
    attention::benches,
    embedding::benches,
    global_norm::benches,
    lm_head::benches,
    linear::benches,
    qk_norm_rope::benches,
    rmsnorm::benches,
    sample::benches,
    score_margin::benches,
    swiglu::benches,
);
