//! Embedding on CUDA. The gradient of an id's row is added by the warps of the first token that has it.

use super::{COUNT_MAX, Cuda, blocks_for};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use crate::ops::{Check, OpResult};
use crate::tensor::Device;

/// Elements that a thread moves at once.
const CHUNK: usize = 8;
const WARP: usize = 32;
const THREADS: u32 = kernels::EMBEDDING_THREADS;

fn check(op: &'static str, tokens: usize, hidden: usize, vocab: usize) -> OpResult {
    // Twice: a grid has a warp for each token and some of its columns.
    let fits = [2 * tokens * hidden.div_ceil(WARP), hidden, vocab].iter().all(|size| *size <= COUNT_MAX);
    Check(op).that(fits, || format!("{tokens} tokens of {hidden} columns, {vocab} ids: too many for CUDA"))
}

fn grid(blocks: usize) -> Grid {
    Grid { blocks, threads: (THREADS, 1), dynamic_shared_bytes: 0 }
}

impl Embedding for Cuda {
    fn embedding_forward(&self, args: EmbeddingForward<'_, Self>) -> OpResult {
        args.check()?;
        let EmbeddingForward { mut out, table, ids, tokens, hidden, vocab } = args;
        check("embedding_forward", tokens, hidden, vocab)?;
        if tokens == 0 || hidden == 0 {
            return Ok(());
        }
        let aligned = out.is_aligned() && table.is_aligned() && hidden.is_multiple_of(CHUNK);
        let kernel =
            if aligned { &kernels::EMBEDDING_FORWARD_BF16 } else { &kernels::EMBEDDING_FORWARD_UNALIGNED_BF16 };
        let arguments = [
            out.argument(),
            table.argument(),
            ids.argument(),
            Argument::count(tokens),
            Argument::count(hidden),
            Argument::count(vocab),
        ];
        let blocks = blocks_for(tokens * hidden.div_ceil(CHUNK), THREADS as usize);
        // Safety: the order is the kernel's; `args.check` holds all views to their sizes, and the kernel checks ids.
        unsafe { self.launch(kernel, grid(blocks), arguments) }?;
        Ok(())
    }

    fn embedding_backward(&self, args: EmbeddingBackward<'_, Self>) -> OpResult {
        args.check()?;
        let EmbeddingBackward { mut d_table, d_out, ids, tokens, hidden, vocab } = args;
        check("embedding_backward", tokens, hidden, vocab)?;
        if tokens == 0 || hidden == 0 {
            return Ok(());
        }
        let mut occurrences = self.scratch::<u32>(2 * vocab)?;
        self.clear(self.view_mut(&mut occurrences, 0..2 * vocab))?;
        let [mut from_first, mut from_start] = self.view_two(&mut occurrences, [0..vocab, vocab..2 * vocab]);
        let (from_first, from_start) = (from_first.argument(), from_start.argument());
        let (tokens_count, vocab_count) = (Argument::count(tokens), Argument::count(vocab));
        let arguments = [from_first, from_start, ids.argument(), tokens_count, vocab_count];
        // Safety: both tables have `vocab` elements, zeros, and larger ids are skipped.
        unsafe {
            self.launch(&kernels::EMBEDDING_OCCURRENCES_U32, grid(tokens.div_ceil(THREADS as usize)), arguments)
        }?;
        let aligned = d_table.is_aligned() && d_out.is_aligned() && hidden.is_multiple_of(CHUNK);
        let kernel =
            if aligned { &kernels::EMBEDDING_BACKWARD_F32 } else { &kernels::EMBEDDING_BACKWARD_UNALIGNED_F32 };
        let arguments = [
            d_table.argument(),
            d_out.argument(),
            ids.argument(),
            from_first,
            from_start,
            tokens_count,
            Argument::count(hidden),
            vocab_count,
        ];
        let warps = tokens * hidden.div_ceil(kernels::EMBEDDING_WARP_COLS as usize);
        // Safety: as above; every row of the table is written by the warps of one token.
        unsafe { self.launch(kernel, grid(warps.div_ceil(THREADS as usize / WARP)), arguments) }?;
        Ok(())
    }
}
