//! Benches of the op `rmsnorm`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
