//! Tests of the op `attention`: a plain f64 reference, gradients, and the promise that a query's bits never depend on
//! how its sequence was cut into segments, pages and batches.

#[cfg(has_cuda)]
pub mod cuda_backward;
#[cfg(has_cuda)]
pub mod cuda_forward;
mod exact;

use exact::Exact;
use patarm::ops::Cpu;
use patarm::ops::attention::{Attention, AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};
use patarm::ops::cpu::attention::forward_at;
use patarm::ops::cpu::simd::{self, Level};
use patarm::random::Stream;
use proptest::prelude::*;

fn normals(seed: u64, count: usize) -> Vec<f32> {
    let stream = Stream::new(seed);
    (0..count).map(|i| stream.normal(i as u64)).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Inputs of one call.
#[derive(Clone)]
struct Case {
    sizes: AttentionSizes,
    segments: SegmentTable,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    /// Random inputs for heads (q, kv, dim) and a table over a pool of `pool_rows` rows.
    fn new(heads: Heads, pool_rows: usize, mut segments: SegmentTable) -> Self {
        let (q_heads, kv_heads, head_dim) = heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let sizes = AttentionSizes { q_heads, kv_heads, head_dim, pool_rows, scale };
        segments.group();
        let pool = pool_rows * kv_heads * head_dim;
        Self {
            q: normals(1, segments.queries() * q_heads * head_dim),
            k: normals(2, pool),
            v: normals(3, pool),
            sizes,
            segments,
        }
    }

    /// Sequences of the given lengths, packed one after the other.
    fn packed(heads: Heads, lengths: &[usize]) -> Self {
        let (mut segments, mut start) = (SegmentTable::default(), 0);
        for &len in lengths {
            segments.push(len, [Run { start: start as u32, len: len as u32 }]);
            start += len;
        }
        Self::new(heads, start, segments)
    }

    fn rows(&self) -> usize {
        self.segments.queries() * self.sizes.q_heads
    }

    fn forward_at(&self, level: Level) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut log_sum_exp) = (vec![f32::NAN; self.q.len()], vec![f32::NAN; self.rows()]);
        let args = AttentionForward::<Cpu> {
            out: &mut out,
            log_sum_exp: Some(&mut log_sum_exp),
            q: &self.q,
            k_pool: &self.k,
            v_pool: &self.v,
            segments: &self.segments,
            sizes: self.sizes,
        };
        forward_at(level, args).unwrap();
        (out, log_sum_exp)
    }

    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        self.forward_at(simd::level())
    }

    /// (d_q, d_k_pool, d_v_pool) from pool gradients that start at `start`.
    fn backward(&self, d_out: &[f32], start: f32) -> [Vec<f32>; 3] {
        let (out, log_sum_exp) = self.forward();
        let mut d_q = vec![f32::NAN; self.q.len()];
        let (mut d_k_pool, mut d_v_pool) = (vec![start; self.k.len()], vec![start; self.v.len()]);
        let args = AttentionBackward::<Cpu> {
            d_q: &mut d_q,
            d_k_pool: &mut d_k_pool,
            d_v_pool: &mut d_v_pool,
            d_out,
            out: &out,
            log_sum_exp: &log_sum_exp,
            q: &self.q,
            k_pool: &self.k,
            v_pool: &self.v,
            segments: &self.segments,
            sizes: self.sizes,
        };
        Cpu.attention_backward(args).unwrap();
        [d_q, d_k_pool, d_v_pool]
    }

    fn exact(&self) -> Exact {
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect();
        Exact {
            sizes: self.sizes,
            segments: self.segments.clone(),
            q: wide(&self.q),
            k: wide(&self.k),
            v: wide(&self.v),
        }
    }
}

fn assert_near(name: &str, got: &[f32], want: &[(f64, f64)]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, (want, tolerance))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= *tolerance, "{name}[{i}] = {got}, expected {want}, error {error:e} > {tolerance:e}");
    }
}

/// (q_heads, kv_heads, head_dim)
pub type Heads = (usize, usize, usize);

/// Heads and lengths of packed sequences: every group size, every kind of head_dim, edges of blocks.
const SHAPES: &[(Heads, &[usize])] = &[
    ((4, 2, 32), &[1, 16, 17, 70]),
    ((5, 1, 16), &[33, 2]),
    ((8, 4, 64), &[65, 31]),
    ((8, 1, 48), &[20, 1]),
    ((1, 1, 128), &[40, 1, 1]),
    ((4, 1, 112), &[15, 18]),
    ((4, 2, 32), &[200]),
];

#[test]
fn forward_equals_an_f64_reference() {
    for (heads, lengths) in SHAPES {
        let case = Case::packed(*heads, lengths);
        let ((out, log_sum_exp), (exact_out, exact_lse)) = (case.forward(), case.exact().forward());
        assert_near("out", &out, &exact_out);
        assert_near("log_sum_exp", &log_sum_exp, &exact_lse);
    }
}

#[test]
fn backward_equals_an_f64_reference_and_adds_to_the_pools() {
    for (heads, lengths) in SHAPES {
        let case = Case::packed(*heads, lengths);
        let d_out = normals(4, case.q.len());
        let got = case.backward(&d_out, 0.0);
        for ((name, got), want) in ["d_q", "d_k_pool", "d_v_pool"].iter().zip(&got).zip(case.exact().backward(&d_out)) {
            assert_near(name, got, &want);
        }
        let from_one = case.backward(&d_out, 1.0);
        assert_eq!(bits(&from_one[0]), bits(&got[0]), "d_q is overwritten");
        for (one, zero) in from_one[1..].iter().flatten().zip(got[1..].iter().flatten()) {
            assert_eq!(*one, 1.0 + zero, "pools are added to");
        }
    }
}

/// A prompt of 21 rows in two runs, three responses of their own that see it, and a sequence that shares nothing.
fn shared_prompt(heads: Heads) -> Case {
    let mut segments = SegmentTable::default();
    let prompt = [Run { start: 40, len: 19 }, Run { start: 3, len: 2 }];
    segments.push(21, prompt);
    for (start, len) in [(60, 9), (5, 16), (70, 1)] {
        segments.push(len, prompt.into_iter().chain([Run { start, len: len as u32 }]));
    }
    segments.push(7, [Run { start: 80, len: 7 }]);
    Case::new(heads, 90, segments)
}

#[test]
fn a_shared_prompt_receives_every_contribution() {
    for heads in [(4, 2, 32), (5, 1, 16)] {
        let case = shared_prompt(heads);
        assert_eq!(case.segments.groups(), [vec![0, 1, 2, 3], vec![4]]);
        let ((out, _), (exact_out, _)) = (case.forward(), case.exact().forward());
        assert_near("out", &out, &exact_out);
        let d_out = normals(5, case.q.len());
        let got = case.backward(&d_out, 0.0);
        for ((name, got), want) in ["d_q", "d_k_pool", "d_v_pool"].iter().zip(&got).zip(case.exact().backward(&d_out)) {
            assert_near(name, got, &want);
        }
        let unnamed = &got[1][89 * heads.1 * heads.2..];
        assert!(unnamed.iter().all(|d| *d == 0.0), "rows that no segment names stay as they are");
    }
}

#[test]
fn the_reference_gradients_agree_with_finite_differences() {
    let mut segments = SegmentTable::default();
    segments.push(4, [Run { start: 0, len: 4 }]);
    segments.push(3, [Run { start: 0, len: 4 }, Run { start: 5, len: 3 }]);
    let mut exact = Case::new((2, 1, 16), 8, segments).exact();
    let d_out = normals(6, exact.q.len());
    let loss = |exact: &Exact| exact.forward().0.iter().zip(&d_out).map(|(o, d)| o.0 * f64::from(*d)).sum::<f64>();
    let gradients = exact.backward(&d_out);
    let step = 1e-5;
    for (which, gradient) in gradients.iter().enumerate() {
        for (i, (want, _)) in gradient.iter().enumerate() {
            let mut moved = |by: f64| {
                let target = match which {
                    0 => &mut exact.q[i],
                    1 => &mut exact.k[i],
                    _ => &mut exact.v[i],
                };
                let before = *target;
                *target = before + by;
                let loss = loss(&exact);
                match which {
                    0 => exact.q[i] = before,
                    1 => exact.k[i] = before,
                    _ => exact.v[i] = before,
                }
                loss
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope - want).abs() < 1e-8, "input {which}, element {i}: slope {slope}, gradient {want}");
        }
    }
}

#[test]
fn every_level_gives_the_same_bits() {
    for (heads, lengths) in SHAPES {
        let mut case = Case::packed(*heads, lengths);
        // One more query at the end of the first sequence, alone in its segment as in decoding.
        case.segments.push(1, [Run { start: 0, len: lengths[0] as u32 }]);
        case.q.extend(normals(7, heads.0 * heads.2));
        let best = case.forward();
        for level in Level::available() {
            let (out, log_sum_exp) = case.forward_at(level);
            assert_eq!((bits(&out), bits(&log_sum_exp)), (bits(&best.0), bits(&best.1)), "{level:?} {heads:?}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = Case::packed((4, 2, 32), &[150, 90, 130, 7, 64]);
    for case in [case, shared_prompt((4, 2, 64))] {
        let d_out = normals(8, case.q.len());
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (bits(&case.forward().0), case.backward(&d_out, 0.5).map(|d| bits(&d))))
        };
        let one = with(1);
        assert!(with(2) == one && with(5) == one);
    }
}

/// One sequence: rows of q [len, q_heads·dim], k and v [len, kv_heads·dim].
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    len: usize,
}

impl Sequence {
    /// A sequence whose first `shared` keys and values are the same for every `seed`.
    fn new(heads: Heads, len: usize, shared: usize, seed: u64) -> Self {
        let (q_cols, kv_cols) = (heads.0 * heads.2, heads.1 * heads.2);
        let rows = |which: u64, cols: usize| {
            let (common, own) = (normals(50 + which, len * cols), normals(100 + 10 * seed + which, len * cols));
            let cut = shared.min(len) * cols;
            common[..cut].iter().chain(&own[cut..]).copied().collect()
        };
        Self { q: rows(0, q_cols), k: rows(1, kv_cols), v: rows(2, kv_cols), len }
    }
}

/// The layout of sequences: page sizes, sizes of chunks of queries, whether the common prefix is stored once.
#[derive(Clone, Debug)]
struct Layout {
    page: usize,
    chunks: Vec<usize>,
    share: bool,
    seed: u64,
}

/// Bits of (out, log Σ exp) of every query of every sequence under a layout, in the order of the sequences.
fn run_layout(heads: Heads, sequences: &[Sequence], shared: usize, layout: &Layout) -> Vec<Vec<u32>> {
    let (q_cols, kv_cols) = (heads.0 * heads.2, heads.1 * heads.2);
    let stream = Stream::new(layout.seed);
    let pages = 1 + sequences.iter().map(|s| s.len.div_ceil(layout.page) + 1).sum::<usize>();
    let mut free = stream.permutation(pages);
    let pool_rows = pages * layout.page;
    // Rows that no sequence owns must never be read.
    let (mut k, mut v) = (vec![f32::NAN; pool_rows * kv_cols], vec![f32::NAN; pool_rows * kv_cols]);
    let mut tables: Vec<Vec<usize>> = Vec::new();
    for sequence in sequences {
        let whole = if layout.share { shared.min(sequence.len) / layout.page } else { 0 };
        let mut table: Vec<usize> = tables.first().map_or(Vec::new(), |first| first[..whole.min(first.len())].to_vec());
        while table.len() * layout.page < sequence.len {
            table.push(free.pop().unwrap());
        }
        for row in 0..sequence.len {
            let at = (table[row / layout.page] * layout.page + row % layout.page) * kv_cols;
            k[at..at + kv_cols].copy_from_slice(&sequence.k[row * kv_cols..][..kv_cols]);
            v[at..at + kv_cols].copy_from_slice(&sequence.v[row * kv_cols..][..kv_cols]);
        }
        tables.push(table);
    }
    // Chunks of all sequences, in their own order.
    let mut pieces = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        let mut first = 0;
        for chunk in layout.chunks.iter().cycle() {
            if first == sequence.len {
                break;
            }
            let end = sequence.len.min(first + chunk);
            pieces.push((index, first..end));
            first = end;
        }
    }
    let order = stream.fold(1).permutation(pieces.len());
    let (mut segments, mut q) = (SegmentTable::default(), Vec::new());
    for (index, range) in order.iter().map(|i| &pieces[*i]) {
        segments.push(
            range.len(),
            (0..range.end.div_ceil(layout.page)).map(|page| Run {
                start: (tables[*index][page] * layout.page) as u32,
                len: layout.page.min(range.end - page * layout.page) as u32,
            }),
        );
        q.extend_from_slice(&sequences[*index].q[range.start * q_cols..range.end * q_cols]);
    }
    let case = Case { q, k, v, ..Case::new(heads, pool_rows, segments) };
    let (out, log_sum_exp) = case.forward();
    let mut results: Vec<Vec<u32>> =
        sequences.iter().map(|sequence| vec![0; sequence.len * (q_cols + heads.0)]).collect();
    let mut row = 0;
    for (index, range) in order.iter().map(|i| &pieces[*i]) {
        for query in range.clone() {
            let to = &mut results[*index][query * (q_cols + heads.0)..][..q_cols + heads.0];
            to[..q_cols].copy_from_slice(&bits(&out[row * q_cols..][..q_cols]));
            to[q_cols..].copy_from_slice(&bits(&log_sum_exp[row * heads.0..][..heads.0]));
            row += 1;
        }
    }
    results
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_querys_bits_do_not_depend_on_the_layout(
        which in 0..6usize,
        lengths in prop::collection::vec(1..160usize, 1..4),
        shared in 0..60usize,
        page in 1..40usize,
        chunks in prop::collection::vec(1..150usize, 1..4),
        share in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let heads = [(4, 2, 32), (5, 1, 16), (2, 2, 64), (1, 1, 128), (8, 1, 48), (8, 4, 64)][which];
        let sequences: Vec<Sequence> =
            lengths.iter().enumerate().map(|(i, len)| Sequence::new(heads, *len, shared, i as u64)).collect();
        let layout = Layout { page, chunks, share, seed };
        let results = run_layout(heads, &sequences, shared, &layout);
        let decoded = run_layout(heads, &sequences, shared, &Layout { chunks: vec![1], ..layout.clone() });
        prop_assert!(results == decoded, "{layout:?} differs from decoding");
        for (index, sequence) in sequences.into_iter().enumerate() {
            // Alone, at once, in one run.
            let alone = Layout { page: sequence.len, chunks: vec![sequence.len], share: false, seed: 0 };
            let plain = run_layout(heads, &[sequence], shared, &alone);
            prop_assert!(results[index] == plain[0], "sequence {index} under {layout:?}");
        }
    }

    #[test]
    fn groups_join_exactly_the_segments_that_share_rows(
        segments in prop::collection::vec(prop::collection::vec((0..60u32, 0..6u32), 0..3), 0..12),
    ) {
        let mut table = SegmentTable::default();
        let rows: Vec<Vec<u32>> = segments.iter().map(|runs| {
            table.push(0, runs.iter().map(|&(start, len)| Run { start, len }));
            runs.iter().flat_map(|&(start, len)| start..start + len).collect()
        }).collect();
        table.group();
        // Brute force: spread the least index over shared rows until nothing changes.
        let mut label: Vec<usize> = (0..rows.len()).collect();
        for _ in 0..rows.len() {
            for a in 0..rows.len() {
                for b in 0..rows.len() {
                    if rows[a].iter().any(|row| rows[b].contains(row)) {
                        label[a] = label[a].min(label[b]);
                    }
                }
            }
        }
        let mut expected: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
        label.iter().enumerate().for_each(|(index, label)| expected[*label].push(index));
        expected.retain(|group| !group.is_empty());
        prop_assert_eq!(table.groups(), &expected[..]);
    }
}

#[test]
fn masked_keys_do_not_contribute_even_if_they_are_nan() {
    let clean = Case::packed((4, 2, 32), &[100]);
    let expected = clean.forward();
    for from in [1, 15, 16, 50, 63, 99] {
        let mut case = clean.clone();
        let row = case.sizes.kv_heads * case.sizes.head_dim;
        case.k[from * row..].fill(f32::NAN);
        case.v[from * row..].fill(f32::INFINITY);
        let got = case.forward();
        let (queries, rows) = (from * 4 * 32, from * 4);
        assert_eq!(bits(&got.0[..queries]), bits(&expected.0[..queries]), "out before key {from}");
        assert_eq!(bits(&got.1[..rows]), bits(&expected.1[..rows]), "log_sum_exp before key {from}");
        assert!(got.0[queries..].iter().all(|x| x.is_nan()), "NaN must show from key {from} on");
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_winner() {
    let mut case = Case::packed((1, 1, 16), &[40]);
    case.q.iter_mut().for_each(|q| *q *= 300.0);
    let (out, log_sum_exp) = case.forward();
    assert!(out.iter().chain(&log_sum_exp).all(|x| x.is_finite()));
    let (_, exact) = case.exact().forward();
    assert_near("log_sum_exp", &log_sum_exp, &exact);
}

#[test]
fn an_empty_table_and_a_missing_log_sum_exp_are_fine() {
    let case = Case::packed((4, 2, 32), &[]);
    assert!(case.forward().0.is_empty());
    assert!(case.backward(&[], 0.0).iter().all(Vec::is_empty));
    let case = Case::packed((4, 2, 32), &[20]);
    let mut out = vec![0.0; case.q.len()];
    let args = AttentionForward::<Cpu> {
        out: &mut out,
        log_sum_exp: None,
        q: &case.q,
        k_pool: &case.k,
        v_pool: &case.v,
        segments: &case.segments,
        sizes: case.sizes,
    };
    Cpu.attention_forward(args).unwrap();
    assert_eq!(bits(&out), bits(&case.forward().0));
}

/// Corrupts a case, its `out` or its `log_sum_exp`.
type Change<'a> = &'a dyn Fn(&mut Case, &mut Vec<f32>, &mut Vec<f32>);

#[test]
fn check_names_the_wrong_argument() {
    let case = Case::packed((4, 2, 32), &[5]);
    let forward = |change: Change<'_>| {
        let mut case = case.clone();
        let (mut out, mut log_sum_exp) = (vec![0.0; case.q.len()], vec![0.0; case.rows()]);
        change(&mut case, &mut out, &mut log_sum_exp);
        let args = AttentionForward::<Cpu> {
            out: &mut out,
            log_sum_exp: Some(&mut log_sum_exp),
            q: &case.q,
            k_pool: &case.k,
            v_pool: &case.v,
            segments: &case.segments,
            sizes: case.sizes,
        };
        Cpu.attention_forward(args).map_err(|error| error.to_string())
    };
    forward(&|_, _, _| {}).unwrap();
    let assert_names = |result: Result<(), String>, name: &str| {
        let error = result.unwrap_err();
        assert!(error.contains("attention_forward") && error.contains(name), "{error}");
    };
    assert_names(forward(&|_, out, _| out.truncate(3)), "`out`");
    assert_names(forward(&|_, _, lse| lse.truncate(3)), "`log_sum_exp`");
    assert_names(forward(&|case, _, _| case.q.truncate(3)), "`q`");
    assert_names(forward(&|case, _, _| case.k.truncate(3)), "`k_pool`");
    assert_names(forward(&|case, _, _| case.v.truncate(3)), "`v_pool`");
    assert_names(forward(&|case, _, _| case.sizes.head_dim = 24), "`head_dim`");
    assert_names(forward(&|case, _, _| case.sizes.kv_heads = 3), "`q_heads`");
    assert_names(forward(&|case, _, _| case.segments.push(0, [Run { start: 4, len: 2 }])), "segment 1");
    assert_names(
        forward(&|case, out, lse| {
            case.segments.push(2, [Run { start: 0, len: 1 }]);
            case.q.resize(7 * 4 * 32, 0.0);
            out.resize(7 * 4 * 32, 0.0);
            lse.resize(7 * 4, 0.0);
        }),
        "as many keys as queries",
    );
}

#[test]
fn backward_requires_grouped_segments_and_names_the_wrong_argument() {
    let case = Case::packed((2, 1, 16), &[3]);
    // Sizes of d_q, d_k_pool, d_v_pool, d_out, out, log_sum_exp: each one too short once.
    let sizes = [96, 48, 48, 96, 96, 6];
    let names = ["d_q", "d_k_pool", "d_v_pool", "d_out", "out", "log_sum_exp"];
    let run = |sizes: [usize; 6], segments: &SegmentTable| {
        let [mut d_q, mut d_k, mut d_v, d_out, out, lse] = sizes.map(|len| vec![0.0f32; len]);
        let args = AttentionBackward::<Cpu> {
            d_q: &mut d_q,
            d_k_pool: &mut d_k,
            d_v_pool: &mut d_v,
            d_out: &d_out,
            out: &out,
            log_sum_exp: &lse,
            q: &case.q,
            k_pool: &case.k,
            v_pool: &case.v,
            segments,
            sizes: case.sizes,
        };
        Cpu.attention_backward(args).map_err(|error| error.to_string())
    };
    run(sizes, &case.segments).unwrap();
    for (i, name) in names.iter().enumerate() {
        let mut short = sizes;
        short[i] -= 1;
        let error = run(short, &case.segments).unwrap_err();
        assert!(error.contains("attention_backward") && error.contains(&format!("`{name}`")), "{error}");
    }
    let mut ungrouped = SegmentTable::default();
    ungrouped.push(3, [Run { start: 0, len: 3 }]);
    let error = run(sizes, &ungrouped).unwrap_err();
    assert!(error.contains("segments.groups"), "{error}");
}
