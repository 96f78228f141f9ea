//! The CUDA devices of the tests, and helpers that tests of several CUDA ops share.
//!
//! They are the emulator's: device 0 runs the PTX for sm_80, device 1 that for sm_90a, so that the tests need no GPU. With
//! `PATARM_TEST_DEVICE=gpu` the same tests run on device 0 of the machine.

use std::sync::LazyLock;

use half::bf16;
use patarm::cuda::{Buffer, Cuda, Emulation};
use patarm::tensor::{Device, Element};

pub fn devices() -> &'static [Cuda] {
    static DEVICES: LazyLock<Vec<Cuda>> = LazyLock::new(open_devices);
    &DEVICES
}

/// The same devices, opened again: their counters are the caller's alone.
pub fn open_devices() -> Vec<Cuda> {
    if std::env::var("PATARM_TEST_DEVICE").as_deref() == Ok("gpu") {
        return vec![Cuda::open(0, Emulation::Refused).unwrap_or_else(|e| panic!("{e}"))];
    }
    cuda_emulator::load().expect("the emulator's libraries are next to the tests");
    let open = |ordinal| Cuda::open(ordinal, Emulation::Allowed).unwrap_or_else(|e| panic!("{e}"));
    let devices = vec![open(0), open(1)];
    assert_eq!([devices[0].capability(), devices[1].capability()], [(8, 0), (9, 0)]);
    devices
}

/// Rounded to the precision of the device.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
}

pub fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

pub fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

pub fn upload<T: Element>(device: &Cuda, values: &[T]) -> Buffer<T> {
    device.upload(values).unwrap_or_else(|e| panic!("{device:?}: {e}\n{}", cuda_emulator::reports()))
}

/// A whole buffer. Errors of kernels show here, because this waits for them.
pub fn download<T: Element>(device: &Cuda, buffer: &Buffer<T>) -> Vec<T> {
    let all = device.view(buffer, 0..device.len(buffer));
    device.download(all).unwrap_or_else(|e| panic!("{device:?}: {e}\n{}", cuda_emulator::reports()))
}

/// Each index within its own bound; NaN must match NaN, and infinity the same infinity. Names the worst index.
#[track_caller]
pub fn assert_within(what: &str, got: &[f32], expected: &[f32], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let mut worst = (0.0, None);
    for (index, (g, e)) in got.iter().zip(expected).enumerate() {
        if g.is_finite() && e.is_finite() {
            let share = (f64::from(*g) - f64::from(*e)).abs() / bound(index).max(f64::MIN_POSITIVE);
            if share > worst.0 {
                worst = (share, Some(index));
            }
        } else {
            assert!(g == e || g.is_nan() && e.is_nan(), "{what}[{index}]: expected {e}, got {g}");
        }
    }
    if let (share, Some(index)) = worst {
        assert!(
            share <= 1.0,
            "{what}[{index}]: expected {}, got {}: {share:.2} × the bound",
            expected[index],
            got[index]
        );
    }
}
