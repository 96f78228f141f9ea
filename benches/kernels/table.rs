//! The table.

use std::time::Instant;

use half::bf16;
use patarm::cuda::{Buffer, Cuda, Emulation};
use patarm::ops::adamw::{AdamW, AdamWStep, Prepared, Tensor};
use patarm::ops::attention::{Attention, AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::ops::head::{Head, HeadGradient, HeadLoss, TokenLoss};
use patarm::ops::linear::{Linear, LinearForward, LinearSizes};
use patarm::ops::rmsnorm::{Residual, RmsNorm, RmsNormBackward, RmsNormForward};
use patarm::ops::sample::{Draw, Sample, Sampler, Sampling};
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use patarm::ops::{Backend, Cost, OpResult};
use patarm::random::Stream;
use patarm::tensor::Device;

/// Sizes of Qwen3-0.6B.
const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 3072;
const Q_HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;

struct Bench {
    device: Cuda,
    tokens: usize,
    vocab: usize,
    /// Seconds that a measurement lasts at least.
    lasts: f64,
    copy_bytes_per_s: f64,
    product_flops_per_s: f64,
}

pub fn run() {
    let arguments: Vec<String> = std::env::args().collect();
    let emulated = arguments.iter().any(|a| a == "--emulated");
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1)?.parse().ok());
    let device = if emulated {
        cuda_emulator::load().expect("the emulator's libraries lie beside the benches");
        Cuda::open(0, Emulation::Allowed)
    } else {
        Cuda::open(0, Emulation::Refused)
    };
    let device = match device {
        Ok(device) => device,
        Err(error) => return println!("{error}\n(--emulated runs the benches on the emulator: counts, not speed)"),
    };
    let mut bench = Bench {
        tokens: after("--tokens").unwrap_or(8192),
        vocab: if emulated { 1000 } else { 151_936 },
        lasts: if emulated { 0.0 } else { 0.2 },
        copy_bytes_per_s: f64::NAN,
        product_flops_per_s: 1e9 * device.product_gflops().expect("products run"),
        device,
    };
    bench.copy_bytes_per_s = bench.copy_speed(if emulated { 1 << 16 } else { 1 << 28 });
    println!(
        "{}: copies {:.0} GB/s (read and write), products {:.1} TFLOP/s\n{:38} {:>10} {:>9} {:>9} {:>8} {:>8}",
        Backend::name(&bench.device),
        bench.copy_bytes_per_s * 1e-9,
        bench.product_flops_per_s * 1e-12,
        "op",
        "µs",
        "GB/s",
        "TFLOP/s",
        "% copy",
        "% GEMM"
    );
    bench.norms();
    bench.swiglu();
    bench.adamw();
    bench.products();
    bench.attention();
    bench.decoding();
    bench.head();
    bench.sampling();
}

impl Bench {
    /// Seconds of one call, after two that are not timed.
    fn time(&self, mut work: impl FnMut() -> OpResult) -> f64 {
        let mut calls = |count: usize| {
            self.device.synchronize().expect("the device works");
            let start = Instant::now();
            (0..count).for_each(|_| work().expect("the op runs"));
            self.device.synchronize().expect("the device works");
            start.elapsed().as_secs_f64()
        };
        calls(2);
        let once = calls(1).max(1e-7);
        let count = (self.lasts / once).ceil().max(1.0) as usize;
        calls(count) / count as f64
    }

    fn row(&self, name: &str, cost: Cost, work: impl FnMut() -> OpResult) {
        let seconds = self.time(work);
        let (bytes, flops) = (cost.bytes as f64 / seconds, cost.flops as f64 / seconds);
        println!(
            "{name:38} {:>10.1} {:>9.1} {:>9.2} {:>8.1} {:>8.1}",
            1e6 * seconds,
            bytes * 1e-9,
            flops * 1e-12,
            100.0 * bytes / self.copy_bytes_per_s,
            100.0 * flops / self.product_flops_per_s
        );
    }

    fn copy_speed(&self, bytes: usize) -> f64 {
        let (from, mut to) = (self.words(bytes / 4), self.words(bytes / 4));
        let (device, len) = (&self.device, bytes / 4);
        let copy = || Ok(device.copy(device.view_mut(&mut to, 0..len), device.view(&from, 0..len))?);
        2.0 * bytes as f64 / self.time(copy)
    }

    fn words(&self, len: usize) -> Buffer<u32> {
        self.device.zeros(len).expect("memory for a bench")
    }

    fn halves(&self, len: usize) -> Buffer<bf16> {
        let stream = Stream::new(len as u64);
        let some: Vec<bf16> = (0..4096).map(|i| bf16::from_f32(stream.uniform(i) - 0.5)).collect();
        self.device.upload(&some.into_iter().cycle().take(len).collect::<Vec<_>>()).expect("memory for a bench")
    }

    fn floats(&self, len: usize) -> Buffer<f32> {
        let stream = Stream::new(len as u64);
        let some: Vec<f32> = (0..4096).map(|i| stream.uniform(i) - 0.5).collect();
        self.device.upload(&some.into_iter().cycle().take(len).collect::<Vec<_>>()).expect("memory for a bench")
    }

    fn norms(&self) {
        let (d, rows, size) = (&self.device, self.tokens, self.tokens * HIDDEN);
        let (x, delta, weight) = (self.halves(size), self.halves(size), self.floats(HIDDEN));
        let (mut out, mut sum, mut inv_rms) = (self.halves(size), self.halves(size), self.floats(rows));
        fn forward<'a>(
            d: &Cuda,
            [out, sum]: [&'a mut Buffer<bf16>; 2],
            inv_rms: &'a mut Buffer<f32>,
            [x, delta]: [&'a Buffer<bf16>; 2],
            weight: &'a Buffer<f32>,
            rows: usize,
        ) -> RmsNormForward<'a, Cuda> {
            let size = rows * HIDDEN;
            RmsNormForward {
                out: d.view_mut(out, 0..size),
                inv_rms: d.view_mut(inv_rms, 0..rows),
                residual: Some(Residual { sum: d.view_mut(sum, 0..size), delta: d.view(delta, 0..size) }),
                x: d.view(x, 0..size),
                weight: d.view(weight, 0..HIDDEN),
                rows,
                cols: HIDDEN,
                epsilon: 1e-6,
            }
        }
        let cost = forward(d, [&mut out, &mut sum], &mut inv_rms, [&x, &delta], &weight, rows).cost();
        self.row("rmsnorm forward", cost, || {
            d.rmsnorm_forward(forward(d, [&mut out, &mut sum], &mut inv_rms, [&x, &delta], &weight, rows))
        });
        let mut d_weight = self.floats(HIDDEN);
        let mut backward = |run: bool| {
            let args = RmsNormBackward::<Cuda> {
                d_sum: d.view_mut(&mut out, 0..size),
                d_weight: Some(d.view_mut(&mut d_weight, 0..HIDDEN)),
                d_out: d.view(&delta, 0..size),
                sum: d.view(&x, 0..size),
                inv_rms: d.view(&inv_rms, 0..rows),
                weight: d.view(&weight, 0..HIDDEN),
                rows,
                cols: HIDDEN,
                overwrite: false,
            };
            let cost = args.cost();
            (cost, if run { d.rmsnorm_backward(args) } else { Ok(()) })
        };
        let (cost, _) = backward(false);
        self.row("rmsnorm backward", cost, || backward(true).1);
    }

    fn swiglu(&self) {
        let (d, rows, cols, size) = (&self.device, self.tokens, INTERMEDIATE, self.tokens * INTERMEDIATE);
        let (gate_up, d_out) = (self.halves(2 * size), self.halves(size));
        let (mut out, mut d_gate_up) = (self.halves(size), self.halves(2 * size));
        let gate_up = d.view(&gate_up, 0..2 * size);
        let cost = Cost { bytes: 6 * size as u64, flops: 5 * size as u64 };
        self.row("swiglu forward", cost, || {
            d.swiglu_forward(SwigluForward { out: d.view_mut(&mut out, 0..size), gate_up, rows, cols })
        });
        let cost = Cost { bytes: 10 * size as u64, flops: 11 * size as u64 };
        self.row("swiglu backward", cost, || {
            let d_gate_up = d.view_mut(&mut d_gate_up, 0..2 * size);
            d.swiglu_backward(SwigluBackward { d_gate_up, d_out: d.view(&d_out, 0..size), gate_up, rows, cols })
        });
    }

    fn adamw(&self) {
        let (d, sizes) = (&self.device, LinearSizes { out_features: self.tokens, in_features: HIDDEN });
        let len = sizes.len();
        let [mut weight, mut moment1, mut moment2] = [(); 3].map(|()| self.floats(len));
        let gradient = self.floats(len);
        let mut norm = d.zeros::<f64>(1).expect("memory");
        self.row("global norm", Cost { bytes: 4 * len as u64, flops: 2 * len as u64 }, || {
            d.global_norm(GlobalNorm { norm: d.view_mut(&mut norm, 0..1), gradient: d.view(&gradient, 0..len) })
        });
        let mut copy = d.linear_weight(sizes).expect("memory");
        self.row("adamw", Cost { bytes: 30 * len as u64, flops: 14 * len as u64 }, || {
            let prepared = Some(Prepared { weight: &mut copy, sizes });
            d.adamw(AdamW {
                weight: d.view_mut(&mut weight, 0..len),
                moment1: d.view_mut(&mut moment1, 0..len),
                moment2: d.view_mut(&mut moment2, 0..len),
                gradient: d.view(&gradient, 0..len),
                tensors: vec![Tensor { range: 0..len, weight_decay: 0.1, prepared }],
                norm: d.view(&norm, 0..1),
                clip_norm: 1.0,
                learning_rate: 1e-4,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                step: 10,
            })
        });
    }

    fn products(&self) {
        let d = &self.device;
        for (name, rows) in [("product gate_up, training", self.tokens), ("product gate_up, decoding 64", 64)] {
            let sizes = LinearSizes { out_features: 2 * INTERMEDIATE, in_features: HIDDEN };
            let (x, master) = (self.halves(rows * HIDDEN), self.floats(sizes.len()));
            let mut weight = d.linear_weight(sizes).expect("memory");
            d.linear_prepare(&mut weight, d.view(&master, 0..sizes.len()), sizes).expect("a product");
            let mut out = self.halves(rows * sizes.out_features);
            let bytes = 2 * (rows * (sizes.out_features + HIDDEN) + sizes.len());
            let cost = Cost { bytes: bytes as u64, flops: 2 * (rows * sizes.len()) as u64 };
            self.row(name, cost, || {
                let out = d.view_mut(&mut out, 0..rows * sizes.out_features);
                d.linear_forward(LinearForward { out, x: d.view(&x, 0..rows * HIDDEN), weight: &weight, rows, sizes })
            });
        }
    }

    fn attention_sizes(&self, pool_rows: usize) -> AttentionSizes {
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        AttentionSizes { q_heads: Q_HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, pool_rows, scale }
    }

    /// Packed sequences of 1024 tokens (or all in one, where there are fewer).
    fn attention(&self) {
        let (d, length) = (&self.device, self.tokens.min(1024));
        let (mut segments, mut first) = (SegmentTable::default(), 0);
        while first + length <= self.tokens {
            segments.push(length, [Run { start: first as u32, len: length as u32 }]);
            first += length;
        }
        segments.group();
        let (q_len, kv_len, rows) = (first * Q_HEADS * HEAD_DIM, first * KV_HEADS * HEAD_DIM, first * Q_HEADS);
        let (q, k, v, d_out) = (self.halves(q_len), self.halves(kv_len), self.halves(kv_len), self.halves(q_len));
        let (mut out, mut sums) = (self.halves(q_len), self.floats(rows));
        let sizes = self.attention_sizes(first);
        let pairs = segments.pairs() * (Q_HEADS * HEAD_DIM) as u64;
        let bytes = 4 * (q_len + kv_len) as u64;
        self.row(&format!("attention forward, {length} tokens"), Cost { bytes, flops: 4 * pairs }, || {
            d.attention_forward(AttentionForward {
                out: d.view_mut(&mut out, 0..q_len),
                log_sum_exp: Some(d.view_mut(&mut sums, 0..rows)),
                q: d.view(&q, 0..q_len),
                k_pool: d.view(&k, 0..kv_len),
                v_pool: d.view(&v, 0..kv_len),
                segments: &segments,
                sizes,
            })
        });
        let (mut d_q, mut d_k, mut d_v) = (self.halves(q_len), self.halves(kv_len), self.halves(kv_len));
        let cost = Cost { bytes: (8 * q_len + 12 * kv_len) as u64, flops: 10 * pairs };
        self.row(&format!("attention backward, {length} tokens"), cost, || {
            d.attention_backward(AttentionBackward {
                d_q: d.view_mut(&mut d_q, 0..q_len),
                d_k_pool: d.view_mut(&mut d_k, 0..kv_len),
                d_v_pool: d.view_mut(&mut d_v, 0..kv_len),
                d_out: d.view(&d_out, 0..q_len),
                out: d.view(&out, 0..q_len),
                log_sum_exp: d.view(&sums, 0..rows),
                q: d.view(&q, 0..q_len),
                k_pool: d.view(&k, 0..kv_len),
                v_pool: d.view(&v, 0..kv_len),
                segments: &segments,
                sizes,
            })
        });
    }

    /// 64 sequences that each add a token, with pages of 16.
    fn decoding(&self) {
        let (d, keys) = (&self.device, (self.tokens / 4).max(16));
        let (mut segments, pages) = (SegmentTable::default(), keys / 16);
        for sequence in 0..64 {
            // Pages of one sequence lie far from each other.
            segments.push(1, (0..pages).map(|page| Run { start: ((page * 64 + sequence) * 16) as u32, len: 16 }));
        }
        let pool_rows = 64 * pages * 16;
        let (q_len, kv_len) = (64 * Q_HEADS * HEAD_DIM, pool_rows * KV_HEADS * HEAD_DIM);
        let (q, k, v, mut out) = (self.halves(q_len), self.halves(kv_len), self.halves(kv_len), self.halves(q_len));
        let cost = Cost { bytes: 4 * kv_len as u64, flops: 4 * segments.pairs() * (Q_HEADS * HEAD_DIM) as u64 };
        self.row(&format!("attention decode, 64 × {} keys", pages * 16), cost, || {
            d.attention_forward(AttentionForward {
                out: d.view_mut(&mut out, 0..q_len),
                log_sum_exp: None,
                q: d.view(&q, 0..q_len),
                k_pool: d.view(&k, 0..kv_len),
                v_pool: d.view(&v, 0..kv_len),
                segments: &segments,
                sizes: self.attention_sizes(pool_rows),
            })
        });
    }

    fn head(&self) {
        let (d, rows, vocab) = (&self.device, self.tokens.min(1024), self.vocab);
        let sizes = LinearSizes { out_features: vocab, in_features: HIDDEN };
        let (hidden, master) = (self.halves(rows * HIDDEN), self.floats(sizes.len()));
        let mut weight = d.linear_weight(sizes).expect("memory");
        d.linear_prepare(&mut weight, d.view(&master, 0..sizes.len()), sizes).expect("a product");
        let places: Vec<u32> = (0..rows as u32).collect();
        let (places, row_weight) = (d.upload(&places).expect("memory"), self.floats(rows));
        let [mut logprob, mut entropy, mut loss] = [(); 3].map(|()| self.floats(rows));
        let (mut d_hidden, mut d_weight) = (self.halves(rows * HIDDEN), self.floats(sizes.len()));
        let mut loss_of = |run: bool| {
            let args = HeadLoss::<Cuda> {
                logprob: d.view_mut(&mut logprob, 0..rows),
                entropy: d.view_mut(&mut entropy, 0..rows),
                loss: d.view_mut(&mut loss, 0..rows),
                gradient: Some(HeadGradient {
                    d_hidden: d.view_mut(&mut d_hidden, 0..rows * HIDDEN),
                    d_weight: Some(d.view_mut(&mut d_weight, 0..sizes.len())),
                    row_weight: d.view(&row_weight, 0..rows),
                    loss: TokenLoss::CrossEntropy,
                }),
                hidden: d.view(&hidden, 0..rows * HIDDEN),
                weight: &weight,
                rows: d.view(&places, 0..rows),
                targets: d.view(&places, 0..rows),
                temperature: 1.0,
                tokens: rows,
                chunk_rows: d.head_chunk_rows(sizes),
                sizes,
            };
            let cost = args.cost();
            (cost, if run { d.head_loss(args) } else { Ok(()) })
        };
        let (cost, _) = loss_of(false);
        self.row(&format!("head, loss and gradients, {rows} rows"), cost, || loss_of(true).1);
    }

    fn sampling(&self) {
        let (d, rows, vocab) = (&self.device, 64, self.vocab);
        let logits = self.floats(rows * vocab);
        let (mut ids, mut logprobs) = (self.words(rows), self.floats(rows));
        for (name, sampling) in [
            ("sample, 64 rows", Sampling::temperature(1.0)),
            ("sample, top-k 50, top-p 0.95", Sampling { temperature: 1.0, top_k: 50, top_p: 0.95, min_p: 0.0 }),
        ] {
            let draw = |row| Draw { row, sampling, stream: Stream::new(1).fold(row.into()), position: 7 };
            let draws: Vec<Draw> = (0..rows as u32).map(draw).collect();
            let size = (rows * vocab) as u64;
            self.row(name, Cost { bytes: 4 * size, flops: 8 * size }, || {
                d.sample(Sample {
                    ids: d.view_mut(&mut ids, 0..rows),
                    logprobs: d.view_mut(&mut logprobs, 0..rows),
                    logits: d.view(&logits, 0..rows * vocab),
                    draws: &draws,
                    vocab,
                })
            });
        }
    }
}
