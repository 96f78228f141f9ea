//! Benches of the op `global_norm`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::global_norm::{GlobalNorm, Norm};

/// The arenas of nano and mini.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("global_norm");
    for len in [853_376usize, 29_400_000] {
        let gradient = vec![0.01f32; len];
        group.throughput(Throughput::Bytes(4 * len as u64));
        group.bench_function(format!("{len}"), |bencher| {
            let mut norm = [0.0];
            bencher.iter(|| {
                let args = GlobalNorm { norm: &mut norm[..], gradient: &gradient[..] };
                Cpu.global_norm(args).expect("cannot fail");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
