//! Benches of the op `adamw`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::adamw::{AdamW, AdamWStep, Tensor};

/// The arenas of nano and mini.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adamw");
    for len in [853_376usize, 29_400_000] {
        let [mut weight, mut moment1, mut moment2, gradient] = [(); 4].map(|()| vec![0.01f32; len]);
        group.throughput(Throughput::Bytes(28 * len as u64));
        group.sample_size(20);
        group.bench_function(format!("{len}"), |bencher| {
            bencher.iter(|| {
                let args: AdamW<Cpu> = AdamW {
                    weight: &mut weight,
                    moment1: &mut moment1,
                    moment2: &mut moment2,
                    gradient: &gradient,
                    tensors: vec![Tensor { range: 0..len, weight_decay: 0.1, prepared: None }],
                    norm: &[1.0][..],
                    clip_norm: 0.0,
                    learning_rate: 1e-4,
                    beta1: 0.9,
                    beta2: 0.95,
                    epsilon: 1e-8,
                    step: 10,
                };
                Cpu.adamw(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
