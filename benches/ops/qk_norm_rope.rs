//! Benches of the op `qk_norm_rope`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
