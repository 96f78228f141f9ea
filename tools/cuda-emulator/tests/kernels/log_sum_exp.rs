//! A log-sum-exp kernel over a vocabulary, and softmax, from outside this project.

use cuda_emulator::fault::Fault;

use crate::compile::{TARGETS, has_nvcc};
use crate::fixture::{Argument, Fixture, noise};

pub const FILE: &str = "log_sum_exp.cu";
pub const BLOCKS: u32 = 2;

pub fn run(fixture: &mut Fixture, logits: &[f32], rows: usize) -> Result<(u64, u64), Fault> {
    let cols = logits.len() / rows;
    let (out, logits) = (fixture.empty::<f32>(rows), fixture.upload(logits));
    let arguments =
        [Argument::Address(out), Argument::Address(logits), Argument::Int(rows as i32), Argument::Int(cols as i32)];
    fixture.launch("log_sum_exp_f32", [BLOCKS, 1, 1], 256, 0, &arguments)?;
    Ok((out, logits))
}

fn reference(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(*x - most).exp()).sum();
    f64::from(most) + sum.ln()
}

#[test]
fn agrees_with_sums_in_f64() {
    if !has_nvcc() {
        return;
    }
    for target in TARGETS {
        for (rows, cols) in [(3, 151_936), (5, 1001), (2, 1), (1, 32)] {
            let logits: Vec<f32> = noise(7, rows * cols).into_iter().map(|x| 20.0 * x).collect();
            let mut fixture = Fixture::new(FILE, None, target);
            let (lse, from) = run(&mut fixture, &logits, rows).unwrap_or_else(|fault| panic!("{fault}"));
            let got: Vec<f32> = fixture.download(lse, rows).unwrap();
            for (row, got) in got.iter().enumerate() {
                let expected = reference(&logits[row * cols..][..cols]);
                // The terms are positive, a thread rounds a few hundred times, and the approximate exponentials are off
                // by some ulps.
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 1e-4, "sm_{} {rows}×{cols} row {row}: {expected}, got {got}", target.name);
            }
            let probabilities = fixture.empty::<f32>(rows * cols);
            let [out, from, lse] = [probabilities, from, lse].map(Argument::Address);
            let arguments = [out, from, lse, Argument::Int(rows as i32), Argument::Int(cols as i32)];
            let blocks = (rows * cols).div_ceil(256) as u32;
            fixture.launch("softmax_f32", [blocks, 1, 1], 256, 0, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
            let values: Vec<f32> = fixture.download(probabilities, rows * cols).unwrap();
            for row in values.chunks(cols) {
                let total: f64 = row.iter().map(|p| f64::from(*p)).sum();
                assert!((total - 1.0).abs() < 2e-4, "sm_{} {rows}×{cols}: a row sums to {total}", target.name);
            }
        }
    }
}
