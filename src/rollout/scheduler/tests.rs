//! The scheduler with a model that needs no arithmetic: what a token's row holds is a hash of the text up to it, and the next
//! token is a function of that hash. A row that is read before it was written, or after another sequence wrote there, gives other
//! tokens.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::ops::sample::{Draw, Sampling};
use crate::random::Stream;
use crate::rollout::SampleRequest;

const VOCAB: usize = 256;

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

/// What came of a request.
struct Outcome {
    completions: Vec<Vec<Completion>>,
    statistics: EngineStatistics,
    /// Groups in the order in which their samples ended.
    ended: Vec<usize>,
    /// The most completions that ran at a time.
    running_max: usize,
    /// Tokens of the largest batch.
    batch_max: usize,
}

/// Runs a request to its end, and shows the scheduler after each batch.
fn run(groups: &[PromptGroup], limits: EngineLimits, budget: usize, mut look: impl FnMut(&Scheduler<'_>)) -> Outcome {
    let refs: Vec<&PromptGroup> = groups.iter().collect();
    let mut scheduler = Scheduler::new(&refs, limits, budget);
    let mut cache = vec![None; scheduler.pool_rows()];
    let mut all: Vec<Vec<Option<Completion>>> = groups.iter().map(|group| vec![None; group.samples.len()]).collect();
    let (mut order, mut running_max, mut batch_max) = (Vec::new(), 0, 0);
    while !scheduler.done() {
        let (batch, pending) = scheduler.next_batch();
        look(&scheduler);
        running_max =
            running_max.max(scheduler.running.iter().filter(|s| !s.tokens.is_empty()).map(|s| s.samples.len()).sum());
        batch_max = batch_max.max(batch.tokens());
        let (ids, logprobs) = forward(&mut cache, &batch, &pending);
        scheduler.take_draws(&ids, &logprobs);
        for Ended { group, sample, completion } in scheduler.ended.drain(..) {
            let before = all[group][sample].replace(completion.expect("all log-probabilities are finite"));
            assert_eq!(before, None, "a sample ends once");
            order.push(group);
        }
    }
    assert_eq!(scheduler.pages.used(), 0, "pages are in use after the last sample has ended");
    assert!(scheduler.running.is_empty() && scheduler.waiting.is_empty());
    assert!(running_max <= limits.max_running && batch_max <= limits.max_batch_tokens);
    let all = all.into_iter().map(|samples| samples.into_iter().map(|c| c.expect("every sample ends")).collect());
    let (completions, statistics) = (all.collect(), scheduler.statistics());
    Outcome { completions, statistics, ended: order, running_max, batch_max }
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
        stop in 0usize..16,
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
        let Outcome { completions, statistics, .. } = run(&groups, limits, budget, assert_shared_rows_are_common);
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
        let outcome = run(&groups, limits, budget, |_| {});
        (outcome.running_max, outcome.statistics.steps)
    };
    assert_eq!(most(40, 16, usize::MAX), (16, 18));
    assert_eq!(most(40, 16, 0), (RUNNING_MIN, 30));
    assert_eq!(most(3, 16, 0), (3, 6));
    assert_eq!(most(40, 4, 0), (4, 60));
    // The budget has room for twelve prompts of two pages each.
    assert_eq!(most(40, 16, 12 * 8), (12, 24));
}

/// Limits of a pool of `pages` pages of four rows.
fn small(pages: usize) -> EngineLimits {
    EngineLimits { cache_rows: 4 * pages, page_size: 4, ..EngineLimits::for_lengths(8, 12, 8) }
}

#[test]
fn the_most_recent_sequence_is_preempted_and_continues_when_there_is_room() {
    let groups = groups(1, &[4, 4, 4], 1, 12, 0);
    let mut seen = Vec::new();
    let outcome = run(&groups, small(7), usize::MAX, |scheduler| {
        let state = |s: &Sequence| (s.group, s.tokens.len(), s.rows.rows());
        let waiting: Vec<_> = scheduler.waiting.iter().map(state).collect();
        if scheduler.statistics.preemptions > seen.len() as u64 {
            seen.push((scheduler.running.iter().map(state).collect::<Vec<_>>(), waiting));
        }
    });
    // Three prompts and three completions have six pages. The seventh goes to the first completion, the second one takes
    // that of the third. Later, the first one takes one of the second one's two.
    let expected = [(vec![(0, 5, 5), (1, 5, 5)], vec![(2, 5, 0)]), (vec![(0, 9, 9)], vec![(1, 9, 0), (2, 5, 0)])];
    assert_eq!(seen, expected);
    assert_eq!(outcome.ended, [0, 1, 2]);
    let EngineStatistics { preemptions, prompts_dropped, tokens_recomputed, pages_max, tokens, .. } =
        outcome.statistics;
    // The last tokens had not been computed when their sequences were pre-empted.
    assert_eq!((preemptions, prompts_dropped, tokens_recomputed, pages_max), (2, 0, 8 + 4, 7));
    assert_eq!(tokens, 3 * (4 + 11) + 12);
}

#[test]
fn a_prompt_that_waits_is_dropped_for_the_only_sequence_that_runs() {
    let mut groups = groups(1, &[4, 8], 1, 12, 0);
    groups[1].max_new_tokens = 9;
    let outcome = run(&groups, small(5), usize::MAX, assert_shared_rows_are_common);
    assert_eq!(outcome.completions, expected(&groups));
    let EngineStatistics { preemptions, prompts_dropped, tokens_recomputed, .. } = outcome.statistics;
    assert_eq!((preemptions, prompts_dropped, tokens_recomputed), (0, 1, 8));
}

#[test]
fn a_sequence_whose_next_logits_are_not_finite_frees_its_pages() {
    let groups = groups(1, &[4, 6], 2, 12, 0);
    let refs: Vec<&PromptGroup> = groups.iter().collect();
    let mut scheduler = Scheduler::new(&refs, small(20), usize::MAX);
    for _ in 0..3 {
        let draws = scheduler.next_batch().1.draws.len();
        scheduler.take_draws(&vec![1; draws], &vec![-1.0; draws]);
    }
    let draws = scheduler.next_batch().1.draws.len();
    scheduler.take_draws(&vec![1; draws], &vec![f32::NAN; draws]);
    let failed =
        |group: usize, sample| Ended { group, sample, completion: Err(NotFinite { position: 4 + 2 * group + 3 }) };
    assert_eq!(scheduler.ended, [failed(0, 0), failed(0, 1), failed(1, 0), failed(1, 1)]);
    assert!(scheduler.done() && scheduler.pages.used() == 0);
}

#[test]
fn chunks_of_8192_tokens_and_512_running_completions() {
    let groups = groups(1, &[3000; 12], 64, 20, 0);
    let limits = EngineLimits { max_batch_tokens: 8192, ..EngineLimits::for_lengths(3000, 20, 512) };
    let outcome = run(&groups, limits, usize::MAX, |_| {});
    assert_eq!(outcome.completions, expected(&groups));
    assert_eq!(outcome.running_max, 512);
    // A running sequence keeps its place in the batch even in a step in which it adds no token.
    assert!((8192 - 512..=8192).contains(&outcome.batch_max), "{}", outcome.batch_max);
    assert_eq!(outcome.statistics.tokens_recomputed, 0);
}

/// Completions have 256 tokens on average, where 1,024 are allowed: one token in 256 ends one. Prompts are in the cache until the
/// longest of their samples has ended, so a quarter is a little less than the larger pool uses.
#[test]
fn a_quarter_of_the_worst_case_costs_a_tenth_at_most() {
    let (prompt, new, samples, max_running) = (256, 1024, 16, 64);
    for seed in 1..=3 {
        let groups = groups(seed, &[prompt; 32], samples, new, 1);
        let roomy = EngineLimits { max_batch_tokens: 2048, ..EngineLimits::for_lengths(prompt, new, max_running) };
        let full = run(&groups, roomy, usize::MAX, |_| {});
        let quarter = EngineLimits { cache_rows: roomy.cache_rows / 4, ..roomy };
        let quarter = run(&groups, quarter, usize::MAX, |_| {});
        assert_eq!(full.completions, quarter.completions);
        let lengths = full.completions.iter().flatten().map(|completion| completion.tokens.len());
        let mean = lengths.sum::<usize>() / (32 * samples);
        assert!((230..280).contains(&mean), "{mean} tokens on average");
        let (full, quarter) = (full.statistics, quarter.statistics);
        assert_eq!((full.preemptions, full.tokens_recomputed), (0, 0));
        assert!(quarter.preemptions > 0 && quarter.tokens_recomputed > 0, "{quarter:?}");
        assert!(quarter.steps as f64 <= 1.10 * full.steps as f64, "{full:?}, {quarter:?}");
        assert!(quarter.tokens as f64 <= 1.10 * full.tokens as f64, "{full:?}, {quarter:?}");
    }
}
