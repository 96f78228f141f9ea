//! The global norm on the CUDA device against the CPU's.

use patarm::cuda::{Cuda, kernels};
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::tensor::Device;

use crate::common::devices::{devices, download, upload};
use crate::ops::numbers::normal;

const TILE: usize = kernels::GLOBAL_NORM_TILE as usize;
const BLOCKS_MAX: usize = kernels::GLOBAL_NORM_BLOCKS_MAX as usize;

/// The gradient starts `offset` elements into its buffer and ends with it; reading elements before it would show.
fn norm(device: &Cuda, gradient: &[f32], offset: usize) -> f64 {
    let buffer = upload(device, &[&vec![f32::NAN; offset], gradient].concat());
    let mut norm = upload(device, &[f64::NAN]);
    let gradient = device.view(&buffer, offset..offset + gradient.len());
    device.global_norm(GlobalNorm { norm: device.view_mut(&mut norm, 0..1), gradient }).unwrap();
    download(device, &norm)[0]
}

/// Sums of squares in f64 in another order: no cancellation, so the relative error is at most the number of roundings of one
/// square on both sides, half of it in the root. Here four of each load of a thread, a load of each tile of a block, two of
/// pairs, 5 + 8 of a block, 32 + 5 of all; there 2048 of a lane, 8, and one of each chunk of 16,384.
fn bound(len: usize) -> f64 {
    let here = 4 * len.div_ceil(TILE * BLOCKS_MAX) + 2 + 13 + 37;
    let there = 2048 + 8 + len.div_ceil(16_384);
    ((here + there) as f64 / 2.0 + 2.0) * f64::EPSILON / 2.0
}

#[track_caller]
pub fn assert_is_the_cpus(device: &Cuda, len: usize, offset: usize) {
    let gradient = normal(len as u64, len);
    let (got, expected) = (norm(device, &gradient, offset), super::norm(&gradient));
    let error = (got - expected).abs();
    assert!(error <= bound(len) * expected, "{device:?}, {len} elements, {offset} on: {got} for {expected}");
    assert_eq!(got.to_bits(), norm(device, &gradient, offset).to_bits(), "the same bits every time");
}

#[test]
fn the_norm_is_the_cpus() {
    for device in devices() {
        // Empty, each remainder of a load, a load of every thread, a tile and what is next to it, tiles of several blocks and a
        // remainder.
        for len in [0, 1, 2, 3, 4, 5, 1023, 1024, 1027, TILE - 1, TILE, TILE + 1, TILE + 6, 5 * TILE, 73 * TILE + 1093]
        {
            assert_is_the_cpus(device, len, 0);
        }
        // Squares too large for f32.
        assert!((norm(device, &[3e30, 4e30], 0) / 5e30 - 1.0).abs() < 1e-6);
    }
}

/// Each block takes a second tile, and one of them the remainder. On one of the devices only: it takes seconds.
#[test]
fn more_tiles_than_blocks_are_the_cpus() {
    let device = devices().last().unwrap();
    assert_is_the_cpus(device, (BLOCKS_MAX + 3) * TILE + 1234, 0);
}

/// A load's elements are added from the first to the last, from wherever it starts: a one, then three squares just below half
/// an ulp of it, which leave it as it is. Before the one, or added to each other, they would add an ulp.
#[test]
fn the_bits_do_not_depend_on_the_alignment() {
    let small = 1.05e-8;
    assert!(1.0 + f64::from(small).powi(2) == 1.0 && 1.0 + 3.0 * f64::from(small).powi(2) > 1.0);
    for device in devices() {
        // These roots have no room to hide an ulp in; the last takes more than a tile.
        for ones in [3, 15, 250, 1000, 1999] {
            let gradient = [1.0, small, small, small].repeat(ones);
            for offset in 0..=5 {
                let got = norm(device, &gradient, offset);
                assert_eq!(got.to_bits(), (ones as f64).sqrt().to_bits(), "{ones} ones, {offset} on: {got}");
            }
        }
        for len in [6, 1025, 3 * TILE + 7] {
            let gradient = normal(2, len);
            let expected = norm(device, &gradient, 0).to_bits();
            for offset in 1..=5 {
                assert_eq!(norm(device, &gradient, offset).to_bits(), expected, "{len} elements, {offset} on");
            }
        }
    }
}

/// Each element counts once, alone among zeros and among ones.
#[test]
fn every_element_counts_once() {
    for device in devices() {
        for len in [7, 1030, TILE + 5] {
            for offset in [0, 1] {
                // Alone, each has its square.
                for index in [0, 1, 2, 3, 4, 5, len / 2, len - 3, len - 2, len - 1] {
                    let mut gradient = vec![0.0; len];
                    gradient[index] = 3.0;
                    assert_eq!(norm(device, &gradient, offset), 3.0, "{index} of {len}, {offset} on");
                }
                // The sum over all ones is their number.
                assert_eq!(norm(device, &vec![1.0; len], offset), (len as f64).sqrt());
            }
        }
    }
}

#[test]
fn nan_and_infinity_show_at_any_index() {
    for device in devices() {
        for index in [0, 8, 3999, 4096, 4100] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut gradient = normal(1, 4101);
                gradient[index] = bad;
                assert!(!norm(device, &gradient, 0).is_finite(), "{bad} at {index}");
            }
        }
    }
}
