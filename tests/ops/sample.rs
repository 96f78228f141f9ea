//! Tests of the op `sample`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::cpu::log_softmax;
use patarm::ops::sample::{Draw, Sample, Sampler, Sampling};
use patarm::random::Stream;

use crate::ops::numbers::{normal, on_threads, refused};

fn draw(logits: &[f32], vocab: usize, draws: &[Draw]) -> (Vec<u32>, Vec<f32>) {
    let (mut ids, mut logprobs) = (vec![0u32; draws.len()], vec![0.0f32; draws.len()]);
    Cpu.sample(Sample { ids: &mut ids, logprobs: &mut logprobs, logits, draws, vocab }).unwrap();
    (ids, logprobs)
}

fn draws(sampling: Sampling, count: usize) -> Vec<Draw> {
    (0..count).map(|i| Draw { row: i as u32, sampling, stream: Stream::new(3).fold(i as u64), position: 5 }).collect()
}

/// Probabilities after the filters, by a full sort.
fn filtered(logits: &[f32], s: &Sampling) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|z| f64::from(*z) / f64::from(s.temperature)).collect();
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = scaled.iter().map(|z| (z - max).exp()).collect();
    let total: f64 = exp.iter().sum();
    let p: Vec<f64> = exp.iter().map(|e| e / total).collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    if s.top_p < 1.0 {
        let mass: f64 = order.iter().map(|i| p[*i]).sum();
        let mut sum = 0.0;
        let end = order.iter().position(|i| {
            sum += p[*i];
            sum >= f64::from(s.top_p) * mass
        });
        order.truncate(end.map_or(order.len(), |end| end + 1));
    }
    order.retain(|i| p[*i] >= f64::from(s.min_p) * p[order_first(&p)]);
    let kept: f64 = order.iter().map(|i| p[*i]).sum();
    let mut out = vec![0.0; p.len()];
    order.iter().for_each(|i| out[*i] = p[*i] / kept);
    out
}

fn order_first(p: &[f64]) -> usize {
    (0..p.len()).max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap()
}

#[test]
fn draws_follow_the_filtered_distribution() {
    let vocab = 23;
    let logits: Vec<f32> = normal(1, vocab).iter().map(|x| 1.5 * x).collect();
    let plain = Sampling::temperature(1.0);
    for sampling in [
        plain,
        Sampling::temperature(0.7),
        Sampling { top_k: 5, ..plain },
        Sampling { top_p: 0.8, ..plain },
        Sampling { min_p: 0.2, ..plain },
        Sampling { temperature: 1.3, top_k: 12, top_p: 0.9, min_p: 0.05 },
    ] {
        let count = 40_000;
        let all: Vec<Draw> = draws(sampling, count).into_iter().map(|draw| Draw { row: 0, ..draw }).collect();
        let (ids, _) = draw(&logits, vocab, &all);
        let mut seen = vec![0usize; vocab];
        ids.iter().for_each(|id| seen[*id as usize] += 1);
        for (id, p) in filtered(&logits, &sampling).into_iter().enumerate() {
            let (expected, got) = (p * count as f64, seen[id] as f64);
            // Five standard deviations of a binomial; exactly zero where the filters leave nothing.
            let limit = 5.0 * (expected * (1.0 - p)).sqrt();
            assert!((got - expected).abs() <= limit, "{sampling:?}: token {id} came {got} times, expected {expected}");
        }
    }
}

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    let logits = [1.0, 3.0, 2.0, 3.0, -1.0];
    let (ids, logprobs) = draw(&logits, 5, &draws(Sampling::GREEDY, 1));
    let expected = log_softmax::stats(&logits, 1.0).logprob(3.0, 1.0);
    assert_eq!((ids[0], logprobs[0].to_bits()), (1, expected.to_bits()));
}

#[test]
fn log_probabilities_are_those_of_the_whole_vocabulary_to_the_bit() {
    let vocab = 300;
    let logits = normal(2, 8 * vocab);
    for sampling in [Sampling::temperature(0.7), Sampling { temperature: 0.7, top_k: 3, top_p: 0.5, min_p: 0.1 }] {
        let (ids, logprobs) = draw(&logits, vocab, &draws(sampling, 8));
        for (row, (id, logprob)) in logits.chunks(vocab).zip(ids.iter().zip(&logprobs)) {
            let expected = log_softmax::stats(row, 1.0 / 0.7).logprob(row[*id as usize], 1.0 / 0.7);
            assert_eq!(logprob.to_bits(), expected.to_bits());
        }
    }
}

#[test]
fn a_draw_depends_on_its_row_stream_and_position_alone() {
    let vocab = 700;
    let logits: Vec<f32> = normal(2, 64 * vocab).iter().map(|x| 0.1 * x).collect();
    let all = draws(Sampling::temperature(1.0), 64);
    let run = || draw(&logits, vocab, &all);
    let together = on_threads(1, run);
    assert_eq!(together, on_threads(3, run));
    for row in [0, 31, 63] {
        let alone = [Draw { row: 0, ..all[row] }];
        let (ids, logprobs) = draw(&logits[row * vocab..][..vocab], vocab, &alone);
        assert_eq!((ids[0], logprobs[0]), (together.0[row], together.1[row]));
    }
    // Draws from one row are those from copies of it.
    let copies = logits[7 * vocab..][..vocab].repeat(64);
    let from_one: Vec<Draw> = all.iter().map(|d| Draw { row: 7, ..*d }).collect();
    assert_eq!(draw(&logits, vocab, &from_one), draw(&copies, vocab, &all));
    let moved: Vec<Draw> = all.iter().map(|d| Draw { position: 6, ..*d }).collect();
    let (other, _) = draw(&logits, vocab, &moved);
    let same = other.iter().zip(&together.0).filter(|(a, b)| a == b).count();
    assert!(same < 8, "{same} of 64 draws did not change with the position");
    // The path with filters draws the same token if the filters keep everything.
    let open = Sampling { temperature: 1.0, top_k: vocab as u32, top_p: 1.0, min_p: 0.0 };
    let filtered: Vec<Draw> = all.iter().map(|d| Draw { sampling: open, ..*d }).collect();
    assert_eq!(draw(&logits, vocab, &filtered).0, together.0);
}

#[test]
fn nan_is_never_drawn() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut logits = normal(1, 100);
        logits[60] = bad;
        let (ids, logprobs) = draw(&logits, 100, &draws(Sampling::temperature(1.0), 1));
        assert!(ids[0] == 0 && logprobs[0].is_nan(), "{bad}: {ids:?} {logprobs:?}");
    }
}

#[test]
fn wrong_sizes_and_numbers_are_named() {
    let (mut ids, mut logprobs) = ([0u32; 1], [0.0f32; 1]);
    let all = draws(Sampling::temperature(f32::NAN), 1);
    let args: Sample<Cpu> =
        Sample { ids: &mut ids[..], logprobs: &mut logprobs[..], logits: &[0.0; 4], draws: &all, vocab: 4 };
    assert!(refused(Cpu.sample(args)).contains("draw 0"));
    let all = draws(Sampling::GREEDY, 1);
    let args: Sample<Cpu> =
        Sample { ids: &mut ids[..], logprobs: &mut logprobs[..], logits: &[0.0; 7], draws: &all, vocab: 4 };
    assert!(refused(Cpu.sample(args)).contains("`logits` has the wrong size: expected 4, got 7"));
    let all = [Draw { row: 1, ..draws(Sampling::GREEDY, 1)[0] }];
    let args: Sample<Cpu> =
        Sample { ids: &mut ids[..], logprobs: &mut logprobs[..], logits: &[0.0; 4], draws: &all, vocab: 4 };
    assert!(refused(Cpu.sample(args)).contains("draw 0 is from row 1 of 1"));
}
