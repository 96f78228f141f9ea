//! Score margins on CUDA: one launch, bit for bit the CPU's results.

use super::{COUNT_MAX, Cuda};
use crate::cuda::{Argument, Grid, kernels};
use crate::ops::score_margin::{
    ABSENT, AdvantageNorm, MarginKind, PreferenceReward, ROLLOUTS_MAX, RewardShape, SCORE_MAX, ScoreMargin,
    ScoreMargins, VALID,
};
use crate::ops::{Check, OpResult};

const _: () = assert!(
    kernels::SCORE_MARGIN_ROLLOUTS_MAX as usize == ROLLOUTS_MAX
        && kernels::SCORE_MARGIN_ABSENT == ABSENT
        && kernels::SCORE_MARGIN_VALID == VALID
        && kernels::SCORE_MARGIN_SCORE_MAX == SCORE_MAX,
    "kernels/score_margin.cu and the contract agree",
);

/// At most this many blocks; with more pairs, a block takes several.
const BLOCKS_MAX: usize = 65_536;

impl ScoreMargins for Cuda {
    fn score_margin(&self, args: ScoreMargin<'_, Self>) -> OpResult {
        args.check()?;
        #[rustfmt::skip]
        let ScoreMargin {
            mut means, mut valid_count, mut delta, mut par, mut reward, mut advantage,
            scores, state, penalty, pairs, n, preference, norm, epsilon,
        } = args;
        if pairs == 0 {
            return Ok(());
        }
        let slots = 2 * pairs * n;
        // The kernel sorts a whole batch in an array of a power of two.
        let batch_slots = slots.next_power_of_two();
        Check("score_margin").that(batch_slots <= COUNT_MAX, || format!("{slots} slots are too many for CUDA"))?;

        let per_pair = kernels::SCORE_MARGIN_THREADS_PER_PAIR;
        // One block can wait for all of its rewards; many blocks cannot wait for each other.
        let whole_batch = norm == AdvantageNorm::Batch;
        let (blocks, threads) =
            if whole_batch { (1, kernels::SCORE_MARGIN_THREADS_MAX) } else { (pairs.min(BLOCKS_MAX), per_pair) };
        // f64 is not one of the element types, so each takes two words.
        let mut side_mean = if whole_batch { Some(self.scratch::<u32>(2 * 2 * pairs)?) } else { None };
        let mut batch_keys = if whole_batch { Some(self.scratch::<u32>(batch_slots)?) } else { None };
        let scratch = |buffer: Option<&mut crate::cuda::Buffer<u32>>| buffer.map_or(Argument::NULL, |b| b.argument());

        let PreferenceReward { shape, margin } = preference;
        let (low, high, threshold) = match shape {
            RewardShape::Graded { low, high, threshold } => (low, high, threshold),
            RewardShape::Constant(value) => (value, value, 0.0),
        };
        let margin = match margin {
            MarginKind::Rollout => kernels::SCORE_MARGIN_OF_ROLLOUT,
            MarginKind::Pair => kernels::SCORE_MARGIN_OF_PAIR,
            MarginKind::Preference => kernels::SCORE_MARGIN_OF_PREFERENCE,
        };
        let norm = match norm {
            AdvantageNorm::Group => kernels::SCORE_MARGIN_NORM_GROUP,
            AdvantageNorm::Batch => kernels::SCORE_MARGIN_NORM_BATCH,
            AdvantageNorm::None => kernels::SCORE_MARGIN_NORM_NONE,
        };
        let arguments = [
            means.argument(),
            valid_count.argument(),
            delta.argument(),
            par.argument(),
            reward.argument(),
            advantage.argument(),
            scores.argument(),
            state.argument(),
            penalty.argument(),
            scratch(side_mean.as_mut()),
            scratch(batch_keys.as_mut()),
            Argument::count(batch_slots),
            Argument::count(pairs),
            Argument::count(n),
            Argument::F32(low),
            Argument::F32(high),
            Argument::F32(threshold),
            Argument::U32(margin),
            Argument::U32(norm),
            Argument::F32(epsilon),
        ];
        let grid = Grid { blocks, threads: (threads, 1), dynamic_shared_bytes: 0 };
        // Safety: the order is the kernel's; `args.check` holds all views to [pairs, 2, n] or [pairs, 2], and the scratch of a
        // whole batch has the sizes that the kernel's comment requires.
        unsafe { self.launch(&kernels::SCORE_MARGIN_F32, grid, arguments) }?;
        Ok(())
    }
}
