//! Rollouts of a judge: prompts in, judgements with their token ids and verdicts out.

use std::sync::atomic::AtomicBool;

use crate::data::{Pair, Role};
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::reward::{Verdict, VerdictRules};
use crate::rollout::{Completion, Engine, EngineError, Finish, Member, PromptGroup};
use crate::tokenizer::Tokenizer;

/// A pair with the judge's prompt for each of its sides, as token ids.
#[derive(Clone, Debug)]
pub struct JudgePair {
    pub pair: Pair,
    /// By [`Role::index`].
    pub prompts: [Vec<u32>; 2],
}

/// One judgement of one side of a pair.
#[derive(Clone, Debug)]
pub struct Judged {
    pub completion: Completion,
    pub text: String,
    pub verdict: Verdict,
}

/// How judgements are drawn.
#[derive(Clone, Copy, Debug)]
pub struct JudgePlan<'a> {
    pub tokenizer: &'a Tokenizer,
    pub rules: &'a VerdictRules,
    pub sampling: Sampling,
    /// Judgements of each side.
    pub votes: usize,
    pub max_new_tokens: usize,
    /// Folded with (pair, role, rollout) for the random numbers of one judgement.
    pub stream: Stream,
}

/// Judgements of both sides of every pair: `[pair][role][rollout]`.
pub fn judge_pairs<B: Backend>(
    engine: &mut Engine<B>,
    model: &Qwen3<B>,
    plan: &JudgePlan<'_>,
    pairs: &[JudgePair],
    stop: Option<&AtomicBool>,
    finished: impl FnMut(usize) + Send,
) -> Result<Vec<[Vec<Judged>; 2]>, EngineError> {
    let group = |judged: &JudgePair, role: Role| {
        let stream = plan.stream.fold(judged.pair.id).fold(role.index() as u64);
        let member = |rollout| Member { sampling: plan.sampling, stream: stream.fold(rollout as u64) };
        PromptGroup {
            prompt: judged.prompts[role.index()].clone(),
            members: (0..plan.votes).map(member).collect(),
            stop: plan.tokenizer.eos_ids().to_vec(),
            max_new_tokens: plan.max_new_tokens,
        }
    };
    let groups: Vec<_> = pairs.iter().flat_map(|pair| Role::BOTH.map(|role| group(pair, role))).collect();
    let mut completions = engine.generate(model, &groups, stop, finished)?.into_iter();
    let mut side = || completions.next().expect("a result a group").into_iter().map(|c| read(plan, c)).collect();
    Ok(pairs.iter().map(|_| [side(), side()]).collect())
}

/// The text and the verdict of a completion; the closing end-of-text token is not part of the text.
pub fn read(plan: &JudgePlan<'_>, completion: Completion) -> Judged {
    let finished = completion.finish == Finish::Stop;
    let ids = if finished { &completion.tokens[..completion.tokens.len() - 1] } else { &completion.tokens[..] };
    let text = plan.tokenizer.decode(ids, false);
    let verdict = Verdict::parse(&text, finished, plan.rules);
    Judged { completion, text, verdict }
}
