//! Sampling on the CUDA device: the CPU's tokens and log-probabilities.

use patarm::cuda::Cuda;
use patarm::ops::cpu::log_softmax;
use patarm::ops::sample::{Draw, Sample, Sampler, Sampling};
use patarm::random::{Stream, unit};
use patarm::tensor::Device;

use crate::common::devices::{assert_within, devices, download, upload};
use crate::ops::numbers::{bits, normal, refused};

const PLAIN: Sampling = Sampling::temperature(1.0);
/// No filter, each filter, filters together, none that keeps everything, one that keeps a single token.
const SAMPLINGS: [Sampling; 16] = [
    PLAIN,
    Sampling::temperature(0.6),
    Sampling::temperature(1.7),
    Sampling::GREEDY,
    Sampling { temperature: 0.0, top_k: 3, top_p: 0.5, min_p: 0.5 },
    Sampling { top_k: 1, ..PLAIN },
    Sampling { top_k: 7, ..PLAIN },
    Sampling { top_k: 400, ..PLAIN },
    Sampling { top_k: u32::MAX, ..PLAIN },
    Sampling { top_p: 0.9, ..PLAIN },
    Sampling { top_p: 0.3, ..PLAIN },
    Sampling { top_p: 1e-9, ..PLAIN },
    Sampling { min_p: 0.13, ..PLAIN },
    Sampling { min_p: 1.0, ..PLAIN },
    Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.0 },
    Sampling { temperature: 1.3, top_k: 12, top_p: 0.9, min_p: 0.05 },
];

/// Logits of `rows` rows, with the spread of a language model's.
fn logits(seed: u64, rows: usize, vocab: usize) -> Vec<f32> {
    normal(seed, rows * vocab).iter().map(|x| 3.0 * x).collect()
}

/// Every row is another rollout; `samplings` are repeated over the rows.
fn draws(samplings: &[Sampling], count: usize) -> Vec<Draw> {
    let draw = |i: usize| Draw {
        row: i as u32,
        sampling: samplings[i % samplings.len()],
        stream: Stream::new(0x1234_5678_9abc_def0).fold(i as u64),
        position: 5 + (i / 3) as u32,
    };
    (0..count).map(draw).collect()
}

/// On the device; the logits start `offset` elements into their buffer.
fn draw_at(device: &Cuda, logits: &[f32], vocab: usize, draws: &[Draw], offset: usize) -> (Vec<u32>, Vec<f32>) {
    let (count, size) = (draws.len(), logits.len());
    let logits = upload(device, &[vec![f32::NAN; offset], logits.to_vec()].concat());
    let (mut ids, mut logprobs) = (upload(device, &vec![u32::MAX; count]), upload(device, &vec![9.0f32; count]));
    let args: Sample<Cuda> = Sample {
        ids: device.view_mut(&mut ids, 0..count),
        logprobs: device.view_mut(&mut logprobs, 0..count),
        logits: device.view(&logits, offset..offset + size),
        draws,
        vocab,
    };
    device.sample(args).unwrap();
    (download(device, &ids), download(device, &logprobs))
}

fn draw(device: &Cuda, logits: &[f32], vocab: usize, draws: &[Draw]) -> (Vec<u32>, Vec<f32>) {
    draw_at(device, logits, vocab, draws, 0)
}

/// The same token and, within its roundings, the same log-probability as on the CPU.
///
/// A token may differ if the two best sums are within rounding of each other: g errs by at most about 4 ulp of 16, 4e-6,
/// on each side. Of the few hundred draws here none is that close (the gaps are about exponential with mean 1).
fn assert_is_the_cpus(device: &Cuda, logits: &[f32], vocab: usize, draws: &[Draw]) {
    let (ids, logprobs) = draw(device, logits, vocab, draws);
    let (expected_ids, expected) = super::draw(logits, vocab, draws);
    for (row, (got, expected)) in ids.iter().zip(&expected_ids).enumerate() {
        assert_eq!(got, expected, "{device:?}: token of row {row} of {vocab}, {:?}", draws[row]);
    }
    // The difference d to the largest logit is the CPU's to the bit. The sum of exponentials: terms within 3 ulp there, here
    // within 4 + 1.5·|d| halves of one, which is at most 4 + 1.5 · ln vocab of the sum; at most 4 · ⌈vocab / 8192⌉ + 22 additions
    // here, 64 · 4 + 8 there before f64; its logarithm rounds, and so does the result.
    let terms = 6.0 + 4.0 + 1.5 * (vocab as f64).ln();
    let sum = (terms + (4 * vocab.div_ceil(8192) + 22 + 264) as f64) * f64::from(f32::EPSILON) / 2.0;
    assert_within(&format!("logprobs of {vocab}"), &logprobs, &expected, |row| {
        let ln_sum = (vocab as f64).ln();
        sum + f64::from(f32::EPSILON) * (2.0 * ln_sum + f64::from(expected[row].abs()))
    });
}

/// A draw of each row, cycling through all ways to draw.
pub fn assert_rows_draw_as_on_the_cpu(device: &Cuda, rows: usize, vocab: usize) {
    assert_is_the_cpus(device, &logits(vocab as u64, rows, vocab), vocab, &draws(&SAMPLINGS, rows));
}

#[test]
fn every_way_to_draw_gives_the_cpus_token() {
    for device in devices() {
        for vocab in [1, 5, 64, 1000, 4099] {
            let all = draws(&SAMPLINGS, 5 * SAMPLINGS.len());
            assert_is_the_cpus(device, &logits(vocab as u64, all.len(), vocab), vocab, &all);
        }
        // Several draws from a row, in any order.
        let all: Vec<Draw> =
            (draws(&SAMPLINGS, 48).into_iter().zip(0..).map(|(draw, i)| Draw { row: 13 * i % 5, ..draw })).collect();
        assert_is_the_cpus(device, &logits(2, 5, 1000), 1000, &all);
        let vocab = 151_936;
        let all = draws(&[PLAIN, SAMPLINGS[14], SAMPLINGS[9], SAMPLINGS[7], Sampling::GREEDY], 5);
        assert_is_the_cpus(device, &logits(1, all.len(), vocab), vocab, &all);
    }
}

/// The sets that the filters keep, compared token by token.
#[test]
fn the_filters_keep_exactly_what_they_keep_on_the_cpu() {
    let vocab = 300;
    let row = logits(3, 1, vocab);
    let samplings: Vec<Sampling> = (1..40)
        .map(|k| Sampling { temperature: 2.0, top_k: k, ..PLAIN })
        .chain((1..40).map(|i| Sampling { temperature: 2.0, top_p: i as f32 / 40.0, ..PLAIN }))
        .chain((1..20).map(|i| Sampling { temperature: 2.0, min_p: i as f32 / 40.0, ..PLAIN }))
        .chain((1..20).map(|i| Sampling { temperature: 2.0, top_k: 2 * i, top_p: 0.7, min_p: 0.02 }))
        .collect();
    let all = draws(&samplings, 4 * samplings.len());
    let rows: Vec<f32> = all.iter().flat_map(|_| row.clone()).collect();
    for device in devices() {
        assert_is_the_cpus(device, &rows, vocab, &all);
    }
}

/// A position at which the largest noise of ids 0..=`id` is that of `id`.
fn position_for(stream: Stream, id: u32) -> u32 {
    let noise = |position: u32, id: u32| stream.block(position, id / 4)[id as usize % 4] >> 9;
    (0..).find(|position| (0..id).all(|other| noise(*position, other) < noise(*position, id))).unwrap()
}

/// Of equal logits, the last one kept is drawn if it has the largest noise, and the next one never is.
#[test]
fn the_boundary_among_equal_logits_is_exact() {
    let stream = Stream::new(7).fold(1);
    let keep = |top_k: u32, top_p: f32| Sampling { top_k, top_p, ..PLAIN };
    // (vocabulary, how, tokens kept); more equal logits than the list of a bin has room for, and fewer.
    let cases = [
        (100, keep(50, 1.0), 50),
        (100, keep(0, 0.5), 50),
        (100, keep(60, 0.5), 30),
        (4000, keep(300, 1.0), 300),
        (4000, keep(0, 0.125), 500),
        (4000, keep(1000, 0.25), 250),
    ];
    for device in devices() {
        for (vocab, sampling, kept) in cases {
            let positions = [position_for(stream, kept - 1), position_for(stream, kept)];
            let all = positions.map(|position| Draw { row: 0, sampling, stream, position });
            let (ids, _) = draw(device, &vec![1.5; vocab], vocab, &all);
            assert!(ids[0] == kept - 1 && ids[1] < kept, "{sampling:?} of {vocab}: {ids:?} with {kept} kept");
        }
    }
}

#[test]
fn temperature_zero_takes_the_first_of_the_largest() {
    let vocab = 4000;
    for device in devices() {
        for largest in [[0, 1], [700, 701], [700, 3100], [1023, 1024], [2047, 2048], [127, 128]] {
            let mut row = vec![-1.0f32; vocab];
            largest.iter().for_each(|id| row[*id] = 2.5);
            let (ids, _) = draw(device, &row, vocab, &draws(&[Sampling::GREEDY], 1));
            assert_eq!(ids[0] as usize, largest[0], "{largest:?}");
        }
    }
}

/// Tokens far below the likeliest win because they are many: none may be skipped.
#[test]
fn unlikely_tokens_win_as_often_as_they_should() {
    let vocab = 50_000;
    let mut row = vec![0.0f32; vocab];
    row[123] = 9.0;
    let all = draws(&[PLAIN], 12);
    let rows: Vec<f32> = all.iter().flat_map(|_| row.clone()).collect();
    let best: Vec<u32> = all.iter().map(|draw| winner(&row, draw)).collect();
    assert!((6..12).contains(&best.iter().filter(|id| **id != 123).count()), "86 % are unlikely ones");
    for device in devices() {
        assert_eq!(draw(device, &rows, vocab, &all).0, best);
    }
}

/// Many equal logits: too many for the list in shared memory, too many for one digit, with a boundary among them.
#[test]
fn of_equal_logits_the_lower_ids_are_kept() {
    let vocab = 4000;
    let flat = vec![0.25f32; vocab];
    let mut steps: Vec<f32> = (0..vocab).map(|i| (i % 7) as f32 * 0.001).collect();
    steps[3321] = 2.0;
    let far: Vec<f32> = (0..vocab).map(|i| if i == 77 { 50.0 } else { -((i % 1000) as f32) }).collect();
    let zeros: Vec<f32> = (0..vocab).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
    let samplings: Vec<Sampling> = [1, 2, 257, 700, 716, 2600, 3999]
        .into_iter()
        .map(|k| Sampling { top_k: k, ..PLAIN })
        .chain([0.1, 0.5, 0.999].map(|p| Sampling { top_p: p, ..PLAIN }))
        .chain([(300, 0.5), (3000, 0.31)].map(|(k, p)| Sampling { top_k: k, top_p: p, ..PLAIN }))
        .collect();
    let all = draws(&samplings, 2 * samplings.len());
    for device in devices() {
        for row in [&flat, &steps, &far, &zeros] {
            let rows: Vec<f32> = all.iter().flat_map(|_| row.clone()).collect();
            let (ids, _) = draw(device, &rows, vocab, &all);
            for (id, draw) in ids.iter().zip(&all) {
                assert!(kept(row, &draw.sampling).contains(id), "{:?} drew {id}", draw.sampling);
            }
            let best: Vec<u32> = all.iter().map(|draw| winner(row, draw)).collect();
            assert_eq!(ids, best);
        }
    }
}

/// The tokens that the filters keep, by a full sort in f64; masses of top-p here are far from their goals or exact.
fn kept(row: &[f32], sampling: &Sampling) -> Vec<u32> {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let weight = |id: u32| f64::from(row[id as usize] - 2.0).exp();
    let goal = f64::from(sampling.top_p) * order.iter().map(|id| weight(*id)).sum::<f64>();
    let mut sum = 0.0;
    let end = order.iter().position(|id| {
        sum += weight(*id);
        sum >= goal
    });
    if sampling.top_p < 1.0 {
        order.truncate(end.map_or(order.len(), |end| end + 1));
    }
    order
}

/// The kept token with the largest logit plus noise, in f64.
fn winner(row: &[f32], draw: &Draw) -> u32 {
    let value = |id: &u32| {
        let word = draw.stream.block(draw.position, id / 4)[*id as usize % 4];
        f64::from(row[*id as usize]) - (-f64::from(unit(word)).ln()).ln()
    };
    kept(row, &draw.sampling).into_iter().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap()
}

#[test]
fn rollouts_and_positions_draw_from_their_own_numbers() {
    let (vocab, rows) = (64, 128);
    let flat = vec![0.0f32; vocab];
    for device in devices() {
        let all = draws(&[PLAIN], rows);
        let one = vec![all[0]; rows];
        let (same, _) = draw(device, &flat, vocab, &one);
        assert!(same.iter().all(|id| *id == same[0]), "the same stream and position draw the same token");
        let moved: Vec<Draw> = (0..rows as u32).map(|position| Draw { position, ..all[0] }).collect();
        let seeds = (0..rows as u64).map(|seed| Stream { seed: seed << 32, ..all[0].stream });
        let seeds: Vec<Draw> = seeds.map(|stream| Draw { stream, ..all[0] }).collect();
        let ids = (0..rows as u64).map(|id| Stream { id: id << 32, ..all[0].stream });
        let ids: Vec<Draw> = ids.map(|stream| Draw { stream, ..all[0] }).collect();
        for (what, other) in [("position", moved), ("seed", seeds), ("stream", ids)] {
            let (drawn, _) = draw(device, &flat, vocab, &other);
            assert_eq!(drawn, super::draw(&flat, vocab, &other).0, "another {what}");
            let mut seen = drawn.clone();
            seen.sort_unstable();
            seen.dedup();
            // 128 draws of 64 leave 13 % unseen: 55 ± 2.4 are.
            assert!(seen.len() > 42, "another {what} must draw other tokens: {} of 64 seen", seen.len());
        }
    }
}

#[test]
fn forbidden_tokens_are_never_drawn_and_nan_shows() {
    let vocab = 1001;
    for device in devices() {
        let all = draws(&SAMPLINGS, SAMPLINGS.len());
        let mut rows = logits(9, all.len(), vocab);
        for (i, logit) in rows.iter_mut().enumerate() {
            if i % vocab != 600 && i % 3 != 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
        assert_is_the_cpus(device, &rows, vocab, &all);
        // A single token allowed.
        let mut one = vec![f32::NEG_INFINITY; all.len() * vocab];
        one.iter_mut().skip(1000).step_by(vocab).for_each(|logit| *logit = -40.0);
        let (ids, logprobs) = draw(device, &one, vocab, &all);
        assert!(ids.iter().all(|id| *id == 1000) && logprobs.iter().all(|l| *l == 0.0), "{ids:?} {logprobs:?}");

        let clean = logits(10, 4 * all.len(), vocab);
        let mut bad = clean.clone();
        let four: Vec<Draw> = (0..4 * all.len()).map(|i| Draw { row: i as u32, ..all[i % all.len()] }).collect();
        for (i, _) in all.iter().enumerate() {
            bad[4 * i * vocab + 61 * i] = f32::NAN;
            bad[(4 * i + 1) * vocab + vocab - 1 - i] = f32::INFINITY;
            bad[(4 * i + 2) * vocab..(4 * i + 3) * vocab].fill(f32::NEG_INFINITY);
        }
        let (ids, logprobs) = draw(device, &bad, vocab, &four);
        let good = draw(device, &clean, vocab, &four);
        for row in 0..four.len() {
            if row % 4 < 3 {
                assert!(ids[row] == 0 && logprobs[row].is_nan(), "row {row}: {} {}", ids[row], logprobs[row]);
            } else {
                assert_eq!((ids[row], logprobs[row]), (good.0[row], good.1[row]), "row {row} knows nothing of others");
            }
        }
    }
}

#[test]
fn a_draw_has_the_same_bits_in_any_batch_at_any_alignment_and_in_every_run() {
    for device in devices() {
        for vocab in [1000, 2051] {
            let all = draws(&SAMPLINGS, 3 * SAMPLINGS.len());
            let rows = logits(4, all.len(), vocab);
            let together = draw(device, &rows, vocab, &all);
            for (what, again) in [
                ("run to run", draw(device, &rows, vocab, &all)),
                ("unaligned", draw_at(device, &rows, vocab, &all, 1)),
            ] {
                assert_eq!((&again.0, bits(&again.1)), (&together.0, bits(&together.1)), "{what}");
            }
            for row in [0, 9, all.len() - 1] {
                let alone = [Draw { row: 0, ..all[row] }];
                let (ids, logprobs) = draw(device, &rows[row * vocab..][..vocab], vocab, &alone);
                assert_eq!((ids[0], logprobs[0].to_bits()), (together.0[row], together.1[row].to_bits()));
            }
        }
    }
}

/// The log-probability does not depend on the filters.
#[test]
fn log_probabilities_are_those_of_the_whole_vocabulary() {
    let vocab = 300;
    let row = logits(5, 1, vocab);
    let all = draws(&[PLAIN, SAMPLINGS[5], SAMPLINGS[10], SAMPLINGS[13]], 4);
    let rows: Vec<f32> = all.iter().flat_map(|_| row.clone()).collect();
    let expected = log_softmax::stats(&row, 1.0);
    for device in devices() {
        let (ids, logprobs) = draw(device, &rows, vocab, &all);
        for (id, logprob) in ids.iter().zip(logprobs) {
            let expected = expected.logprob(row[*id as usize], 1.0);
            assert!((logprob - expected).abs() < 1e-5, "{logprob} {expected}");
        }
    }
}

#[test]
fn an_empty_batch_is_fine_and_too_large_a_vocabulary_is_refused() {
    for device in devices() {
        assert_eq!(draw(device, &[], 10, &[]), (vec![], vec![]));
        let vocab = (1 << 22) + 1;
        let all = draws(&[PLAIN], 1);
        let logits = device.zeros::<f32>(vocab).unwrap();
        let (mut ids, mut logprobs) = (upload(device, &[0u32]), upload(device, &[0.0f32]));
        let message = refused(device.sample(Sample::<Cuda> {
            ids: device.view_mut(&mut ids, 0..1),
            logprobs: device.view_mut(&mut logprobs, 0..1),
            logits: device.view(&logits, 0..vocab),
            draws: &all,
            vocab,
        }));
        assert!(message.contains("`vocab` must be at most 4194304 on CUDA, got 4194305"), "{message}");
    }
}
