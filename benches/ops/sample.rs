//! Benches of the op `sample`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::sample::{Draw, Sample, Sampler, Sampling};
use patarm::random::Stream;

/// Decoding batches of nano and of 0.6b, plain and with filters.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sample");
    let plain = Sampling::temperature(1.0);
    let filtered = Sampling { top_k: 50, top_p: 0.95, ..plain };
    for (rows, vocab, name, sampling) in [
        (64usize, 512usize, "plain", plain),
        (8, 151_936, "plain", plain),
        (64, 512, "top-k top-p", filtered),
        (8, 151_936, "top-k top-p", filtered),
    ] {
        let logits: Vec<f32> = (0..rows * vocab).map(|i| (i * 7919 % 1009) as f32 / 100.0).collect();
        let draws: Vec<Draw> = (0..rows)
            .map(|i| Draw { row: i as u32, sampling, stream: Stream::new(1).fold(i as u64), position: 9 })
            .collect();
        let (mut ids, mut logprobs) = (vec![0u32; rows], vec![0.0f32; rows]);
        group.throughput(Throughput::Elements((rows * vocab) as u64));
        group.bench_function(format!("{name} {rows}x{vocab}"), |bencher| {
            bencher.iter(|| {
                let args: Sample<Cpu> =
                    Sample { ids: &mut ids, logprobs: &mut logprobs, logits: &logits, draws: &draws, vocab };
                Cpu.sample(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
