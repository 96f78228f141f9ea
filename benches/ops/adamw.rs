//! Benches of the op `adamw`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
