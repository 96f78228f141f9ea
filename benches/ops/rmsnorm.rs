//! Benches of the op `rmsnorm`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::rmsnorm::{Residual, RmsNorm, RmsNormBackward, RmsNormForward};

/// Training rows of nano and mini, and a decoding batch.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rmsnorm");
    for (rows, cols) in [(4096, 128), (1024, 512), (64, 128)] {
        let size = rows * cols;
        let (x, delta, weight) = (vec![0.5f32; size], vec![0.1f32; size], vec![1.0f32; cols]);
        let (mut out, mut sum, mut inv_rms) = (vec![0.0f32; size], vec![0.0f32; size], vec![0.0f32; rows]);
        // Read x and delta, write sum and out.
        group.throughput(Throughput::Bytes(16 * size as u64));
        group.bench_function(format!("forward {rows}x{cols}"), |bencher| {
            bencher.iter(|| {
                let args: RmsNormForward<Cpu> = RmsNormForward {
                    out: &mut out,
                    inv_rms: &mut inv_rms,
                    residual: Some(Residual { sum: &mut sum, delta: &delta }),
                    x: &x,
                    weight: &weight,
                    rows,
                    cols,
                    epsilon: 1e-6,
                };
                Cpu.rmsnorm_forward(args).expect("sizes fit");
            });
        });
        let mut d_weight = vec![0.0f32; cols];
        group.bench_function(format!("backward {rows}x{cols}"), |bencher| {
            bencher.iter(|| {
                let args: RmsNormBackward<Cpu> = RmsNormBackward {
                    d_sum: &mut out,
                    d_weight: Some(&mut d_weight),
                    d_out: &delta,
                    sum: &x,
                    inv_rms: &inv_rms,
                    weight: &weight,
                    rows,
                    cols,
                    overwrite: true,
                };
                Cpu.rmsnorm_backward(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
