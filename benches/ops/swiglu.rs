//! Benches of the op `swiglu`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
