//! The stages of a run as jobs for a plan, from its settings.

use super::fit::Wanted;
use super::job::{Job, Learning, Rewarding, Rollouts, Stage};
use super::machine::{Kind, Machine};
use crate::config::Settings;
use crate::model::{Qwen3Config, Recompute};
use crate::rollout::EngineLimits;
use crate::setting::Valid;

/// Tokens of a forward pass of rollouts on a card, unless the settings say otherwise: enough for a prefill to be bound by its
/// matmuls.
const PREFILL_TOKENS: usize = 8192;

/// Sizes of an engine for such lengths, without a limit by memory.
fn unlimited(kind: Kind, prompt: usize, new: usize, running: usize) -> EngineLimits {
    let mut limits = EngineLimits::for_lengths(prompt, new, running);
    if kind == Kind::Cuda {
        limits.max_batch_tokens = limits.max_batch_tokens.max(PREFILL_TOKENS);
    }
    limits
}

/// The same as the settings ask for.
fn limits(settings: &Settings, kind: Kind, prompt: usize, new: usize) -> EngineLimits {
    let running = settings.rl.max_running;
    let mut limits = unlimited(kind, prompt, new, running);
    if settings.memory.prefill_tokens > 0 {
        limits.max_batch_tokens = settings.memory.prefill_tokens.max(running + 1);
    }
    if settings.memory.cache_tokens > 0 {
        let rows = settings.memory.cache_tokens.next_multiple_of(limits.page_size);
        limits.cache_rows = rows.min(limits.cache_rows);
    }
    limits
}

/// What generation alone wants to fit: prompts of up to `prompt` tokens with up to `new` more, `running` at a time.
pub fn inference(model: &Qwen3Config, kind: Kind, context: usize, [prompt, new, running]: [usize; 3]) -> Wanted {
    let limits = unlimited(kind, prompt, new, running);
    let rollouts = Rollouts { limits, prompt, new, prompt_tokens: 0, new_tokens: 0 };
    let job = Job {
        stage: Stage::Inference,
        model: model.clone(),
        context,
        lm_head_chunk_rows: 0,
        reference: false,
        learning: None,
        rollouts: Some(rollouts),
        rewards: None,
    };
    Wanted { job, recompute: None, share: None, cache_is_given: false }
}

/// What a run of `sft` wants to fit.
pub fn sft(settings: &Valid<Settings>, model: &Qwen3Config, machine: &Machine) -> Wanted {
    let s = &settings.sft;
    let held_out = settings.eval.every > 0;
    let learning = Learning {
        adamw: settings.part(|s| &s.sft.adamw),
        micro_batch_tokens: s.micro_batch_tokens,
        recompute: Recompute::Nothing,
        share: false,
        steps: s.steps,
        tokens: (s.examples_per_step * s.max_length) as u64,
        updates: 1,
        scorings: 0,
    };
    let rollouts = held_out.then(|| Rollouts {
        limits: limits(settings, machine.kind, settings.eval.max_prompt_tokens, settings.eval.max_new_tokens),
        prompt: settings.eval.max_prompt_tokens,
        new: settings.eval.max_new_tokens,
        prompt_tokens: 0,
        new_tokens: 0,
    });
    wanted(settings, model, Stage::Sft, learning, rollouts, false)
}

/// What a run of `rl` wants to fit.
pub fn rl(settings: &Valid<Settings>, model: &Qwen3Config, machine: &Machine) -> Wanted {
    let s = &settings.rl;
    let reference = s.policy.kl_coefficient > 0.0;
    let again = s.updates_per_step > 1 && machine.kind == Kind::Cuda;
    let responses = (2 * s.pairs_per_step) as u64;
    let new = responses * (s.rollouts * s.max_new_tokens) as u64;
    let prompts = responses * s.max_prompt_tokens as u64;
    let learning = Learning {
        adamw: settings.part(|s| &s.rl.adamw),
        micro_batch_tokens: s.micro_batch_tokens,
        recompute: Recompute::Nothing,
        share: false,
        steps: s.steps,
        tokens: prompts + new,
        updates: s.updates_per_step as u64,
        scorings: u64::from(reference) + u64::from(again),
    };
    let (mut prompt, mut longest) = (s.max_prompt_tokens, s.max_new_tokens);
    if settings.eval.every > 0 {
        prompt = prompt.max(settings.eval.max_prompt_tokens);
        longest = longest.max(settings.eval.max_new_tokens);
    }
    let rollouts = Rollouts {
        limits: limits(settings, machine.kind, prompt, longest),
        prompt,
        new: longest,
        prompt_tokens: prompts,
        new_tokens: new,
    };
    let mut wanted = wanted(settings, model, Stage::Rl, learning, Some(rollouts), reference);
    wanted.job.rewards = Some(Rewarding {
        settings: settings.part(|s| &s.reward),
        mode: settings.judge.mode,
        pairs: s.pairs_per_step,
        rollouts: s.rollouts,
    });
    wanted
}

fn wanted(
    settings: &Valid<Settings>,
    model: &Qwen3Config,
    stage: Stage,
    learning: Learning,
    rollouts: Option<Rollouts>,
    reference: bool,
) -> Wanted {
    let context = settings.model.context.min(model.context());
    let job = Job {
        stage,
        model: model.clone(),
        context,
        lm_head_chunk_rows: settings.run.lm_head_chunk_rows,
        reference,
        learning: Some(learning),
        rollouts,
        rewards: None,
    };
    let memory = &settings.memory;
    Wanted {
        job,
        recompute: memory.recompute.asked(),
        share: memory.share.asked(),
        cache_is_given: memory.cache_tokens > 0,
    }
}
