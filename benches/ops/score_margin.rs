//! Benches of the op `score_margin`.

fn bench(_: &mut criterion::Criterion) {}

criterion::criterion_group!(benches, bench);
