//! Benches of the op `attention`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
