//! Benches of the op `attention`: both directions at the shapes of `nano` and `mini`, packed, long and decoding.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use patarm::ops::Cpu;
use patarm::ops::attention::{Attention, AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};

/// Heads of the two small models: name, q_heads, kv_heads, head_dim.
const MODELS: [(&str, usize, usize, usize); 2] = [("nano", 4, 2, 32), ("mini", 8, 4, 64)];

struct Case {
    sizes: AttentionSizes,
    segments: SegmentTable,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    /// `sequences` of `keys` keys each, of which the last `queries` have queries.
    fn new(model: (&str, usize, usize, usize), sequences: usize, queries: usize, keys: usize) -> Self {
        let (_, q_heads, kv_heads, head_dim) = model;
        let mut segments = SegmentTable::default();
        for sequence in 0..sequences {
            segments.push(queries, [Run { start: (sequence * keys) as u32, len: keys as u32 }]);
        }
        segments.group();
        let pool_rows = sequences * keys;
        let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            sizes: AttentionSizes { q_heads, kv_heads, head_dim, pool_rows, scale },
            q: values(segments.queries() * q_heads * head_dim),
            k: values(pool_rows * kv_heads * head_dim),
            v: values(pool_rows * kv_heads * head_dim),
            segments,
        }
    }

    fn forward<'a>(&'a self, out: &'a mut [f32], log_sum_exp: &'a mut [f32]) -> AttentionForward<'a, Cpu> {
        AttentionForward {
            out,
            log_sum_exp: Some(log_sum_exp),
            q: &self.q,
            k_pool: &self.k,
            v_pool: &self.v,
            segments: &self.segments,
            sizes: self.sizes,
        }
    }
}

fn bench_case(c: &mut Criterion, name: &str, case: &Case, with_backward: bool) {
    let mut out = vec![0.0; case.q.len()];
    let mut log_sum_exp = vec![0.0; case.q.len() / case.sizes.head_dim];
    let mut group = c.benchmark_group("attention");
    group.sample_size(20);
    group.throughput(Throughput::Elements(case.forward(&mut out, &mut log_sum_exp).cost().flops));
    group.bench_function(format!("forward/{name}"), |b| {
        b.iter(|| Cpu.attention_forward(case.forward(black_box(&mut out), &mut log_sum_exp)).unwrap());
    });
    if !with_backward {
        return;
    }
    let (mut d_q, mut d_k_pool, mut d_v_pool) =
        (vec![0.0; case.q.len()], vec![0.0; case.k.len()], vec![0.0; case.v.len()]);
    let mut backward = |run: bool| {
        let args = AttentionBackward::<Cpu> {
            d_q: &mut d_q,
            d_k_pool: &mut d_k_pool,
            d_v_pool: &mut d_v_pool,
            d_out: &case.q,
            out: &out,
            log_sum_exp: &log_sum_exp,
            q: &case.q,
            k_pool: &case.k,
            v_pool: &case.v,
            segments: &case.segments,
            sizes: case.sizes,
        };
        let cost = args.cost();
        if run {
            Cpu.attention_backward(args).unwrap();
        }
        cost
    };
    group.throughput(Throughput::Elements(backward(false).flops));
    group.bench_function(format!("backward/{name}"), |b| b.iter(|| backward(true)));
}

fn bench(c: &mut Criterion) {
    for model in MODELS {
        for (sequences, len) in [(16, 128), (8, 256), (1, 2048)] {
            let case = Case::new(model, sequences, len, len);
            bench_case(c, &format!("{} {sequences}x{len}", model.0), &case, true);
        }
        for (sequences, queries, keys) in [(64, 1, 100), (64, 1, 512), (4, 32, 512)] {
            let case = Case::new(model, sequences, queries, keys);
            bench_case(c, &format!("{} {sequences} sequences, {queries} of {keys}", model.0), &case, false);
        }
    }
}

criterion::criterion_group!(benches, bench);
