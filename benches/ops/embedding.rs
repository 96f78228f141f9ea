//! Benches of the op `embedding`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
