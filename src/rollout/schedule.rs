//! Who runs when: the prompts and completions of one `generate` call on their way through the batches.

use std::collections::VecDeque;

use super::engine::EngineError;
use super::pages::{Lease, Pages};
use super::{Completion, Finish, Member, PromptGroup};
use crate::model::Batch;
use crate::ops::sample::Draw;

/// A prompt on its way through the model, then held for its members.
struct Prompt {
    lease: Lease,
    /// Members that are not finished.
    open_members: usize,
}

/// A completion with at least its first token.
pub struct Sequence {
    group: usize,
    member: usize,
    lease: Lease,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

/// Rows of a batch whose next token is to be drawn.
#[derive(Default)]
pub struct Pending {
    pub rows: Vec<u32>,
    pub draws: Vec<Draw>,
}

/// The state of one `generate` call.
pub struct Schedule<'a> {
    groups: &'a [&'a PromptGroup],
    /// The next group whose prompt has not been started.
    next_group: usize,
    /// Prompts in the cache, by group.
    prompts: Vec<Option<Prompt>>,
    /// Groups whose prompts are being computed, and how many tokens are through.
    prefilling: VecDeque<(usize, usize)>,
    /// Members with a first token that wait for room.
    ready: VecDeque<Sequence>,
    pub running: Vec<Sequence>,
    pub completions: Vec<Vec<Option<Completion>>>,
    open: usize,
    pub newly_finished: usize,
    /// The largest `max_new_tokens` of all groups.
    longest_member: usize,
}

impl<'a> Schedule<'a> {
    pub fn new(groups: &'a [&'a PromptGroup]) -> Self {
        Self {
            groups,
            next_group: 0,
            prompts: groups.iter().map(|_| None).collect(),
            prefilling: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            completions: groups.iter().map(|group| vec![None; group.members.len()]).collect(),
            open: groups.iter().map(|group| group.members.len()).sum(),
            newly_finished: 0,
            longest_member: longest_member(groups),
        }
    }

    pub fn done(&self) -> bool {
        self.open == 0
    }

    /// Gives room to waiting members first, then starts a new prompt if one of its members could run after it.
    pub fn admit(&mut self, pages: &mut Pages, max_running: usize) {
        while self.running.len() < max_running {
            let Some(sequence) = self.ready.front() else { break };
            let Some(lease) = pages.lend(self.groups[sequence.group].max_new_tokens) else { break };
            let mut sequence = self.ready.pop_front().expect("looked at just now");
            sequence.lease = lease;
            self.running.push(sequence);
        }
        while self.ready.len() + self.prefilling.len() < max_running && self.next_group < self.groups.len() {
            let group = &self.groups[self.next_group];
            if group.members.is_empty() {
                self.next_group += 1;
                continue;
            }
            // Leave room for the longest member of all: once the completions that run now have ended, whoever waits first
            // can run, so prompts that hold pages never block each other for good.
            if pages.needed(group.prompt.len()) + pages.needed(self.longest_member) > pages.available() {
                break;
            }
            let Some(lease) = pages.lend(group.prompt.len()) else { break };
            self.prompts[self.next_group] = Some(Prompt { lease, open_members: group.members.len() });
            self.prefilling.push_back((self.next_group, 0));
            self.next_group += 1;
        }
    }

    /// The last token of every running completion.
    pub fn push_decodes(&mut self, pages: &Pages, batch: &mut Batch, pending: &mut Pending) {
        for sequence in &mut self.running {
            let group = &self.groups[sequence.group];
            let prompt = self.prompts[sequence.group].as_ref().expect("a running member's prompt is held");
            let position = group.prompt.len() + sequence.tokens.len() - 1;
            let last = *sequence.tokens.last().expect("a sequence has its first token");
            push_token(batch, last, position, pages.next_row(&mut sequence.lease));
            let runs = pages.runs(&prompt.lease).into_iter().chain(pages.runs(&sequence.lease));
            batch.segments.push(1, runs);
            pending.rows.push(batch.tokens() as u32 - 1);
            pending.draws.push(draw(&group.members[sequence.member], position + 1));
        }
    }

    /// Prompt tokens, up to `room` of them; returns the groups whose prompts end in this batch. Their last tokens, which the
    /// first draws are made from, are left out: they come with [`Self::push_last_tokens`].
    pub fn push_prefills(&mut self, pages: &mut Pages, mut room: usize, batch: &mut Batch) -> Vec<usize> {
        let mut ended = Vec::new();
        while let Some((index, through)) = self.prefilling.front_mut() {
            if room == 0 {
                break;
            }
            let group = &self.groups[*index];
            let prompt = self.prompts[*index].as_mut().expect("a prompt that is being computed is held");
            let end = group.prompt.len().min(*through + room);
            room -= end - *through;
            let before_last = end.min(group.prompt.len() - 1);
            if *through < before_last {
                let chunk = *through..before_last;
                for position in chunk.clone() {
                    push_token(batch, group.prompt[position], position, pages.next_row(&mut prompt.lease));
                }
                batch.segments.push(chunk.len(), pages.runs(&prompt.lease));
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

    /// The last tokens of the prompts that end in this batch, and the first draws of their members.
    pub fn push_last_tokens(&mut self, pages: &mut Pages, ended: &[usize], batch: &mut Batch, pending: &mut Pending) {
        for &index in ended {
            let group = &self.groups[index];
            let prompt = self.prompts[index].as_mut().expect("a prompt that has just ended is held");
            let last = group.prompt.len() - 1;
            push_token(batch, group.prompt[last], last, pages.next_row(&mut prompt.lease));
            batch.segments.push(1, pages.runs(&prompt.lease));
            for member in &group.members {
                pending.rows.push(batch.tokens() as u32 - 1);
                pending.draws.push(draw(member, group.prompt.len()));
            }
        }
    }

    /// Hands the drawn tokens out: to running completions first, then to the members of prompts that have just ended.
    pub fn take_draws(
        &mut self,
        pages: &mut Pages,
        ended: &[usize],
        ids: &[u32],
        logprobs: &[f32],
    ) -> Result<(), EngineError> {
        let mut draws = ids.iter().copied().zip(logprobs.iter().copied());
        for mut sequence in std::mem::take(&mut self.running) {
            let (id, logprob) = draws.next().expect("a draw a row");
            if self.take(&mut sequence, id, logprob)? {
                self.end(pages, sequence);
            } else {
                self.running.push(sequence);
            }
        }
        for &group in ended {
            for member in 0..self.groups[group].members.len() {
                let (id, logprob) = draws.next().expect("a draw a row");
                let mut sequence =
                    Sequence { group, member, lease: Lease::default(), tokens: Vec::new(), logprobs: Vec::new() };
                if self.take(&mut sequence, id, logprob)? {
                    self.end(pages, sequence);
                } else {
                    self.ready.push_back(sequence);
                }
            }
        }
        Ok(())
    }

    /// Adds a token; true when it was the last one.
    fn take(&self, sequence: &mut Sequence, id: u32, logprob: f32) -> Result<bool, EngineError> {
        let group = &self.groups[sequence.group];
        if !logprob.is_finite() {
            let position = group.prompt.len() + sequence.tokens.len();
            return Err(EngineError::NotFinite { group: sequence.group, member: sequence.member, position });
        }
        sequence.tokens.push(id);
        sequence.logprobs.push(logprob);
        Ok(group.stop.contains(&id) || sequence.tokens.len() == group.max_new_tokens)
    }

    fn end(&mut self, pages: &mut Pages, sequence: Sequence) {
        let group = &self.groups[sequence.group];
        let stopped = sequence.tokens.last().is_some_and(|id| group.stop.contains(id));
        let finish = if stopped { Finish::Stop } else { Finish::Length };
        let Sequence { tokens, logprobs, lease, .. } = sequence;
        self.completions[sequence.group][sequence.member] = Some(Completion { tokens, logprobs, finish });
        pages.take_back(lease);
        let prompt = self.prompts[sequence.group].as_mut().expect("an open member's prompt is held");
        prompt.open_members -= 1;
        if prompt.open_members == 0 {
            let prompt = self.prompts[sequence.group].take().expect("seen just now");
            pages.take_back(prompt.lease);
        }
        self.open -= 1;
        self.newly_finished += 1;
    }
}

pub fn longest_member(groups: &[&PromptGroup]) -> usize {
    groups.iter().map(|group| group.max_new_tokens).max().unwrap_or(0)
}

fn draw(member: &Member, position: usize) -> Draw {
    Draw { sampling: member.sampling, stream: member.stream, position: position as u32 }
}

fn push_token(batch: &mut Batch, id: u32, position: usize, kv_row: u32) {
    batch.ids.push(id);
    batch.positions.push(position as u32);
    batch.kv_rows.push(kv_row);
}
