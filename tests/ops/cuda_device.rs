//! The CUDA device of the tests, and what tests of several CUDA ops share.
//!
//! It is the emulator, as target `PATARM_EMULATOR_TARGET` (80 or 90), so that the tests need no GPU. With
//! `PATARM_TEST_DEVICE=gpu` the same tests run on device 0 of the machine.

use std::sync::LazyLock;

use half::bf16;
use patarm::cuda::{Cuda, Emulation};
use patarm::tensor::Device;

pub fn cuda() -> &'static Cuda {
    static CUDA: LazyLock<Cuda> = LazyLock::new(|| {
        let emulation = match std::env::var("PATARM_TEST_DEVICE").as_deref() {
            Ok("gpu") => Emulation::Refused,
            _ => {
                cuda_emulator::load().expect("the emulator's libraries lie beside the tests");
                Emulation::Allowed
            }
        };
        Cuda::open(0, emulation).expect("device 0 opens")
    });
    &CUDA
}

/// Rounded to what the device holds.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
}

pub fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

pub fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// Whole buffers to and from the device.
pub fn upload<T: patarm::tensor::Element>(values: &[T]) -> patarm::cuda::Buffer<T> {
    cuda().upload(values).expect("the device has room")
}

pub fn download<T: patarm::tensor::Element>(buffer: &patarm::cuda::Buffer<T>) -> Vec<T> {
    cuda().download(cuda().view(buffer, 0..cuda().len(buffer))).expect("the device is well")
}

/// Each place within its own bound; NaN belongs to NaN, and infinity to the same infinity. Names the worst place.
#[track_caller]
pub fn assert_within(what: &str, got: &[f32], expected: &[f32], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let mut worst = (0.0, None);
    for (place, (g, e)) in got.iter().zip(expected).enumerate() {
        if g.is_finite() && e.is_finite() {
            let share = (f64::from(*g) - f64::from(*e)).abs() / bound(place).max(f64::MIN_POSITIVE);
            if share > worst.0 {
                worst = (share, Some(place));
            }
        } else {
            assert!(g == e || g.is_nan() && e.is_nan(), "{what}[{place}]: expected {e}, got {g}");
        }
    }
    if let (share, Some(place)) = worst {
        assert!(
            share <= 1.0,
            "{what}[{place}]: expected {}, got {}: {share:.2} × the bound",
            expected[place],
            got[place]
        );
    }
}
