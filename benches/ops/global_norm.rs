//! Benches of the op `global_norm`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
