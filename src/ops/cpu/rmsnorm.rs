//! RMSNorm on the CPU: a row at a time, sums in sixteen lanes.

use super::Cpu;
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::ops::OpResult;
use crate::ops::rmsnorm::{RmsNorm, RmsNormBackward, RmsNormForward};

/// Rows of one partial sum of the weight's gradient: fixed, so that the sum does not depend on the threads.
const BLOCK: usize = 64;

impl RmsNorm for Cpu {
    fn rmsnorm_forward(&self, args: RmsNormForward<'_, Self>) -> OpResult {
        args.check()?;
        let RmsNormForward { out, inv_rms, residual, x, weight, rows, cols, epsilon } = args;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let piece = team::piece_rows(rows, BLOCK);
        let block = piece * cols;
        let forward = |out: &mut [f32], inv_rms: &mut [f32], sum: Option<(&mut [f32], &[f32])>, x: &[f32]| {
            simd::run(Forward { out, inv_rms, sum, x, weight, cols, epsilon });
        };
        let outs = out.chunks_mut(block).zip(inv_rms.chunks_mut(piece)).zip(x.chunks(block));
        match residual {
            Some(residual) => {
                let sums = residual.sum.chunks_mut(block).zip(residual.delta.chunks(block));
                team::each_of(outs.zip(sums), |(((out, inv), x), (sum, delta))| {
                    forward(out, inv, Some((sum, delta)), x);
                });
            }
            None => team::each_of(outs, |((out, inv), x)| forward(out, inv, None, x)),
        }
        Ok(())
    }

    fn rmsnorm_backward(&self, args: RmsNormBackward<'_, Self>) -> OpResult {
        args.check()?;
        let RmsNormBackward { d_sum, d_weight, d_out, sum, inv_rms, weight, rows, cols, overwrite } = args;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let blocks = rows.div_ceil(BLOCK);
        let mut partial = vec![0.0f32; blocks * cols];
        let size = BLOCK * cols;
        let outs = d_sum.chunks_mut(size).zip(partial.chunks_mut(cols));
        let ins = d_out.chunks(size).zip(sum.chunks(size)).zip(inv_rms.chunks(BLOCK));
        team::each_of(outs.zip(ins), |((d_sum, d_weight), ((d_out, sum), inv_rms))| {
            simd::run(Backward { d_sum, d_weight, d_out, sum, inv_rms, weight, cols, overwrite });
        });
        if let Some(d_weight) = d_weight {
            for part in partial.chunks_exact(cols) {
                d_weight.iter_mut().zip(part).for_each(|(to, from)| *to += from);
            }
        }
        Ok(())
    }
}

struct Forward<'a> {
    out: &'a mut [f32],
    inv_rms: &'a mut [f32],
    sum: Option<(&'a mut [f32], &'a [f32])>,
    x: &'a [f32],
    weight: &'a [f32],
    cols: usize,
    epsilon: f32,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.cols;
        for (row, inverse) in self.inv_rms.iter_mut().enumerate() {
            let range = row * cols..(row + 1) * cols;
            let x = &self.x[range.clone()];
            let (squares, x) = match &mut self.sum {
                None => (sum_of_squares(s, x), x),
                Some((sum, delta)) => {
                    let sum = &mut sum[range.clone()];
                    (add_and_square(s, sum, x, &delta[range.clone()]), &*sum)
                }
            };
            *inverse = 1.0 / (squares / cols as f32 + self.epsilon).sqrt();
            scale(s, &mut self.out[range], x, *inverse, self.weight);
        }
    }
}

/// Σ x², in sixteen lanes and then the fixed tree; a short tail fills its lanes with zeros.
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    let (whole, tail) = x.as_chunks::<LANES>();
    for part in whole {
        let v = s.load(part);
        lanes = s.mul_add(v, v, lanes);
    }
    if !tail.is_empty() {
        let v = s.load_part(tail, 0.0);
        lanes = s.mul_add(v, v, lanes);
    }
    s.sum(lanes)
}

/// `sum = x + delta`, and its [`sum_of_squares`].
#[inline(always)]
fn add_and_square<S: Simd>(s: S, sum: &mut [f32], x: &[f32], delta: &[f32]) -> f32 {
    let mut lanes = s.splat(0.0);
    let (whole, tail) = sum.as_chunks_mut::<LANES>();
    let at = whole.len() * LANES;
    for ((sum, x), delta) in whole.iter_mut().zip(x.as_chunks::<LANES>().0).zip(delta.as_chunks::<LANES>().0) {
        let v = s.add(s.load(x), s.load(delta));
        s.store(sum, v);
        lanes = s.mul_add(v, v, lanes);
    }
    if !tail.is_empty() {
        let v = s.add(s.load_part(&x[at..], 0.0), s.load_part(&delta[at..], 0.0));
        s.store_part(tail, v);
        lanes = s.mul_add(v, v, lanes);
    }
    s.sum(lanes)
}

/// `out = x · inverse · weight`.
#[inline(always)]
fn scale<S: Simd>(s: S, out: &mut [f32], x: &[f32], inverse: f32, weight: &[f32]) {
    let inverse = s.splat(inverse);
    let (whole, tail) = out.as_chunks_mut::<LANES>();
    let at = whole.len() * LANES;
    for ((out, x), weight) in whole.iter_mut().zip(x.as_chunks::<LANES>().0).zip(weight.as_chunks::<LANES>().0) {
        s.store(out, s.mul(s.mul(s.load(x), inverse), s.load(weight)));
    }
    if !tail.is_empty() {
        let v = s.mul(s.mul(s.load_part(&x[at..], 0.0), inverse), s.load_part(&weight[at..], 0.0));
        s.store_part(tail, v);
    }
}

struct Backward<'a> {
    d_sum: &'a mut [f32],
    d_weight: &'a mut [f32],
    d_out: &'a [f32],
    sum: &'a [f32],
    inv_rms: &'a [f32],
    weight: &'a [f32],
    cols: usize,
    overwrite: bool,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d_sum, d_weight, d_out, sum, inv_rms, weight, cols, overwrite } = self;
        for (row, inverse) in inv_rms.iter().copied().enumerate() {
            let range = row * cols..(row + 1) * cols;
            let (d_sum, d_out, sum) = (&mut d_sum[range.clone()], &d_out[range.clone()], &sum[range]);
            let mut lanes = s.splat(0.0);
            for ((d, x), w) in d_out.chunks(LANES).zip(sum.chunks(LANES)).zip(weight.chunks(LANES)) {
                let (d, x, w) = (s.load_part(d, 0.0), s.load_part(x, 0.0), s.load_part(w, 0.0));
                lanes = s.mul_add(s.mul(d, w), x, lanes);
            }
            // mean(g · n) · n with n = x · inverse, folded into one factor of x.
            let factor = s.sum(lanes) * inverse * inverse * inverse / cols as f32;
            for i in 0..cols {
                let gradient = inverse * d_out[i] * weight[i] - factor * sum[i];
                d_sum[i] = if overwrite { gradient } else { d_sum[i] + gradient };
                d_weight[i] += d_out[i] * sum[i] * inverse;
            }
        }
    }
}
