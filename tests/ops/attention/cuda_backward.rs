//! Attention's backward pass on the CUDA device against the CPU's, on inputs that bf16 holds exactly.

use patarm::cuda::Cuda;
use patarm::ops::OpResult;
use patarm::tensor::Device;

use super::*;
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::refused;

/// Half a unit in the last place of bf16, and of f32.
const BF16: f64 = 1.0 / 256.0;
const F32: f64 = 1.0 / 16_777_216.0;

fn for_device(mut case: Case) -> Case {
    for values in [&mut case.q, &mut case.k, &mut case.v] {
        *values = rounded(values);
    }
    case
}

fn run(start: usize, len: usize) -> Run {
    Run { start: start as u32, len: len as u32 }
}

/// The inputs of both sides: the CPU's forward pass, with the output rounded as on the device.
struct Inputs {
    d_out: Vec<f32>,
    out: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// The initial gradients of the pools.
    start: Vec<f32>,
}

fn inputs(case: &Case) -> Inputs {
    let (out, log_sum_exp) = case.forward();
    let start = rounded(&normals(8, case.k.len()));
    Inputs { d_out: rounded(&normals(7, case.q.len())), out: rounded(&out), log_sum_exp, start }
}

fn try_on(device: &Cuda, case: &Case, from: &Inputs) -> (OpResult, [Vec<f32>; 3]) {
    let mut segments = case.segments.clone();
    segments.group();
    let up = |values: &[f32]| upload(device, &narrow(values));
    let (q, k, v, d_out, out) = (up(&case.q), up(&case.k), up(&case.v), up(&from.d_out), up(&from.out));
    let log_sum_exp = upload(device, &from.log_sum_exp);
    let (mut d_q, mut d_k, mut d_v) = (up(&vec![f32::NAN; case.q.len()]), up(&from.start), up(&from.start));
    let (queries, pool) = (0..case.q.len(), 0..case.k.len());
    let result = device.attention_backward(AttentionBackward::<Cuda> {
        d_q: device.view_mut(&mut d_q, queries.clone()),
        d_k_pool: device.view_mut(&mut d_k, pool.clone()),
        d_v_pool: device.view_mut(&mut d_v, pool.clone()),
        d_out: device.view(&d_out, queries.clone()),
        out: device.view(&out, queries.clone()),
        log_sum_exp: device.view(&log_sum_exp, 0..case.rows()),
        q: device.view(&q, queries),
        k_pool: device.view(&k, pool.clone()),
        v_pool: device.view(&v, pool),
        segments: &segments,
        sizes: case.sizes,
    });
    (result, [d_q, d_k, d_v].map(|buffer| widen(&download(device, &buffer))))
}

fn on(device: &Cuda, case: &Case, from: &Inputs) -> [Vec<f32>; 3] {
    let (result, gradients) = try_on(device, case, from);
    result.unwrap();
    gradients
}

/// The CPU's gradients from the same rounded inputs.
fn on_cpu(case: &Case, from: &Inputs) -> [Vec<f32>; 3] {
    let mut segments = case.segments.clone();
    segments.group();
    let (mut d_q, mut d_k, mut d_v) = (vec![0.0; case.q.len()], from.start.clone(), from.start.clone());
    Cpu.attention_backward(AttentionBackward::<Cpu> {
        d_q: &mut d_q,
        d_k_pool: &mut d_k,
        d_v_pool: &mut d_v,
        d_out: &from.d_out,
        out: &from.out,
        log_sum_exp: &from.log_sum_exp,
        q: &case.q,
        k_pool: &case.k,
        v_pool: &case.v,
        segments: &segments,
        sizes: case.sizes,
    })
    .unwrap();
    [d_q, d_k, d_v]
}

/// For each index of each gradient, Σ of the magnitudes of its terms, in f64: first as they are (p and d_s are rounded to bf16,
/// relative to themselves), then with d_s as if d_out·v and delta did not cancel (they are sums in f32).
fn magnitudes(case: &Case, from: &Inputs) -> [Vec<[f64; 2]>; 3] {
    let AttentionSizes { q_heads, kv_heads, head_dim: dim, scale, .. } = case.sizes;
    let zeros = |len| vec![[0.0; 2]; len];
    let (mut d_q, mut d_k, mut d_v) = (zeros(case.q.len()), zeros(case.k.len()), zeros(case.k.len()));
    let size = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from((a * b).abs())).sum::<f64>();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for segment in case.segments.segments() {
        let rows: Vec<usize> = case
            .segments
            .runs(segment)
            .iter()
            .flat_map(|run| run.start as usize..(run.start + run.len) as usize)
            .collect();
        for (i, query) in segment.queries.clone().enumerate() {
            for head in 0..q_heads {
                let row = query * q_heads + head;
                let at = row * dim..(row + 1) * dim;
                let (q, d_out) = (&case.q[at.clone()], &from.d_out[at.clone()]);
                let out = &from.out[at.clone()];
                let (delta, delta_size) = (dot(d_out, out), size(d_out, out));
                for key in &rows[..segment.keys - segment.queries.len() + i + 1] {
                    let index = (key * kv_heads + head / (q_heads / kv_heads)) * dim;
                    let (k, v) = (&case.k[index..index + dim], &case.v[index..index + dim]);
                    let p = (dot(q, k) * f64::from(scale) - f64::from(from.log_sum_exp[row])).exp();
                    let d_s = [p * (dot(d_out, v) - delta).abs(), p * (size(d_out, v) + delta_size)];
                    for which in 0..2 {
                        for d in 0..dim {
                            d_q[at.start + d][which] += d_s[which] * f64::from(scale * k[d].abs());
                            d_k[index + d][which] += d_s[which] * f64::from(scale * q[d].abs());
                            d_v[index + d][which] += p * f64::from(d_out[d].abs());
                        }
                    }
                }
            }
        }
    }
    [d_q, d_k, d_v]
}

#[track_caller]
fn assert_right(device: &Cuda, what: &str, case: Case) {
    let case = for_device(case);
    let from = inputs(&case);
    let (got, expected, sizes) = (on(device, &case, &from), on_cpu(&case, &from), magnitudes(&case, &from));
    let keys = case.segments.segments().iter().map(|segment| segment.keys).max().unwrap_or(0);
    for (i, name) in ["d_q", "d_k", "d_v"].into_iter().enumerate() {
        // The result is rounded once, and so is the weight of every term (p, or d_s). Before that p errs by the f32 roundings of
        // its score, of ex2 and of log_sum_exp, d_s by those of two sums over the head; terms are summed in f32.
        let sums = (16.0 * case.sizes.head_dim as f64 + 4.0 * (keys * case.sizes.q_heads) as f64) * F32;
        assert_within(&format!("{device:?} {what}: {name}"), &got[i], &expected[i], |index| {
            let [terms, apart] = sizes[i][index];
            BF16 * (f64::from(expected[i][index].abs()) + terms) + sums * apart + 1e-30
        });
    }
    assert_eq!(got, on(device, &case, &from), "{what}: the same bits every time");
}

/// A prompt with its own queries and samples of it, and another sequence.
pub fn assert_gradients_are_the_cpus(device: &Cuda, heads: Heads, prompt: usize, samples: &[usize], other: usize) {
    let mut segments = SegmentTable::default();
    segments.push(prompt, [run(0, prompt)]);
    let mut first = prompt;
    for length in samples {
        segments.push(*length, [run(0, prompt), run(first, *length)]);
        first += length;
    }
    segments.push(other, [run(first, other)]);
    assert_right(device, "a prompt and its samples", Case::new(heads, first + other, segments));
}

#[test]
fn packed_sequences_of_every_group_and_width_are_the_cpus() {
    let heads: [Heads; 6] = [(1, 1, 32), (2, 1, 64), (4, 1, 32), (5, 1, 128), (8, 1, 32), (16, 8, 32)];
    for device in devices() {
        for heads in heads {
            assert_right(device, &format!("{heads:?}"), Case::packed(heads, &[1, 17, 65]));
        }
    }
}

#[test]
fn lengths_around_the_tiles_are_the_cpus() {
    for device in devices() {
        for length in [1, 31, 32, 33, 63, 64, 65, 130] {
            assert_right(device, &format!("{length} tokens"), Case::packed((2, 1, 32), &[length]));
        }
        assert_right(device, "130 tokens of 128", Case::packed((1, 1, 128), &[130]));
    }
}

#[test]
fn chunks_shared_prompts_and_overlapping_runs_are_the_cpus() {
    let heads = (4, 2, 64);
    for device in devices() {
        // Queries after keys that came earlier: the second chunk of a prefill, in two separate runs.
        let mut segments = SegmentTable::default();
        segments.push(40, [run(100, 37), run(0, 40)]);
        assert_right(device, "a later chunk", Case::new(heads, 140, segments));
        // A prompt of 70 with its own queries, then four rollouts of it.
        let mut segments = SegmentTable::default();
        segments.push(70, [run(0, 70)]);
        let mut first = 70;
        for length in [5, 66, 1, 30] {
            segments.push(length, [run(0, 70), run(first, length)]);
            first += length;
        }
        assert_right(device, "a shared prompt", Case::new(heads, 180, segments));
        // Runs that overlap in part.
        let mut segments = SegmentTable::default();
        segments.push(10, [run(0, 30)]);
        segments.push(9, [run(20, 30)]);
        segments.push(3, [run(45, 3), run(10, 15)]);
        assert_right(device, "overlapping runs", Case::new(heads, 60, segments));
    }
}

#[test]
fn large_scores_and_another_scale_are_the_cpus() {
    for device in devices() {
        let mut case = Case::packed((2, 1, 32), &[70]);
        case.sizes.scale *= 3.0;
        case.q.iter_mut().for_each(|q| *q *= 3.0);
        assert_right(device, "sharp attention", case);
    }
}

#[test]
fn rows_outside_all_segments_stay_and_other_sequences_change_nothing() {
    let (heads, lengths) = ((4, 2, 32), [20, 75, 3]);
    let together = for_device(Case::packed(heads, &lengths));
    let from = inputs(&together);
    let (q_row, kv_row) = (heads.0 * heads.2, heads.1 * heads.2);
    for device in devices() {
        let all = on(device, &together, &from);
        // The second sequence alone, at the same index of the pool.
        let mut segments = SegmentTable::default();
        segments.push(75, [run(20, 75)]);
        let (queries, own) = (20 * q_row..95 * q_row, 20 * kv_row..95 * kv_row);
        let mut alone = Case::new(heads, together.sizes.pool_rows, segments);
        (alone.q, alone.k, alone.v) = (together.q[queries.clone()].to_vec(), together.k.clone(), together.v.clone());
        let rows = 20 * heads.0..95 * heads.0;
        let part = Inputs {
            d_out: from.d_out[queries.clone()].to_vec(),
            out: from.out[queries.clone()].to_vec(),
            log_sum_exp: from.log_sum_exp[rows].to_vec(),
            start: from.start.clone(),
        };
        let [d_q, d_k, d_v] = on(device, &alone, &part);
        assert_eq!(bits(&d_q), bits(&all[0][queries]));
        for (alone, together) in [(d_k, &all[1]), (d_v, &all[2])] {
            assert_eq!(bits(&alone[own.clone()]), bits(&together[own.clone()]));
            assert_eq!(alone[..own.start], from.start[..own.start]);
            assert_eq!(alone[own.end..], from.start[own.end..]);
        }
    }
}

#[test]
fn an_empty_batch_is_fine_and_other_widths_are_refused() {
    let device = &devices()[0];
    let case = Case::new((2, 1, 32), 4, SegmentTable::default());
    let from = inputs(&case);
    assert_eq!(on(device, &case, &from)[1], from.start);
    let case = Case::packed((2, 1, 48), &[3]);
    let message = refused(try_on(device, &case, &inputs(&case)).0);
    assert!(message.contains("attention_backward") && message.contains("32, 64 or 128"), "{message}");
}
