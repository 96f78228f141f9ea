//! The global norm on the CPU.

use rayon::prelude::*;

use super::Cpu;
use crate::ops::OpResult;
use crate::ops::global_norm::{GlobalNorm, Norm};

/// Elements of one partial sum: fixed, so that the sum does not depend on the threads.
const CHUNK: usize = 16_384;

impl Norm for Cpu {
    fn global_norm(&self, args: GlobalNorm<'_, Self>) -> OpResult {
        args.check()?;
        let partial: Vec<f64> = args.gradient.par_chunks(CHUNK).map(sum_of_squares).collect();
        args.norm[0] = partial.iter().sum::<f64>().sqrt();
        Ok(())
    }
}

/// Σ x² in eight chains, so that additions need not wait for each other.
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for part in x.chunks(8) {
        for (lane, value) in lanes.iter_mut().zip(part) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum()
}
