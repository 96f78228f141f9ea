//! The global norm on the CUDA device against the CPU's.

use patarm::cuda::Cuda;
use patarm::ops::global_norm::{GlobalNorm, Norm};
use patarm::tensor::Device;

use crate::cuda_device::{devices, download, upload};
use crate::numbers::normal;

fn norm(device: &Cuda, gradient: &[f32]) -> f64 {
    let buffer = upload(device, gradient);
    let mut norm = upload(device, &[f64::NAN]);
    let gradient = device.view(&buffer, 0..gradient.len());
    device.global_norm(GlobalNorm { norm: device.view_mut(&mut norm, 0..1), gradient }).unwrap();
    download(device, &norm)[0]
}

#[test]
fn the_norm_is_the_cpus() {
    for device in devices() {
        // None, one, one warp and one more, one block and one more, more elements than all threads of the grid.
        for len in [0, 1, 32, 33, 256, 257, 300_001] {
            let gradient = normal(1, len);
            let (got, expected) = (norm(device, &gradient), super::norm(&gradient));
            // Sums of squares in f64 in another order: no cancellation, so the relative error is the number of roundings.
            assert!((got - expected).abs() <= 2000.0 * f64::EPSILON * expected, "{len}: {got} for {expected}");
            assert_eq!(got.to_bits(), norm(device, &gradient).to_bits());
        }
        // Squares that f32 cannot hold.
        assert!((norm(device, &[3e30, 4e30]) / 5e30 - 1.0).abs() < 1e-6);
    }
}

#[test]
fn what_is_not_a_number_shows_wherever_it_stands() {
    for device in devices() {
        for place in [0, 8, 3999] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut gradient = normal(1, 4000);
                gradient[place] = bad;
                assert!(!norm(device, &gradient).is_finite(), "{bad} at {place}");
            }
        }
    }
}
