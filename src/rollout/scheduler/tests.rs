//! The scheduler with a model that needs no arithmetic: what a token's row holds is a hash of the text up to it, and the next
//! token is a function of that hash. A row that is read before it was written, or after another sequence wrote there, gives other
//! tokens.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::ops::sample::{Draw, Sampling};
use crate::random::Stream;
use crate::rollout::SampleRequest;

const VOCAB: usize = 64;

/// The hash of a text and one token more.
fn append(hash: u64, id: u32) -> u64 {
    (hash ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// The hash of no text.
const EMPTY: u64 = 1;

/// The next token after a text. In three of four positions it depends on the text alone, so samples share rows for a while.
fn next(text: u64, draw: &Draw) -> (u32, f32) {
    let common = Stream::new(text).below(draw.position, VOCAB);
    let own = draw.stream.fold(text).below(draw.position, VOCAB);
    let id = if draw.stream.below(draw.position, 4) > 0 { common } else { own };
    (id as u32, -(own as f32))
}

/// The completions of all groups, one after another, without a cache.
fn expected(groups: &[PromptGroup]) -> Vec<Vec<Completion>> {
    let complete = |group: &PromptGroup, sample: &SampleRequest| {
        let mut text = group.prompt.iter().fold(EMPTY, |hash, id| append(hash, *id));
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        loop {
            let position = (group.prompt.len() + tokens.len()) as u32;
            let (id, logprob) =
                next(text, &Draw { row: 0, sampling: sample.sampling, stream: sample.stream, position });
            text = append(text, id);
            tokens.push(id);
            logprobs.push(logprob);
            let stopped = group.stop.contains(&id);
            if stopped || tokens.len() == group.max_new_tokens {
                let finish_reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
                return Completion { tokens, logprobs, finish_reason };
            }
        }
    };
    groups.iter().map(|group| group.samples.iter().map(|sample| complete(group, sample)).collect()).collect()
}

/// What a row of the cache holds: a token, its position, and the hash of the text up to it.
#[derive(Clone, Copy)]
struct Key {
    id: u32,
    position: usize,
    text: u64,
}

/// One forward pass. Returns the draws of `pending`.
fn forward(cache: &mut [Option<Key>], batch: &Batch, pending: &Pending) -> (Vec<u32>, Vec<f32>) {
    let written: HashSet<u32> = batch.kv_rows.iter().copied().collect();
    assert_eq!(written.len(), batch.tokens(), "two tokens have the same row");
    written.iter().for_each(|row| cache[*row as usize] = None);
    let mut texts = vec![0; batch.tokens()];
    for segment in batch.segments.segments() {
        let runs = batch.segments.runs(segment);
        let keys: Vec<u32> = runs.iter().flat_map(|run| run.start..run.start + run.len).collect();
        let first = keys.len() - segment.queries.len();
        let mut text = EMPTY;
        for (position, row) in keys[..first].iter().enumerate() {
            let key = cache[*row as usize].expect("a key is written before it is read");
            text = append(text, key.id);
            assert_eq!((key.position, key.text), (position, text), "a key of another text");
        }
        for (query, row) in segment.queries.clone().zip(&keys[first..]) {
            let (id, position) = (batch.ids[query], batch.positions[query] as usize);
            assert_eq!(batch.kv_rows[query], *row);
            text = append(text, id);
            cache[*row as usize] = Some(Key { id, position, text });
            texts[query] = text;
        }
    }
    let draw = |draw: &Draw| next(texts[pending.rows[draw.row as usize] as usize], draw);
    pending.draws.iter().map(draw).unzip()
}

/// Rows that sequences share hold the same beginning of the same text.
fn assert_shared_rows_are_common(scheduler: &Scheduler<'_>) {
    let mut owners: HashMap<u32, (usize, usize, Vec<u32>)> = HashMap::new();
    for sequence in &scheduler.running {
        let runs = scheduler.pages.runs(&sequence.rows, 0..sequence.rows.rows());
        for (index, row) in runs.iter().flat_map(|run| run.start..run.start + run.len).enumerate() {
            let text = (sequence.group, index, sequence.tokens[..=index].to_vec());
            assert_eq!(owners.entry(row).or_insert(text.clone()), &text, "row {row}");
        }
    }
    for (group, prompt) in scheduler.prompts.iter().enumerate() {
        for run in scheduler.pages.runs(&prompt.rows, 0..prompt.rows.rows()) {
            for row in run.start..run.start + run.len {
                let text = (group, usize::MAX, Vec::new());
                assert_eq!(owners.entry(row).or_insert(text.clone()), &text, "row {row} of a prompt");
            }
        }
    }
}

/// Runs a request to its end. Returns its completions, its statistics, and the most completions that ran at a time.
fn run(
    groups: &[PromptGroup],
    limits: EngineLimits,
    budget: usize,
    check: bool,
) -> (Vec<Vec<Completion>>, EngineStatistics, usize) {
    let refs: Vec<&PromptGroup> = groups.iter().collect();
    let mut scheduler = Scheduler::new(&refs, limits, budget);
    let mut cache = vec![None; scheduler.pool_rows()];
    let mut all: Vec<Vec<Option<Completion>>> = groups.iter().map(|group| vec![None; group.samples.len()]).collect();
    let mut most = 0;
    while !scheduler.done() {
        let (batch, pending) = scheduler.next_batch();
        assert!(batch.tokens() <= limits.max_batch_tokens && scheduler.running.len() <= limits.max_running);
        if check {
            assert_shared_rows_are_common(&scheduler);
        }
        most = most.max(pending.draws.len());
        let (ids, logprobs) = forward(&mut cache, &batch, &pending);
        scheduler.take_draws(&ids, &logprobs);
        for Ended { group, sample, completion } in scheduler.ended.drain(..) {
            let before = all[group][sample].replace(completion.expect("all log-probabilities are finite"));
            assert_eq!(before, None, "a sample ends once");
        }
    }
    assert_eq!(scheduler.pages.used(), 0, "pages are in use after the last sample has ended");
    assert!(scheduler.running.is_empty() && scheduler.waiting.is_empty());
    let all = all.into_iter().map(|samples| samples.into_iter().map(|c| c.expect("every sample ends")).collect());
    (all.collect(), scheduler.statistics(), most)
}

/// Groups with prompts of these lengths.
fn groups(seed: u64, prompts: &[usize], samples: usize, new: usize, stop: usize) -> Vec<PromptGroup> {
    let group = |(index, length): (usize, &usize)| {
        let stream = Stream::new(seed).fold(index as u64);
        let prompt = (0..*length as u32).map(|i| stream.below(i, VOCAB) as u32).collect();
        let sample =
            |m: usize| SampleRequest { sampling: Sampling::temperature(1.0), stream: stream.fold(1 + m as u64) };
        let stop = (0..stop as u32).collect();
        PromptGroup { prompt, samples: (0..samples).map(sample).collect(), stop, max_new_tokens: new }
    };
    prompts.iter().enumerate().map(group).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_with_the_same_tokens_in_any_pool(
        seed in 0u64..1000,
        prompts in proptest::collection::vec(1usize..40, 1..12),
        samples in 0usize..6,
        new in 1usize..40,
        stop in 0usize..4,
        page_size in 1usize..20,
        extra_pages in prop_oneof![Just(0usize), 0usize..6, 0usize..100],
        max_running in 1usize..20,
        extra_tokens in 1usize..60,
        budget in prop_oneof![Just(usize::MAX), 0usize..400],
    ) {
        let groups = groups(seed, &prompts, samples, new, stop);
        let longest = prompts.iter().max().unwrap();
        let total = pages_min(*longest, new, page_size) + extra_pages;
        let limits = EngineLimits {
            cache_rows: total * page_size,
            page_size,
            max_batch_tokens: max_running + extra_tokens,
            ..EngineLimits::for_lengths(*longest, new, max_running)
        };
        let (completions, statistics, _) = run(&groups, limits, budget, true);
        prop_assert_eq!(&completions, &expected(&groups));
        prop_assert!(statistics.pages_max <= total);
        prop_assert!(statistics.tokens_recomputed <= statistics.tokens);
        if statistics.preemptions + statistics.prompts_dropped == 0 {
            prop_assert_eq!(statistics.tokens_recomputed, 0);
        }
    }
}

#[test]
fn the_cache_budget_limits_running_completions_but_not_below_the_minimum() {
    let most = |samples: usize, max_running: usize, budget: usize| {
        let groups = groups(1, &vec![5; samples], 1, 6, 0);
        let limits = EngineLimits { cache_rows: 64 * 16, page_size: 4, ..EngineLimits::for_lengths(5, 6, max_running) };
        let (_, statistics, most) = run(&groups, limits, budget, true);
        (most, statistics.steps)
    };
    assert_eq!(most(40, 16, usize::MAX), (16, 18));
    assert_eq!(most(40, 16, 0), (RUNNING_MIN, 30));
    assert_eq!(most(3, 16, 0), (3, 6));
    assert_eq!(most(40, 4, 0), (4, 60));
    // The budget has room for twelve prompts of two pages each.
    assert_eq!(most(40, 16, 12 * 8), (12, 24));
}
