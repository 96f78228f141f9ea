//! Benches of the op `linear`: the three matmuls at the shapes of nano, mini and 0.6b, for training and for decoding.
//!
//! Elements per second are floating-point operations per second; compare them with the peak that is printed first.

use criterion::{BenchmarkId, Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::cpu::gemm::peak_gflops;
use patarm::ops::linear::*;

/// (name, out_features, in_features)
const SHAPES: [(&str, usize, usize); 14] = [
    ("nano/qkv", 512, 128),
    ("nano/o", 128, 256),
    ("nano/gate_up", 768, 128),
    ("nano/down", 128, 384),
    ("nano/lm_head", 512, 128),
    ("mini/qkv", 1024, 512),
    ("mini/o", 512, 512),
    ("mini/gate_up", 3072, 512),
    ("mini/down", 512, 1536),
    ("mini/lm_head", 8192, 512),
    ("0.6b/qkv", 4096, 1024),
    ("0.6b/o", 1024, 2048),
    ("0.6b/gate_up", 6144, 1024),
    ("0.6b/down", 1024, 3072),
];

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn bench(c: &mut Criterion) {
    println!("measured peak: {:.1} GFLOP/s a thread, {} threads", peak_gflops(), rayon::current_num_threads());
    for (name, out_features, in_features) in SHAPES {
        let sizes = LinearSizes { out_features, in_features };
        let master = values(sizes.len());
        let mut weight = Cpu.linear_weight(sizes).unwrap();
        Cpu.linear_prepare(&mut weight, &master, sizes).unwrap();
        let mut d_weight = vec![0.0; sizes.len()];
        let mut group = c.benchmark_group(format!("linear/{name}"));
        group.sample_size(10).warm_up_time(std::time::Duration::from_millis(50));
        group.measurement_time(std::time::Duration::from_millis(200));
        for rows in [1, 4, 8, 64, 512, 2048] {
            let (x, mut out) = (values(rows * in_features), values(rows * out_features));
            let mut d_x = vec![0.0; x.len()];
            group.throughput(Throughput::Elements((2 * rows * sizes.len()) as u64));
            group.bench_function(BenchmarkId::new("forward", rows), |b| {
                b.iter(|| Cpu.linear_forward(LinearForward { out: &mut out, x: &x, weight: &weight, rows, sizes }))
            });
            if rows < 64 {
                continue;
            }
            group.bench_function(BenchmarkId::new("backward_input", rows), |b| {
                b.iter(|| {
                    let (d_x, d_out) = (&mut d_x[..], &out[..]);
                    Cpu.linear_backward_input(LinearBackwardInput {
                        d_x,
                        d_out,
                        weight: &weight,
                        rows,
                        sizes,
                        accumulate: false,
                    })
                })
            });
            group.bench_function(BenchmarkId::new("backward_weight", rows), |b| {
                b.iter(|| {
                    let (d_weight, d_out) = (&mut d_weight[..], &out[..]);
                    Cpu.linear_backward_weight(LinearBackwardWeight { d_weight, d_out, x: &x, rows, sizes })
                })
            });
        }
        group.finish();
    }
}

criterion::criterion_group!(benches, bench);
