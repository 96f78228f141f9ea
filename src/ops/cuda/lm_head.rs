//! The LM head on CUDA: logits of a chunk of rows by cuBLASLt, one kernel for their losses and for gradients
//! in the memory of the logits, and two matmuls for the backward pass.
//!
//! Memory beyond the arguments: the logits of one chunk, whose bf16 gradient reuses them, and twice its rows of `hidden` in bf16.
//! The caller chooses the rows of a chunk; [`chunk_rows`] is the default for a card.

use half::bf16;

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Buffer, Grid, Matmul, Operand, View, ViewMut, kernels};
use crate::loss::grpo::KlEstimator;
use crate::ops::chunk::{check_chunk, chunk_rows};
use crate::ops::linear::LinearSizes;
use crate::ops::lm_head::{LmHead, LmHeadEmbedding, LmHeadGradient, LmHeadLogits, LmHeadLoss, TokenLoss};
use crate::ops::{Check, OpResult};
use crate::tensor::{Device, View as _};

const VOCAB_MAX: usize = kernels::LM_HEAD_VOCAB_MAX as usize;

/// Sizes that the kernels count in `int`.
fn check_sizes(op: &'static str, rows: usize, tokens: usize, sizes: LinearSizes) -> OpResult {
    let LinearSizes { out_features: vocab, in_features: width } = sizes;
    let check = Check(op);
    check.that((1..=VOCAB_MAX).contains(&vocab), || {
        format!("`sizes.out_features` must be 1 to {VOCAB_MAX} on CUDA, got {vocab}")
    })?;
    check.that((1..=COUNT_MAX).contains(&width), || format!("`sizes.in_features` must be positive, got {width}"))?;
    check.that(rows.max(tokens) <= COUNT_MAX, || format!("{rows} rows of {tokens} tokens are too many for CUDA"))
}

/// The rows of hidden states to copy.
#[derive(Clone, Copy)]
struct Rows<'a> {
    rows: View<'a, u32>,
    tokens: usize,
    width: usize,
    /// Whether they must be ascending and distinct.
    ascending: bool,
}

impl Rows<'_> {
    fn grid(count: usize) -> Grid {
        Grid { blocks: count, threads: (kernels::LM_HEAD_COPY_THREADS, 1), dynamic_shared_bytes: 0 }
    }

    /// `to[i] = hidden[rows[first + i]]` for `count` rows.
    fn gather(
        self,
        cuda: &Cuda,
        mut to: ViewMut<'_, bf16>,
        hidden: View<'_, bf16>,
        first: usize,
        count: usize,
    ) -> OpResult {
        let Self { rows, tokens, width, ascending } = self;
        assert!(first + count <= rows.len() && count * width <= to.len() && tokens * width <= hidden.len());
        let arguments = [
            to.argument(),
            hidden.argument(),
            rows.argument(),
            Argument::count(first),
            Argument::count(tokens),
            Argument::count(width),
            Argument::I32(ascending.into()),
        ];
        // Safety: a block writes row i of `to` and reads row `rows[first + i]` of `hidden`, if it is below `tokens`; asserted
        // above.
        Ok(unsafe { cuda.launch(&kernels::LM_HEAD_GATHER_BF16, Self::grid(count), arguments) }?)
    }

    /// `to[rows[first + i]] = from[i]` for `count` rows.
    fn scatter(self, cuda: &Cuda, to: Argument, from: &mut Buffer<bf16>, first: usize, count: usize) -> OpResult {
        let Self { rows, tokens, width, .. } = self;
        assert!(first + count <= rows.len() && count * width <= cuda.len(from));
        let arguments = [
            to,
            from.argument(),
            rows.argument(),
            Argument::count(first),
            Argument::count(tokens),
            Argument::count(width),
        ];
        // Safety: `to` is `d_hidden`, checked to hold `tokens` rows; the kernel skips rows that are not below that.
        Ok(unsafe { cuda.launch(&kernels::LM_HEAD_SCATTER_BF16, Self::grid(count), arguments) }?)
    }
}

impl LmHead for Cuda {
    fn lm_head_chunk_rows(&self, sizes: LinearSizes) -> usize {
        chunk_rows(self.total_bytes(), sizes.out_features)
    }

    fn lm_head_check_chunk(&self, chunk_rows: usize, sizes: LinearSizes) -> OpResult {
        check_chunk(chunk_rows, self.total_bytes(), sizes)
    }

    /// An id that is not below the vocabulary gets a row of NaN, as from `embedding_forward`.
    fn lm_head_embedding(&self, args: LmHeadEmbedding<'_, Self>) -> OpResult {
        args.check()?;
        let LmHeadEmbedding { out, weight, ids, sizes } = args;
        let (count, weight) = (ids.len(), weight.view("lm_head_embedding", self, sizes)?);
        check_sizes("lm_head_embedding", count, 0, sizes)?;
        if count == 0 {
            return Ok(());
        }
        let LinearSizes { out_features: tokens, in_features: width } = sizes;
        Rows { rows: ids, tokens, width, ascending: false }.gather(self, out, weight, 0, count)
    }

    /// A row that is not below `tokens` gets logits of NaN: checking `rows` would wait for the device.
    fn lm_head_logits(&self, args: LmHeadLogits<'_, Self>) -> OpResult {
        args.check()?;
        let LmHeadLogits { out, hidden, weight, rows, tokens, sizes } = args;
        let (count, weight) = (rows.len(), weight.view("lm_head_logits", self, sizes)?);
        check_sizes("lm_head_logits", count, tokens, sizes)?;
        if count == 0 {
            return Ok(());
        }
        let LinearSizes { out_features: vocab, in_features: width } = sizes;
        let mut gathered = self.scratch::<bf16>(count * width)?;
        let to = self.view_mut(&mut gathered, 0..count * width);
        Rows { rows, tokens, width, ascending: false }.gather(self, to, hidden, 0, count)?;
        Ok(self.matmul(Matmul {
            out,
            a: Operand::plain(self.view(&gathered, 0..count * width), width),
            b: Operand::transposed(weight, width),
            m: count,
            n: vocab,
            k: width,
            accumulate: false,
        })?)
    }

    /// Mistakes that the CPU backend refuses but only the device can see make a row's results NaN: a row that is not below
    /// `tokens` or not above the one before, a target that is not below the vocabulary.
    fn lm_head_loss(&self, mut args: LmHeadLoss<'_, Self>) -> OpResult {
        args.check()?;
        let (selected, LinearSizes { out_features: vocab, in_features: width }) = (args.selected(), args.sizes);
        let weight = args.weight.view("lm_head_loss", self, args.sizes)?;
        check_sizes("lm_head_loss", selected, args.tokens, args.sizes)?;
        if let Some(gradient) = &mut args.gradient {
            self.clear(gradient.d_hidden.reborrow())?;
        }
        let step = args.chunk_rows.min(selected);
        if step == 0 {
            return Ok(());
        }
        let mut scratch = Scratch {
            logits: self.scratch(step * vocab)?,
            hidden: self.scratch(step * width)?,
            d_hidden: if args.gradient.is_some() { Some(self.scratch(step * width)?) } else { None },
        };
        for first in (0..selected).step_by(step) {
            chunk(self, &mut args, weight, &mut scratch, first, step.min(selected - first))?;
        }
        Ok(())
    }
}

/// Memory of one chunk.
struct Scratch {
    /// [rows, vocab]; the gradient is at the start of each row.
    logits: Buffer<f32>,
    /// [rows, hidden], gathered
    hidden: Buffer<bf16>,
    /// [rows, hidden], the gradient before it is scattered
    d_hidden: Option<Buffer<bf16>>,
}

/// Selected rows `first..first + count`: logits, losses and, with `gradient`, gradients.
fn chunk(
    cuda: &Cuda,
    args: &mut LmHeadLoss<'_, Cuda>,
    weight: View<'_, bf16>,
    scratch: &mut Scratch,
    first: usize,
    count: usize,
) -> OpResult {
    let LinearSizes { out_features: vocab, in_features: width } = args.sizes;
    let rows = Rows { rows: args.rows, tokens: args.tokens, width, ascending: true };
    rows.gather(cuda, cuda.view_mut(&mut scratch.hidden, 0..count * width), args.hidden, first, count)?;
    let hidden = cuda.view(&scratch.hidden, 0..count * width);
    cuda.matmul(Matmul {
        out: cuda.view_mut(&mut scratch.logits, 0..count * vocab),
        a: Operand::plain(hidden, width),
        b: Operand::transposed(weight, width),
        m: count,
        n: vocab,
        k: width,
        accumulate: false,
    })?;
    losses(cuda, args, &mut scratch.logits, first, count)?;
    let (Some(gradient), Some(d_gathered)) = (&mut args.gradient, &mut scratch.d_hidden) else { return Ok(()) };
    // A row's gradient takes the first half of its logits' memory.
    let (d_logits, leading) = (scratch.logits.halves(), 2 * vocab);
    if let Some(d_weight) = &mut gradient.d_weight {
        cuda.matmul(Matmul {
            out: d_weight.reborrow(),
            a: Operand::transposed(d_logits, leading),
            b: Operand::plain(hidden, width),
            m: vocab,
            n: width,
            k: count,
            accumulate: true,
        })?;
    }
    cuda.matmul(Matmul {
        out: cuda.view_mut(d_gathered, 0..count * width),
        a: Operand::plain(d_logits, leading),
        b: Operand::plain(weight, width),
        m: count,
        n: width,
        k: vocab,
        accumulate: false,
    })?;
    rows.scatter(cuda, gradient.d_hidden.argument(), d_gathered, first, count)
}

/// Log-probabilities, entropies and losses of a chunk; with a gradient, its logits become ∂/∂logits in bf16.
fn losses(
    cuda: &Cuda,
    args: &mut LmHeadLoss<'_, Cuda>,
    logits: &mut Buffer<f32>,
    first: usize,
    count: usize,
) -> OpResult {
    let vocab = args.sizes.out_features;
    assert!(first + count <= args.selected() && count * vocab <= cuda.len(logits));
    let row_weight = args.gradient.as_ref().map_or(Argument::NULL, |gradient| gradient.row_weight.argument());
    let (grpo, [old, reference, advantages]) = match &args.gradient {
        Some(LmHeadGradient { loss: TokenLoss::Grpo { loss, old_logprob, reference_logprob, advantages }, .. }) => {
            let optional = |view: &Option<View<'_, f32>>| view.map_or(Argument::NULL, |view| view.argument());
            (Some(*loss), [optional(old_logprob), optional(reference_logprob), advantages.argument()])
        }
        _ => (None, [Argument::NULL; 3]),
    };
    let kl = grpo.map_or(0, |loss| match loss.kl {
        KlEstimator::K1 => kernels::LM_HEAD_KL_K1,
        KlEstimator::K2 => kernels::LM_HEAD_KL_K2,
        KlEstimator::K3 => kernels::LM_HEAD_KL_K3,
    });
    let arguments = [
        args.logprob.argument(),
        args.entropy.argument(),
        args.loss.argument(),
        logits.argument(),
        args.targets.argument(),
        row_weight,
        old,
        reference,
        advantages,
        Argument::count(first),
        Argument::count(vocab),
        Argument::F32(1.0 / args.temperature),
        Argument::F32(grpo.map_or(0.0, |loss| 1.0 - loss.clip_low)),
        Argument::F32(grpo.map_or(0.0, |loss| 1.0 + loss.clip_high)),
        Argument::U32(kl),
        Argument::F32(grpo.map_or(0.0, |loss| loss.kl_coefficient)),
    ];
    let grid = Grid { blocks: count, threads: (kernels::LM_HEAD_LOSS_THREADS, 1), dynamic_shared_bytes: 0 };
    // Safety: the order is the kernel's; `args.check` holds all arrays to one number for each selected row (`advantages`: two).
    // The assertion above covers the chunk's rows and logits.
    Ok(unsafe { cuda.launch(&kernels::LM_HEAD_LOSS_F32, grid, arguments) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Emulation;
    use crate::ops::linear::Linear;

    const VOCAB: usize = 70;
    const WIDTH: usize = 24;
    const TOKENS: usize = 100;
    const SIZES: LinearSizes = LinearSizes { out_features: VOCAB, in_features: WIDTH };

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// Everything that a call with `step` rows a chunk writes.
    fn outputs(cuda: &Cuda, step: usize, rows: &[u32]) -> Vec<Vec<f32>> {
        let n = rows.len();
        let (master, mut weight) = (cuda.upload(&values(SIZES.len())).unwrap(), cuda.linear_weight(SIZES).unwrap());
        cuda.linear_prepare(&mut weight, cuda.view(&master, 0..SIZES.len()), SIZES).unwrap();
        let hidden: Vec<bf16> = values(TOKENS * WIDTH).into_iter().map(bf16::from_f32).collect();
        let (hidden, row_weight) = (cuda.upload(&hidden).unwrap(), cuda.upload(&values(n)).unwrap());
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 31 % VOCAB as u32).collect();
        let (rows, targets) = (cuda.upload(rows).unwrap(), cuda.upload(&targets).unwrap());
        let [mut logprob, mut entropy, mut loss] = [(); 3].map(|()| cuda.zeros::<f32>(n).unwrap());
        let mut d_hidden = cuda.upload(&vec![bf16::ONE; TOKENS * WIDTH]).unwrap();
        let mut d_weight = cuda.upload(&vec![0.25f32; SIZES.len()]).unwrap();
        let gradient = LmHeadGradient {
            d_hidden: cuda.view_mut(&mut d_hidden, 0..TOKENS * WIDTH),
            d_weight: Some(cuda.view_mut(&mut d_weight, 0..SIZES.len())),
            row_weight: cuda.view(&row_weight, 0..n),
            loss: TokenLoss::CrossEntropy,
        };
        let args = LmHeadLoss {
            logprob: cuda.view_mut(&mut logprob, 0..n),
            entropy: cuda.view_mut(&mut entropy, 0..n),
            loss: cuda.view_mut(&mut loss, 0..n),
            gradient: Some(gradient),
            hidden: cuda.view(&hidden, 0..TOKENS * WIDTH),
            weight: &weight,
            rows: cuda.view(&rows, 0..n),
            targets: cuda.view(&targets, 0..n),
            temperature: 0.7,
            tokens: TOKENS,
            chunk_rows: step,
            sizes: SIZES,
        };
        cuda.lm_head_loss(args).unwrap();
        let read = |buffer: &Buffer<f32>| cuda.download(cuda.view(buffer, 0..cuda.len(buffer))).unwrap();
        let d_hidden = cuda.download(cuda.view(&d_hidden, 0..TOKENS * WIDTH)).unwrap();
        let d_hidden = d_hidden.iter().map(|x| x.to_f32()).collect();
        vec![read(&logprob), read(&entropy), read(&loss), d_hidden, read(&d_weight)]
    }

    #[test]
    fn the_size_of_a_chunk_changes_results_by_rounding_alone() {
        cuda_emulator::load().unwrap();
        let cuda = Cuda::open(0, Emulation::Allowed).unwrap();
        let scattered: Vec<u32> = (0..100).filter(|row| row % 7 != 3).collect();
        let contiguous: Vec<u32> = (20..95).collect();
        for rows in [scattered, contiguous] {
            let whole = outputs(&cuda, 1000, &rows);
            for step in [1, 8, 13, 74] {
                let parts = outputs(&cuda, step, &rows);
                assert_eq!(parts, outputs(&cuda, step, &rows), "{step} rows a chunk, run to run");
                // Matmuls may add in another order, by about 2⁻²⁰ of numbers near 1; a gradient by a logit, at most 1, may then
                // round to the next bf16, 2⁻⁸ away, and so may the sums made of it.
                let bounds = [2e-6, 2e-5, 2e-6, 1.0 / 64.0, 1.0 / 64.0];
                for (i, bound) in bounds.into_iter().enumerate() {
                    for (index, (part, whole)) in parts[i].iter().zip(&whole[i]).enumerate() {
                        assert!((part - whole).abs() <= bound, "{step} rows a chunk: {i} [{index}]: {part} {whole}");
                    }
                }
            }
        }
    }

    const QWEN3: LinearSizes = LinearSizes { out_features: 151_936, in_features: 1024 };

    #[test]
    fn what_a_device_chooses_does_not_depend_on_what_is_free() {
        cuda_emulator::load().unwrap();
        let cuda = Cuda::open(0, Emulation::Allowed).unwrap();
        let before = cuda.lm_head_chunk_rows(QWEN3);
        let _held = cuda.scratch::<f32>(4 << 20).unwrap();
        assert_eq!(cuda.lm_head_chunk_rows(QWEN3), before);
        assert_eq!(before, chunk_rows(cuda.total_bytes(), QWEN3.out_features));
    }
}
