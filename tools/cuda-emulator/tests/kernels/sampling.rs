//! Sampling kernels from outside this project: Philox, Gumbel noise, 64-bit atomics, a local array, votes.

use crate::compile::{TARGETS, has_nvcc};
use crate::fixture::{Argument, Fixture, noise};

const FILE: &str = "sampling.cu";

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let wide = |a: u32, b: u32| u64::from(a) * u64::from(b);
        let (a, b) = (wide(0xD251_1F53, counter[0]), wide(0xCD9E_8D57, counter[2]));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// The known answers published by the authors (Random123, kat_vectors).
#[test]
fn philox_gives_its_known_answers() {
    if !has_nvcc() {
        return;
    }
    let counters = [[0u32; 4], [u32::MAX; 4], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]];
    let keys = [[0u32; 2], [u32::MAX; 2], [0xa409_3822, 0x299f_31d0]];
    let expected = [
        [0x6627_e8d5u32, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ];
    for target in TARGETS {
        let mut fixture = Fixture::new(FILE, None, target);
        let (out, from, with) = (fixture.empty::<[u32; 4]>(3), fixture.upload(&counters), fixture.upload(&keys));
        let arguments = [Argument::Address(out), Argument::Address(from), Argument::Address(with), Argument::Int(3)];
        fixture.launch("philox_words", [1, 1, 1], 32, 0, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(fixture.download::<[u32; 4]>(out, 3).unwrap(), expected, "sm_{}", target.name);
    }
    assert_eq!(philox(counters[2], keys[2]), expected[2]);
}

#[test]
fn samples_are_the_argmax_of_perturbed_logits() {
    if !has_nvcc() {
        return;
    }
    let (rows, vocab, temperature) = (5, 3003, 0.8f32);
    let logits: Vec<f32> = noise(5, rows * vocab).into_iter().map(|x| 4.0 * x).collect();
    let keys: Vec<[u32; 2]> = (0..rows as u32).map(|row| [17 + row, 99]).collect();
    let positions: Vec<u32> = (0..rows as u32).map(|row| 1000 * row).collect();
    let score = |row: usize, token: usize| {
        let word = philox([token as u32 / 4, positions[row], 0, 0], keys[row])[token % 4];
        let uniform = (f64::from(word >> 8) + 0.5) / 16_777_216.0;
        f64::from(logits[row * vocab + token] / temperature) - (-uniform.ln()).ln()
    };
    for target in TARGETS {
        let mut fixture = Fixture::new(FILE, None, target);
        let best = fixture.upload(&vec![0u64; rows]);
        let (from, with, at) = (fixture.upload(&logits), fixture.upload(&keys), fixture.upload(&positions));
        let arguments = [
            Argument::Address(best),
            Argument::Address(from),
            Argument::Int(vocab as i32),
            Argument::Float(temperature),
            Argument::Address(with),
            Argument::Address(at),
        ];
        fixture
            .launch("gumbel_sample_f32", [2, rows as u32, 1], 256, 0, &arguments)
            .unwrap_or_else(|fault| panic!("{fault}"));
        for (row, best) in fixture.download::<u64>(best, rows).unwrap().into_iter().enumerate() {
            let token = (u32::MAX - best as u32) as usize;
            let most = (0..vocab).map(|token| score(row, token)).fold(f64::NEG_INFINITY, f64::max);
            assert!(score(row, token) > most - 1e-4, "sm_{} row {row}: token {token} is not the best", target.name);
        }
    }
}

#[test]
fn digits_are_counted_in_local_memory() {
    if !has_nvcc() {
        return;
    }
    let values: Vec<u32> = noise(6, 1000).into_iter().map(|x| (x.abs() * 4e9) as u32).collect();
    let mut expected = [0u32; 10];
    for value in &values {
        value.to_string().bytes().for_each(|digit| expected[usize::from(digit - b'0')] += 1);
    }
    let even = values.iter().filter(|value| **value % 2 == 0).count() as u32;
    for target in TARGETS {
        let mut fixture = Fixture::new(FILE, None, target);
        let (histogram, count) = (fixture.upload(&[0u32; 10]), fixture.upload(&[0u32]));
        let from = fixture.upload(&values);
        let arguments = [
            Argument::Address(histogram),
            Argument::Address(count),
            Argument::Address(from),
            Argument::Int(values.len() as i32),
        ];
        fixture.launch("digits_u32", [8, 1, 1], 128, 0, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(fixture.download::<u32>(histogram, 10).unwrap(), expected, "sm_{}", target.name);
        assert_eq!(fixture.download::<u32>(count, 1).unwrap(), [even]);
    }
}
