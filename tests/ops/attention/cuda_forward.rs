//! Attention's forward pass on the CUDA device against the CPU's and against a plain kernel, on inputs that bf16 holds exactly.

use half::bf16;
use patarm::cuda::{Argument, Cuda, Grid, kernels};
use patarm::ops::OpResult;
use patarm::tensor::Device;

use super::*;
use crate::common::devices::{assert_within, devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::refused;

/// Half a unit in the last place of bf16, and of f32.
const BF16: f64 = 1.0 / 256.0;
const F32: f64 = 1.0 / 16_777_216.0;

/// (out, log Σ exp)
type Output = (Vec<f32>, Vec<f32>);

/// Queries and keys of the segments of a case.
pub type Lengths<'a> = &'a [(usize, usize)];

/// Sequences of these lengths whose keys are in shuffled pages. Pool rows outside all segments are NaN.
fn paged(heads: Heads, lengths: Lengths<'_>, page: usize) -> Case {
    let pages: usize = lengths.iter().map(|(_, keys)| keys.div_ceil(page)).sum();
    let mut free = Stream::new(9).permutation(pages + 1);
    let mut segments = SegmentTable::default();
    for &(queries, keys) in lengths {
        let run = |first: usize| Run { start: (free.pop().unwrap() * page) as u32, len: page.min(keys - first) as u32 };
        segments.push(queries, (0..keys).step_by(page).map(run).collect::<Vec<_>>());
    }
    for_device(Case::new(heads, (pages + 1) * page, segments))
}

/// Rounds the inputs, and sets pool rows outside all segments to NaN: they must never be read.
fn for_device(mut case: Case) -> Case {
    let row = case.sizes.kv_heads * case.sizes.head_dim;
    let mut named = vec![false; case.sizes.pool_rows];
    for segment in case.segments.segments() {
        for run in case.segments.runs(segment) {
            named[run.start as usize..(run.start + run.len) as usize].fill(true);
        }
    }
    for values in [&mut case.q, &mut case.k, &mut case.v] {
        *values = rounded(values);
    }
    for (at, _) in named.iter().enumerate().filter(|(_, named)| !**named) {
        case.k[at * row..][..row].fill(f32::NAN);
        case.v[at * row..][..row].fill(f32::NAN);
    }
    case
}

fn try_on(device: &Cuda, case: &Case, with_sums: bool, offset: usize) -> (OpResult, Output) {
    let padded = |values: &[f32]| upload(device, &[vec![bf16::NAN; offset], narrow(values)].concat());
    let (q, k, v) = (padded(&case.q), padded(&case.k), padded(&case.v));
    let mut out = padded(&vec![f32::NAN; case.q.len()]);
    let mut sums = upload(device, &vec![f32::NAN; case.rows()]);
    let result = device.attention_forward(AttentionForward::<Cuda> {
        out: device.view_mut(&mut out, offset..offset + case.q.len()),
        log_sum_exp: with_sums.then(|| device.view_mut(&mut sums, 0..case.rows())),
        q: device.view(&q, offset..offset + case.q.len()),
        k_pool: device.view(&k, offset..offset + case.k.len()),
        v_pool: device.view(&v, offset..offset + case.v.len()),
        segments: &case.segments,
        sizes: case.sizes,
    });
    let out = widen(&download(device, &out)[offset..]);
    (result, (out, download(device, &sums)))
}

fn on(device: &Cuda, case: &Case) -> Output {
    let (result, output) = try_on(device, case, true, 0);
    result.unwrap();
    output
}

/// With the kernel without tensor cores; the table is built here, not by the launcher.
fn plainly(device: &Cuda, case: &Case) -> Output {
    let (mut table, mut key_rows) = (Vec::new(), Vec::new());
    for segment in case.segments.segments() {
        let numbers = [segment.queries.start, segment.queries.len(), key_rows.len(), segment.keys];
        table.extend(numbers.map(|number| number as u32));
        key_rows.extend(case.segments.runs(segment).iter().flat_map(|run| run.start..run.start + run.len));
    }
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|values| upload(device, &narrow(values)));
    let (mut out, mut sums) = (upload(device, &vec![bf16::NAN; case.q.len()]), upload(device, &vec![0.0; case.rows()]));
    let (table, key_rows) = (upload(device, &table), upload(device, &key_rows));
    let arguments = [
        device.view_mut(&mut out, 0..case.q.len()).argument(),
        device.view_mut(&mut sums, 0..case.rows()).argument(),
        device.view(&q, 0..case.q.len()).argument(),
        device.view(&k, 0..case.k.len()).argument(),
        device.view(&v, 0..case.v.len()).argument(),
        device.view(&table, 0..device.len(&table)).argument(),
        device.view(&key_rows, 0..device.len(&key_rows)).argument(),
        Argument::count(case.sizes.q_heads),
        Argument::count(case.sizes.kv_heads),
        Argument::count(case.sizes.head_dim),
        Argument::F32(case.sizes.scale),
    ];
    let grid = Grid { blocks: case.rows(), threads: (32, 1), dynamic_shared_bytes: 0 };
    // Safety: the order is the kernel's, the sizes are those of its comment.
    unsafe { device.launch(&kernels::ATTENTION_PLAIN_BF16, grid, arguments) }.unwrap();
    (widen(&download(device, &out)), download(device, &sums))
}

/// Bounds of the rounding errors of each output and each log Σ exp, beyond the rounding of the output itself.
struct Bounds {
    /// Σ p |v| of each output: the scale of a relative error of the weights.
    size: Vec<f32>,
    /// Relative error of a weight of each row (query, head), which is the absolute one of its score.
    score: Vec<f64>,
    /// Roundings of sums over the keys.
    keys: f64,
}

impl Bounds {
    fn of(case: &Case) -> Self {
        let AttentionSizes { q_heads, kv_heads, head_dim: dim, scale, .. } = case.sizes;
        let mut sizes = case.clone();
        sizes.v.iter_mut().for_each(|v| *v = v.abs());
        let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let mut longest = vec![0.0f64; kv_heads];
        for (at, key) in case.k.chunks(dim).enumerate() {
            longest[at % kv_heads] = longest[at % kv_heads].max(norm(key)); // NaN of unnamed rows is dropped
        }
        // The terms of a score add up to at most |q| |k|. A tensor core may truncate each of its sums, an ulp, twice a half;
        // the CPU adds as many terms; then the factor, the difference of the maximum, and 2^-22 of ex2.
        let error = |(row, q): (usize, &[f32])| {
            let largest = norm(q) * longest[row % q_heads / (q_heads / kv_heads)] * f64::from(scale);
            ((3 * dim + 16) as f64 * largest + 16.0) * F32
        };
        let keys = case.segments.segments().iter().map(|segment| segment.keys).max().unwrap_or(0);
        Self { size: sizes.forward().0, score: case.q.chunks(dim).enumerate().map(error).collect(), keys: keys as f64 }
    }

    /// `weights`: relative error of the weights by rounding them.
    #[track_caller]
    fn assert(&self, what: &str, got: &Output, expected: &Output, weights: f64, outputs: f64) {
        let dim = got.0.len() / got.1.len().max(1);
        assert_within(&format!("{what}: out"), &got.0, &expected.0, |i| {
            // Weights err in the sum that is divided and in the divisor; sums of each side round once a key or less, and their
            // rescaling a few times a tile of 16.
            let relative = weights + 2.0 * self.score[i / dim] + (4.0 * self.keys + 16.0) * F32;
            outputs * f64::from(expected.0[i].abs()) + relative * f64::from(self.size[i])
        });
        assert_within(&format!("{what}: log_sum_exp"), &got.1, &expected.1, |row| {
            self.score[row] + (2.0 * self.keys + 16.0 + 4.0 * f64::from(expected.1[row].abs())) * F32
        });
    }
}

/// Against the CPU and against the plain kernel, which is itself compared with the CPU.
fn assert_right(what: &str, case: &Case) {
    assert_right_on(devices(), what, case);
}

fn assert_right_on(devices: &[Cuda], what: &str, case: &Case) {
    let (bounds, cpu) = (Bounds::of(case), case.forward());
    assert!(cpu.0.iter().all(|x| x.is_finite()), "{what}: the case is a sound one");
    for device in devices {
        let what = format!("{what}, {:?}, {device:?}", case.sizes);
        let (got, plain) = (on(device, case), plainly(device, case));
        // Outputs are rounded to bf16, and so are probabilities before the matmul with V: half an ulp, relative, each.
        bounds.assert(&format!("{what}, CPU"), &got, &cpu, BF16, BF16);
        bounds.assert(&format!("{what}, plain kernel and CPU"), &plain, &cpu, 0.0, BF16);
        bounds.assert(&format!("{what}, plain kernel"), &got, &plain, BF16, 2.0 * BF16);
    }
}

/// Whole sequences of these lengths, packed; then sequences of (queries, keys) with paged keys: decoding, chunks.
pub fn assert_sequences_equal_the_cpus(device: &Cuda, heads: Heads, packed: &[usize], paged_lengths: Lengths<'_>) {
    let device = std::slice::from_ref(device);
    assert_right_on(device, "packed", &for_device(Case::packed(heads, packed)));
    assert_right_on(device, "paged", &paged(heads, paged_lengths, 16));
}

/// Groups of 1, 2, 4, 5 and 8, one key head and eight, every head_dim.
const HEADS: [Heads; 8] =
    [(1, 1, 32), (2, 1, 64), (4, 1, 128), (5, 1, 32), (8, 1, 64), (8, 8, 128), (16, 8, 64), (10, 2, 128)];

#[test]
fn packed_sequences_equal_the_cpus() {
    for heads in HEADS {
        assert_right("packed", &for_device(Case::packed(heads, &[1, 63, 64, 65])));
    }
    for (heads, lengths) in [((2, 1, 32), &[130, 1, 257][..]), ((1, 1, 64), &[130, 2]), ((1, 1, 128), &[130])] {
        assert_right("longer than a tile of queries", &for_device(Case::packed(heads, lengths)));
    }
}

#[test]
fn chunks_and_pages_equal_the_cpus() {
    for heads in [(5, 1, 32), (4, 2, 64), (2, 1, 128)] {
        assert_right("chunks", &paged(heads, &[(40, 170), (17, 17), (130, 200), (20, 64), (64, 65)], 16));
        // A warp whose first row sees all keys of a tile but the last: the smallest case that needs the mask.
        assert_right("chunks after 62 and 30 keys", &paged(heads, &[(40, 102), (70, 100)], 16));
    }
}

#[test]
fn a_shared_prompt_equals_the_cpus() {
    for heads in [(4, 2, 32), (2, 1, 64), (8, 1, 128)] {
        assert_right("shared prompt", &for_device(shared_prompt(heads)));
        let (mut segments, prompt) = (SegmentTable::default(), Run { start: 50, len: 100 });
        segments.push(100, [prompt]);
        for (start, len) in [(0, 50), (150, 30), (180, 1)] {
            segments.push(len, [prompt, Run { start, len: len as u32 }]);
        }
        assert_right("long shared prompt", &for_device(Case::new(heads, 190, segments)));
    }
}

/// One query each.
const DECODING: [usize; 11] = [1, 2, 15, 16, 17, 64, 65, 255, 256, 257, 600];

#[test]
fn decoding_equals_the_cpus() {
    for heads in HEADS {
        assert_right("decoding", &paged(heads, &DECODING.map(|keys| (1, keys)), 16));
    }
    // Several queries of a segment in one block, some of which see no key of the last split.
    for (heads, queries) in [((2, 1, 64), 8), ((1, 1, 128), 16), ((5, 1, 32), 3), ((8, 2, 64), 4)] {
        let lengths = [(queries, 257), (queries, queries), (queries - 1, 64), (queries, 516)];
        assert_right("a few queries", &paged(heads, &lengths, 16));
    }
}

#[test]
fn a_group_too_large_for_a_block_of_decoding_uses_tiles() {
    assert_right("group of 24", &paged((24, 1, 32), &[(1, 70), (3, 9)], 16));
}

/// Decoding, chunks and whole sequences in one batch, and a segment of no queries.
const MIXED: [(usize, usize); 9] =
    [(1, 300), (70, 70), (1, 1), (0, 20), (2, 130), (33, 90), (1, 513), (5, 5), (140, 140)];

#[test]
fn a_mixed_batch_equals_the_cpus() {
    for heads in [(4, 2, 32), (8, 2, 64), (2, 1, 128)] {
        assert_right("mixed", &paged(heads, &MIXED, 16));
    }
}

#[test]
fn large_scores_stay_right() {
    for heads in [(2, 1, 32), (2, 2, 64), (4, 1, 128)] {
        let mut case = paged(heads, &[(150, 150), (1, 400), (3, 20)], 16);
        case.q.iter_mut().for_each(|q| *q *= 30.0);
        assert_right("scores × 30", &for_device(case.clone()));
        // Scores that rise with the position: every tile has a new maximum, and everything before it becomes negligible.
        let row = heads.1 * heads.2;
        for segment in case.segments.segments() {
            let rows =
                case.segments.runs(segment).iter().flat_map(|run| run.start as usize..(run.start + run.len) as usize);
            for (position, at) in rows.enumerate() {
                case.k[at * row..][..row].fill(0.01 * position as f32);
            }
        }
        case.q.iter_mut().for_each(|q| *q = 0.5 + q.abs() / 60.0);
        assert_right("rising scores", &for_device(case));
    }
}

/// The rows of one segment, alone in its batch over the same pool.
fn alone(case: &Case, index: usize) -> (Case, std::ops::Range<usize>) {
    let segment = &case.segments.segments()[index];
    let mut segments = SegmentTable::default();
    segments.push(segment.queries.len(), case.segments.runs(segment).to_vec());
    let cols = case.sizes.q_heads * case.sizes.head_dim;
    let q = case.q[segment.queries.start * cols..segment.queries.end * cols].to_vec();
    (Case { q, segments, ..case.clone() }, segment.queries.clone())
}

#[test]
fn a_sequence_has_the_same_bits_alone_in_any_batch_and_in_every_run() {
    for device in devices() {
        for heads in [(4, 2, 32), (5, 1, 64), (2, 1, 128)] {
            let case = paged(heads, &MIXED, 16);
            let (out, sums) = on(device, &case);
            assert_eq!((bits(&out), bits(&sums)), {
                let again = on(device, &case);
                (bits(&again.0), bits(&again.1))
            });
            let (without, _) = try_on(device, &case, false, 0).1;
            assert_eq!(bits(&without), bits(&out), "log_sum_exp may be absent");
            for index in 0..case.segments.segments().len() {
                let (one, queries) = alone(&case, index);
                let got = on(device, &one);
                let cols = heads.0 * heads.2;
                assert_eq!(bits(&got.0), bits(&out[queries.start * cols..queries.end * cols]), "segment {index}");
                assert_eq!(bits(&got.1), bits(&sums[queries.start * heads.0..queries.end * heads.0]));
            }
        }
    }
}

#[test]
fn prefill_in_chunks_has_the_bits_of_prefill_at_once() {
    for device in devices() {
        for heads in [(4, 2, 32), (2, 1, 64), (1, 1, 128)] {
            let whole = for_device(Case::packed(heads, &[230]));
            let mut segments = SegmentTable::default();
            for (queries, keys) in [(45, 45), (128, 173), (57, 230)] {
                segments.push(queries, [Run { start: 0, len: keys }]);
            }
            let (got, expected) = (on(device, &Case { segments, ..whole.clone() }), on(device, &whole));
            assert_eq!(bits(&got.0), bits(&expected.0));
            assert_eq!(bits(&got.1), bits(&expected.1));
        }
    }
}

#[test]
fn nan_shows_only_where_it_is_seen() {
    for device in devices() {
        for (lengths, key) in [([(150, 150), (20, 20)], 100), ([(2, 150), (2, 30)], 149)] {
            let mut case = paged((2, 1, 64), &lengths, 160);
            let (out, _) = on(device, &case);
            let start = case.segments.runs(&case.segments.segments()[0])[0].start as usize;
            case.k[(start + key) * 64] = f32::NAN;
            let (got, sums) = on(device, &case);
            let first = lengths[0].0 - (lengths[0].1 - key);
            let sees = first * 128..lengths[0].0 * 128;
            assert_eq!(bits(&got[..sees.start]), bits(&out[..sees.start]), "queries before key {key}");
            assert!(got[sees.clone()].iter().all(|x| x.is_nan()), "queries from key {key} on");
            assert!(sums[first * 2..lengths[0].0 * 2].iter().all(|x| x.is_nan()));
            assert_eq!(bits(&got[sees.end..]), bits(&out[sees.end..]), "another sequence");
        }
    }
}

#[test]
fn an_empty_batch_is_fine_and_limits_are_named() {
    for device in devices() {
        assert!(on(device, &Case::packed((4, 2, 32), &[])).0.is_empty());
        assert!(on(device, &paged((2, 1, 32), &[(0, 5)], 16)).0.is_empty());
        let mut case = Case::packed((2, 1, 48), &[3]);
        let message = refused(try_on(device, &case, true, 0).0);
        assert!(
            message.contains("attention_forward") && message.contains("32, 64 or 128 on CUDA, got 48"),
            "{message}"
        );
        case = Case::packed((2, 1, 32), &[3]);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            case.sizes.scale = scale;
            let message = refused(try_on(device, &case, true, 0).0);
            assert!(message.contains("`scale` must be positive"), "{message}");
        }
        case.sizes.scale = 0.1;
        let message = refused(try_on(device, &case, true, 3).0);
        assert!(message.contains("multiples of 16 bytes"), "{message}");
    }
}
