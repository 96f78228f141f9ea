//! The LM head on the CPU: logits of a chunk of rows at a time, each row's loss, and its gradient in the memory of
//! the logits.
//!
//! A row's logits come from the matmul of `linear` and its log-softmax from the routine of the sampler, so a log-probability
//! has the same bits while decoding, scoring and training. Gradients of the weight add rows in order, so
//! no result depends on the size of a chunk.

use std::sync::{Mutex, PoisonError};

use super::Cpu;
use super::gemm::{Panels, add_transposed_matmul, matmul, matmul_transposed};
use super::log_softmax::{Stats, log_softmax_stats};
use super::memory::Aligned;
use super::parallel::for_row_blocks;
use super::simd::{self, LANES, Simd, WithSimd};
use super::team;
use crate::memory::labelled;
use crate::ops::linear::LinearSizes;
use crate::ops::lm_head::{LmHead, LmHeadEmbedding, LmHeadGradient, LmHeadLogits, LmHeadLoss, TokenLoss};
use crate::ops::{Check, OpResult};
use crate::tensor::DeviceError;

/// Logits of a chunk by default, at most about this many (16 MB), as long as that leaves [`CHUNK_ROWS`] rows.
const CHUNK_LOGITS: usize = 4 << 20;
/// Rows of a chunk: at most 512, so that a small vocabulary's chunk stays in the cache; at least 32, so that
/// a large weight is read from memory once for 32 rows and no longer bounds the matmul.
const CHUNK_ROWS: (usize, usize) = (32, 512);
/// Logits below which a row pass stays on the calling thread: about 20 µs of work.
const SERIAL_LOGITS: usize = 1 << 14;

/// Gathered hidden rows, their gradients and logits of a chunk. It grows to the largest chunk and stays for the next call.
#[derive(Default)]
struct Scratch {
    hidden: Vec<f32>,
    logits: Aligned<f32>,
}

/// Room for `len` logits of any content.
fn scratch_logits(logits: &mut Aligned<f32>, len: usize) -> Result<&mut [f32], DeviceError> {
    if logits.len() < len {
        // What there was is given back first.
        *logits = Aligned::default();
        *logits = labelled("scratch", || Aligned::zeros(len))?;
    }
    Ok(&mut logits[..len])
}

/// Scratch that no call uses. There is as much as there have been calls at the same time: a training step has one, whichever
/// thread runs it.
static SPARE: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

/// Calls `f` with scratch that is its own.
fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut scratch = spare().pop().unwrap_or_default();
    let result = f(&mut scratch);
    spare().push(scratch);
    result
}

/// Rows of a chunk for a vocabulary.
fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_LOGITS / vocab.max(1)).clamp(CHUNK_ROWS.0, CHUNK_ROWS.1)
}

impl LmHead for Cpu {
    /// Chosen for the caches; memory is not a limit.
    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize {
        chunk_rows(sizes.out_features)
    }

    fn lm_head_check_chunk(&self, chunk_rows: usize, _sizes: LinearSizes) -> OpResult {
        Check("lm_head_loss").that(chunk_rows > 0, || "a chunk must have 1 row or more".into())
    }

    fn lm_head_reserve(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        with_scratch(|scratch| scratch_logits(&mut scratch.logits, chunk_rows * sizes.out_features).map(drop))?;
        Ok(())
    }

    fn lm_head_embedding(&self, args: LmHeadEmbedding<'_, Self>) -> OpResult {
        args.check()?;
        let LmHeadEmbedding { out, weight, ids, sizes } = args;
        weight.check("lm_head_embedding", sizes)?;
        let LinearSizes { out_features: vocab, in_features: width } = sizes;
        if let Some(at) = ids.iter().position(|id| *id as usize >= vocab) {
            let reason = || format!("`ids[{at}]` must be below the vocabulary of {vocab}, got {}", ids[at]);
            Check("lm_head_embedding").that(false, reason)?;
        }
        for_row_blocks(out, width, |first, rows| {
            for (row, id) in rows.chunks_exact_mut(width).zip(&ids[first..]) {
                weight.panels().copy_column(row, *id as usize);
            }
        });
        Ok(())
    }

    fn lm_head_logits(&self, args: LmHeadLogits<'_, Self>) -> OpResult {
        args.check()?;
        args.weight.check("lm_head_logits", args.sizes)?;
        check_rows(Check("lm_head_logits"), args.rows, args.tokens)?;
        let LinearSizes { out_features: vocab, in_features: width } = args.sizes;
        let step = chunk_rows(vocab);
        with_scratch(|scratch| {
            for (rows, out) in args.rows.chunks(step).zip(args.out.chunks_mut((step * vocab).max(1))) {
                let hidden = gather(&mut scratch.hidden, args.hidden, rows, width);
                matmul(out, hidden, args.weight.panels(), rows.len(), false);
            }
        });
        Ok(())
    }

    /// The result does not depend on the size of a chunk.
    fn lm_head_loss(&self, mut args: LmHeadLoss<'_, Self>) -> OpResult {
        let check = Check("lm_head_loss");
        args.check()?;
        args.weight.check("lm_head_loss", args.sizes)?;
        check_rows(check, args.rows, args.tokens)?;
        check_distinct(check, args.rows)?;
        let vocab = args.sizes.out_features;
        if let Some(at) = args.targets.iter().position(|t| *t as usize >= vocab) {
            let target = args.targets[at];
            check.that(false, || format!("argument `targets`: [{at}] is {target}, expected below vocab = {vocab}"))?;
        }
        if let Some(gradient) = &mut args.gradient {
            gradient.d_hidden.fill(0.0);
        }
        with_scratch(|scratch| {
            let (selected, step) = (args.rows.len(), args.chunk_rows);
            for first in (0..selected).step_by(step) {
                chunk(&mut args, first, step.min(selected - first), scratch)?;
            }
            Ok(())
        })
    }
}

/// Every one of `rows` must be below `tokens`.
fn check_rows(check: Check, rows: &[u32], tokens: usize) -> OpResult {
    let Some(at) = rows.iter().position(|row| *row as usize >= tokens) else { return Ok(()) };
    check.that(false, || format!("argument `rows`: [{at}] is {}, expected below tokens = {tokens}", rows[at]))
}

/// Rows whose gradient is written must be ascending and distinct too.
fn check_distinct(check: Check, rows: &[u32]) -> OpResult {
    check.that(rows.is_sorted_by(|a, b| a < b), || "argument `rows` must be ascending and distinct".into())
}

/// The given rows of `from` [_, width], gathered; not copied if they are already consecutive.
fn gather<'a>(to: &'a mut Vec<f32>, from: &'a [f32], rows: &[u32], width: usize) -> &'a [f32] {
    let first = rows.first().map_or(0, |row| *row as usize);
    if rows.iter().enumerate().all(|(i, row)| *row as usize == first + i) {
        return &from[first * width..(first + rows.len()) * width];
    }
    to.clear();
    rows.iter().for_each(|row| to.extend_from_slice(&from[*row as usize * width..][..width]));
    to
}

/// Selected rows `first..first + count`: logits, losses and, with `gradient`, gradients.
fn chunk(args: &mut LmHeadLoss<'_, Cpu>, first: usize, count: usize, scratch: &mut Scratch) -> OpResult {
    let LinearSizes { out_features: vocab, in_features: width } = args.sizes;
    let (rows, range) = (&args.rows[first..first + count], first..first + count);
    let hidden = gather(&mut scratch.hidden, args.hidden, rows, width);
    // Room for a whole chunk even if this one has fewer rows: memory does not depend on the batch.
    let logits = &mut scratch_logits(&mut scratch.logits, args.chunk_rows * vocab)?[..count * vocab];
    matmul(logits, hidden, args.weight.panels(), count, false);
    let losses = Losses {
        gradient: args.gradient.as_ref(),
        targets: &args.targets[range.clone()],
        first,
        inverse_temperature: 1.0 / args.temperature,
    };
    losses.rows(logits, &mut args.logprob[range.clone()], &mut args.entropy[range.clone()], &mut args.loss[range]);
    let Some(gradient) = &mut args.gradient else { return Ok(()) };
    if let Some(d_weight) = &mut gradient.d_weight {
        add_transposed_matmul(d_weight, logits, hidden, [count, vocab, width]);
    }
    scatter_d_hidden(gradient.d_hidden, logits, rows, args.weight.panels(), &mut scratch.hidden);
    Ok(())
}

/// `d_hidden[rows] = d_logits · W`.
fn scatter_d_hidden(d_hidden: &mut [f32], d_logits: &[f32], rows: &[u32], weight: &Panels, scratch: &mut Vec<f32>) {
    let width = weight.k;
    let (first, last) = (rows[0] as usize, rows[rows.len() - 1] as usize);
    if last - first + 1 == rows.len() {
        matmul_transposed(&mut d_hidden[first * width..(last + 1) * width], d_logits, weight, rows.len(), false);
        return;
    }
    scratch.resize(rows.len() * width, 0.0);
    matmul_transposed(scratch, d_logits, weight, rows.len(), false);
    for (row, from) in rows.iter().zip(scratch.chunks_exact(width)) {
        d_hidden[*row as usize * width..][..width].copy_from_slice(from);
    }
}

/// Inputs that turn the logits of a chunk into losses and gradients.
struct Losses<'a, 'g> {
    gradient: Option<&'a LmHeadGradient<'g, Cpu>>,
    targets: &'a [u32],
    /// The chunk's first row among the selected ones
    first: usize,
    inverse_temperature: f32,
}

impl Losses<'_, '_> {
    /// Log-probability, entropy and loss of every row; with a gradient, its logits become ∂/∂logits.
    fn rows(&self, logits: &mut [f32], logprob: &mut [f32], entropy: &mut [f32], loss: &mut [f32]) {
        let vocab = logits.len() / self.targets.len();
        type Out<'a> = (((&'a mut [f32], &'a mut f32), &'a mut f32), &'a mut f32);
        let row = |(i, (((logits, logprob), entropy), loss)): (usize, Out<'_>)| {
            [*logprob, *entropy, *loss] = simd::run(Row { losses: self, i, logits });
        };
        if logits.len() < SERIAL_LOGITS {
            logits.chunks_exact_mut(vocab).zip(logprob).zip(entropy).zip(loss).enumerate().for_each(row);
        } else {
            let step = SERIAL_LOGITS.div_ceil(vocab);
            let outs = logprob.chunks_mut(step).zip(entropy.chunks_mut(step)).zip(loss.chunks_mut(step));
            let parts = logits.chunks_mut(step * vocab).zip(outs).enumerate();
            team::each_of(parts, |(part, (logits, ((logprob, entropy), loss)))| {
                let rows = logits.chunks_exact_mut(vocab).zip(logprob).zip(entropy).zip(loss);
                rows.enumerate().for_each(|(i, rest)| row((part * step + i, rest)));
            });
        }
    }

    /// (loss, ∂(weighted loss)/∂logprob) of row `i` of the chunk.
    fn value_and_slope(&self, i: usize, logprob: f32) -> (f32, f32) {
        let Some(gradient) = self.gradient else { return (-logprob, 0.0) };
        let i = self.first + i;
        let (value, slope) = match &gradient.loss {
            TokenLoss::CrossEntropy => (-logprob, -1.0),
            TokenLoss::Grpo { loss, old_logprob, reference_logprob, advantages } => {
                let advantages = [advantages[2 * i], advantages[2 * i + 1]];
                let [old, reference] =
                    [old_logprob, reference_logprob].map(|view| view.map_or(logprob, |view| view[i]));
                loss.value_and_slope(logprob, old, reference, advantages)
            }
        };
        let weight = gradient.row_weight[i];
        // A masked row has no gradient, even if its loss is not finite.
        (value, if weight == 0.0 { 0.0 } else { weight * slope })
    }
}

/// One row of a chunk: [logprob, entropy, loss].
struct Row<'a, 'l, 'g> {
    losses: &'a Losses<'l, 'g>,
    i: usize,
    logits: &'a mut [f32],
}

impl WithSimd for Row<'_, '_, '_> {
    type Output = [f32; 3];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 3] {
        let Self { losses, i, logits } = self;
        let inverse = losses.inverse_temperature;
        let stats = log_softmax_stats(s, logits, inverse);
        let target = losses.targets[i] as usize;
        let logprob = stats.logprob(logits[target], inverse);
        let (loss, slope) = losses.value_and_slope(i, logprob);
        if losses.gradient.is_some() {
            // ∂loss/∂z = slope · (onehot − softmax) / T
            let factor = slope * inverse;
            scale_softmax(s, logits, &stats, inverse, -factor);
            logits[target] += factor;
        }
        [logprob, stats.entropy, loss]
    }
}

/// Each logit becomes `factor · softmax(z / T)`.
#[inline(always)]
fn scale_softmax<S: Simd>(s: S, logits: &mut [f32], stats: &Stats, inverse_temperature: f32, factor: f32) {
    if factor == 0.0 {
        return logits.fill(0.0);
    }
    let (scale, max) = (s.splat(inverse_temperature), s.splat(stats.max));
    let (ln_sum, factor) = (s.splat(stats.ln_sum), s.splat(factor));
    for part in logits.chunks_mut(LANES) {
        let whole = part.len() == LANES;
        let z = if whole { s.load(part) } else { s.load_part(part, 0.0) };
        let y = s.mul(factor, s.exp(s.sub(s.sub(s.mul(z, scale), max), ln_sum)));
        if whole { s.store(part, y) } else { s.store_part(part, y) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::Linear;

    /// Everything that a call with `step` rows a chunk writes.
    fn outputs(step: usize, rows: &[u32]) -> Vec<Vec<f32>> {
        let sizes = LinearSizes { out_features: 70, in_features: 33 };
        let values = |len: usize| (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<_>>();
        let mut weight = Cpu.linear_weight(sizes).unwrap();
        Cpu.linear_prepare(&mut weight, &values(sizes.len()), sizes).unwrap();
        let (hidden, n) = (values(100 * 33), rows.len());
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 31 % 70).collect();
        let [mut logprob, mut entropy, mut loss] = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
        let (mut d_hidden, mut d_weight) = (vec![0.5; hidden.len()], values(sizes.len()));
        let gradient = LmHeadGradient {
            d_hidden: &mut d_hidden[..],
            d_weight: Some(&mut d_weight[..]),
            row_weight: &hidden[..n],
            loss: TokenLoss::CrossEntropy,
        };
        let args = LmHeadLoss {
            logprob: &mut logprob[..],
            entropy: &mut entropy[..],
            loss: &mut loss[..],
            gradient: Some(gradient),
            hidden: &hidden[..],
            weight: &weight,
            rows,
            targets: &targets[..],
            temperature: 0.7,
            tokens: 100,
            chunk_rows: step,
            sizes,
        };
        Cpu.lm_head_loss(args).unwrap();
        vec![logprob, entropy, loss, d_hidden, d_weight]
    }

    #[test]
    fn the_size_of_a_chunk_changes_no_bit() {
        let scattered: Vec<u32> = (0..100).filter(|r| r % 7 != 3).collect();
        let contiguous: Vec<u32> = (20..95).collect();
        for rows in [scattered, contiguous] {
            let whole = outputs(1000, &rows);
            for step in [1, 2, 13, 32, 74] {
                assert_eq!(outputs(step, &rows), whole, "{step} rows a chunk");
            }
        }
    }

    #[test]
    fn chunks_stay_small() {
        assert_eq!([chunk_rows(512), chunk_rows(65_536), chunk_rows(151_936)], [512, 64, 32]);
    }
}
