//! Benches of the op `swiglu`.

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};

/// Training rows of nano and mini, and a decoding batch.
fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("swiglu");
    for (rows, cols) in [(4096, 384), (1024, 1536), (64, 384)] {
        let gate_up = vec![0.7f32; 2 * rows * cols];
        let (mut out, mut d_gate_up) = (vec![0.0f32; rows * cols], vec![0.0f32; 2 * rows * cols]);
        group.throughput(Throughput::Bytes(12 * (rows * cols) as u64));
        group.bench_function(format!("forward {rows}x{cols}"), |bencher| {
            bencher.iter(|| {
                let args: SwigluForward<Cpu> = SwigluForward { out: &mut out, gate_up: &gate_up, rows, cols };
                Cpu.swiglu_forward(args).expect("sizes fit");
            });
        });
        group.throughput(Throughput::Bytes(20 * (rows * cols) as u64));
        group.bench_function(format!("backward {rows}x{cols}"), |bencher| {
            bencher.iter(|| {
                let args: SwigluBackward<Cpu> =
                    SwigluBackward { d_gate_up: &mut d_gate_up, d_out: &out, gate_up: &gate_up, rows, cols };
                Cpu.swiglu_backward(args).expect("sizes fit");
            });
        });
    }
    group.finish();
}

criterion::criterion_group!(benches, bench);
