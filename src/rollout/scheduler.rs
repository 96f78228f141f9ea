//! Decides which prompts and completions of one `generate` call are in each batch, and who holds the pages of the cache.
//!
//! Completions of one prompt with the same tokens so far are one sequence: they have one row in each batch, and each samples its
//! own next token from the logits of that row. When the tokens differ, the sequence is split, and the new sequences share its
//! keys and values.
//!
//! A sequence gets pages as it grows. When none is free, the most recently admitted sequence is pre-empted: its pages are freed,
//! and it waits at the front of the queue with its tokens. When there is room again, these are computed again like those of a
//! prompt. Prompts stay in the cache until their samples have ended. Only when a single sequence runs, or none, the prompts that
//! merely wait are dropped. (Dropping these before the second sequence is pre-empted, as vLLM's prefix cache does, took as many
//! steps and recomputed twice as many tokens: a prompt of many samples is dropped for a single page.)
//!
//! **Every request ends**, in any pool that can hold each of its prompts with one completion ([`pages_min`]):
//! - The first running sequence is pre-empted only when it runs alone and all other prompts are dropped. Then all pages in use
//!   are those of its prompt and its own. If its rows are without gaps, these fit with one token more, so it is not pre-empted.
//! - Its rows have gaps only where another sequence shared a page with it and continued in it. When it is pre-empted for that,
//!   the same call of [`Scheduler::next_batch`] admits it again, with rows without gaps. While it is the first one, it gets no
//!   more gaps: of the parts of a split sequence, the first one continues in the shared page.
//! - Tokens are computed in the order of the running sequences, so the first one advances in every step: in its prompt, its own
//!   tokens, or by a new token. Tokens are never lost, so it ends, and the next one is the first.
//! - If nothing runs, all prompts but that of the first waiting sequence may be dropped, and this sequence fits.

use std::collections::VecDeque;

use super::limits::pages_min;
use super::pages::Pages;
use super::sequence::{OpenSample, Pending, Prompt, Sequence, push_tokens};
use super::{Completion, Ended, EngineLimits, EngineStatistics, FinishReason, NotFinite, PromptGroup};
use crate::model::Batch;

/// The fewest completions that run at a time, if that many are waiting, even beyond the cache budget: matmuls with fewer rows
/// are slow.
const RUNNING_MIN: usize = 8;

/// The state of one `generate` call.
pub struct Scheduler<'a> {
    groups: &'a [&'a PromptGroup],
    limits: EngineLimits,
    /// Beyond this many rows in use, admitting another completion no longer raises throughput.
    cache_budget_rows: usize,
    pages: Pages,
    /// One for each group.
    prompts: Vec<Prompt>,
    /// In the order in which they will be admitted.
    waiting: VecDeque<Sequence>,
    /// In the order in which they were admitted. The parts of a split sequence take its place.
    running: Vec<Sequence>,
    /// Samples that have not ended.
    open: usize,
    /// Samples that have ended and are not taken yet.
    pub ended: Vec<Ended>,
    statistics: EngineStatistics,
}

impl<'a> Scheduler<'a> {
    /// All samples of `groups` wait, and all pages are free.
    pub fn new(groups: &'a [&'a PromptGroup], limits: EngineLimits, cache_budget_rows: usize) -> Self {
        let pages = Pages::new(limits.cache_rows, limits.page_size);
        let fits = |g: &&PromptGroup| pages_min(g.prompt.len(), g.max_new_tokens, limits.page_size) <= pages.total();
        assert!(groups.iter().all(fits), "a prompt with its completion exceeds the pool");
        let samples = groups.iter().map(|group| group.samples.len());
        let nonempty = samples.clone().enumerate().filter(|(_, samples)| *samples > 0);
        Self {
            groups,
            limits,
            cache_budget_rows,
            pages,
            prompts: samples.clone().map(Prompt::new).collect(),
            waiting: nonempty.map(|(group, samples)| Sequence::first(group, samples)).collect(),
            running: Vec::new(),
            open: samples.sum(),
            ended: Vec::new(),
            statistics: EngineStatistics::default(),
        }
    }

    /// Whether every sample has ended.
    pub fn done(&self) -> bool {
        self.open == 0
    }

    /// Counts of all steps so far.
    pub fn statistics(&self) -> EngineStatistics {
        EngineStatistics { pages_max: self.pages.used_max(), ..self.statistics }
    }

    /// Rows of the pool's pages.
    pub fn pool_rows(&self) -> usize {
        self.pages.rows()
    }

    /// The tokens of the next forward pass. The rows to sample from are its last ones.
    pub fn next_batch(&mut self) -> (Batch, Pending) {
        self.grow();
        self.admit();
        let (mut batch, mut pending) = (Batch::default(), Pending::default());
        self.push_prefills(&mut batch);
        self.push_last_tokens(&mut batch, &mut pending);
        assert!(batch.tokens() > 0, "samples are unfinished, but the batch is empty");
        self.statistics.steps += 1;
        self.statistics.tokens += batch.tokens() as u64;
        (batch, pending)
    }

    /// Gives every running sequence a row for its last token, the oldest sequence first.
    fn grow(&mut self) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            let missing = sequence.tokens.len() - sequence.rows.rows();
            if self.pages.extend(&mut sequence.rows, missing) {
                index += 1;
            } else if self.running.len() > 1 || !self.drop_idle_prompt(None) {
                self.preempt();
            }
        }
    }

    /// Frees the pages of the last prompt that no running sequence uses, except that of one group. Returns whether there was
    /// one. The last prompt is usually the one that is needed last.
    fn drop_idle_prompt(&mut self, except: Option<usize>) -> bool {
        let idle = |group: &usize| {
            let used = || self.running.iter().any(|sequence| sequence.group == *group);
            self.prompts[*group].rows.rows() > 0 && Some(*group) != except && !used()
        };
        let Some(group) = (0..self.prompts.len()).rev().find(idle) else { return false };
        let prompt = &mut self.prompts[group];
        self.pages.free(&mut prompt.rows);
        prompt.computed = 0;
        self.statistics.prompts_dropped += 1;
        true
    }

    /// Frees the pages of the most recently admitted sequence, which then waits at the front of the queue.
    fn preempt(&mut self) {
        let mut sequence = self.running.pop().expect("a sequence that needs a page is running");
        self.pages.free(&mut sequence.rows);
        sequence.computed = 0;
        self.waiting.push_front(sequence);
        self.statistics.preemptions += 1;
    }

    /// Pages that stay free when a sequence is admitted, or it would soon be pre-empted: what those that run need in one step, as
    /// a sequence needs a page in one of `page_size` steps, and at least 1 % of all pages, as in vLLM. More pages would recompute
    /// fewer tokens, but as fewer completions run, take more steps: half a page for each running sequence took 5 % more.
    fn watermark(&self) -> usize {
        (self.pages.total() / 100).max(self.running.len() / self.limits.page_size).max(1)
    }

    /// How many completions of a waiting sequence may be admitted now. The cache budget limits prompts that begin: where it is
    /// used up, no more than [`RUNNING_MIN`] completions run. A prompt that has begun takes its samples with it.
    fn slots(&self, waiting: &Sequence) -> usize {
        let running: usize = self.running.iter().map(|sequence| sequence.samples.len()).sum();
        let worthwhile = !waiting.tokens.is_empty() || self.pages.used_rows() < self.cache_budget_rows;
        let most = if worthwhile { usize::MAX } else { RUNNING_MIN };
        self.limits.max_running.min(most).saturating_sub(running)
    }

    /// Gives waiting sequences rows for all their tokens, and for their prompts if these are not in the cache, in the order of
    /// the queue.
    fn admit(&mut self) {
        while let Some(front) = self.waiting.front() {
            let (group, slots, alone) = (front.group, self.slots(front), self.running.is_empty());
            if slots == 0 {
                break;
            }
            let prompt = &self.prompts[group];
            let missing = self.groups[group].prompt.len() - prompt.rows.rows();
            let needed = self.pages.needed(missing) + self.pages.needed(front.tokens.len());
            // After its first token, each sample of a new prompt needs a page.
            let first_pages = if front.tokens.is_empty() { front.samples.len().min(slots) } else { 0 };
            let spare = if alone { 0 } else { self.watermark() + first_pages };
            if needed + spare > self.pages.available() {
                if alone && self.drop_idle_prompt(Some(group)) {
                    continue;
                }
                break;
            }
            let mut sequence = self.waiting.pop_front().expect("the queue has a front, seen above");
            // A prompt's samples stay together until they have their first tokens.
            if !sequence.tokens.is_empty() && sequence.samples.len() > slots {
                let rest = sequence.samples.split_off(slots);
                self.waiting.push_front(Sequence::waiting(group, sequence.tokens.clone(), rest));
            }
            let fits = self.pages.extend(&mut self.prompts[group].rows, missing)
                && self.pages.extend(&mut sequence.rows, sequence.tokens.len());
            assert!(fits, "enough pages are free, seen above");
            self.running.push(sequence);
        }
    }

    /// Adds tokens that are not in the cache, except the last token of each sequence: as many as fit beside those. The order is
    /// that of the running sequences, each after its prompt.
    fn push_prefills(&mut self, batch: &mut Batch) {
        let mut room = self.limits.max_batch_tokens - self.running.len();
        for sequence in &mut self.running {
            let (ids, prompt) = (&self.groups[sequence.group].prompt, &mut self.prompts[sequence.group]);
            let through = if sequence.tokens.is_empty() { ids.len() - 1 } else { ids.len() };
            let range = prompt.computed..through.min(prompt.computed + room);
            if !range.is_empty() {
                let rows = self.pages.runs(&prompt.rows, range.clone());
                let keys = self.pages.runs(&prompt.rows, 0..range.end);
                push_tokens(batch, &ids[range.clone()], range.start, &rows, keys);
                self.statistics.tokens_recomputed += prompt.compute(range.end) as u64;
                room -= range.len();
            }
            if prompt.computed < through {
                break;
            }
            let through = sequence.tokens.len().saturating_sub(1);
            let range = sequence.computed..through.min(sequence.computed + room);
            if !range.is_empty() {
                let rows = self.pages.runs(&sequence.rows, range.clone());
                let prefix = self.pages.runs(&prompt.rows, 0..ids.len());
                let keys = prefix.into_iter().chain(self.pages.runs(&sequence.rows, 0..range.end));
                push_tokens(batch, &sequence.tokens[range.clone()], ids.len() + range.start, &rows, keys);
                sequence.computed = range.end;
                self.statistics.tokens_recomputed += range.len() as u64;
                room -= range.len();
            }
        }
    }

    /// Whether all tokens of a running sequence but the last are in the cache or in this batch.
    fn is_ready(&self, sequence: &Sequence) -> bool {
        let (prompt, computed) = (self.groups[sequence.group].prompt.len(), self.prompts[sequence.group].computed);
        computed + sequence.computed + 1 == prompt + sequence.tokens.len()
    }

    /// Adds the last token of each sequence that is ready, and the draws of its samples.
    fn push_last_tokens(&mut self, batch: &mut Batch, pending: &mut Pending) {
        for sequence in self.running.iter().filter(|sequence| self.is_ready(sequence)) {
            let (group, prompt) = (self.groups[sequence.group], &self.prompts[sequence.group]);
            let (ids, rows) = match sequence.tokens.as_slice() {
                [] => (&group.prompt, &prompt.rows),
                _ => (&sequence.tokens, &sequence.rows),
            };
            let last = ids.len() - 1..ids.len();
            let position = group.prompt.len() + sequence.tokens.len();
            let keys = [&prompt.rows, &sequence.rows].map(|rows| self.pages.runs(rows, 0..rows.rows()));
            let row = self.pages.runs(rows, last.clone());
            push_tokens(batch, &ids[last], position - 1, &row, keys.into_iter().flatten());
            let samples = sequence.samples.iter().map(|sample| &group.samples[sample.index]);
            pending.push(batch.tokens() - 1, samples, position);
        }
    }

    /// Appends the sampled tokens to the sequences that were ready, in their order.
    pub fn take_draws(&mut self, ids: &[u32], logprobs: &[f32]) {
        let mut draws = ids.iter().copied().zip(logprobs.iter().copied());
        let mut first = Vec::new();
        for mut sequence in std::mem::take(&mut self.running) {
            if !self.is_ready(&sequence) {
                self.running.push(sequence);
                continue;
            }
            let parts = self.end_samples(&mut sequence, draws.by_ref());
            if sequence.tokens.is_empty() {
                let prompt = &mut self.prompts[sequence.group];
                prompt.compute(self.groups[sequence.group].prompt.len());
                first.extend(parts.into_iter().map(|(id, part)| Sequence::waiting(sequence.group, vec![id], part)));
            } else {
                self.split(sequence, parts);
            }
        }
        // They are admitted before those that wait already: their prompts were admitted before those were.
        first.into_iter().rev().for_each(|sequence| self.waiting.push_front(sequence));
    }

    /// Draws for each sample of a sequence, and ends those that have no next token. Returns the others by their tokens.
    fn end_samples(
        &mut self,
        sequence: &mut Sequence,
        draws: impl Iterator<Item = (u32, f32)>,
    ) -> Vec<(u32, Vec<OpenSample>)> {
        let (group, request) = (sequence.group, self.groups[sequence.group]);
        let (parts, failed) = sequence.draw(draws);
        let position = request.prompt.len() + sequence.tokens.len();
        for sample in failed {
            self.close(Ended { group, sample: sample.index, completion: Err(NotFinite { position }) });
        }
        let reason = |id: &u32| {
            let length = sequence.tokens.len() + 1 == request.max_new_tokens;
            let stop = request.stop.contains(id).then_some(FinishReason::Stop);
            stop.or(length.then_some(FinishReason::Length))
        };
        let (ended, live): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(id, _)| reason(id).is_some());
        for (id, samples) in ended {
            let finish_reason = reason(&id).expect("seen above");
            for OpenSample { index, logprobs } in samples {
                let tokens = sequence.tokens.iter().copied().chain([id]).collect();
                self.close(Ended {
                    group,
                    sample: index,
                    completion: Ok(Completion { tokens, logprobs, finish_reason }),
                });
            }
        }
        live
    }

    /// Continues a sequence as one sequence for each of its next tokens. The first one is the first to extend the rows that all
    /// share, so it has no gap.
    fn split(&mut self, mut sequence: Sequence, parts: Vec<(u32, Vec<OpenSample>)>) {
        let mut parts = parts.into_iter();
        let Some((first, first_samples)) = parts.next() else {
            self.pages.free(&mut sequence.rows);
            return;
        };
        sequence.computed += 1;
        let at = self.running.len();
        for (id, samples) in parts {
            let tokens = sequence.tokens.iter().copied().chain([id]).collect();
            let rows = self.pages.share(&sequence.rows);
            let computed = sequence.computed;
            self.running.push(Sequence { rows, computed, ..Sequence::waiting(sequence.group, tokens, samples) });
        }
        sequence.tokens.push(first);
        sequence.samples = first_samples;
        self.running.insert(at, sequence);
    }

    fn close(&mut self, ended: Ended) {
        let prompt = &mut self.prompts[ended.group];
        prompt.open_samples -= 1;
        if prompt.open_samples == 0 {
            self.pages.free(&mut prompt.rows);
        }
        self.ended.push(ended);
        self.open -= 1;
    }
}

#[cfg(test)]
mod tests;
