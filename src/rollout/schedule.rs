//! Who runs when: the prompts and completions of one `generate` call on their way through the batches.
//!
//! Completions of one prompt that have the same tokens so far are one branch, a row of every batch for all of them; each has
//! its own draws from the row's logits. Where these differ the branch parts, and the parts share its keys and values.

use std::collections::VecDeque;

use super::pages::{Lease, Pages};
use super::{Completion, EngineError, Finish, Member, PromptGroup};
use crate::model::Batch;
use crate::ops::sample::Draw;

/// Completions that run at a time, if there are as many, even where fewer would be worth it: products of fewer rows are slow.
const FEWEST_RUNNING: usize = 8;

/// A prompt on its way through the model, then held for its members.
struct Prompt {
    lease: Lease,
    /// Members that are not finished.
    open_members: usize,
}

/// A completion whose first token is drawn and that waits for room.
struct Waiting {
    group: usize,
    member: usize,
    id: u32,
    logprob: f32,
}

/// Completions of one prompt that are the same so far, with at least their first token.
pub struct Branch {
    group: usize,
    tokens: Vec<u32>,
    twigs: Vec<Twig>,
    /// Rows of the tokens behind the prompt that other branches read too.
    before: Vec<Lease>,
    /// Rows of the tokens that followed.
    own: Lease,
    /// Room for all but one of the completions, from when they part.
    rooms: Vec<Lease>,
}

/// One of a branch's completions.
struct Twig {
    member: usize,
    /// Its own, since temperatures may differ.
    logprobs: Vec<f32>,
}

/// Rows of a batch whose next tokens are to be drawn.
#[derive(Default)]
pub struct Pending {
    pub rows: Vec<u32>,
    /// From rows of `rows`, in their order.
    pub draws: Vec<Draw>,
}

impl Pending {
    /// The next tokens of `members`, at `position`, from the batch's row.
    fn push<'m>(&mut self, row: usize, members: impl IntoIterator<Item = &'m Member>, position: usize) {
        let (place, position) = (self.rows.len() as u32, position as u32);
        self.rows.push(row as u32);
        let draw = |m: &Member| Draw { row: place, sampling: m.sampling, stream: m.stream, position };
        self.draws.extend(members.into_iter().map(draw));
    }
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
    ready: VecDeque<Waiting>,
    pub running: Vec<Branch>,
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

    /// Gives room to waiting members first, then starts a new prompt if one of its members could run after it. From
    /// `worth_rows` rows in use on, only as many run as products of a batch need to be fast.
    pub fn admit(&mut self, pages: &mut Pages, max_running: usize, worth_rows: usize) {
        let worth = |running: usize, rows: usize| running < FEWEST_RUNNING || rows < worth_rows;
        let mut running: usize = self.running.iter().map(|branch| branch.twigs.len()).sum();
        let first_new = self.running.len();
        while running < max_running && worth(running, pages.lent_rows()) {
            let Some(waiting) = self.ready.front() else { break };
            let Some(room) = pages.lend(self.groups[waiting.group].max_new_tokens) else { break };
            let Waiting { group, member, id, logprob } = self.ready.pop_front().expect("looked at just now");
            let twig = Twig { member, logprobs: vec![logprob] };
            // Members of a prompt wait one behind another.
            let mut new = self.running[first_new..].iter_mut().rev().take_while(|branch| branch.group == group);
            if let Some(branch) = new.find(|branch| branch.tokens == [id]) {
                branch.twigs.push(twig);
                branch.rooms.push(room);
            } else {
                let (tokens, twigs) = (vec![id], vec![twig]);
                self.running.push(Branch { group, tokens, twigs, before: Vec::new(), own: room, rooms: Vec::new() });
            }
            running += 1;
        }
        while self.next_group < self.groups.len() {
            let coming = self.ready.len() + self.prefilling.len();
            if coming >= max_running || !worth(running + coming, pages.lent_rows() + self.rows_to_come()) {
                break;
            }
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

    /// Rows that the members of started prompts will ask for.
    fn rows_to_come(&self) -> usize {
        let waiting = self.ready.iter().map(|waiting| self.groups[waiting.group].max_new_tokens);
        let of_group = |group: &PromptGroup| group.members.len() * group.max_new_tokens;
        waiting.sum::<usize>() + self.prefilling.iter().map(|(group, _)| of_group(self.groups[*group])).sum::<usize>()
    }

    /// The last token of every running branch.
    pub fn push_decodes(&mut self, pages: &Pages, batch: &mut Batch, pending: &mut Pending) {
        for Branch { group, tokens, twigs, before, own, .. } in &mut self.running {
            let prompt = self.prompts[*group].as_ref().expect("a running member's prompt is held");
            let group = &self.groups[*group];
            let position = group.prompt.len() + tokens.len() - 1;
            let last = *tokens.last().expect("a branch has its first token");
            push_token(batch, last, position, pages.next_row(own));
            let leases = std::iter::once(&prompt.lease).chain(&*before).chain([&*own]);
            batch.segments.push(1, leases.flat_map(|lease| pages.runs(lease)));
            pending.push(batch.tokens() - 1, twigs.iter().map(|twig| &group.members[twig.member]), position + 1);
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
            pending.push(batch.tokens() - 1, &group.members, group.prompt.len());
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
        for branch in std::mem::take(&mut self.running) {
            let count = branch.twigs.len();
            self.grow(pages, branch, draws.by_ref().take(count))?;
        }
        for &group in ended {
            for member in 0..self.groups[group].members.len() {
                let (id, logprob) = draws.next().expect("a draw a member");
                self.check(group, member, 0, logprob)?;
                if self.is_last(group, id, 1) {
                    self.end(pages, group, member, vec![id], vec![logprob]);
                } else {
                    self.ready.push_back(Waiting { group, member, id, logprob });
                }
            }
        }
        Ok(())
    }

    /// Adds a token to each completion of a branch; those that drew the same one go on as one branch.
    fn grow(
        &mut self,
        pages: &mut Pages,
        branch: Branch,
        draws: impl Iterator<Item = (u32, f32)>,
    ) -> Result<(), EngineError> {
        let Branch { group, mut tokens, twigs, before, own, mut rooms } = branch;
        let mut parts: Vec<(u32, Vec<Twig>)> = Vec::new();
        for (mut twig, (id, logprob)) in twigs.into_iter().zip(draws) {
            self.check(group, twig.member, tokens.len(), logprob)?;
            twig.logprobs.push(logprob);
            match parts.iter_mut().find(|part| part.0 == id) {
                Some((_, part)) => part.push(twig),
                None => parts.push((id, vec![twig])),
            }
        }
        let with = |id: u32| tokens.iter().copied().chain([id]).collect::<Vec<u32>>();
        let (ended, live): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(id, _)| self.is_last(group, *id, tokens.len() + 1));
        for (id, twigs) in ended {
            twigs.into_iter().for_each(|Twig { member, logprobs }| self.end(pages, group, member, with(id), logprobs));
        }
        let mut live = live.into_iter();
        let mut left = Vec::new();
        // The first part stays where it is, the others begin in rooms of their own.
        if let Some((first, first_twigs)) = live.next() {
            for (id, twigs) in live {
                let before = before.iter().chain([&own]).map(|lease| pages.share(lease)).collect();
                let mut rooms = rooms.split_off(rooms.len() - twigs.len());
                let own = rooms.pop().expect("a room for every completion but one");
                self.running.push(Branch { group, tokens: with(id), twigs, before, own, rooms });
            }
            left.extend(rooms.split_off(first_twigs.len() - 1));
            tokens.push(first);
            self.running.push(Branch { group, tokens, twigs: first_twigs, before, own, rooms });
        } else {
            left.extend(before.into_iter().chain([own]).chain(rooms));
        }
        left.into_iter().for_each(|lease| pages.take_back(lease));
        Ok(())
    }

    /// Refuses a log-probability that is not a number; the completion has `tokens` before it.
    fn check(&self, group: usize, member: usize, tokens: usize, logprob: f32) -> Result<(), EngineError> {
        if logprob.is_finite() {
            return Ok(());
        }
        Err(EngineError::NotFinite { group, member, position: self.groups[group].prompt.len() + tokens })
    }

    /// Whether a completion of `tokens` tokens ends with this one.
    fn is_last(&self, group: usize, id: u32, tokens: usize) -> bool {
        self.groups[group].stop.contains(&id) || tokens == self.groups[group].max_new_tokens
    }

    fn end(&mut self, pages: &mut Pages, group: usize, member: usize, tokens: Vec<u32>, logprobs: Vec<f32>) {
        let stopped = tokens.last().is_some_and(|id| self.groups[group].stop.contains(id));
        let finish = if stopped { Finish::Stop } else { Finish::Length };
        self.completions[group][member] = Some(Completion { tokens, logprobs, finish });
        let prompt = self.prompts[group].as_mut().expect("an open member's prompt is held");
        prompt.open_members -= 1;
        if prompt.open_members == 0 {
            let prompt = self.prompts[group].take().expect("seen just now");
            pages.take_back(prompt.lease);
        }
        self.open -= 1;
        self.newly_finished += 1;
    }
}

pub fn longest_member(groups: &[&PromptGroup]) -> usize {
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

    /// The most completions that run at a time, and the batches that all of them take.
    fn most_running(members: usize, max_running: usize, worth_rows: usize) -> (usize, usize) {
        let member = Member { sampling: Sampling::temperature(1.0), stream: Stream::new(0) };
        let group = PromptGroup { prompt: vec![1; 5], members: vec![member], stop: Vec::new(), max_new_tokens: 6 };
        let groups = vec![&group; members];
        let (mut pages, mut schedule) = (Pages::new(64 * 16, 4), Schedule::new(&groups));
        let (mut most, mut batches) = (0, 0);
        while !schedule.done() {
            schedule.admit(&mut pages, max_running, worth_rows);
            let (mut batch, mut pending) = (Batch::default(), Pending::default());
            let ended = schedule.push_prefills(&mut pages, 64, &mut batch);
            schedule.push_decodes(&pages, &mut batch, &mut pending);
            schedule.push_last_tokens(&mut pages, &ended, &mut batch, &mut pending);
            assert!(batch.tokens() > 0, "nobody runs");
            most = most.max(schedule.running.len());
            batches += 1;
            let count = pending.draws.len();
            schedule.take_draws(&mut pages, &ended, &vec![2; count], &vec![-1.0; count]).unwrap();
        }
        assert_eq!(pages.lent_rows(), 0);
        (most, batches)
    }

    #[test]
    fn as_many_run_as_are_worth_it_but_never_too_few_for_a_product() {
        assert_eq!(most_running(40, 16, usize::MAX).0, 16);
        assert_eq!(most_running(40, 16, 0).0, FEWEST_RUNNING);
        assert_eq!(most_running(3, 16, 0).0, 3);
        assert_eq!(most_running(40, 4, 0).0, 4);
        // Twelve completions of two pages each, with two pages for their prompts.
        let (most, batches) = most_running(40, 16, 12 * 16);
        assert!((11..=13).contains(&most) && batches < most_running(40, 16, 0).1, "{most} in {batches} batches");
    }
}
