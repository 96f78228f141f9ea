//! The speed of matmuls alone on this device: what "% of peak" is quoted against.

use std::time::Instant;

use half::bf16;

use super::Cuda;
use crate::cuda::{Buffer, Matmul, Operand};
use crate::ops::OpError;
use crate::random::Stream;
use crate::tensor::{Device, DeviceError};

/// Sizes of the square matmuls, each eight times the work of the one before.
const SIZES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];
/// A measurement of this many seconds is long enough; a larger matmul would not be faster.
const LONG_ENOUGH_S: f64 = 0.02;
/// Matmuls of one measurement: the first of a shape is not timed.
const REPEATS: usize = 10;

/// Random numbers drawn for an operand, which repeats them. A prime, so that the rows of a matrix differ.
const DRAWN: usize = 262_147;

/// Normal random numbers: with zeros, which toggle no bits, a card keeps a higher clock and reads 13 % too fast.
fn operand(cuda: &Cuda, len: usize, stream: Stream) -> Result<Buffer<bf16>, DeviceError> {
    let drawn: Vec<bf16> = (0..len.min(DRAWN) as u64).map(|i| bf16::from_f32(stream.normal(i))).collect();
    cuda.repeated(len, &drawn)
}

/// GFLOP/s of the first square bf16 matmul that takes long enough to measure.
pub(super) fn matmul_gflops(cuda: &Cuda) -> Result<f64, OpError> {
    let mut best = 0.0f64;
    for size in SIZES {
        let len = size * size;
        let [a, b] = [1, 2].map(|seed| operand(cuda, len, Stream::new(seed)));
        let (a, b) = (a?, b?);
        let mut out = cuda.zeros::<bf16>(len)?;
        let mut multiply = || {
            cuda.matmul(Matmul {
                out: cuda.view_mut(&mut out, 0..len),
                a: Operand::plain(cuda.view(&a, 0..len), size),
                b: Operand::transposed(cuda.view(&b, 0..len), size),
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
