//! One stage of a run, as a plan sees it, and the plan itself: the stage on paper.

use std::collections::BTreeMap;

use super::machine::{Kind, Machine};
use crate::data::Role;
use crate::judge::{Failure, JudgeMode, Verdict};
use crate::memory::{Peak, Phase};
use crate::model::weights::Unread;
use crate::model::{Batch, Qwen3, Qwen3Config, Recompute};
use crate::ops::paper::{Imitated, OfCpu, OfCuda, Paper};
use crate::ops::sample::Sampling;
use crate::ops::{Backend, Cost, OpError};
use crate::optimizer::AdamWConfig;
use crate::random::Stream;
use crate::reward::{Judgement, PairRewardManager, RewardError, RewardSettings};
use crate::rollout::{Engine, EngineError, EngineLimits, PromptGroup, SampleRequest};
use crate::setting::Valid;
use crate::tensor::Device;
use crate::train::{Learner, Scorer, Targets, TokenObjective};

/// What is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Sft,
    Rl,
    /// `judge`, `eval`, `generate`: rollouts alone
    Inference,
}

/// One stage of a run.
#[derive(Clone, Debug)]
pub struct Job {
    pub stage: Stage,
    pub model: Qwen3Config,
    /// The longest sequence
    pub context: usize,
    /// 0: what suits the machine
    pub lm_head_chunk_rows: usize,
    /// Whether a second, frozen model gives reference log-probabilities
    pub reference: bool,
    pub learning: Option<Learning>,
    /// Rollouts, or evaluations on held-out pairs
    pub rollouts: Option<Rollouts>,
    /// Rewards of a step's judgements
    pub rewards: Option<Rewarding>,
}

/// How a stage learns.
#[derive(Clone, Debug)]
pub struct Learning {
    pub adamw: Valid<AdamWConfig>,
    pub micro_batch_tokens: usize,
    pub recompute: Recompute,
    /// Whether rollouts, scoring and training use the same memory, one after the other
    pub share: bool,
    pub steps: u64,
    /// At most, in one step: tokens that are trained
    pub tokens: u64,
    /// Updates of a step
    pub updates: u64,
    /// How often a step scores its tokens before it trains on them: by the reference, and for several updates by itself
    pub scorings: u64,
}

/// What a stage rewards.
#[derive(Clone, Copy, Debug)]
pub struct Rewarding {
    pub settings: Valid<RewardSettings>,
    pub mode: JudgeMode,
    pub pairs: usize,
    /// Judgements of each response
    pub rollouts: usize,
}

impl Rewarding {
    /// Rewards as many judgements as there are in a step.
    fn run<B: Backend>(&self, backend: &B) -> Result<(), RewardError> {
        let Self { settings, mode, pairs, rollouts } = *self;
        let mut manager = PairRewardManager::new(settings, mode, rollouts);
        for pair in 0..pairs as u64 {
            for role in Role::BOTH {
                for rollout in 0..rollouts as u32 {
                    manager.add(Judgement { pair, role, rollout, verdict: Verdict::Failed(Failure::Missing) })?;
                }
            }
        }
        backend.phase(Phase::Reward, || backend.named("rewards", || manager.finish(backend)))?;
        Ok(())
    }
}

/// How a stage generates.
#[derive(Clone, Copy, Debug)]
pub struct Rollouts {
    pub limits: EngineLimits,
    /// The longest prompt and the longest completion
    pub prompt: usize,
    pub new: usize,
    /// At most, in one step: tokens of prompts and of completions
    pub prompt_tokens: u64,
    pub new_tokens: u64,
}

/// A stage on paper.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What each phase holds, scratch included
    pub phases: BTreeMap<Phase, Peak>,
    /// Bytes that an arena has to hold for it, gaps between buffers included
    pub reserved_bytes: usize,
    /// Bytes of scratch that a device sets aside; 0 on the CPU, whose scratch is the LM head's logits alone
    pub scratch_bytes: usize,
    /// Rows of logits that the LM head computes at a time
    pub lm_head_chunk_rows: usize,
    /// What one step computes and moves, at most
    pub step: BTreeMap<Phase, Cost>,
}

impl Plan {
    /// Bytes of the phase that needs the most.
    pub fn peak_bytes(&self) -> usize {
        self.phases.values().map(|peak| peak.bytes).max().unwrap_or(0)
    }

    /// What is to be compared with the memory of a machine.
    pub fn needed_bytes(&self) -> usize {
        self.reserved_bytes.max(self.peak_bytes())
    }

    /// Floating-point operations of one step.
    pub fn step_flops(&self) -> u64 {
        self.step.values().map(|cost| cost.flops).sum()
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error(transparent)]
    Load(#[from] crate::model::LoadError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Device(#[from] crate::tensor::DeviceError),
}

/// cuBLASLt's workspace.
const WORKSPACE_BYTES: usize = 32 << 20;

impl Job {
    /// Runs one step on paper.
    pub fn plan(&self, machine: &Machine) -> Result<Plan, PlanError> {
        match machine.kind {
            Kind::Cpu => self.on_paper(&OfCpu, 0, 0),
            Kind::Cuda => {
                let card = OfCuda { name: machine.name.clone(), memory_bytes: machine.memory_bytes };
                let scratch = self.on_paper(&card, 0, WORKSPACE_BYTES)?.scratch_bytes;
                self.on_paper(&card, scratch, WORKSPACE_BYTES)
            }
        }
    }

    fn on_paper<I: Imitated>(&self, imitated: &I, scratch: usize, workspace: usize) -> Result<Plan, PlanError> {
        let paper = Paper::new(imitated.clone());
        let _scratch = paper.named("scratch", || paper.zeros::<u32>(scratch.div_ceil(4)))?;
        let _workspace = paper.named("matmul workspace", || paper.zeros::<u32>(workspace / 4))?;
        let mut step = BTreeMap::new();
        let chunk_rows = match self.learning.is_some() || self.reference {
            true => self.training(&paper, &mut step)?,
            false => self.inference(&paper)?,
        };
        Ok(Plan {
            phases: paper.ledger().peaks(),
            reserved_bytes: paper.reserved_bytes(),
            scratch_bytes: paper.scratch_bytes(),
            lm_head_chunk_rows: chunk_rows,
            step,
        })
    }

    fn with_chunk<B: Backend>(&self, model: &mut Qwen3<B>) -> usize {
        if self.lm_head_chunk_rows > 0 {
            model.lm_head_chunk_rows = self.lm_head_chunk_rows;
        }
        model.lm_head_chunk_rows
    }

    fn inference<I: Imitated>(&self, paper: &Paper<I>) -> Result<usize, PlanError> {
        let mut model = Qwen3::for_inference(paper, self.model.clone(), &Unread, self.context)?;
        let chunk_rows = self.with_chunk(&mut model);
        if let Some(rollouts) = &self.rollouts {
            let mut engine = Engine::new(&model, rollouts.limits)?;
            rollouts.run(&model, &mut engine)?;
        }
        Ok(chunk_rows)
    }

    /// A step of training: the same calls as `sft` and `rl` make, with the largest batches that there can be.
    fn training<I: Imitated>(&self, paper: &Paper<I>, step: &mut BTreeMap<Phase, Cost>) -> Result<usize, PlanError> {
        let learning = self.learning.as_ref().expect("a stage that trains");
        let capacity = learning.micro_batch_tokens;
        let mut model = Qwen3::new(paper, self.model.clone(), &Unread, self.context)?;
        let chunk_rows = self.with_chunk(&mut model);
        let reference = if self.reference { Some(model.frozen()?) } else { None };
        let mut learner = Learner::recomputing(model, learning.adamw, capacity, learning.recompute)?;
        if learning.share {
            learner.release();
        }
        let mut engine = None;
        let mut scorer = None;
        if self.stage == Stage::Rl {
            engine = self.rollouts.map(|rollouts| Engine::new(&learner.model, rollouts.limits)).transpose()?;
            if let Some(engine) = engine.as_mut().filter(|_| learning.share) {
                engine.release();
            }
            let scorer = scorer.insert(Scorer::new(&learner.model, capacity)?);
            if learning.share {
                scorer.release();
            }
        } else if let Some(rollouts) = self.rollouts {
            // Held-out pairs are judged between steps, by an engine of their own.
            learner.release();
            rollouts.run(&learner.model, &mut Engine::new(&learner.model, rollouts.limits)?)?;
        }
        let mut meter = Meter { paper, seen: paper.costs() };
        if let (Some(rollouts), Some(engine)) = (&self.rollouts, &mut engine) {
            let work = rollouts.run(&learner.model, engine)?;
            if let Some(rewards) = &self.rewards {
                rewards.run(paper)?;
            }
            if learning.share {
                engine.release();
            }
            let spent = meter.spent();
            scaled(step, &spent, Phase::Prefill, rollouts.prompt_tokens, work.prompt_tokens);
            scaled(step, &spent, Phase::Decode, rollouts.new_tokens, work.new_tokens);
        }
        let (mut batch, targets) = full_batch(capacity, self.context, self.model.vocab_size);
        if let Some(scorer) = scorer.as_mut().filter(|_| learning.scorings > 0) {
            scorer.score(reference.as_ref().unwrap_or(&learner.model), &batch, &targets, 1.0)?.get()?;
            if learning.share {
                scorer.release();
            }
            scaled(step, &meter.spent(), Phase::Score, learning.scorings * learning.tokens, capacity as u64);
        }
        train(&mut learner, &mut batch, &targets)?;
        let spent = meter.spent();
        for phase in [Phase::Forward, Phase::Loss, Phase::Backward] {
            scaled(step, &spent, phase, learning.tokens, capacity as u64);
        }
        scaled(step, &spent, Phase::Update, learning.updates, 1);
        paper.phase(Phase::Save, || ());
        Ok(chunk_rows)
    }
}

/// One micro-batch and one update.
fn train<B: Backend>(learner: &mut Learner<B>, batch: &mut Batch, targets: &Targets) -> Result<(), OpError> {
    let weights = vec![1.0; targets.rows.len()];
    learner.accumulate(batch, &TokenObjective::cross_entropy(targets, &weights))?.get()?;
    learner.update_if(true, 1e-6)?;
    Ok(())
}

/// A micro-batch of as many tokens as there can be, in sequences as long as there can be, each token a target.
fn full_batch(capacity: usize, context: usize, vocab: usize) -> (Batch, Targets) {
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    for first in (0..capacity).step_by(context.max(1)) {
        let ids: Vec<u32> = (first..capacity.min(first + context)).map(|id| (id % vocab) as u32).collect();
        batch.push_sequence(&ids);
    }
    (0..capacity).for_each(|row| targets.push(row, (row % vocab) as u32));
    (batch, targets)
}

/// Tokens that went through the model in a piece of work.
struct Work {
    prompt_tokens: u64,
    new_tokens: u64,
}

impl Rollouts {
    /// As many completions as may run, each alone with a prompt as long as the cache allows: a prefill of full batches, and
    /// decode steps of all of them. The first token comes with the prompt, so two more are two steps.
    fn run<B: Backend>(&self, model: &Qwen3<B>, engine: &mut Engine<B>) -> Result<Work, EngineError> {
        const NEW: usize = 3;
        let new = NEW.min(self.new);
        let EngineLimits { cache_rows, page_size, max_running, sequence_rows, .. } = self.limits;
        let rows = (cache_rows / max_running).max(page_size + NEW).min(sequence_rows) / page_size * page_size;
        let prompt = rows.saturating_sub(page_size + NEW).clamp(1, (self.prompt + self.new - new).max(1));
        let sample = |i| SampleRequest { sampling: Sampling::temperature(1.0), stream: Stream::new(i) };
        let group = |i| PromptGroup {
            prompt: vec![0; prompt],
            samples: vec![sample(i)],
            stop: Vec::new(),
            max_new_tokens: new,
        };
        let groups: Vec<PromptGroup> = (0..max_running as u64).map(group).collect();
        engine.generate(model, &groups, None, |_| {})?;
        let count = max_running as u64;
        Ok(Work { prompt_tokens: count * prompt as u64, new_tokens: count * (new as u64 - 1) })
    }
}

/// Costs since they were last asked for.
struct Meter<'a, I: Imitated> {
    paper: &'a Paper<I>,
    seen: BTreeMap<Phase, Cost>,
}

impl<I: Imitated> Meter<'_, I> {
    fn spent(&mut self) -> BTreeMap<Phase, Cost> {
        let now = self.paper.costs();
        let before = std::mem::replace(&mut self.seen, now.clone());
        let since = |(phase, cost): (Phase, Cost)| {
            let seen = before.get(&phase).copied().unwrap_or_default();
            (phase, Cost { bytes: cost.bytes - seen.bytes, flops: cost.flops - seen.flops })
        };
        now.into_iter().map(since).collect()
    }
}

/// Adds what `of` pieces of work cost, where `measured` of them cost what was spent in a phase.
fn scaled(step: &mut BTreeMap<Phase, Cost>, spent: &BTreeMap<Phase, Cost>, phase: Phase, of: u64, measured: u64) {
    let Some(cost) = spent.get(&phase) else { return };
    let scale = |number: u64| (number as f64 * of as f64 / measured.max(1) as f64) as u64;
    *step.entry(phase).or_default() += Cost { bytes: scale(cost.bytes), flops: scale(cost.flops) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Machine, stages};
    use crate::setting::{Assignment, resolve};

    /// Operations of a step of sft over those of one that computes nothing again.
    #[test]
    fn computing_layers_again_costs_at_most_a_third_more_operations_and_norms_cost_nothing() {
        let machine = Machine::named("h100").unwrap();
        let settings = |lever: &str| {
            let assignments = [Assignment::set(&format!("memory.recompute={lever}")).unwrap()];
            resolve(&crate::config::Settings::default(), None, std::iter::empty(), &assignments).unwrap()
        };
        for shape in ["0.6b", "1.7b"] {
            let model = Qwen3Config::named(shape).unwrap();
            let flops = |lever| {
                let fit = stages::sft(&settings(lever), &model, &machine).fit(&machine).unwrap();
                fit.plan.step_flops() as f64
            };
            let kept = flops("nothing");
            let [norms, inputs, block] = ["norms", "attention_inputs", "block"].map(|lever| flops(lever) / kept);
            assert!((1.0..1.001).contains(&norms), "{shape}: norms {norms}");
            assert!(norms < inputs && inputs < block, "{shape}: inputs {inputs}, block {block}");
            assert!(block <= 1.34, "{shape}: block {block}");
        }
    }
}
