//! The cheapest levers that make a job fit, and the largest job that fits.

use super::job::{Job, Plan, PlanError};
use super::machine::{Kind, Machine};
use crate::model::Recompute;

/// A job with the levers that are left to the plan.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its levers are those that cost nothing; its cache has room for every completion.
    pub job: Job,
    /// `None`: the least that fits
    pub recompute: Option<Recompute>,
    /// `None`: what fits
    pub share: Option<bool>,
    /// Whether the cache of rollouts may not be made smaller.
    pub cache_is_given: bool,
}

/// A job whose levers are all set, and its plan.
#[derive(Clone, Debug)]
pub struct Fit {
    pub job: Job,
    pub plan: Plan,
    pub fits: bool,
}

/// Whole sequences that the cache should hold before memory is bought with recomputation: fewer decode too slowly.
const SEQUENCES_MIN: usize = 4;

impl Wanted {
    /// The cheapest set of levers that fits on a machine, or the one that needs the least memory.
    ///
    /// Sharing memory costs nothing on a card; on the CPU new pages cost a little time, and recomputing norms costs less. So the
    /// sets are tried in this order: no lever, norms, shared memory, then what recomputes more and more.
    pub fn fit(&self, machine: &Machine) -> Result<Fit, PlanError> {
        let mut last = None;
        for (share, recompute) in self.sets(machine.kind) {
            let fit = self.with(machine, share, recompute)?;
            if fit.fits {
                return Ok(fit);
            }
            last = Some(fit);
        }
        Ok(last.expect("there is a set of levers"))
    }

    /// Sets of levers that may be pulled, the cheapest first.
    fn sets(&self, kind: Kind) -> Vec<(bool, Recompute)> {
        let always = kind == Kind::Cuda;
        if self.job.learning.is_none() {
            return vec![(always, Recompute::Nothing)];
        }
        let mut sets = vec![(always, Recompute::Nothing), (always, Recompute::Norms)];
        sets.extend(Recompute::ALL.map(|recompute| (true, recompute)));
        sets.dedup();
        let asked = |(share, recompute): &(bool, Recompute)| {
            let recomputes = self.recompute.is_none_or(|asked| asked == *recompute);
            recomputes && self.share.is_none_or(|asked| asked == *share)
        };
        let left: Vec<_> = sets.into_iter().filter(asked).collect();
        // What is asked for and is not among them.
        if left.is_empty() { vec![(self.share.unwrap_or(always), self.recompute.unwrap_or_default())] } else { left }
    }

    /// With these levers, and the largest cache of rollouts that fits.
    fn with(&self, machine: &Machine, share: bool, recompute: Recompute) -> Result<Fit, PlanError> {
        let mut job = self.job.clone();
        if let Some(learning) = &mut job.learning {
            (learning.share, learning.recompute) = (share, recompute);
        }
        let plan = job.plan(machine)?;
        if plan.needed_bytes() <= machine.memory_bytes {
            return Ok(Fit { job, plan, fits: true });
        }
        let Some(rollouts) = job.rollouts.filter(|_| !self.cache_is_given) else {
            return Ok(Fit { job, plan, fits: false });
        };
        let limits = rollouts.limits;
        let least = (SEQUENCES_MIN * limits.sequence_rows).min(limits.cache_rows).max(limits.sequence_rows);
        let pages = least / limits.page_size..limits.cache_rows / limits.page_size;
        let with_pages = |pages: usize| {
            let mut job = job.clone();
            job.rollouts.iter_mut().for_each(|rollouts| rollouts.limits.cache_rows = pages * limits.page_size);
            job
        };
        let fits = |pages| Ok(with_pages(pages).plan(machine)?.needed_bytes() <= machine.memory_bytes);
        let pages = largest(pages.start, pages.end, fits)?.unwrap_or(pages.start);
        let job = with_pages(pages);
        let plan = job.plan(machine)?;
        let fits = plan.needed_bytes() <= machine.memory_bytes;
        Ok(Fit { job, plan, fits })
    }
}

/// The largest that a job can be made on a machine, with its levers as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// Tokens of a micro-batch; `None`: not even 1
    pub micro_batch_tokens: Option<usize>,
    /// Tokens of a sequence, which a micro-batch has to hold whole
    pub context: Option<usize>,
    /// Completions of full length whose keys and values the cache holds beside those of one prompt
    pub rollouts: Option<usize>,
}

/// The most that is looked for.
const MOST: usize = 1 << 22;

impl Fit {
    /// How large the job could be.
    pub fn largest(&self, machine: &Machine) -> Result<Largest, PlanError> {
        let fits = |job: Job| Ok::<_, PlanError>(job.plan(machine)?.needed_bytes() <= machine.memory_bytes);
        let micro_batch_tokens = match self.job.learning {
            Some(_) => largest(1, MOST, |tokens| fits(self.with_micro_batch(tokens)))?,
            None => None,
        };
        // Not shorter than the prompt and the completion that are asked for.
        let shortest = self.job.rollouts.map_or(2, |rollouts| rollouts.prompt + rollouts.new);
        let context =
            largest(shortest, self.job.model.context().max(shortest), |context| fits(self.with_context(context)))?;
        let rollouts = self.job.rollouts.map(|rollouts| {
            let free = rollouts.limits.cache_rows.saturating_sub(rollouts.prompt.next_multiple_of(16));
            free / rollouts.new.next_multiple_of(16)
        });
        Ok(Largest { micro_batch_tokens, context, rollouts })
    }

    fn with_micro_batch(&self, tokens: usize) -> Job {
        let mut job = self.job.clone();
        job.learning.iter_mut().for_each(|learning| learning.micro_batch_tokens = tokens);
        job
    }

    fn with_context(&self, context: usize) -> Job {
        let mut job = self.job.clone();
        job.context = context;
        job.learning.iter_mut().for_each(|learning| learning.micro_batch_tokens = context);
        if let Some(rollouts) = &mut job.rollouts {
            let rows = (context.next_multiple_of(16) + 16).max(rollouts.limits.sequence_rows);
            rollouts.limits.sequence_rows = rows;
            rollouts.limits.cache_rows = rollouts.limits.cache_rows.max(rows);
        }
        job
    }
}

/// The largest number from `low` to `high` for which something fits; `None`: not even `low`. What fits for a number fits for all
/// below it.
fn largest(
    low: usize,
    high: usize,
    mut fits: impl FnMut(usize) -> Result<bool, PlanError>,
) -> Result<Option<usize>, PlanError> {
    if !fits(low)? {
        return Ok(None);
    }
    let (mut fitting, mut step) = (low, 64);
    // First the range, by doubling, then its middle: a plan of a huge job is as cheap as any.
    let mut too_large = high + 1;
    while fitting < high {
        let next = (fitting + step).min(high);
        if !fits(next)? {
            too_large = next;
            break;
        }
        (fitting, step) = (next, 2 * step);
    }
    while too_large - fitting > 1 {
        let middle = fitting + (too_large - fitting) / 2;
        if fits(middle)? { fitting = middle } else { too_large = middle }
    }
    Ok(Some(fitting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found_from_both_sides() {
        for limit in [1, 2, 63, 64, 65, 1000, 4095, 4096] {
            let mut asked = 0;
            let found = largest(1, 4096, |n| {
                asked += 1;
                Ok(n <= limit)
            });
            assert_eq!(found.unwrap(), Some(limit));
            assert!(asked < 30, "{asked} plans for {limit}");
        }
        assert_eq!(largest(5, 10, |_| Ok(false)).unwrap(), None);
        assert_eq!(largest(5, 5, |_| Ok(true)).unwrap(), Some(5));
    }
}
