//! Benches of the op `sample`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
