//! Judgements by a model: prompts in, judgements with their token ids and verdicts out.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::{Judge, Sections, Verdict};
use crate::data::{Pair, Role};
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::Stream;
use crate::rollout::{Completion, Ended, Engine, EngineError, FinishReason, PromptGroup, SampleRequest};

/// A pair with the judge's prompt for each of its responses, as token ids.
#[derive(Clone, Debug)]
pub struct JudgePair {
    pub pair: Pair,
    /// By [`Role::index`] of the response that a judgement is about; in pairwise mode, of the one that is shown first.
    pub prompts: [Vec<u32>; 2],
}

impl JudgePair {
    /// The requests for both responses.
    fn requests(&self, stream: Stream) -> [JudgeRequest<'_>; 2] {
        let stream = stream.fold(self.pair.id.key());
        Role::BOTH
            .map(|role| JudgeRequest { prompt: &self.prompts[role.index()], stream: stream.fold(role.index() as u64) })
    }
}

/// One judgement of one response.
#[derive(Clone, Debug)]
pub struct Judged {
    pub completion: Completion,
    pub text: String,
    pub verdict: Verdict,
    /// What it says beside the verdict.
    pub sections: Sections,
}

/// How judgements are sampled.
#[derive(Clone, Copy, Debug)]
pub struct JudgeSampling {
    pub sampling: Sampling,
    /// Judgements of each response.
    pub votes: usize,
    pub max_new_tokens: usize,
    /// Folded with the identity of a response, then with the number of the judgement.
    pub stream: Stream,
}

/// A response to be judged.
#[derive(Clone, Copy, Debug)]
pub struct JudgeRequest<'a> {
    /// The judge's prompt, from [`Judge::encode`].
    pub prompt: &'a [u32],
    /// The random stream of the response, folded with the number of a judgement.
    pub stream: Stream,
}

impl Judge {
    /// Judges every response, in the order of the requests. It calls `finished` with the number of judgements that have just
    /// ended. Setting `stop` from another thread ends the work with an error.
    pub fn judge<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        model: &Qwen3<B>,
        how: &JudgeSampling,
        requests: &[JudgeRequest<'_>],
        stop: Option<&AtomicBool>,
        finished: impl FnMut(usize) + Send,
    ) -> Result<Vec<Vec<Judged>>, EngineError> {
        let completions = engine.generate(model, &self.groups(requests, how), stop, finished)?;
        Ok(completions.into_iter().map(|group| group.into_iter().map(|c| self.read(c)).collect()).collect())
    }

    /// Judges every response and calls `each` with its index and its votes as soon as the last of them has ended; `None` is a
    /// vote for which the model's logits were not finite. A `Break` ends the work as `stop` does.
    pub fn judge_each<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        model: &Qwen3<B>,
        how: &JudgeSampling,
        requests: &[JudgeRequest<'_>],
        stop: Option<&AtomicBool>,
        mut each: impl FnMut(usize, Vec<Option<Judged>>) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        let mut open = vec![how.votes; requests.len()];
        let mut votes: Vec<Vec<Option<Judged>>> = requests.iter().map(|_| vec![None; how.votes]).collect();
        engine.generate_each(model, &self.groups(requests, how), stop, |Ended { group, sample, completion }| {
            votes[group][sample] = completion.ok().map(|completion| self.read(completion));
            open[group] -= 1;
            if open[group] > 0 { ControlFlow::Continue(()) } else { each(group, std::mem::take(&mut votes[group])) }
        })
    }

    /// Judges both responses of every pair: `[pair][role][rollout]`.
    pub fn judge_pairs<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        model: &Qwen3<B>,
        how: &JudgeSampling,
        pairs: &[JudgePair],
        stop: Option<&AtomicBool>,
        finished: impl FnMut(usize) + Send,
    ) -> Result<Vec<[Vec<Judged>; 2]>, EngineError> {
        let requests: Vec<JudgeRequest<'_>> = pairs.iter().flat_map(|pair| pair.requests(how.stream)).collect();
        let mut judged = self.judge(engine, model, how, &requests, stop, finished)?.into_iter();
        let mut side = || judged.next().expect("there is one result per request");
        Ok(pairs.iter().map(|_| [side(), side()]).collect())
    }

    /// The engine's view of the requests: a prompt group each, with one sample per judgement of the response.
    fn groups(&self, requests: &[JudgeRequest<'_>], how: &JudgeSampling) -> Vec<PromptGroup> {
        let samples = |stream: Stream| {
            let sample = |vote| SampleRequest { sampling: how.sampling, stream: stream.fold(vote as u64) };
            (0..how.votes).map(sample).collect()
        };
        let group = |request: &JudgeRequest<'_>| PromptGroup {
            prompt: request.prompt.to_vec(),
            samples: samples(request.stream),
            stop: self.tokenizer().eos_ids().to_vec(),
            max_new_tokens: how.max_new_tokens,
        };
        requests.iter().map(group).collect()
    }

    /// Reads the text and the verdict of a completion; the text does not include the end-of-text token.
    pub fn read(&self, completion: Completion) -> Judged {
        let finished = completion.finish_reason == FinishReason::Stop;
        let ids = if finished { &completion.tokens[..completion.tokens.len() - 1] } else { &completion.tokens[..] };
        let text = self.tokenizer().decode(ids, false);
        let format = self.settings().judgement_format();
        let (verdict, sections) = Verdict::parse_after(&self.opened, &text, finished, &format);
        Judged { completion, text, verdict, sections }
    }
}
