//! What benches need from a device: filled buffers, times between events, the size of its cache.

use patarm::cuda::{CudaError, Emulation};
use patarm::tensor::{Device, DeviceError};

use super::open;

#[test]
fn a_pattern_is_repeated_to_the_end_of_a_buffer() {
    let device = open(0, Emulation::Allowed).unwrap();
    // One element, some, more than are sent at a time, and more than the buffer has.
    for (period, len) in [(1, 70_001), (3, 200_000), (70_000, 200_000), (70_000, 5), (7, 0)] {
        let pattern: Vec<u32> = (0..period).map(|i| i + 1).collect();
        let buffer = device.repeated(len, &pattern).unwrap();
        let expected: Vec<u32> = pattern.iter().copied().cycle().take(len).collect();
        assert!(device.download(device.view(&buffer, 0..len)).unwrap() == expected, "{len} of {period}");
    }
}

#[test]
fn work_is_timed_to_its_end_and_its_errors_come_through() {
    let device = open(0, Emulation::Allowed).unwrap();
    let len = 1 << 20;
    let mut buffer = device.repeated(len, &[1u32]).unwrap();
    let mut calls = 0;
    let work = || {
        calls += 1;
        device.clear(device.view_mut(&mut buffer, 0..len))
    };
    let seconds = device.timed_s(3, work).unwrap();
    assert!(seconds.len() == 3 && seconds.iter().all(|s| (0.0..60.0).contains(s)), "{seconds:?}");
    assert!(seconds.iter().sum::<f64>() > 0.0, "{seconds:?}");
    assert_eq!(calls, 4, "one is not timed");
    assert!(device.download(device.view(&buffer, 0..len)).unwrap().iter().all(|word| *word == 0));
    let failed = device.timed_s(1, || Err(DeviceError::from(CudaError::NoDriver)));
    assert!(failed.unwrap_err().to_string().contains("libcuda"));
}

#[test]
fn a_device_reports_the_size_of_its_cache() {
    let device = open(0, Emulation::Allowed).unwrap();
    // An A100 has 40 MiB, an H100 50, a small GPU a few.
    assert!((1 << 20..1 << 30).contains(&device.l2_bytes()), "{}", device.l2_bytes());
}
