//! Benches of the op `qk_norm_rope`: both directions at the shapes of `nano` and `mini`, in training and decoding.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeBackward, QkNormRopeForward};

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn bench_case(c: &mut Criterion, name: &str, sizes: HeadSizes) {
    let (q_len, pool_len) =
        (sizes.tokens * sizes.q_heads * sizes.head_dim, sizes.pool_rows * sizes.kv_heads * sizes.head_dim);
    let (mut q, mut k_pool, mut v_pool) = (values(q_len), values(pool_len), values(pool_len));
    let mut inv_rms = vec![1.0; sizes.tokens * (sizes.q_heads + sizes.kv_heads)];
    let (qkv, weight, rope) =
        (values(sizes.tokens * sizes.qkv_cols()), values(sizes.head_dim), values(sizes.rope_rows * sizes.head_dim));
    let positions: Vec<u32> = (0..sizes.tokens).map(|token| (token % sizes.rope_rows) as u32).collect();
    let kv_rows: Vec<u32> = (0..sizes.tokens as u32).collect();
    let mut group = c.benchmark_group("qk_norm_rope");
    group.sample_size(20).warm_up_time(std::time::Duration::from_millis(100));
    group.measurement_time(std::time::Duration::from_millis(500));
    group.throughput(Throughput::Bytes((8 * qkv.len()) as u64));
    group.bench_function(format!("forward/{name}"), |b| {
        b.iter(|| {
            let args = QkNormRopeForward::<Cpu> {
                q: black_box(&mut q),
                k_pool: &mut k_pool,
                v_pool: &mut v_pool,
                inv_rms: &mut inv_rms,
                qkv: &qkv,
                q_weight: &weight,
                k_weight: &weight,
                rope: &rope,
                positions: &positions,
                kv_rows: &kv_rows,
                sizes,
                epsilon: 1e-6,
            };
            Cpu.qk_norm_rope_forward(args).unwrap();
        });
    });
    let (mut d_qkv, mut d_weights) = (values(qkv.len()), [vec![0.0; sizes.head_dim], vec![0.0; sizes.head_dim]]);
    group.throughput(Throughput::Bytes((12 * qkv.len()) as u64));
    group.bench_function(format!("backward/{name}"), |b| {
        b.iter(|| {
            let [d_q_weight, d_k_weight] = &mut d_weights;
            let args = QkNormRopeBackward::<Cpu> {
                d_qkv: black_box(&mut d_qkv),
                d_q_weight: Some(d_q_weight),
                d_k_weight: Some(d_k_weight),
                d_q: &q,
                d_k_pool: &k_pool,
                d_v_pool: &v_pool,
                qkv: &qkv,
                inv_rms: &inv_rms,
                q_weight: &weight,
                k_weight: &weight,
                rope: &rope,
                positions: &positions,
                kv_rows: &kv_rows,
                sizes,
            };
            Cpu.qk_norm_rope_backward(args).unwrap();
        });
    });
}

fn bench(c: &mut Criterion) {
    for (model, q_heads, kv_heads, head_dim) in [("nano", 4, 2, 32), ("mini", 8, 4, 64)] {
        for tokens in [64, 2048] {
            let sizes = HeadSizes { tokens, q_heads, kv_heads, head_dim, pool_rows: tokens, rope_rows: 512 };
            bench_case(c, &format!("{model} {tokens} tokens"), sizes);
        }
    }
}

criterion::criterion_group!(benches, bench);
