//! Benches of the op `lm_head`: loss with gradient, log-probabilities alone, and logits for sampling.
//!
//! Elements per second are floating-point operations of the matmuls per second.

use criterion::{BenchmarkId, Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::ops::lm_head::*;

/// (name, vocab, hidden, selected rows)
const SHAPES: [(&str, usize, usize, usize); 3] =
    [("nano", 512, 128, 1024), ("mini", 8192, 512, 256), ("qwen3", 151_936, 64, 64)];

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn bench(c: &mut Criterion) {
    for (name, vocab, width, n) in SHAPES {
        let sizes = LinearSizes { out_features: vocab, in_features: width };
        let mut weight = Cpu.linear_weight(sizes).unwrap();
        Cpu.linear_prepare(&mut weight, &values(sizes.len()), sizes).unwrap();
        let hidden = values(n * width);
        let rows: Vec<u32> = (0..n as u32).collect();
        let targets: Vec<u32> = rows.iter().map(|r| r * 31 % vocab as u32).collect();
        let row_weight = vec![1.0 / n as f32; n];
        let [mut logprob, mut entropy, mut loss] = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
        let (mut d_hidden, mut d_weight) = (vec![0.0; hidden.len()], vec![0.0; sizes.len()]);
        let mut group = c.benchmark_group(format!("lm_head/{name}"));
        group.sample_size(10).measurement_time(std::time::Duration::from_millis(500));
        for with_gradient in [false, true] {
            let matmuls = if with_gradient { 3 } else { 1 };
            group.throughput(Throughput::Elements((2 * matmuls * n * sizes.len()) as u64));
            let id = BenchmarkId::new(if with_gradient { "loss_and_gradient" } else { "logprob" }, n);
            group.bench_function(id, |b| {
                b.iter(|| {
                    let (d_hidden, d_weight) = (&mut d_hidden[..], &mut d_weight[..]);
                    let gradient = with_gradient.then_some(LmHeadGradient {
                        d_hidden,
                        d_weight: Some(d_weight),
                        row_weight: &row_weight[..],
                        loss: TokenLoss::CrossEntropy,
                    });
                    Cpu.lm_head_loss(LmHeadLoss {
                        logprob: &mut logprob,
                        entropy: &mut entropy,
                        loss: &mut loss,
                        gradient,
                        hidden: &hidden,
                        weight: &weight,
                        rows: &rows,
                        targets: &targets,
                        temperature: 1.0,
                        tokens: n,
                        chunk_rows: Cpu.lm_head_chunk_rows(sizes),
                        sizes,
                    })
                })
            });
        }
        let mut out = vec![0.0; 8 * vocab];
        group.throughput(Throughput::Elements((2 * 8 * sizes.len()) as u64));
        group.bench_function(BenchmarkId::new("logits", 8), |b| {
            let (hidden, rows, weight) = (&hidden[..], &rows[..8], &weight);
            b.iter(|| Cpu.lm_head_logits(LmHeadLogits { out: &mut out, hidden, weight, rows, tokens: n, sizes }))
        });
        group.finish();
    }
}

criterion::criterion_group!(benches, bench);
