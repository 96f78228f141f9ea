//! Kernels that are bound by memory, against the bytes that their contracts say must move.

use cuda_emulator::counters::KernelCounters;
use patarm::cuda::Cuda;
use patarm::ops::Cost;
use patarm::ops::adamw::{AdamW, AdamWStep, Prepared, Tensor};
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::ops::linear::{Linear, LinearSizes};
use patarm::ops::lm_head::{LmHead, LmHeadGradient, LmHeadLoss, TokenLoss};
use patarm::ops::rmsnorm::{Residual, RmsNorm, RmsNormBackward, RmsNormForward};
use patarm::ops::swiglu::{Swiglu, SwigluBackward, SwigluForward};
use patarm::tensor::Device;

use super::{Table, counted, floats, halves, kernel, words};

/// A kernel may move this many times its floor.
const LIMIT: f64 = 1.15;
const ROWS: usize = 4096;

pub fn run(device: &Cuda, table: &mut Table) {
    for cols in [1024, 2048, 4096] {
        rmsnorm(device, table, cols);
    }
    for cols in [1024, 4096] {
        swiglu(device, table, cols);
    }
    adamw(device, table);
    lm_head(device, table, 64, 20_000);
}

/// A sector counts whole, even if a warp uses only a part of it, and counts again for every warp that reads it, cached or not.
fn assert_near_floor(what: &str, counters: &cuda_emulator::counters::Counters, names: &[&str], cost: Cost) {
    let sectors: u64 = names.iter().map(|name| kernel(counters, name)).map(|k| k.load_sectors + k.store_sectors).sum();
    let ratio = (32 * sectors) as f64 / cost.bytes as f64;
    println!("{what}: {ratio:.4} of the floor");
    assert!((0.99..=LIMIT).contains(&ratio), "{what}: {ratio:.4} × the floor of {} bytes", cost.bytes);
}

/// A warp's widest load is 16 bytes a lane. Narrower loads are allowed for little more than the last elements.
fn assert_wide_loads(what: &str, kernel: &KernelCounters) {
    let bytes = kernel.load_bytes as f64 / kernel.load_instructions as f64;
    println!("{what}: {bytes:.1} bytes a load");
    assert!(bytes >= 0.95 * 512.0, "{what}: {bytes:.1} bytes a load of a warp, which can be 512");
}

fn rmsnorm(device: &Cuda, table: &mut Table, cols: usize) {
    let size = ROWS * cols;
    let (x, delta, weight) = (halves(device, size), halves(device, size), floats(device, cols));
    let (mut out, mut sum, mut inv_rms) = (halves(device, size), halves(device, size), floats(device, ROWS));
    let (mut cost, mut backward_cost) = (Cost::default(), Cost::default());
    let case = format!("rmsnorm {ROWS} × {cols}");
    let counters = counted(device, || {
        let args = RmsNormForward::<Cuda> {
            out: device.view_mut(&mut out, 0..size),
            inv_rms: device.view_mut(&mut inv_rms, 0..ROWS),
            residual: Some(Residual { sum: device.view_mut(&mut sum, 0..size), delta: device.view(&delta, 0..size) }),
            x: device.view(&x, 0..size),
            weight: device.view(&weight, 0..cols),
            rows: ROWS,
            cols,
            epsilon: 1e-6,
        };
        cost = args.cost();
        device.rmsnorm_forward(args).unwrap();
    });
    assert_near_floor(&format!("{case} forward"), &counters, &["rmsnorm_forward_bf16"], cost);
    table.add(&case, device, &counters);
    let (mut d_sum, mut d_weight) = (halves(device, size), floats(device, cols));
    let counters = counted(device, || {
        let args = RmsNormBackward::<Cuda> {
            d_sum: device.view_mut(&mut d_sum, 0..size),
            d_weight: Some(device.view_mut(&mut d_weight, 0..cols)),
            d_out: device.view(&delta, 0..size),
            sum: device.view(&sum, 0..size),
            inv_rms: device.view(&inv_rms, 0..ROWS),
            weight: device.view(&weight, 0..cols),
            rows: ROWS,
            cols,
            overwrite: false,
        };
        backward_cost = args.cost();
        device.rmsnorm_backward(args).unwrap();
    });
    let names = ["rmsnorm_backward_bf16", "rmsnorm_backward_weight_f32"];
    assert_near_floor(&format!("{case} backward, partials included"), &counters, &names, backward_cost);
    table.add(&case, device, &counters);
}

fn swiglu(device: &Cuda, table: &mut Table, cols: usize) {
    let (rows, size) = (ROWS, ROWS * cols);
    let (gate_up, d_out) = (halves(device, 2 * size), halves(device, size));
    let (mut out, mut d_gate_up) = (halves(device, size), halves(device, 2 * size));
    let (mut cost, mut backward_cost) = (Cost::default(), Cost::default());
    let counters = counted(device, || {
        let gate_up = device.view(&gate_up, 0..2 * size);
        let args = SwigluForward::<Cuda> { out: device.view_mut(&mut out, 0..size), gate_up, rows, cols };
        cost = args.cost();
        device.swiglu_forward(args).unwrap();
        let d_gate_up = device.view_mut(&mut d_gate_up, 0..2 * size);
        let args = SwigluBackward::<Cuda> { d_gate_up, d_out: device.view(&d_out, 0..size), gate_up, rows, cols };
        backward_cost = args.cost();
        device.swiglu_backward(args).unwrap();
    });
    let case = format!("swiglu {rows} × {cols}");
    assert_near_floor(&format!("{case} forward"), &counters, &["swiglu_forward_bf16"], cost);
    assert_near_floor(&format!("{case} backward"), &counters, &["swiglu_backward_bf16"], backward_cost);
    table.add(&case, device, &counters);
}

/// Matrices with and without a copy for matmuls, and norms, as in a model: one launch for all.
fn adamw(device: &Cuda, table: &mut Table) {
    let matrices = [(1024, 512), (320, 64), (1, 8192)]
        .map(|(out_features, in_features)| LinearSizes { out_features, in_features });
    let mut copies = matrices.map(|sizes| device.linear_weight(sizes).unwrap());
    let mut tensors: Vec<Tensor<'_, Cuda>> = Vec::new();
    let mut len = 0;
    let mut next_range = |elements: usize| {
        len += elements;
        len - elements..len
    };
    for (sizes, weight) in matrices.into_iter().zip(&mut copies) {
        tensors.push(Tensor {
            range: next_range(sizes.len()),
            weight_decay: 0.1,
            prepared: Some(Prepared { weight, sizes }),
        });
    }
    for (elements, weight_decay) in [(300_000, 0.1), (2048, 0.0)] {
        tensors.push(Tensor { range: next_range(elements), weight_decay, prepared: None });
    }
    let [mut weight, mut moment1, mut moment2] = [(); 3].map(|()| floats(device, len));
    let (gradient, mut norm) = (floats(device, len), device.zeros::<f64>(1).unwrap());
    let mut cost = Cost::default();
    let counters = counted(device, || {
        let gradient = device.view(&gradient, 0..len);
        device.global_norm(GlobalNorm { norm: device.view_mut(&mut norm, 0..1), gradient }).unwrap();
        let args = AdamW::<Cuda> {
            weight: device.view_mut(&mut weight, 0..len),
            moment1: device.view_mut(&mut moment1, 0..len),
            moment2: device.view_mut(&mut moment2, 0..len),
            gradient,
            tensors,
            norm: device.view(&norm, 0..1),
            clip_norm: 1.0,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            step: 1,
        };
        cost = args.cost();
        device.adamw(args).unwrap();
    });
    let case = format!("adamw {len}");
    assert_near_floor(&case, &counters, &["adamw_f32"], cost);
    assert_near_floor(
        &format!("{case}, global norm"),
        &counters,
        &["global_norm_parts_f64"],
        Cost { bytes: 4 * len as u64, flops: 0 },
    );
    assert_wide_loads(&case, kernel(&counters, "global_norm_parts_f64"));
    table.add(&case, device, &counters);
}

/// The loss kernel alone: the part between the matmuls of the contract.
fn lm_head(device: &Cuda, table: &mut Table, rows: usize, vocab: usize) {
    let (width, sizes) = (32, LinearSizes { out_features: vocab, in_features: 32 });
    let (hidden, master) = (halves(device, rows * width), floats(device, sizes.len()));
    let mut weight = device.linear_weight(sizes).unwrap();
    device.linear_prepare(&mut weight, device.view(&master, 0..sizes.len()), sizes).unwrap();
    let indices: Vec<u32> = (0..rows as u32).collect();
    let (indices, row_weight) = (words(device, &indices), floats(device, rows));
    let [mut logprob, mut entropy, mut loss] = [(); 3].map(|()| floats(device, rows));
    let (mut d_hidden, mut d_weight) = (halves(device, rows * width), floats(device, sizes.len()));
    let mut cost = Cost::default();
    let counters = counted(device, || {
        let args = LmHeadLoss::<Cuda> {
            logprob: device.view_mut(&mut logprob, 0..rows),
            entropy: device.view_mut(&mut entropy, 0..rows),
            loss: device.view_mut(&mut loss, 0..rows),
            gradient: Some(LmHeadGradient {
                d_hidden: device.view_mut(&mut d_hidden, 0..rows * width),
                d_weight: Some(device.view_mut(&mut d_weight, 0..sizes.len())),
                row_weight: device.view(&row_weight, 0..rows),
                loss: TokenLoss::CrossEntropy,
            }),
            hidden: device.view(&hidden, 0..rows * width),
            weight: &weight,
            rows: device.view(&indices, 0..rows),
            targets: device.view(&indices, 0..rows),
            temperature: 1.0,
            tokens: rows,
            chunk_rows: rows,
            sizes,
        };
        cost = args.loss_cost();
        device.lm_head_loss(args).unwrap();
    });
    let case = format!("lm_head {rows} × {vocab}");
    assert_near_floor(&format!("{case}, loss and gradient"), &counters, &["lm_head_loss_f32"], cost);
    table.add(&case, device, &counters);
}
