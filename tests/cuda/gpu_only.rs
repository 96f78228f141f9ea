//! Checks that need a GPU: addresses beyond 2³¹ elements, the sums of the real cuBLASLt, graphs of the real driver, its faults.
//!
//! Each check is a function. An ordinary test runs it at a small size, also on the emulator, so that the check itself is tested.
//! An ignored test runs it at full size on a GPU. Ignored tests use much of the GPU's memory, so they run one at a time.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;
use patarm::cuda::{Argument, Cuda, Emulation, Grid, Matmul, Operand, ReplayCounts, device_info, kernels};
use patarm::model::parameters::random_weights;
use patarm::model::{Qwen3, Qwen3Config};
use patarm::ops::adamw::{AdamW, AdamWStep, Prepared, Tensor};
use patarm::ops::attention::{Attention, AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::ops::linear::{Linear, LinearForward, LinearSizes};
use patarm::ops::qk_norm_rope::{HeadSizes, QkNormRope, QkNormRopeForward};
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Completion, Engine, EngineLimits, PromptGroup, SampleRequest};
use patarm::tensor::{Device, Element};
use rayon::prelude::*;

use super::open;

/// Random bf16 numbers between −1 and 1.
fn numbers(seed: u64, len: usize) -> Vec<bf16> {
    let stream = Stream::new(seed);
    (0..len as u32).into_par_iter().map(|i| bf16::from_f32(2.0 * stream.uniform(i) - 1.0)).collect()
}

fn wide(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// The machine's GPU, and a lock that keeps other tests of this kind from using its memory at the same time.
fn gpu() -> (Cuda, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (Cuda::open(0, Emulation::Refused).unwrap_or_else(|e| panic!("{e}")), alone)
}

fn all<T: Element>(device: &Cuda, buffer: &<Cuda as Device>::Buffer<T>) -> Vec<T> {
    device.download(device.view(buffer, 0..device.len(buffer))).unwrap_or_else(|e| panic!("{e}"))
}

// Rows of a pool beyond 2³¹ elements.

/// The tokens of the sequence, and how many of them at the end have queries.
const TOKENS: usize = 330;
const QUERIES: usize = 150;

/// Writes a sequence's keys and values to the pool rows from `first` on, attends to them with many queries and with one, and
/// computes the gradients. Returns all results, including the sequence's rows of the pool.
fn attend(device: &Cuda, sizes: AttentionSizes, first: usize) -> Vec<Vec<u8>> {
    let AttentionSizes { q_heads, kv_heads, head_dim: dim, pool_rows, .. } = sizes;
    let row = kv_heads * dim;
    let [mut k, mut v, mut d_k, mut d_v] = [(); 4].map(|()| device.zeros::<bf16>(pool_rows * row).unwrap());
    let qkv = device.upload(&numbers(1, TOKENS * (q_heads + 2 * kv_heads) * dim)).unwrap();
    let rope = device.upload(&wide(&numbers(2, TOKENS * dim))).unwrap();
    let weight = device.upload(&vec![1.0f32; dim]).unwrap();
    let positions = device.upload(&(0..TOKENS as u32).collect::<Vec<_>>()).unwrap();
    let rows: Vec<u32> = (first..first + TOKENS).map(|row| row as u32).collect();
    let rows = device.upload(&rows).unwrap();
    let mut q = device.zeros::<bf16>(TOKENS * q_heads * dim).unwrap();
    let mut inv_rms = device.zeros::<f32>(TOKENS * (q_heads + kv_heads)).unwrap();
    let heads = HeadSizes { tokens: TOKENS, q_heads, kv_heads, head_dim: dim, pool_rows, rope_rows: TOKENS };
    device
        .qk_norm_rope_forward(QkNormRopeForward {
            q: device.view_mut(&mut q, 0..TOKENS * q_heads * dim),
            k_pool: device.view_mut(&mut k, 0..pool_rows * row),
            v_pool: device.view_mut(&mut v, 0..pool_rows * row),
            inv_rms: device.view_mut(&mut inv_rms, 0..TOKENS * (q_heads + kv_heads)),
            qkv: device.view(&qkv, 0..TOKENS * (q_heads + 2 * kv_heads) * dim),
            q_weight: device.view(&weight, 0..dim),
            k_weight: device.view(&weight, 0..dim),
            rope: device.view(&rope, 0..TOKENS * dim),
            positions: device.view(&positions, 0..TOKENS),
            kv_rows: device.view(&rows, 0..TOKENS),
            sizes: heads,
            epsilon: 1e-6,
        })
        .unwrap();
    // A segment with many queries, and one with a single query, as in decoding.
    let run = |len: usize| Run { start: first as u32, len: len as u32 };
    let mut segments = SegmentTable::default();
    segments.push(QUERIES, [run(TOKENS)]);
    segments.push(1, [run(TOKENS - 7)]);
    segments.group();
    let (count, len) = (QUERIES + 1, (QUERIES + 1) * q_heads * dim);
    let [mut out, mut d_q] = [(); 2].map(|()| device.zeros::<bf16>(len).unwrap());
    let d_out = device.upload(&numbers(3, len)).unwrap();
    let mut sums = device.zeros::<f32>(count * q_heads).unwrap();
    device
        .attention_forward(AttentionForward::<Cuda> {
            out: device.view_mut(&mut out, 0..len),
            log_sum_exp: Some(device.view_mut(&mut sums, 0..count * q_heads)),
            q: device.view(&q, 0..len),
            k_pool: device.view(&k, 0..pool_rows * row),
            v_pool: device.view(&v, 0..pool_rows * row),
            segments: &segments,
            sizes,
        })
        .unwrap();
    device
        .attention_backward(AttentionBackward::<Cuda> {
            d_q: device.view_mut(&mut d_q, 0..len),
            d_k_pool: device.view_mut(&mut d_k, 0..pool_rows * row),
            d_v_pool: device.view_mut(&mut d_v, 0..pool_rows * row),
            d_out: device.view(&d_out, 0..len),
            out: device.view(&out, 0..len),
            log_sum_exp: device.view(&sums, 0..count * q_heads),
            q: device.view(&q, 0..len),
            k_pool: device.view(&k, 0..pool_rows * row),
            v_pool: device.view(&v, 0..pool_rows * row),
            segments: &segments,
            sizes,
        })
        .unwrap();
    let own = first * row..(first + TOKENS) * row;
    let pools = [&k, &v, &d_k, &d_v].map(|pool| device.download(device.view(pool, own.clone())).unwrap());
    let [out, d_q] = [&out, &d_q].map(|buffer| all(device, buffer));
    let halves = pools.iter().chain([&out, &d_q]).map(|values| bytemuck::cast_slice(values).to_vec());
    halves.chain([bytemuck::cast_slice(&all(device, &sums)).to_vec()]).collect()
}

/// The results of a sequence do not depend on its rows in the pool.
fn results_do_not_depend_on_pool_rows(device: &Cuda, sizes: AttentionSizes, firsts: &[usize]) {
    let low = attend(device, sizes, 0);
    let names = ["keys", "values", "d_k", "d_v", "out", "d_q", "log_sum_exp"];
    for (name, bytes) in names.iter().zip(&low) {
        assert!(bytes.iter().any(|byte| *byte != 0), "{name}: nothing was written");
    }
    for first in firsts {
        let far = attend(device, sizes, *first);
        for ((name, low), far) in names.iter().zip(&low).zip(&far) {
            let differs = low.iter().zip(far).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{name} of pool rows from {first} on: the first byte that differs");
        }
    }
}

#[test]
fn results_of_a_sequence_do_not_depend_on_its_pool_rows() {
    let sizes = AttentionSizes { q_heads: 4, kv_heads: 2, head_dim: 32, pool_rows: 1000, scale: 0.2 };
    results_do_not_depend_on_pool_rows(&open(0, Emulation::Allowed).unwrap(), sizes, &[670, 301]);
}

#[test]
#[ignore = "needs a GPU: 34 GB of pools, whose last rows lie beyond 2³¹ and 2³² elements"]
fn rows_of_a_pool_beyond_two_to_the_31_elements() {
    let (device, _alone) = gpu();
    // With 1,024 elements per row these rows cross 2³¹, cross 2³², and lie beyond it.
    let firsts = [(1 << 21) - 200, (1 << 22) - 100, (1 << 22) + 1000];
    let pool_rows = firsts[2] + TOKENS;
    let sizes = AttentionSizes { q_heads: 16, kv_heads: 8, head_dim: 128, pool_rows, scale: 0.1 };
    results_do_not_depend_on_pool_rows(&device, sizes, &firsts);
}

// A weight arena beyond 2³¹ elements.

/// The matrix that is updated and multiplied.
const MATRIX: LinearSizes = LinearSizes { out_features: 96, in_features: 104 };

/// Updates the weights from `start` on in an arena of `len`, and multiplies by them. Returns weights, moments and output.
fn update(device: &Cuda, len: usize, start: usize) -> [Vec<f32>; 4] {
    let range = start..start + MATRIX.len();
    let filled = |seed: u64, low: f32| {
        let mut buffer = device.zeros::<f32>(len).unwrap();
        let values: Vec<f32> = wide(&numbers(seed, MATRIX.len())).iter().map(|x| x.max(low)).collect();
        device.write(device.view_mut(&mut buffer, range.clone()), &values).unwrap();
        buffer
    };
    let [mut weight, mut moment1, gradient] = [1, 2, 3].map(|seed| filled(seed, -1.0));
    let mut moment2 = filled(4, 0.0);
    let mut prepared = device.linear_weight(MATRIX).unwrap();
    let norm = device.upload(&[1.0f64]).unwrap();
    let tensor = Tensor {
        range: range.clone(),
        weight_decay: 0.1,
        prepared: Some(Prepared { weight: &mut prepared, sizes: MATRIX }),
    };
    device
        .adamw(AdamW::<Cuda> {
            weight: device.view_mut(&mut weight, 0..len),
            moment1: device.view_mut(&mut moment1, 0..len),
            moment2: device.view_mut(&mut moment2, 0..len),
            gradient: device.view(&gradient, 0..len),
            tensors: vec![tensor],
            norm: device.view(&norm, 0..1),
            clip_norm: 0.0,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            step: 3,
        })
        .unwrap();
    let matmul = |prepared: &<Cuda as Linear>::Weight| {
        let x = device.upload(&numbers(5, 3 * MATRIX.in_features)).unwrap();
        let mut out = device.zeros::<bf16>(3 * MATRIX.out_features).unwrap();
        let args = LinearForward::<Cuda> {
            out: device.view_mut(&mut out, 0..3 * MATRIX.out_features),
            x: device.view(&x, 0..3 * MATRIX.in_features),
            weight: prepared,
            rows: 3,
            sizes: MATRIX,
        };
        device.linear_forward(args).unwrap();
        wide(&all(device, &out))
    };
    let updated = matmul(&prepared);
    // A copy prepared from the master weights must equal the one that the update wrote.
    device.linear_prepare(&mut prepared, device.view(&weight, range.clone()), MATRIX).unwrap();
    assert!(
        matmul(&prepared) == updated,
        "the copy of weights from {start} on differs from the one that the update wrote"
    );
    let [weight, moment1, moment2] =
        [weight, moment1, moment2].map(|buffer| device.download(device.view(&buffer, range.clone())).unwrap());
    [weight, moment1, moment2, updated]
}

/// √Σ g² of a gradient that ends with 3 and 4 and is zero elsewhere; the result is exact.
fn norm_of_the_end(device: &Cuda, len: usize) -> f64 {
    let mut gradient = device.zeros::<f32>(len).unwrap();
    device.write(device.view_mut(&mut gradient, len - 2..len), &[3.0, 4.0]).unwrap();
    let mut norm = device.zeros::<f64>(1).unwrap();
    let (norm_view, gradient) = (device.view_mut(&mut norm, 0..1), device.view(&gradient, 0..len));
    device.global_norm(GlobalNorm::<Cuda> { norm: norm_view, gradient }).unwrap();
    all(device, &norm)[0]
}

#[test]
fn an_update_does_not_depend_on_the_position_in_the_arena() {
    let device = open(0, Emulation::Allowed).unwrap();
    let len = 30_000;
    assert!(update(&device, len, 0) == update(&device, len, len - MATRIX.len()));
    assert_eq!(norm_of_the_end(&device, len), 5.0);
}

#[test]
#[ignore = "needs a GPU: 34 GB of weights, moments and gradients beyond 2³¹ elements"]
fn weights_of_an_arena_beyond_two_to_the_31_elements() {
    let (device, _alone) = gpu();
    let len = (1 << 31) + 2 * MATRIX.len();
    let low = update(&device, len, 0);
    assert!(low == update(&device, len, (1 << 31) - MATRIX.len() / 2), "across 2³¹");
    assert!(low == update(&device, len, len - MATRIX.len()), "beyond 2³¹");
    assert_eq!(norm_of_the_end(&device, (1 << 32) + 4099), 5.0);
}

// Sums of matmuls that are split along k.

/// The longest sum of an 8B model: the input of its down projection.
const K: usize = 12_288;

/// Multiplies each number of rows by a [columns, K] weight, and compares every `step`-th column with sums in f64.
///
/// The bound: tensor cores add at least 8 products to the sum at a time, and may truncate up to an ulp (2⁻²³ of the sum) each
/// time; then the parts of a split are added, at most 32. No sum over a contiguous part of the terms exceeds the range of the
/// prefix sums. At the end there is one rounding: half an ulp of bf16 or f32. A reduction in bf16 would round every part by up
/// to 2⁻⁸ of its value, which exceeds the bound by far wherever the parts cancel.
fn sums_are_f32(device: &Cuda, rows: &[usize], columns: usize, step: usize) {
    let (rows_max, sampled) = (*rows.iter().max().unwrap(), (0..columns).step_by(step).collect::<Vec<_>>());
    let (x, w) = (numbers(11, rows_max * K), numbers(12, columns * K));
    let exact = |index: usize| {
        let (row, column) = (index / sampled.len(), sampled[index % sampled.len()]);
        let (mut sum, mut low, mut high) = (0.0f64, 0.0f64, 0.0f64);
        for (a, b) in x[row * K..][..K].iter().zip(&w[column * K..][..K]) {
            sum += f64::from(a.to_f32()) * f64::from(b.to_f32());
            (low, high) = (low.min(sum), high.max(sum));
        }
        (sum, high - low)
    };
    let exact: Vec<(f64, f64)> = (0..rows_max * sampled.len()).into_par_iter().map(exact).collect();
    let (x, w) = (device.upload(&x).unwrap(), device.upload(&w).unwrap());
    for &m in rows {
        let narrow: Vec<f32> = wide(&multiply::<bf16>(device, &x, &w, m, columns));
        let full = multiply::<f32>(device, &x, &w, m, columns);
        for (kind, got, rounding) in [("bf16", narrow, 2f64.powi(-8)), ("f32", full, 2f64.powi(-24))] {
            let mut worst = 0.0f64;
            for (index, (sum, range)) in exact[..m * sampled.len()].iter().enumerate() {
                let (row, column) = (index / sampled.len(), sampled[index % sampled.len()]);
                let value = got[row * columns + column];
                let bound = sum.abs() * rounding + (K / 8 + 32) as f64 * 2f64.powi(-23) * range;
                let share = (f64::from(value) - sum).abs() / bound;
                assert!(
                    share <= 1.0,
                    "{kind}, {m} rows: [{row}, {column}] is {value}, not {sum}: {share:.2} × the bound"
                );
                worst = worst.max(share);
            }
            println!("{kind}, {m} rows of {columns}: worst error {worst:.2} × the bound");
        }
    }
}

/// x [m, K] · wᵀ [K, columns].
fn multiply<T: Element>(
    device: &Cuda,
    x: &<Cuda as Device>::Buffer<bf16>,
    w: &<Cuda as Device>::Buffer<bf16>,
    m: usize,
    columns: usize,
) -> Vec<T> {
    let mut out = device.zeros::<T>(m * columns).unwrap();
    device
        .matmul(Matmul {
            out: device.view_mut(&mut out, 0..m * columns),
            a: Operand::plain(device.view(x, 0..m * K), K),
            b: Operand::transposed(device.view(w, 0..columns * K), K),
            m,
            n: columns,
            k: K,
            accumulate: false,
        })
        .unwrap();
    all(device, &out)
}

#[test]
fn long_sums_of_few_rows_are_f32_until_they_are_rounded() {
    sums_are_f32(&open(0, Emulation::Allowed).unwrap(), &[1, 3, 16], 128, 1);
}

#[test]
#[ignore = "needs a GPU: the algorithms of the real cuBLASLt"]
fn long_sums_of_one_to_64_rows_are_f32_until_they_are_rounded() {
    let (device, _alone) = gpu();
    let rows: Vec<usize> = (1..=8).chain((12..=64).step_by(4)).collect();
    for (columns, step) in [(4096, 32), (1024, 8)] {
        sums_are_f32(&device, &rows, columns, step);
    }
}

// Graphs compared with commands that are sent one at a time.

const VOCAB: usize = 61;

fn model(device: &Cuda, vocab: usize) -> Qwen3<Cuda> {
    let mut config = Qwen3Config::named("nano").unwrap();
    config.vocab_size = vocab;
    config.hidden_size = 24;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 32;
    config.intermediate_size = 40;
    config.initializer_range = 0.3;
    let weights = random_weights(&config, 5);
    Qwen3::new(device, config, &weights, 512).unwrap()
}

/// Generates twelve completions of four prompts, each with `steps` tokens after the first, two times. Returns the completions
/// and the replay counts of each time.
fn generate(device: &Cuda, steps: usize, logit_rows: usize) -> [(Vec<Vec<Completion>>, ReplayCounts); 2] {
    let model = model(device, VOCAB);
    let group = |(index, length): (usize, &usize)| {
        let stream = Stream::new(8).fold(index as u64);
        let prompt = (0..*length as u32).map(|i| stream.below(i, VOCAB) as u32).collect();
        let sample = |m: u64| SampleRequest { sampling: Sampling::temperature(1.0), stream: stream.fold(1 + m) };
        PromptGroup { prompt, samples: (0..3).map(sample).collect(), stop: vec![], max_new_tokens: steps + 1 }
    };
    let groups: Vec<PromptGroup> = [5, 13, 3, 17].iter().enumerate().map(group).collect();
    let limits = EngineLimits { logit_rows, ..EngineLimits::for_lengths(17, steps + 1, 12) };
    let mut engine = Engine::new(&model, limits).unwrap();
    [(); 2].map(|()| {
        let before = device.replay_counts();
        let completions = engine.generate(&model, &groups, None, |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let ReplayCounts { sent, captured, launched } = device.replay_counts();
        let counts = ReplayCounts {
            sent: sent - before.sent,
            captured: captured - before.captured,
            launched: launched - before.launched,
        };
        (completions, counts)
    })
}

/// The second time, every decode step is one graph launch, whether all its logits fit at once or not, and its tokens are the
/// same as without graphs.
fn graphs_sample_what_kernels_sample(open: &dyn Fn() -> Cuda, steps: usize) {
    for logit_rows in [usize::MAX, 5] {
        let eager = open();
        eager.set_replays(false);
        let [(expected, counts), _] = generate(&eager, steps, logit_rows);
        assert_eq!(counts, ReplayCounts::default());
        drop(eager);
        let [first, second] = generate(&open(), steps, logit_rows);
        assert_eq!(first.0, expected, "{logit_rows} rows of logits, the first time");
        assert_eq!(second.0, expected, "{logit_rows} rows of logits, replayed");
        assert_eq!(first.1.sent + first.1.launched, steps as u64, "{:?}", first.1);
        assert_eq!((second.1.sent, second.1.launched), (0, steps as u64), "{logit_rows} rows of logits");
    }
}

#[test]
fn every_decode_step_is_a_graph_however_few_logits_fit() {
    graphs_sample_what_kernels_sample(&|| open(0, Emulation::Allowed).unwrap(), 20);
}

#[test]
#[ignore = "needs a GPU: graphs of the real driver, over 200 steps"]
fn graphs_of_200_decode_steps() {
    graphs_sample_what_kernels_sample(&|| gpu().0, 200);
}

/// With 256 rows of Qwen3's vocabulary, one matmul in the graph computes all logits of a step.
#[test]
fn the_logits_of_256_sequences_fit_at_the_same_time() {
    let device = open(0, Emulation::Allowed).unwrap();
    let model = model(&device, 151_936);
    let _engine = Engine::new(&model, EngineLimits::for_lengths(16, 16, 256)).unwrap();
    let table = device.memory_table().unwrap();
    let line = table.lines().find(|line| line.starts_with("logits ")).unwrap_or_else(|| panic!("{table}"));
    let held: f64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
    // This includes the row indices and the draws.
    assert!((148.4..150.0).contains(&held), "{table}");
}

// Errors of the driver.

/// Allocates a buffer of `first` bytes, which fits, then one of `second` bytes, which does not fit beside it.
fn too_much_beside(device: &Cuda, first: usize, second: usize) {
    let allocated = device.named("labelled by a test", || device.zeros::<u32>(first / 4)).unwrap();
    let Err(error) = device.named("wanted by a test", || device.zeros::<u32>(second / 4)) else { panic!("it fitted") };
    let message = error.to_string();
    for words in [
        "device: out of device memory: ",
        &format!("{} more contiguous bytes", second / 4 * 4),
        "wanted by a test",
        "labelled by a test",
    ] {
        assert!(message.contains(words), "{words:?} is missing in: {message}");
    }
    drop(allocated);
    assert_eq!(all(device, &device.upload(&[3u32]).unwrap()), [3], "the device still works");
}

#[test]
fn running_out_of_memory_is_an_error_that_lists_allocations() {
    let device = open(0, Emulation::Allowed).unwrap();
    let total = device_info::cuda_info().devices[0].memory_bytes;
    too_much_beside(&device, 1 << 20, total);
}

#[test]
#[ignore = "needs a GPU: memory that is really used up"]
fn memory_is_usable_again_after_it_was_used_up() {
    let (device, _alone) = gpu();
    let total = device_info::cuda_info().devices[0].memory_bytes;
    too_much_beside(&device, total / 2, total / 2);
    // The first buffer's memory goes back to the driver before a larger allocation is refused.
    drop(device.zeros::<u32>(total / 32 * 5).unwrap());
}

/// A fault breaks the context permanently, so it happens in a separate process.
#[test]
fn a_fault_is_named_and_permanent() {
    let program = std::env::current_exe().unwrap();
    let name = "gpu_only::child::writes_to_memory_that_is_not_there";
    let child = Command::new(program).args(["--exact", name, "--nocapture"]).env(child::FAULT, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    for what in ["waiting for the device", "clearing 4 bytes", "allocating 268435456 bytes"] {
        let line = said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what:?} in:\n{said}"));
        assert!(line.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{said}");
    }
}

mod child {
    use super::*;

    /// The test below does nothing unless this variable is set.
    pub const FAULT: &str = "PATARM_TEST_FAULT";

    /// The test above runs this in a separate process; alone it does nothing.
    #[test]
    fn writes_to_memory_that_is_not_there() {
        if std::env::var_os(FAULT).is_none() {
            return;
        }
        let device = open(0, Emulation::Allowed).unwrap();
        let master = device.upload(&[1.0f32; 64]).unwrap();
        let grid = Grid { blocks: 1, threads: (kernels::LINEAR_PREPARE_THREADS, 1), dynamic_shared_bytes: 0 };
        let arguments = [Argument::NULL, device.view(&master, 0..64).argument(), Argument::Size(64)];
        // Safety: the device refuses to write to address 0, and this process ends with the test.
        unsafe { device.launch(&kernels::LINEAR_PREPARE_BF16, grid, arguments) }.unwrap();
        println!("{}", device.synchronize().unwrap_err());
        println!("{}", device.upload(&[1.0f32]).err().expect("a broken context writes nothing"));
        println!("{}", device.zeros::<u32>(1 << 26).err().expect("a broken context has no memory"));
    }
}
