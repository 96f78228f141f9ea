//! Benches of the op `linear`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
