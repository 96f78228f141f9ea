//! Benches of the op `embedding`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use patarm::random::Stream;

/// A training batch of nano, and one of 0.6b's vocabulary.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("embedding");
    for (vocab, hidden, tokens) in [(512, 128, 4096), (151_936, 256, 1024)] {
        let stream = Stream::new(1);
        let ids: Vec<u32> = (0..tokens as u32).map(|i| stream.below(i, vocab) as u32).collect();
        let (mut table, mut out) = (vec![0.1f32; vocab * hidden], vec![0.0f32; tokens * hidden]);
        group.throughput(Throughput::Bytes(8 * (tokens * hidden) as u64));
        group.bench_function(format!("forward {tokens}x{hidden} of {vocab}"), |bencher| {
            bencher.iter(|| {
                let args: EmbeddingForward<Cpu> =
                    EmbeddingForward { out: &mut out, table: &table, ids: &ids, tokens, hidden, vocab };
                Cpu.embedding_forward(args).expect("sizes fit");
            });
        });
        group.throughput(Throughput::Bytes(12 * (tokens * hidden) as u64));
        group.bench_function(format!("backward {tokens}x{hidden} of {vocab}"), |bencher| {
            bencher.iter(|| {
                let args: EmbeddingBackward<Cpu> =
                    EmbeddingBackward { d_table: &mut table, d_out: &out, ids: &ids, tokens, hidden, vocab };
                Cpu.embedding_backward(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
