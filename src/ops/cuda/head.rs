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
        // Safety: a block writes row i of `to` and reads row `rows[first + i]` of `hidden`, if it is below `tokens`; asserted above.
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
    let (grpo, [old, reference, advantage]) = match &args.gradient {
        Some(HeadGradient { loss: TokenLoss::Grpo { loss, old_logprob, reference_logprob, advantage }, .. }) => {
            (Some(*loss), [old_logprob, reference_logprob, advantage].map(|view| view.argument()))
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
        advantage,
        Argument::count(first),
        Argument::count(vocab),
        Argument::F32(1.0 / args.temperature),
        Argument::F32(grpo.map_or(0.0, |loss| 1.0 - loss.clip_low)),
        Argument::F32(grpo.map_or(0.0, |loss| 1.0 + loss.clip_high)),
        Argument::U32(kl),
        Argument::F32(grpo.map_or(0.0, |loss| loss.kl_coefficient)),
    ];
    let grid = Grid { blocks: count, threads: (kernels::HEAD_LOSS_THREADS, 1), dynamic_shared_bytes: 0 };
    // Safety: the order is the kernel's; `args.check` holds all arrays to one number a selected row, of which the chunk's are
    // there and its logits too, as asserted above.
    Ok(unsafe { cuda.launch(&kernels::HEAD_LOSS_F32, grid, arguments) }?)
}
