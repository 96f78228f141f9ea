//! Sampling on CUDA: one block for each draw. The parameters of all draws go to the device as one small array.

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::sample::{Draw, Sample, Sampler, Sampling};
use crate::ops::{Check, OpResult};
use crate::tensor::Device;

const VOCAB_MAX: usize = kernels::SAMPLE_VOCAB_MAX as usize;
const DRAW_WORDS: usize = kernels::SAMPLE_DRAW_WORDS as usize;

/// The words of `Draw` in kernels/sample.cu.
fn pack(draw: &Draw) -> [u32; DRAW_WORDS] {
    let Sampling { temperature, top_k, top_p, min_p } = draw.sampling;
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    let inverse_temperature = 1.0 / draw.sampling.logprob_temperature();
    // Negative infinity where min_p is 0: all pass.
    let [ln_min_p_low, ln_min_p_high] = halves(f64::from(min_p).ln().to_bits());
    let [[id_low, id_high], [seed_low, seed_high]] = [draw.stream.id, draw.stream.seed].map(halves);
    [
        inverse_temperature.to_bits(),
        u32::from(temperature == 0.0),
        top_k,
        top_p.to_bits(),
        ln_min_p_low,
        ln_min_p_high,
        draw.position,
        draw.row,
        id_low,
        id_high,
        seed_low,
        seed_high,
    ]
}

impl Sampler for Cuda {
    fn sample(&self, args: Sample<'_, Self>) -> OpResult {
        args.check()?;
        let Sample { mut ids, mut logprobs, logits, draws, vocab } = args;
        let check = Check("sample");
        check.that(vocab <= VOCAB_MAX, || format!("`vocab` must be at most {VOCAB_MAX} on CUDA, got {vocab}"))?;
        check.that(draws.len() <= COUNT_MAX, || format!("{} draws are too many for CUDA", draws.len()))?;
        if draws.is_empty() {
            return Ok(());
        }
        let words: Vec<u32> = draws.iter().flat_map(pack).collect();
        let mut packed = self.scratch::<u32>(words.len())?;
        self.write(self.view_mut(&mut packed, 0..words.len()), &words)?;
        let arguments =
            [ids.argument(), logprobs.argument(), logits.argument(), packed.argument(), Argument::count(vocab)];
        let grid = Grid { blocks: draws.len(), threads: (kernels::SAMPLE_THREADS, 1), dynamic_shared_bytes: 0 };
        // Safety: the order is the kernel's; `args.check` holds the outputs to a number for each draw and its row of `vocab` to
        // the logits, and the scratch has SAMPLE_DRAW_WORDS for each.
        unsafe { self.launch(&kernels::SAMPLE_F32, grid, arguments) }?;
        Ok(())
    }
}
