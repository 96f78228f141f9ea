//! The engine: continuous batching over one forward pass.
//!
//! Every step is one batch: the next token of each running completion, and as many prompt tokens as fit beside them.
//! When a prompt is through, the first token of all its members is drawn from its last row; a member then waits for
//! pages and a place in the batch. A completion's tokens depend on its prompt, sampling and stream alone: products and
//! attention are row-invariant on the CPU backend and draws are keyed by position, so any schedule gives the same text.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::pages::{Lease, Pages};
use super::{Completion, Finish, Member, PromptGroup};
use crate::model::{Activations, Batch, KvPool, Qwen3};
use crate::ops::sample::{Draw, Sample};
use crate::ops::{Backend, OpError};

/// Sizes of the engine; none of them changes a completion.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Rows of the key and value cache.
    pub cache_rows: usize,
    pub page_size: usize,
    /// Completions that decode at the same time.
    pub max_running: usize,
    /// Tokens of one forward pass.
    pub max_batch_tokens: usize,
    /// Whether the members of a prompt share its keys and values (off: for tests).
    pub share_prompts: bool,
}

impl EngineLimits {
    /// Sizes for groups of up to `members` completions whose prompts and completions have up to these many tokens.
    pub fn for_lengths(prompt: usize, new: usize, max_running: usize) -> Self {
        let page_size = 16;
        let member = new.next_multiple_of(page_size);
        let rows = max_running * (prompt.next_multiple_of(page_size) + member);
        let max_batch_tokens = (2 * max_running).max(512);
        Self { cache_rows: rows, page_size, max_running, max_batch_tokens, share_prompts: true }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error("rollout: {0}")]
    Request(String),
    #[error("rollout: the model's logits are not numbers (prompt {group}, member {member}, position {position})")]
    NotFinite { group: usize, member: usize, position: usize },
    #[error("rollout: interrupted")]
    Interrupted,
}

/// A prompt on its way through the model, then held for its members.
struct Prompt {
    lease: Lease,
    /// Members that are not finished.
    open_members: usize,
}

/// A completion with at least its first token.
struct Sequence {
    group: usize,
    member: usize,
    lease: Lease,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

/// Completions of a lane below which another lane is not worth its buffers.
const LANE_SEQUENCES: usize = 16;

/// Generation with models of one shape.
pub struct Engine<B: Backend> {
    limits: EngineLimits,
    lanes: Vec<Lane<B>>,
}

/// One stream of batches: a cache and the buffers of a forward pass.
struct Lane<B: Backend> {
    limits: EngineLimits,
    pages: Pages,
    pool: KvPool<B>,
    acts: Activations<B>,
    /// [rows, vocab] for as many rows as one batch can ask for
    logits: B::Buffer<f32>,
    logit_rows: usize,
    rows: B::Buffer<u32>,
    ids: B::Buffer<u32>,
    logprobs: B::Buffer<f32>,
}

/// Rows of a batch whose next token is to be drawn.
#[derive(Default)]
struct Pending {
    rows: Vec<u32>,
    draws: Vec<Draw>,
}

impl<B: Backend> Engine<B> {
    /// Allocates the caches and the buffers of forward passes.
    pub fn new(model: &Qwen3<B>, limits: EngineLimits) -> Result<Self, EngineError> {
        assert!(limits.max_running < limits.max_batch_tokens, "no room for prompts beside the running completions");
        let count = model.backend.lanes().min(limits.max_running / LANE_SEQUENCES).max(1);
        let share = EngineLimits {
            cache_rows: limits.cache_rows / count,
            max_running: limits.max_running / count,
            max_batch_tokens: limits.max_batch_tokens / count,
            ..limits
        };
        let lanes = (0..count).map(|_| Lane::new(model, share)).collect::<Result<_, EngineError>>()?;
        Ok(Self { limits, lanes })
    }

    /// Draws every member of every group; results in the order of the request. `finished` is called with the number of
    /// completions that have just ended; `stop` set from elsewhere ends the work.
    pub fn generate(
        &mut self,
        model: &Qwen3<B>,
        groups: &[PromptGroup],
        stop: Option<&AtomicBool>,
        finished: impl FnMut(usize) + Send,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let one = |group: &PromptGroup, member: &Member| PromptGroup { members: vec![member.clone()], ..group.clone() };
        // Every group, or every member as a group of its own, with the index of the group it came from.
        let parts: Vec<(usize, Cow<'_, PromptGroup>)> = if self.limits.share_prompts {
            groups.iter().map(Cow::Borrowed).enumerate().collect()
        } else {
            let split = |(i, group): (usize, &PromptGroup)| {
                group.members.iter().map(move |member| (i, one(group, member))).collect::<Vec<_>>()
            };
            groups.iter().enumerate().flat_map(split).map(|(i, group)| (i, Cow::Owned(group))).collect()
        };
        let count = self.lanes.len();
        let finished = Mutex::new(finished);
        let report = |ended: usize| {
            if let Ok(mut finished) = finished.lock() {
                finished(ended);
            }
        };
        // Dealt out in turn, so that lanes end at about the same time.
        let dealt = |lane: usize| parts.iter().skip(lane).step_by(count);
        let run_lane = |(index, lane): (usize, &mut Lane<B>)| {
            let own: Vec<&PromptGroup> = dealt(index).map(|(_, group)| group.as_ref()).collect();
            lane.generate(model, &own, stop, &report).map_err(|error| match error {
                EngineError::NotFinite { group, member, position } => {
                    EngineError::NotFinite { group: parts[index + group * count].0, member, position }
                }
                other => other,
            })
        };
        let results: Vec<Result<_, EngineError>> = if count == 1 {
            vec![model.backend.together(|| run_lane((0, &mut self.lanes[0])))]
        } else {
            self.lanes.par_iter_mut().enumerate().map(|lane| model.backend.alone(|| run_lane(lane))).collect()
        };
        let mut completions: Vec<Vec<Completion>> = groups.iter().map(|_| Vec::new()).collect();
        let mut results = results.into_iter().map(|r| Ok(r?.into_iter())).collect::<Result<Vec<_>, EngineError>>()?;
        for (index, (group, _)) in parts.iter().enumerate() {
            completions[*group].extend(results[index % count].next().expect("a result a group"));
        }
        Ok(completions)
    }
}

impl<B: Backend> Lane<B> {
    fn new(model: &Qwen3<B>, limits: EngineLimits) -> Result<Self, EngineError> {
        let (b, c) = (&model.backend, &model.config);
        // At most 32 Mi logits at a time, whatever the vocabulary.
        let logit_rows = (32 << 20) / c.vocab_size;
        let logit_rows = logit_rows.clamp(1, 2 * limits.max_running.max(64));
        let pages = Pages::new(limits.cache_rows, limits.page_size);
        b.named("logits", || {
            Ok(Self {
                pool: KvPool::new(b, c, pages.total() * limits.page_size).map_err(OpError::from)?,
                acts: Activations::for_inference(b, c, limits.max_batch_tokens).map_err(OpError::from)?,
                logits: b.zeros(logit_rows * c.vocab_size).map_err(OpError::from)?,
                rows: b.zeros(logit_rows).map_err(OpError::from)?,
                ids: b.zeros(logit_rows).map_err(OpError::from)?,
                logprobs: b.zeros(logit_rows).map_err(OpError::from)?,
                pages,
                logit_rows,
                limits,
            })
        })
    }

    fn generate(
        &mut self,
        model: &Qwen3<B>,
        groups: &[&PromptGroup],
        stop: Option<&AtomicBool>,
        finished: &impl Fn(usize),
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        self.check(model, groups)?;
        // A run that failed half-way has left its pages lent: start from a whole pool.
        self.pages = Pages::new(self.limits.cache_rows, self.limits.page_size);
        let mut run = Run::new(groups);
        while !run.done() {
            if stop.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(EngineError::Interrupted);
            }
            self.step(model, &mut run)?;
            if run.newly_finished > 0 {
                finished(std::mem::take(&mut run.newly_finished));
            }
        }
        let ended = |members: Vec<Option<Completion>>| {
            members.into_iter().map(|c| c.expect("every member has ended")).collect()
        };
        Ok(run.completions.into_iter().map(ended).collect())
    }

    fn check(&self, model: &Qwen3<B>, groups: &[&PromptGroup]) -> Result<(), EngineError> {
        let vocab = model.config.vocab_size as u32;
        for (index, group) in groups.iter().enumerate() {
            let (prompt, new) = (group.prompt.len(), group.max_new_tokens);
            let refuse = |reason: String| Err(EngineError::Request(format!("prompt {index}: {reason}")));
            if prompt == 0 || new == 0 {
                return refuse(format!("needs one token or more and room for one more, got {prompt} and {new}"));
            }
            if prompt + new > model.context() {
                return refuse(format!("{prompt} + {new} new tokens exceed the context of {}", model.context()));
            }
            if let Some(id) = group.prompt.iter().find(|id| **id >= vocab) {
                return refuse(format!("token {id} lies outside the vocabulary of {vocab}"));
            }
            let pages = self.pages.needed(prompt) + self.pages.needed(longest_member(groups));
            if pages > self.pages.total() {
                return refuse(format!("needs {pages} pages of the cache, which has {}", self.pages.total()));
            }
        }
        Ok(())
    }

    /// One forward pass and the draws that follow from it.
    fn step(&mut self, model: &Qwen3<B>, run: &mut Run<'_>) -> Result<(), EngineError> {
        run.admit(&mut self.pages, self.limits.max_running);
        let mut batch = Batch::default();
        let mut pending = Pending::default();
        run.push_decodes(&self.pages, &mut batch, &mut pending);
        let finished_prompts =
            run.push_prefills(&mut self.pages, self.limits.max_batch_tokens, &mut batch, &mut pending);
        assert!(batch.tokens() > 0, "the engine has work but nothing to run");
        model.forward(&batch, &mut self.pool, &mut self.acts)?;
        let (ids, logprobs) = self.draw(model, batch.tokens(), &pending)?;
        run.take_draws(&mut self.pages, &finished_prompts, &ids, &logprobs)
    }

    /// Draws one token for every pending row, as many rows at a time as there is room for logits.
    fn draw(
        &mut self,
        model: &Qwen3<B>,
        tokens: usize,
        pending: &Pending,
    ) -> Result<(Vec<u32>, Vec<f32>), EngineError> {
        let (b, vocab) = (&model.backend, model.config.vocab_size);
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        for (rows, draws) in pending.rows.chunks(self.logit_rows).zip(pending.draws.chunks(self.logit_rows)) {
            let n = rows.len();
            b.write(b.view_mut(&mut self.rows, 0..n), rows).map_err(OpError::from)?;
            let out = b.view_mut(&mut self.logits, 0..n * vocab);
            model.logits(&self.acts, tokens, b.view(&self.rows, 0..n), out)?;
            b.sample(Sample {
                ids: b.view_mut(&mut self.ids, 0..n),
                logprobs: b.view_mut(&mut self.logprobs, 0..n),
                logits: b.view(&self.logits, 0..n * vocab),
                draws,
                vocab,
            })?;
            ids.extend(b.download(b.view(&self.ids, 0..n)).map_err(OpError::from)?);
            logprobs.extend(b.download(b.view(&self.logprobs, 0..n)).map_err(OpError::from)?);
        }
        Ok((ids, logprobs))
    }
}

/// The state of one `generate` call.
struct Run<'a> {
    groups: &'a [&'a PromptGroup],
    /// The next group whose prompt has not been started.
    next_group: usize,
    /// Prompts in the cache, by group.
    prompts: Vec<Option<Prompt>>,
    /// Groups whose prompts are being computed, and how many tokens are through.
    prefilling: VecDeque<(usize, usize)>,
    /// Members with a first token that wait for room.
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
    completions: Vec<Vec<Option<Completion>>>,
    open: usize,
    newly_finished: usize,
    /// The largest `max_new_tokens` of all groups.
    longest_member: usize,
}

impl<'a> Run<'a> {
    fn new(groups: &'a [&'a PromptGroup]) -> Self {
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

    fn done(&self) -> bool {
        self.open == 0
    }

    /// Gives room to waiting members first, then starts a new prompt if one of its members could run after it.
    fn admit(&mut self, pages: &mut Pages, max_running: usize) {
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
    fn push_decodes(&mut self, pages: &Pages, batch: &mut Batch, pending: &mut Pending) {
        for sequence in &mut self.running {
            let group = &self.groups[sequence.group];
            let prompt = self.prompts[sequence.group].as_ref().expect("a running member's prompt is held");
            let position = group.prompt.len() + sequence.tokens.len() - 1;
            batch.kv_rows.push(pages.next_row(&mut sequence.lease));
            batch.positions.push(position as u32);
            batch.ids.push(*sequence.tokens.last().expect("a sequence has its first token"));
            let runs = pages.runs(&prompt.lease).into_iter().chain(pages.runs(&sequence.lease));
            batch.segments.push(1, runs);
            pending.rows.push(batch.tokens() as u32 - 1);
            pending.draws.push(draw(&group.members[sequence.member], position + 1));
        }
    }

    /// Prompt tokens up to the batch's limit (one at least); returns the groups whose prompts end in this batch.
    fn push_prefills(
        &mut self,
        pages: &mut Pages,
        max_tokens: usize,
        batch: &mut Batch,
        pending: &mut Pending,
    ) -> Vec<usize> {
        let mut ended = Vec::new();
        while let Some((index, through)) = self.prefilling.front_mut() {
            let room = max_tokens.saturating_sub(batch.tokens());
            if room == 0 {
                break;
            }
            let group = &self.groups[*index];
            let prompt = self.prompts[*index].as_mut().expect("a prompt that is being computed is held");
            let chunk = &group.prompt[*through..group.prompt.len().min(*through + room)];
            for (offset, id) in chunk.iter().enumerate() {
                batch.kv_rows.push(pages.next_row(&mut prompt.lease));
                batch.positions.push((*through + offset) as u32);
                batch.ids.push(*id);
            }
            batch.segments.push(chunk.len(), pages.runs(&prompt.lease));
            *through += chunk.len();
            if *through < group.prompt.len() {
                break;
            }
            for member in &group.members {
                pending.rows.push(batch.tokens() as u32 - 1);
                pending.draws.push(draw(member, group.prompt.len()));
            }
            ended.push(*index);
            self.prefilling.pop_front();
        }
        ended
    }

    /// Hands the drawn tokens out: to running completions first, then to the members of prompts that have just ended.
    fn take_draws(
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

fn longest_member(groups: &[&PromptGroup]) -> usize {
    groups.iter().map(|group| group.max_new_tokens).max().unwrap_or(0)
}

fn draw(member: &Member, position: usize) -> Draw {
    Draw { sampling: member.sampling, stream: member.stream, position: position as u32 }
}
