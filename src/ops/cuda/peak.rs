//! The speed of matrix products alone on this device: what "% of peak" is quoted against.

use std::time::Instant;

use half::bf16;

use super::Cuda;
use crate::cuda::{Factor, Product};
use crate::ops::OpError;
use crate::tensor::Device;

/// Sizes of the square products, each eight times the work of the one before.
const SIZES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];
/// Seconds from which a measurement is long enough; a larger product would tell no more.
const LONG_ENOUGH_S: f64 = 0.02;
/// Products of one measurement: the first of a shape is not timed.
const REPEATS: usize = 10;

/// GFLOP/s of the largest square bf16 product that is worth the wait.
pub(super) fn product_gflops(cuda: &Cuda) -> Result<f64, OpError> {
    let mut best = 0.0f64;
    for size in SIZES {
        let len = size * size;
        let (a, b) = (cuda.zeros::<bf16>(len)?, cuda.zeros::<bf16>(len)?);
        let mut out = cuda.zeros::<bf16>(len)?;
        let mut multiply = || {
            cuda.product(Product {
                out: cuda.view_mut(&mut out, 0..len),
                a: Factor::plain(cuda.view(&a, 0..len), size),
                b: Factor::transposed(cuda.view(&b, 0..len), size),
                m: size,
                n: size,
                k: size,
                accumulate: false,
            })
        };
        multiply()?;
        cuda.synchronize()?;
        let start = Instant::now();
        (0..REPEATS).try_for_each(|_| multiply())?;
        cuda.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        best = best.max((2 * REPEATS * len * size) as f64 / seconds * 1e-9);
        if seconds > LONG_ENOUGH_S {
            break;
        }
    }
    Ok(best)
}
