//! Sequences: completions of a prompt that have the same tokens so far, and where their keys and values are.

use super::SampleRequest;
use super::pages::PageAllocation;
use crate::model::Batch;
use crate::ops::attention::Run;
use crate::ops::sample::Draw;

/// Completions of one prompt that have the same tokens so far, at least one.
pub struct Sequence {
    pub group: usize,
    /// Tokens after the prompt. They are kept when the pages are freed: a token is sampled once.
    pub tokens: Vec<u32>,
    pub samples: Vec<OpenSample>,
    /// Rows of `tokens`; empty while the sequence waits.
    pub rows: PageAllocation,
    /// How many of `tokens` are in the cache.
    pub computed: usize,
}

/// A completion that has not ended.
pub struct OpenSample {
    /// Its index in the group.
    pub index: usize,
    /// These differ between the samples of a sequence, because their temperatures may differ.
    pub logprobs: Vec<f32>,
}

impl Sequence {
    /// A sequence that waits, with nothing in the cache.
    pub fn waiting(group: usize, tokens: Vec<u32>, samples: Vec<OpenSample>) -> Self {
        Self { group, tokens, samples, rows: PageAllocation::default(), computed: 0 }
    }

    /// The sequence of all samples of a prompt, before their first tokens.
    pub fn first(group: usize, samples: usize) -> Self {
        let sample = |index| OpenSample { index, logprobs: Vec::new() };
        Self::waiting(group, Vec::new(), (0..samples).map(sample).collect())
    }

    /// Appends a token and a log-probability to each sample, and groups the samples by their tokens, in the order in which
    /// these occur. Samples whose log-probability is not finite are returned separately.
    pub fn draw(&mut self, draws: impl Iterator<Item = (u32, f32)>) -> (Vec<(u32, Vec<OpenSample>)>, Vec<OpenSample>) {
        let mut parts: Vec<(u32, Vec<OpenSample>)> = Vec::new();
        let mut failed = Vec::new();
        for (mut sample, (id, logprob)) in self.samples.drain(..).zip(draws) {
            if !logprob.is_finite() {
                failed.push(sample);
                continue;
            }
            sample.logprobs.push(logprob);
            match parts.iter_mut().find(|part| part.0 == id) {
                Some((_, part)) => part.push(sample),
                None => parts.push((id, vec![sample])),
            }
        }
        (parts, failed)
    }
}

/// A prompt, and its part of the cache.
pub struct Prompt {
    /// Rows of all its tokens, or none.
    pub rows: PageAllocation,
    /// How many of its tokens are in the cache.
    pub computed: usize,
    /// The most that ever were: fewer are in the cache after its pages were freed.
    pub computed_max: usize,
    /// Samples that have not ended.
    pub open_samples: usize,
}

impl Prompt {
    /// A prompt that is not in the cache.
    pub fn new(samples: usize) -> Self {
        Self { rows: PageAllocation::default(), computed: 0, computed_max: 0, open_samples: samples }
    }

    /// Its first `end` tokens are in the cache now. Returns how many of those that were added had been there before.
    pub fn compute(&mut self, end: usize) -> usize {
        let again = end.min(self.computed_max).saturating_sub(self.computed);
        self.computed_max = self.computed_max.max(end);
        self.computed = end;
        again
    }
}

/// Rows of a batch whose next tokens will be sampled.
#[derive(Default)]
pub struct Pending {
    pub rows: Vec<u32>,
    /// Their rows are indices in `rows`, in ascending order.
    pub draws: Vec<Draw>,
}

impl Pending {
    /// Adds the next tokens of `samples`, at `position`, from this row of the batch.
    pub fn push<'s>(&mut self, row: usize, samples: impl IntoIterator<Item = &'s SampleRequest>, position: usize) {
        let (index, position) = (self.rows.len() as u32, position as u32);
        self.rows.push(row as u32);
        let draw = |s: &SampleRequest| Draw { row: index, sampling: s.sampling, stream: s.stream, position };
        self.draws.extend(samples.into_iter().map(draw));
    }
}

/// Adds tokens of one sequence, the first at `position`, whose keys and values go to `rows`. `keys` are the sequence's rows from
/// its beginning to the last of these.
pub fn push_tokens(batch: &mut Batch, ids: &[u32], position: usize, rows: &[Run], keys: impl IntoIterator<Item = Run>) {
    batch.ids.extend_from_slice(ids);
    batch.positions.extend((position..position + ids.len()).map(|position| position as u32));
    batch.kv_rows.extend(rows.iter().flat_map(|run| run.start..run.start + run.len));
    batch.segments.push(ids.len(), keys);
}
