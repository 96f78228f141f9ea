//! The engine: continuous batching over one forward pass.
//!
//! Every step is one batch: the next token of each running completion, and as many prompt tokens as fit beside them.
//! When a prompt is done, the first tokens of all its samples come from the logits of its last row. Each sample then waits until
//! there is a page for it and the batch has room. Samples of a prompt that have the same tokens so far share a row. Completions
//! get pages as they grow; when none is left, the last one waits, and its tokens are computed again later. A completion's tokens
//! depend only on its prompt, sampling settings and random stream: on the CPU backend matmuls and attention are row-invariant,
//! and random numbers are keyed by position, so any schedule gives the same text.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::limits::pages_min;
use super::scheduler::Scheduler;
use super::sequence::{Pending, push_tokens};
use super::{Completion, Ended, EngineError, EngineLimits, EngineStatistics, NotFinite, PromptGroup, SampleRequest};
use crate::memory::Phase;
use crate::model::{Activations, Batch, KvPool, Qwen3};
use crate::ops::attention::Run;
use crate::ops::sample::{Draw, Sample};
use crate::ops::{Backend, OpError};
use crate::tensor::Fetch;

/// The fewest completions per worker. With fewer, another worker is not worth its buffers.
const WORKER_SEQUENCES_MIN: usize = 16;

/// Generation with models of one shape.
pub struct Engine<B: Backend> {
    limits: EngineLimits,
    /// Those of each worker, how many there are, and see [`Worker::cache_budget_rows`]
    per_worker: (EngineLimits, usize, usize),
    /// Empty between [`Self::release`] and the next call
    workers: Vec<Worker<B>>,
    /// Of workers that are gone
    statistics: EngineStatistics,
}

/// Runs its own batches, with its own cache and buffers.
struct Worker<B: Backend> {
    limits: EngineLimits,
    statistics: EngineStatistics,
    /// Beyond this many rows in use, admitting another completion no longer raises throughput.
    cache_budget_rows: usize,
    /// The rows of the pages, followed by one row for each token that only pads a batch.
    pool: KvPool<B>,
    acts: Activations<B>,
    /// [logit_rows, vocab]
    logits: B::Buffer<f32>,
    logit_rows: usize,
    rows: B::Buffer<u32>,
    /// [draws], for as many as are sampled at a time
    ids: B::Buffer<u32>,
    logprobs: B::Buffer<f32>,
}

/// The most logits that are computed at a time, on every device: 128 MiB.
const LOGITS: usize = 32 << 20;

/// Rows whose logits are computed at the same time. A device with enough memory ([`crate::tensor::Device::logits_max`]) has room
/// for all rows of a decode step, so that forward pass and logits can be one graph: 256 rows of 151,936 take 148 MiB.
fn logit_rows<B: Backend>(backend: &B, vocab: usize, limits: &EngineLimits) -> usize {
    let decode_rows = backend.replay_size(limits.max_running).min(backend.logits_max().unwrap_or(LOGITS) / vocab);
    let rows = (LOGITS / vocab).clamp(1, 2 * limits.max_running.max(64)).max(decode_rows);
    rows.min(limits.logit_rows).max(1)
}

/// Sampled tokens and their log-probabilities, being copied from the device.
struct Drawn {
    ids: Fetch<u32>,
    logprobs: Fetch<f32>,
}

impl<B: Backend> Engine<B> {
    /// Allocates the caches and the buffers of forward passes. A cache that cannot hold the longest prompt with its completion
    /// is an error.
    pub fn new(model: &Qwen3<B>, limits: EngineLimits) -> Result<Self, EngineError> {
        assert!(
            limits.max_running < limits.max_batch_tokens,
            "max_batch_tokens must exceed max_running, to leave room for prompt tokens"
        );
        limits.check()?;
        let fitting = limits.cache_rows / limits.sequence_rows.max(1);
        let count = model.backend.workers().min(limits.max_running / WORKER_SEQUENCES_MIN).min(fitting).max(1);
        let (c, element) = (&model.config, size_of::<B::Compute>());
        let row = 2 * c.kv_dim() * c.num_hidden_layers * element;
        let cache_budget_rows = model.backend.kv_cache_budget(model.table.parameter_count() * element) / row;
        let per_worker = EngineLimits {
            cache_rows: limits.cache_rows / count,
            max_running: limits.max_running / count,
            max_batch_tokens: limits.max_batch_tokens / count,
            ..limits
        };
        let (workers, statistics) = (Vec::new(), EngineStatistics::default());
        let per_worker = (per_worker, count, cache_budget_rows / count);
        let mut engine = Self { limits, per_worker, workers, statistics };
        engine.allocate(model)?;
        Ok(engine)
    }

    /// Allocates what was released.
    fn allocate(&mut self, model: &Qwen3<B>) -> Result<(), EngineError> {
        let (limits, count, cache_budget_rows) = self.per_worker;
        model.backend.phase(Phase::Prefill, || {
            for _ in self.workers.len()..count {
                self.workers.push(Worker::new(model, limits, cache_budget_rows)?);
            }
            Ok(())
        })
    }

    /// Gives back the cache and the buffers of forward passes. The next call allocates them again.
    pub fn release(&mut self) {
        self.statistics = self.take_statistics();
        self.workers.clear();
    }

    /// The counts since the last call of this function, or since the engine was made.
    pub fn take_statistics(&mut self) -> EngineStatistics {
        let mut all = std::mem::take(&mut self.statistics);
        for worker in &mut self.workers {
            let of_worker = std::mem::take(&mut worker.statistics);
            // The workers' pages are in use at the same time.
            let pages_max = all.pages_max + of_worker.pages_max;
            all += of_worker;
            all.pages_max = pages_max;
        }
        all
    }

    /// Generates every sample of every group, in the order of the request. It calls `finished` with the number of completions
    /// that have just ended. Setting `stop` from another thread ends the work with an error, and so do logits that are not
    /// finite.
    pub fn generate(
        &mut self,
        model: &Qwen3<B>,
        groups: &[PromptGroup],
        stop: Option<&AtomicBool>,
        mut finished: impl FnMut(usize) + Send,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let mut completions: Vec<Vec<Option<Completion>>> =
            groups.iter().map(|group| vec![None; group.samples.len()]).collect();
        let mut failed = None;
        let each = |Ended { group, sample, completion }: Ended| match completion {
            Ok(completion) => {
                completions[group][sample] = Some(completion);
                finished(1);
                ControlFlow::Continue(())
            }
            Err(NotFinite { position }) => {
                failed.get_or_insert(EngineError::NotFinite { group, sample, position });
                ControlFlow::Break(())
            }
        };
        let ended = self.generate_each(model, groups, stop, each);
        failed.map_or(ended, Err)?;
        let ended = |samples: Vec<Option<Completion>>| {
            samples.into_iter().map(|completion| completion.expect("every sample has ended")).collect()
        };
        Ok(completions.into_iter().map(ended).collect())
    }

    /// Generates every sample of every group and calls `each` with every one as it ends. They begin in the order of the
    /// request, but a short one ends before a longer one that began earlier. A sample whose logits are not finite ends alone.
    /// Setting `stop` from another thread ends the work with [`EngineError::Interrupted`], and so does a `Break` of `each`.
    pub fn generate_each(
        &mut self,
        model: &Qwen3<B>,
        groups: &[PromptGroup],
        stop: Option<&AtomicBool>,
        each: impl FnMut(Ended) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        let one = |group: &PromptGroup, sample: &SampleRequest| PromptGroup {
            samples: vec![sample.clone()],
            ..group.clone()
        };
        // Every group, or every sample as a separate group, with the indices of the group and of the first sample.
        let parts: Vec<(usize, usize, Cow<'_, PromptGroup>)> = if self.limits.share_prompts {
            groups.iter().enumerate().map(|(i, group)| (i, 0, Cow::Borrowed(group))).collect()
        } else {
            let split = |(i, group): (usize, &PromptGroup)| {
                let alone = |(first, sample)| (i, first, Cow::Owned(one(group, sample)));
                group.samples.iter().enumerate().map(alone).collect::<Vec<_>>()
            };
            groups.iter().enumerate().flat_map(split).collect()
        };
        self.allocate(model)?;
        let count = self.workers.len();
        // Taken away after a `Break`: several samples can end in the same step.
        let (each, broken) = (Mutex::new(Some(each)), AtomicBool::new(false));
        let stopped = || broken.load(Ordering::Relaxed) || stop.is_some_and(|flag| flag.load(Ordering::Relaxed));
        // Groups are assigned round-robin, so that the workers end at about the same time.
        let assigned = |worker: usize| parts.iter().skip(worker).step_by(count);
        let run_worker = |(index, worker): (usize, &mut Worker<B>)| {
            let own: Vec<&PromptGroup> = assigned(index).map(|(_, _, group)| group.as_ref()).collect();
            let ended = |ended: Ended| {
                let (group, first, _) = parts[index + ended.group * count];
                let ended = Ended { group, sample: first + ended.sample, ..ended };
                let Ok(mut each) = each.lock() else { return };
                if each.as_mut().is_some_and(|each| each(ended).is_break()) {
                    *each = None;
                    broken.store(true, Ordering::Relaxed);
                }
            };
            // What one worker cannot do, the others need not go on with.
            worker.generate(model, &own, &stopped, ended).inspect_err(|_| broken.store(true, Ordering::Relaxed))
        };
        let results: Vec<Result<(), EngineError>> = if count == 1 {
            vec![model.backend.together(|| run_worker((0, &mut self.workers[0])))]
        } else {
            self.workers.par_iter_mut().enumerate().map(|worker| model.backend.alone(|| run_worker(worker))).collect()
        };
        let (interrupted, others): (Vec<_>, Vec<_>) =
            results.into_iter().partition(|result| matches!(result, Err(EngineError::Interrupted)));
        others.into_iter().chain(interrupted).collect::<Result<(), EngineError>>()?;
        match each.into_inner() {
            Ok(None) => Err(EngineError::Interrupted),
            _ => Ok(()),
        }
    }
}

impl<B: Backend> Worker<B> {
    fn new(model: &Qwen3<B>, limits: EngineLimits, cache_budget_rows: usize) -> Result<Self, EngineError> {
        let (b, c) = (&model.backend, &model.config);
        let logit_rows = logit_rows(b, c.vocab_size, &limits);
        let draws = limits.max_running.max(64);
        let cache_rows = limits.cache_rows / limits.page_size * limits.page_size;
        let padding = (1..=limits.max_running).map(|rows| b.replay_size(rows) - rows).max().unwrap_or(0);
        let tokens = limits.max_batch_tokens.max(b.replay_size(limits.max_running));
        b.named("logits", || {
            Ok(Self {
                pool: KvPool::new(b, c, cache_rows + padding).map_err(OpError::from)?,
                acts: Activations::for_inference(b, c, tokens).map_err(OpError::from)?,
                logits: b.zeros(logit_rows * c.vocab_size).map_err(OpError::from)?,
                rows: b.zeros(logit_rows).map_err(OpError::from)?,
                ids: b.zeros(draws).map_err(OpError::from)?,
                logprobs: b.zeros(draws).map_err(OpError::from)?,
                statistics: EngineStatistics::default(),
                logit_rows,
                cache_budget_rows,
                limits,
            })
        })
    }

    fn generate(
        &mut self,
        model: &Qwen3<B>,
        groups: &[&PromptGroup],
        stopped: &impl Fn() -> bool,
        ended: impl Fn(Ended),
    ) -> Result<(), EngineError> {
        self.check(model, groups)?;
        let mut scheduler = Scheduler::new(groups, self.limits, self.cache_budget_rows);
        let mut outcome = Ok(());
        while !scheduler.done() && outcome.is_ok() {
            if stopped() {
                outcome = Err(EngineError::Interrupted);
                break;
            }
            outcome = model.backend.range(|| "rollout".into(), || self.step(model, &mut scheduler));
            scheduler.ended.drain(..).for_each(&ended);
        }
        self.statistics += scheduler.statistics();
        outcome
    }

    fn check(&self, model: &Qwen3<B>, groups: &[&PromptGroup]) -> Result<(), EngineError> {
        let vocab = model.config.vocab_size as u32;
        for (index, group) in groups.iter().enumerate() {
            let (prompt, new) = (group.prompt.len(), group.max_new_tokens);
            let refuse = |reason: String| Err(EngineError::Request(format!("prompt {index}: {reason}")));
            if prompt == 0 || new == 0 {
                return refuse(format!(
                    "a prompt needs at least one token and at least one new token, got {prompt} and {new}"
                ));
            }
            if prompt + new > model.context() {
                return refuse(format!("{prompt} + {new} new tokens exceed the context of {}", model.context()));
            }
            if let Some(id) = group.prompt.iter().find(|id| **id >= vocab) {
                return refuse(format!("token {id} is outside the vocabulary of {vocab}"));
            }
            let (size, total) = (self.limits.page_size, self.limits.cache_rows / self.limits.page_size);
            let pages = pages_min(prompt, new, size);
            if pages > total {
                let left = total.saturating_sub(prompt.div_ceil(size)) * size;
                return refuse(format!(
                    "{prompt} + {new} new tokens need {pages} pages of {size} rows, and the key and value cache has {total}: {}",
                    if left > 0 {
                        format!("up to {} new tokens fit", left + 1)
                    } else {
                        "the prompt does not fit".into()
                    }
                ));
            }
        }
        Ok(())
    }

    /// One forward pass, and the tokens sampled from it.
    fn step(&mut self, model: &Qwen3<B>, scheduler: &mut Scheduler<'_>) -> Result<(), EngineError> {
        let (mut batch, pending) = scheduler.next_batch();
        // Rows to sample from are at the end of the batch, so that the last layer can skip the others.
        let first_read = batch.tokens() - pending.rows.len();
        let drawn = if first_read == 0 {
            pad(model.backend.replay_size(batch.tokens()), scheduler.pool_rows(), &mut batch);
            let b = &model.backend;
            b.phase(Phase::Decode, || b.range(|| "decode".into(), || self.decode(model, &batch, &pending)))?
        } else {
            batch.read_from(first_read);
            let prefill = || {
                model.forward(&batch, &mut self.pool, &mut self.acts)?;
                self.draw(model, batch.tokens(), &pending)
            };
            model.backend.phase(Phase::Prefill, || model.backend.range(|| "prefill".into(), prefill))?
        };
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        for Drawn { ids: some_ids, logprobs: some_logprobs } in drawn {
            ids.extend(some_ids.get().map_err(OpError::from)?);
            logprobs.extend(some_logprobs.get().map_err(OpError::from)?);
        }
        scheduler.take_draws(&ids, &logprobs);
        Ok(())
    }

    /// One decode step: the forward pass and the logits of all rows, replayed together, then sampling. If the logits do not fit
    /// at the same time, only the forward pass is replayed.
    fn decode(&mut self, model: &Qwen3<B>, batch: &Batch, pending: &Pending) -> Result<Vec<Drawn>, EngineError> {
        let (b, n) = (&model.backend, batch.tokens());
        model.load(batch, &self.pool, &mut self.acts)?;
        if n > self.logit_rows {
            b.replayed(|| model.forward_loaded(batch, &mut self.pool, &mut self.acts))?;
            return self.draw(model, n, pending);
        }
        // Padding gets logits too, so that the commands are the same for every batch of this size.
        let rows: Vec<u32> = pending.rows.iter().copied().chain(pending.rows.len() as u32..n as u32).collect();
        b.write(b.view_mut(&mut self.rows, 0..n), &rows).map_err(OpError::from)?;
        b.replayed(|| {
            model.forward_loaded(batch, &mut self.pool, &mut self.acts)?;
            let out = b.view_mut(&mut self.logits, 0..n * model.config.vocab_size);
            model.logits(&self.acts, n, b.view(&self.rows, 0..n), out)
        })?;
        b.range(|| "sampling".into(), || self.sample(model, n, &pending.draws))
    }

    /// Samples from every pending row of the last forward pass, as many rows at a time as their logits fit.
    fn draw(&mut self, model: &Qwen3<B>, tokens: usize, pending: &Pending) -> Result<Vec<Drawn>, EngineError> {
        let (b, vocab) = (&model.backend, model.config.vocab_size);
        let mut drawn = Vec::new();
        for (first, rows) in (0..).step_by(self.logit_rows).zip(pending.rows.chunks(self.logit_rows)) {
            let n = rows.len();
            b.write(b.view_mut(&mut self.rows, 0..n), rows).map_err(OpError::from)?;
            let out = b.view_mut(&mut self.logits, 0..n * vocab);
            model.logits(&self.acts, tokens, b.view(&self.rows, 0..n), out)?;
            let here = pending.draws.iter().filter(|draw| (first..first + n as u32).contains(&draw.row));
            let draws: Vec<Draw> = here.map(|draw| Draw { row: draw.row - first, ..*draw }).collect();
            drawn.extend(b.range(|| "sampling".into(), || self.sample(model, n, &draws))?);
        }
        Ok(drawn)
    }

    /// Samples from the first `rows` rows of the logits, as many tokens at a time as `ids` has room for.
    fn sample(&mut self, model: &Qwen3<B>, rows: usize, draws: &[Draw]) -> Result<Vec<Drawn>, EngineError> {
        let (b, vocab) = (&model.backend, model.config.vocab_size);
        let mut drawn = Vec::new();
        for draws in draws.chunks(b.len(&self.ids)) {
            let n = draws.len();
            b.sample(Sample {
                ids: b.view_mut(&mut self.ids, 0..n),
                logprobs: b.view_mut(&mut self.logprobs, 0..n),
                logits: b.view(&self.logits, 0..rows * vocab),
                draws,
                vocab,
            })?;
            let ids = b.fetch(b.view(&self.ids, 0..n)).map_err(OpError::from)?;
            let logprobs = b.fetch(b.view(&self.logprobs, 0..n)).map_err(OpError::from)?;
            drawn.push(Drawn { ids, logprobs });
        }
        Ok(drawn)
    }
}

/// Pads a decode batch to `size` tokens with dummy tokens, each a separate sequence in a row after the `pool_rows` rows of the
/// pages: the batches then have few different sizes, and the device can replay them.
fn pad(size: usize, pool_rows: usize, batch: &mut Batch) {
    for row in (pool_rows as u32..).take(size - batch.tokens()) {
        push_tokens(batch, &[0], 0, &[Run { start: row, len: 1 }], [Run { start: row, len: 1 }]);
    }
}
