//! Tests of the op `global_norm`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::global_norm::{GlobalNorm, Norm};

use crate::ops::numbers::{normal, on_threads, refused};

fn norm(gradient: &[f32]) -> f64 {
    let mut norm = [f64::NAN];
    Cpu.global_norm(GlobalNorm { norm: &mut norm, gradient }).unwrap();
    norm[0]
}

#[test]
fn the_norm_is_the_root_of_the_sum_of_squares() {
    for len in [0, 1, 7, 100, 50_000] {
        let gradient = normal(1, len);
        let expected = gradient.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        assert!((norm(&gradient) - expected).abs() <= 1e-13 * expected, "{len}");
    }
    // Squares too large for f32.
    assert_eq!(norm(&[3e30, 4e30]), (9e60f64 * (3e30f32 as f64 / 3e30).powi(2) + (4e30f32 as f64).powi(2)).sqrt());
}

#[test]
fn nan_and_infinity_show_at_any_index() {
    for index in [0, 8, 39_999] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut gradient = normal(1, 40_000);
            gradient[index] = bad;
            assert!(!norm(&gradient).is_finite(), "{bad} at {index}");
        }
    }
}

#[test]
fn an_output_of_other_than_one_norm_is_refused() {
    assert!(refused(Cpu.global_norm(GlobalNorm { norm: &mut [0.0; 2], gradient: &[1.0] })).contains("`norm`"));
}

#[test]
fn threads_change_no_bit() {
    let gradient = normal(1, 200_000);
    let run = || norm(&gradient).to_bits();
    assert_eq!(on_threads(1, run), on_threads(3, run));
}
