//! Shared by tests of several ops: random numbers, threads, and comparison with an f64 reference.

use patarm::random::Stream;
use rayon::prelude::*;

/// `len` normal numbers.
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    let stream = Stream::new(seed);
    // Keyed by their index, so any number of threads draws the same ones.
    (0..len).into_par_iter().with_min_len(4096).map(|i| stream.normal(i as u64)).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Runs on a separate pool.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// |got − expected| ≤ absolute + relative·|expected| everywhere; names the worst index.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], expected: &[f64], absolute: f64, relative: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs();
        assert!(error <= absolute + relative * e.abs(), "{what}[{index}]: expected {e}, got {g}, error {error:.2e}");
    }
}

/// The message of a refused call.
#[track_caller]
pub fn refused(result: patarm::ops::OpResult) -> String {
    result.expect_err("sizes that do not fit are refused").to_string()
}
