//! Benches of the op `head`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
