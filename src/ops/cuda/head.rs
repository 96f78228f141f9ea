//! The language-model head on CUDA: logits of a chunk of rows by cuBLASLt, one kernel for their losses and gradients in the
//! logits' place, and two products back.
//!
//! Memory beyond the arguments: the logits of one chunk, whose bf16 gradient takes no more, and twice its rows of `hidden` in
//! bf16. A chunk has [`chunk_rows`] rows: 256 MiB of logits for any vocabulary from 16 Ki tokens on, whatever the batch.

use half::bf16;

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Buffer, Factor, Grid, Product, View, kernels};
use crate::ops::head::{Head, HeadGradient, HeadLogits, HeadLoss, KlEstimator, TokenLoss};
use crate::ops::linear::LinearSizes;
use crate::ops::{Check, OpResult};
use crate::tensor::{Device, View as _};

/// What the logits of a chunk may take.
const CHUNK_BYTES: usize = 256 << 20;
/// Rows of a chunk: few would read the weight too often, many gain nothing.
const CHUNK_ROWS: (usize, usize) = (16, 4096);
/// Chunks have a multiple of this many rows: what products like.
const CHUNK_STEP: usize = 8;
const VOCAB_MAX: usize = kernels::HEAD_VOCAB_MAX as usize;

/// Rows of a chunk for a vocabulary: as many as 256 MiB of logits hold, at least 16, at most 4096, a multiple of 8. For Qwen3's
/// 151,936 tokens these are 440 rows.
fn chunk_rows(vocab: usize) -> usize {
    let rows = CHUNK_BYTES / (size_of::<f32>() * vocab.max(1));
    rows.clamp(CHUNK_ROWS.0, CHUNK_ROWS.1) / CHUNK_STEP * CHUNK_STEP
}

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

/// Where rows of hidden states lie.
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
        Grid { blocks: count, threads: (kernels::HEAD_COPY_THREADS, 1), dynamic_shared_bytes: 0 }
    }

    /// `to[i] = hidden[rows[first + i]]` for `count` rows.
    fn gather(
        self,
        cuda: &Cuda,
        to: &mut Buffer<bf16>,
        hidden: View<'_, bf16>,
        first: usize,
        count: usize,
    ) -> OpResult {
        let Self { rows, tokens, width, ascending } = self;
        assert!(first + count <= rows.len() && count * width <= cuda.len(to) && tokens * width <= hidden.len());
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
        Ok(unsafe { cuda.launch(&kernels::HEAD_GATHER_BF16, Self::grid(count), arguments) }?)
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
        // Safety: `to` is `d_hidden`, checked to hold `tokens` rows; the kernel leaves out what is not below.
        Ok(unsafe { cuda.launch(&kernels::HEAD_SCATTER_BF16, Self::grid(count), arguments) }?)
    }
}

impl Head for Cuda {
    /// A row that is not below `tokens` gets logits that are no numbers: looking at `rows` would wait for the device.
    fn head_logits(&self, args: HeadLogits<'_, Self>) -> OpResult {
        args.check()?;
        let HeadLogits { out, hidden, weight, rows, tokens, sizes } = args;
        let (count, weight) = (rows.len(), weight.view("head_logits", self, sizes)?);
        check_sizes("head_logits", count, tokens, sizes)?;
        if count == 0 {
            return Ok(());
        }
        let LinearSizes { out_features: vocab, in_features: width } = sizes;
        let mut gathered = self.scratch::<bf16>(count * width)?;
        Rows { rows, tokens, width, ascending: false }.gather(self, &mut gathered, hidden, 0, count)?;
        Ok(self.product(Product {
            out,
            a: Factor::plain(self.view(&gathered, 0..count * width), width),
            b: Factor::transposed(weight, width),
            m: count,
            n: vocab,
            k: width,
            accumulate: false,
        })?)
    }

    /// What the CPU refuses but only the device can see makes a row's results no numbers: a row that is not below `tokens` or
    /// not above the one before, a target that is not below the vocabulary.
    fn head_loss(&self, args: HeadLoss<'_, Self>) -> OpResult {
        let step = chunk_rows(args.sizes.out_features);
        head_loss_in_chunks(self, args, step)
    }
}

/// Memory of one chunk.
struct Scratch {
    /// [rows, vocab]; the gradient, when it is there, at the start of each row.
    logits: Buffer<f32>,
    /// [rows, hidden], gathered
    hidden: Buffer<bf16>,
    /// [rows, hidden], the gradient before it is scattered
    d_hidden: Option<Buffer<bf16>>,
}

/// `head_loss` with at most `step` rows a chunk.
fn head_loss_in_chunks(cuda: &Cuda, mut args: HeadLoss<'_, Cuda>, step: usize) -> OpResult {
    args.check()?;
    let (selected, LinearSizes { out_features: vocab, in_features: width }) = (args.selected(), args.sizes);
    let weight = args.weight.view("head_loss", cuda, args.sizes)?;
    check_sizes("head_loss", selected, args.tokens, args.sizes)?;
    if let Some(gradient) = &mut args.gradient {
        cuda.clear(gradient.d_hidden.reborrow())?;
    }
    let at_once = step.min(selected);
    if at_once == 0 {
        return Ok(());
    }
    let mut scratch = Scratch {
        logits: cuda.scratch(at_once * vocab)?,
        hidden: cuda.scratch(at_once * width)?,
        d_hidden: if args.gradient.is_some() { Some(cuda.scratch(at_once * width)?) } else { None },
    };
    for first in (0..selected).step_by(step) {
        chunk(cuda, &mut args, weight, &mut scratch, first, step.min(selected - first))?;
    }
    Ok(())
}

/// Selected rows `first..first + count`: logits, losses and, where asked for, gradients.
fn chunk(
    cuda: &Cuda,
    args: &mut HeadLoss<'_, Cuda>,
    weight: View<'_, bf16>,
    scratch: &mut Scratch,
    first: usize,
    count: usize,
) -> OpResult {
    let LinearSizes { out_features: vocab, in_features: width } = args.sizes;
    let rows = Rows { rows: args.rows, tokens: args.tokens, width, ascending: true };
    rows.gather(cuda, &mut scratch.hidden, args.hidden, first, count)?;
    let hidden = cuda.view(&scratch.hidden, 0..count * width);
    cuda.product(Product {
        out: cuda.view_mut(&mut scratch.logits, 0..count * vocab),
        a: Factor::plain(hidden, width),
        b: Factor::transposed(weight, width),
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
        cuda.product(Product {
            out: d_weight.reborrow(),
            a: Factor::transposed(d_logits, leading),
            b: Factor::plain(hidden, width),
            m: vocab,
            n: width,
            k: count,
            accumulate: true,
        })?;
    }
    cuda.product(Product {
        out: cuda.view_mut(d_gathered, 0..count * width),
        a: Factor::plain(d_logits, leading),
        b: Factor::plain(weight, width),
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
    args: &mut HeadLoss<'_, Cuda>,
    logits: &mut Buffer<f32>,
    first: usize,
    count: usize,
) -> OpResult {
    let vocab = args.sizes.out_features;
    assert!(first + count <= args.selected() && count * vocab <= cuda.len(logits));
    let row_weight = args.gradient.as_ref().map_or(Argument::NULL, |gradient| gradient.row_weight.argument());
    let (grpo, [old, reference, advantages]) = match &args.gradient {
        Some(HeadGradient { loss: TokenLoss::Grpo { loss, old_logprob, reference_logprob, advantages }, .. }) => {
            (Some(*loss), [old_logprob, reference_logprob, advantages].map(|view| view.argument()))
        }
        _ => (None, [Argument::NULL; 3]),
    };
    let kl = grpo.map_or(0, |loss| match loss.kl {
        KlEstimator::K1 => kernels::HEAD_KL_K1,
        KlEstimator::K2 => kernels::HEAD_KL_K2,
        KlEstimator::K3 => kernels::HEAD_KL_K3,
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
    let grid = Grid { blocks: count, threads: (kernels::HEAD_LOSS_THREADS, 1), dynamic_shared_bytes: 0 };
    // Safety: the order is the kernel's; `args.check` holds all arrays to one number a selected row (`advantages`: two), of which
    // the chunk's are there and its logits too, as asserted above.
    Ok(unsafe { cuda.launch(&kernels::HEAD_LOSS_F32, grid, arguments) }?)
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
        let gradient = HeadGradient {
            d_hidden: cuda.view_mut(&mut d_hidden, 0..TOKENS * WIDTH),
            d_weight: Some(cuda.view_mut(&mut d_weight, 0..SIZES.len())),
            row_weight: cuda.view(&row_weight, 0..n),
            loss: TokenLoss::CrossEntropy,
        };
        let args = HeadLoss {
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
            sizes: SIZES,
        };
        head_loss_in_chunks(cuda, args, step).unwrap();
        let read = |buffer: &Buffer<f32>| cuda.download(cuda.view(buffer, 0..cuda.len(buffer))).unwrap();
        let d_hidden = cuda.download(cuda.view(&d_hidden, 0..TOKENS * WIDTH)).unwrap();
        let d_hidden = d_hidden.iter().map(|x| x.to_f32()).collect();
        vec![read(&logprob), read(&entropy), read(&loss), d_hidden, read(&d_weight)]
    }

    #[test]
    fn the_size_of_a_chunk_does_not_show() {
        cuda_emulator::load().unwrap();
        let cuda = Cuda::open(0, Emulation::Allowed).unwrap();
        let scattered: Vec<u32> = (0..100).filter(|row| row % 7 != 3).collect();
        let contiguous: Vec<u32> = (20..95).collect();
        for rows in [scattered, contiguous] {
            let whole = outputs(&cuda, 1000, &rows);
            for step in [1, 8, 13, 74] {
                let parts = outputs(&cuda, step, &rows);
                assert_eq!(parts, outputs(&cuda, step, &rows), "{step} rows a chunk, run to run");
                // Products may add in another order, by some 2⁻²⁰ of numbers near 1; a gradient by a logit, at most 1, may then
                // round to the next bf16, 2⁻⁸ away, and so may its product.
                let bounds = [2e-6, 2e-5, 2e-6, 1.0 / 64.0, 1.0 / 64.0];
                for (i, bound) in bounds.into_iter().enumerate() {
                    for (place, (part, whole)) in parts[i].iter().zip(&whole[i]).enumerate() {
                        assert!((part - whole).abs() <= bound, "{step} rows a chunk: {i} [{place}]: {part} {whole}");
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_stay_within_their_memory() {
        assert_eq!([1, 512, 65_536, 151_936, 10_000_000].map(chunk_rows), [4096, 4096, 1024, 440, 16]);
        for vocab in (1..4_000_000).step_by(1013) {
            let rows = chunk_rows(vocab);
            assert!(
                rows >= 16 && rows.is_multiple_of(8) && (rows * vocab * 4 <= CHUNK_BYTES || rows == 16),
                "{vocab}: {rows}"
            );
        }
    }
}
