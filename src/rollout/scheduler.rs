//! Decides which prompts and completions of one `generate` call are in each batch.
//!
//! Completions of one prompt with the same tokens so far are one shared sequence: they have one row in each batch, and each
//! samples its own next token from the logits of that row. When the tokens differ, the sequence is split, and the new
//! sequences share its keys and values.

use std::collections::VecDeque;

use super::pages::{PageAllocation, Pages};
use super::{Completion, Ended, FinishReason, NotFinite, PromptGroup, SampleRequest};
use crate::model::Batch;
use crate::ops::sample::Draw;

/// The fewest completions that run at a time, if that many are waiting, even beyond the cache budget: matmuls with fewer rows
/// are slow.
const RUNNING_MIN: usize = 8;

/// A prompt in the cache, until all of its samples have finished.
struct Prompt {
    allocation: PageAllocation,
    /// Samples that have not finished.
    open_samples: usize,
}

/// A completion that has its first token and waits for pages.
struct Waiting {
    group: usize,
    sample: usize,
    id: u32,
    logprob: f32,
}

/// Completions of one prompt that have the same tokens so far, at least one.
pub struct SharedSequence {
    group: usize,
    tokens: Vec<u32>,
    samples: Vec<RunningSample>,
    /// Rows of tokens after the prompt that other sequences share.
    shared_rows: Vec<PageAllocation>,
    /// Rows of the tokens after those.
    own_rows: PageAllocation,
    /// Pages for all but one of the completions, used when they differ.
    reserved: Vec<PageAllocation>,
}

/// One of a shared sequence's completions.
struct RunningSample {
    index: usize,
    /// These differ between the samples of a sequence, because their temperatures may differ.
    logprobs: Vec<f32>,
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
    fn push<'s>(&mut self, row: usize, samples: impl IntoIterator<Item = &'s SampleRequest>, position: usize) {
        let (index, position) = (self.rows.len() as u32, position as u32);
        self.rows.push(row as u32);
        let draw = |s: &SampleRequest| Draw { row: index, sampling: s.sampling, stream: s.stream, position };
        self.draws.extend(samples.into_iter().map(draw));
    }
}

/// The state of one `generate` call.
pub struct Scheduler<'a> {
    groups: &'a [&'a PromptGroup],
    /// The first group whose prompt has not started.
    next_group: usize,
    /// Prompts in the cache, by group.
    prompts: Vec<Option<Prompt>>,
    /// Groups whose prompts are being computed, and how many of their tokens are done.
    prefilling: VecDeque<(usize, usize)>,
    ready: VecDeque<Waiting>,
    pub running: Vec<SharedSequence>,
    open: usize,
    /// Samples that have ended and are not taken yet.
    pub ended: Vec<Ended>,
    /// The largest `max_new_tokens` of all groups.
    longest_completion: usize,
}

impl<'a> Scheduler<'a> {
    /// All samples of `groups` are still to be admitted.
    pub fn new(groups: &'a [&'a PromptGroup]) -> Self {
        Self {
            groups,
            next_group: 0,
            prompts: groups.iter().map(|_| None).collect(),
            prefilling: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            open: groups.iter().map(|group| group.samples.len()).sum(),
            ended: Vec::new(),
            longest_completion: longest_completion(groups),
        }
    }

    /// Whether every sample has ended.
    pub fn done(&self) -> bool {
        self.open == 0
    }

    /// Allocates pages for waiting samples first, then starts a new prompt if one of its samples could run after it. When
    /// `cache_budget_rows` rows are allocated, it admits no more than [`RUNNING_MIN`] completions.
    pub fn admit(&mut self, pages: &mut Pages, max_running: usize, cache_budget_rows: usize) {
        let worthwhile = |running: usize, rows: usize| running < RUNNING_MIN || rows < cache_budget_rows;
        let mut running: usize = self.running.iter().map(|sequence| sequence.samples.len()).sum();
        let first_new = self.running.len();
        while running < max_running && worthwhile(running, pages.allocated_rows()) {
            let Some(waiting) = self.ready.front() else { break };
            let Some(room) = pages.allocate(self.groups[waiting.group].max_new_tokens) else { break };
            let Waiting { group, sample, id, logprob } =
                self.ready.pop_front().expect("the queue has a front, seen above");
            let sample = RunningSample { index: sample, logprobs: vec![logprob] };
            // The samples of a prompt are adjacent in the queue.
            let mut new = self.running[first_new..].iter_mut().rev().take_while(|sequence| sequence.group == group);
            if let Some(sequence) = new.find(|sequence| sequence.tokens == [id]) {
                sequence.samples.push(sample);
                sequence.reserved.push(room);
            } else {
                let (tokens, samples) = (vec![id], vec![sample]);
                self.running.push(SharedSequence {
                    group,
                    tokens,
                    samples,
                    shared_rows: Vec::new(),
                    own_rows: room,
                    reserved: Vec::new(),
                });
            }
            running += 1;
        }
        while self.next_group < self.groups.len() {
            let upcoming = self.ready.len() + self.prefilling.len();
            if upcoming >= max_running || !worthwhile(running + upcoming, pages.allocated_rows() + self.upcoming_rows())
            {
                break;
            }
            let group = &self.groups[self.next_group];
            if group.samples.is_empty() {
                self.next_group += 1;
                continue;
            }
            // Pages for the longest completion stay free. When the running completions have ended, the first one in the queue
            // can run, so prompts that hold pages cannot deadlock.
            if pages.needed(group.prompt.len()) + pages.needed(self.longest_completion) > pages.available() {
                break;
            }
            let Some(allocation) = pages.allocate(group.prompt.len()) else { break };
            self.prompts[self.next_group] = Some(Prompt { allocation, open_samples: group.samples.len() });
            self.prefilling.push_back((self.next_group, 0));
            self.next_group += 1;
        }
    }

    /// Rows that the samples of started prompts will need.
    fn upcoming_rows(&self) -> usize {
        let waiting = self.ready.iter().map(|waiting| self.groups[waiting.group].max_new_tokens);
        let of_group = |group: &PromptGroup| group.samples.len() * group.max_new_tokens;
        waiting.sum::<usize>() + self.prefilling.iter().map(|(group, _)| of_group(self.groups[*group])).sum::<usize>()
    }

    /// Adds the last token of every running sequence.
    pub fn push_decodes(&mut self, pages: &Pages, batch: &mut Batch, pending: &mut Pending) {
        for SharedSequence { group, tokens, samples, shared_rows, own_rows, .. } in &mut self.running {
            let prompt = self.prompts[*group].as_ref().expect("the prompt of a running sample is in the cache");
            let group = &self.groups[*group];
            let position = group.prompt.len() + tokens.len() - 1;
            let last = *tokens.last().expect("a sequence has at least one token");
            push_token(batch, last, position, pages.next_row(own_rows));
            let allocations = std::iter::once(&prompt.allocation).chain(&*shared_rows).chain([&*own_rows]);
            batch.segments.push(1, allocations.flat_map(|allocation| pages.runs(allocation)));
            pending.push(batch.tokens() - 1, samples.iter().map(|sample| &group.samples[sample.index]), position + 1);
        }
    }

    /// Adds up to `room` prompt tokens and returns the groups whose prompts end in this batch. [`Self::push_last_tokens`] adds
    /// the last tokens of those, whose logits the first tokens are sampled from.
    pub fn push_prefills(&mut self, pages: &mut Pages, mut room: usize, batch: &mut Batch) -> Vec<usize> {
        let mut ended = Vec::new();
        while let Some((index, through)) = self.prefilling.front_mut() {
            if room == 0 {
                break;
            }
            let group = &self.groups[*index];
            let prompt = self.prompts[*index].as_mut().expect("a prompt that is being computed is in the cache");
            let end = group.prompt.len().min(*through + room);
            room -= end - *through;
            let before_last = end.min(group.prompt.len() - 1);
            if *through < before_last {
                let chunk = *through..before_last;
                for position in chunk.clone() {
                    push_token(batch, group.prompt[position], position, pages.next_row(&mut prompt.allocation));
                }
                batch.segments.push(chunk.len(), pages.runs(&prompt.allocation));
            }
            *through = end;
            if end < group.prompt.len() {
                break;
            }
            ended.push(*index);
            self.prefilling.pop_front();
        }
        ended
    }

    /// Adds the last tokens of the prompts that end in this batch, and the first draws of their samples.
    pub fn push_last_tokens(&mut self, pages: &mut Pages, ended: &[usize], batch: &mut Batch, pending: &mut Pending) {
        for &index in ended {
            let group = &self.groups[index];
            let prompt = self.prompts[index].as_mut().expect("a prompt that has just ended is in the cache");
            let last = group.prompt.len() - 1;
            push_token(batch, group.prompt[last], last, pages.next_row(&mut prompt.allocation));
            batch.segments.push(1, pages.runs(&prompt.allocation));
            pending.push(batch.tokens() - 1, &group.samples, group.prompt.len());
        }
    }

    /// Appends the sampled tokens: first to running completions, then to the samples of prompts that have just ended.
    pub fn take_draws(&mut self, pages: &mut Pages, ended: &[usize], ids: &[u32], logprobs: &[f32]) {
        let mut draws = ids.iter().copied().zip(logprobs.iter().copied());
        for sequence in std::mem::take(&mut self.running) {
            let count = sequence.samples.len();
            self.grow(pages, sequence, draws.by_ref().take(count));
        }
        for &group in ended {
            for sample in 0..self.groups[group].samples.len() {
                let (id, logprob) = draws.next().expect("there is one draw per sample");
                if !logprob.is_finite() {
                    self.fail(pages, group, sample, 0);
                } else if self.is_last(group, id, 1) {
                    self.end(pages, group, sample, vec![id], vec![logprob]);
                } else {
                    self.ready.push_back(Waiting { group, sample, id, logprob });
                }
            }
        }
    }

    /// Appends a token to each completion of a sequence. Those with the same token remain one sequence.
    fn grow(&mut self, pages: &mut Pages, sequence: SharedSequence, draws: impl Iterator<Item = (u32, f32)>) {
        let SharedSequence { group, mut tokens, samples, shared_rows, own_rows, mut reserved } = sequence;
        let mut parts: Vec<(u32, Vec<RunningSample>)> = Vec::new();
        for (mut sample, (id, logprob)) in samples.into_iter().zip(draws) {
            if !logprob.is_finite() {
                self.fail(pages, group, sample.index, tokens.len());
                continue;
            }
            sample.logprobs.push(logprob);
            match parts.iter_mut().find(|part| part.0 == id) {
                Some((_, part)) => part.push(sample),
                None => parts.push((id, vec![sample])),
            }
        }
        let with = |id: u32| tokens.iter().copied().chain([id]).collect::<Vec<u32>>();
        let (ended, live): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(id, _)| self.is_last(group, *id, tokens.len() + 1));
        for (id, samples) in ended {
            samples
                .into_iter()
                .for_each(|RunningSample { index, logprobs }| self.end(pages, group, index, with(id), logprobs));
        }
        let mut live = live.into_iter();
        let mut unused = Vec::new();
        // The first part keeps the sequence's own pages, the others continue in reserved ones.
        if let Some((first, first_samples)) = live.next() {
            for (id, samples) in live {
                let shared_rows =
                    shared_rows.iter().chain([&own_rows]).map(|allocation| pages.share(allocation)).collect();
                let mut reserved = reserved.split_off(reserved.len() - samples.len());
                let own_rows = reserved.pop().expect("pages are reserved for every completion but one");
                self.running.push(SharedSequence { group, tokens: with(id), samples, shared_rows, own_rows, reserved });
            }
            unused.extend(reserved.split_off(first_samples.len() - 1));
            tokens.push(first);
            self.running.push(SharedSequence {
                group,
                tokens,
                samples: first_samples,
                shared_rows,
                own_rows,
                reserved,
            });
        } else {
            unused.extend(shared_rows.into_iter().chain([own_rows]).chain(reserved));
        }
        unused.into_iter().for_each(|allocation| pages.free(allocation));
    }

    /// Ends a sample whose next token has a log-probability that is not finite, after `tokens` tokens.
    fn fail(&mut self, pages: &mut Pages, group: usize, sample: usize, tokens: usize) {
        let position = self.groups[group].prompt.len() + tokens;
        self.close(pages, Ended { group, sample, completion: Err(NotFinite { position }) });
    }

    /// Whether a completion ends with this token, its `tokens`-th one.
    fn is_last(&self, group: usize, id: u32, tokens: usize) -> bool {
        self.groups[group].stop.contains(&id) || tokens == self.groups[group].max_new_tokens
    }

    fn end(&mut self, pages: &mut Pages, group: usize, sample: usize, tokens: Vec<u32>, logprobs: Vec<f32>) {
        let stopped = tokens.last().is_some_and(|id| self.groups[group].stop.contains(id));
        let finish_reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
        self.close(pages, Ended { group, sample, completion: Ok(Completion { tokens, logprobs, finish_reason }) });
    }

    fn close(&mut self, pages: &mut Pages, ended: Ended) {
        let group = ended.group;
        self.ended.push(ended);
        let prompt = self.prompts[group].as_mut().expect("the prompt of an unfinished sample is in the cache");
        prompt.open_samples -= 1;
        if prompt.open_samples == 0 {
            let prompt = self.prompts[group].take().expect("seen above");
            pages.free(prompt.allocation);
        }
        self.open -= 1;
    }
}

/// The largest `max_new_tokens` of all groups; 0 without groups.
pub fn longest_completion(groups: &[&PromptGroup]) -> usize {
    groups.iter().map(|group| group.max_new_tokens).max().unwrap_or(0)
}

fn push_token(batch: &mut Batch, id: u32, position: usize, kv_row: u32) {
    batch.ids.push(id);
    batch.positions.push(position as u32);
    batch.kv_rows.push(kv_row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample::Sampling;
    use crate::random::Stream;

    /// The most completions that run at a time, and the number of batches for all of them.
    fn most_running(samples: usize, max_running: usize, cache_budget_rows: usize) -> (usize, usize) {
        let sample = SampleRequest { sampling: Sampling::temperature(1.0), stream: Stream::new(0) };
        let group = PromptGroup { prompt: vec![1; 5], samples: vec![sample], stop: Vec::new(), max_new_tokens: 6 };
        let groups = vec![&group; samples];
        let (mut pages, mut scheduler) = (Pages::new(64 * 16, 4), Scheduler::new(&groups));
        let (mut most, mut batches) = (0, 0);
        while !scheduler.done() {
            scheduler.admit(&mut pages, max_running, cache_budget_rows);
            let (mut batch, mut pending) = (Batch::default(), Pending::default());
            let ended = scheduler.push_prefills(&mut pages, 64, &mut batch);
            scheduler.push_decodes(&pages, &mut batch, &mut pending);
            scheduler.push_last_tokens(&mut pages, &ended, &mut batch, &mut pending);
            assert!(batch.tokens() > 0, "the batch is empty");
            most = most.max(scheduler.running.len());
            batches += 1;
            let count = pending.draws.len();
            scheduler.take_draws(&mut pages, &ended, &vec![2; count], &vec![-1.0; count]);
        }
        assert_eq!(pages.allocated_rows(), 0);
        (most, batches)
    }

    #[test]
    fn the_cache_budget_limits_running_completions_but_not_below_the_minimum() {
        assert_eq!(most_running(40, 16, usize::MAX).0, 16);
        assert_eq!(most_running(40, 16, 0).0, RUNNING_MIN);
        assert_eq!(most_running(3, 16, 0).0, 3);
        assert_eq!(most_running(40, 4, 0).0, 4);
        // Twelve completions with two pages each, and two pages for each prompt.
        let (most, batches) = most_running(40, 16, 12 * 16);
        assert!((11..=13).contains(&most) && batches < most_running(40, 16, 0).1, "{most} in {batches} batches");
    }
}
