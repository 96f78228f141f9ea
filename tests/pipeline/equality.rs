//! Log-probabilities from decoding equal those of the training forward bit for bit, however either was batched.

use patarm::model::{Batch, Qwen3};
use patarm::ops::Cpu;
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Completion, Engine, EngineLimits, EngineStatistics, PromptGroup, SampleRequest};
use patarm::train::prefix_tree::{self, Sequence};
use patarm::train::{Scorer, Targets};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::common::suite::model;

const VOCAB: usize = 61;

fn groups(seed: u64, prompts: &[usize], samples: usize, new: usize, temperature: f32) -> Vec<PromptGroup> {
    let group = |(index, length): (usize, &usize)| {
        let stream = Stream::new(seed).fold(index as u64);
        let prompt = (0..*length as u32).map(|i| stream.below(i, VOCAB) as u32).collect();
        let sample = |m: usize| SampleRequest {
            sampling: Sampling::temperature(temperature),
            stream: stream.fold(1 + m as u64),
        };
        PromptGroup { prompt, samples: (0..samples).map(sample).collect(), stop: vec![7], max_new_tokens: new }
    };
    prompts.iter().enumerate().map(group).collect()
}

fn generate(model: &Qwen3<Cpu>, limits: EngineLimits, groups: &[PromptGroup]) -> Vec<Vec<Completion>> {
    Engine::new(model, limits).unwrap().generate(model, groups, None, |_| {}).unwrap()
}

/// Log-probabilities of all completions by training forward passes, one for each whole sequence.
fn score_alone(model: &Qwen3<Cpu>, groups: &[PromptGroup], completions: &[Vec<Completion>], t: f32) -> Vec<f32> {
    let mut scorer = Scorer::new(model, 512).unwrap();
    let mut all = Vec::new();
    for (group, completions) in groups.iter().zip(completions) {
        for completion in completions {
            let ids: Vec<u32> = group.prompt.iter().chain(&completion.tokens).copied().collect();
            let (mut batch, mut targets) = (Batch::default(), Targets::default());
            batch.push_sequence(&ids[..ids.len() - 1]);
            (group.prompt.len()..ids.len()).for_each(|index| targets.push(index - 1, ids[index]));
            all.extend(scorer.score(model, &batch, &targets, t).unwrap().get().unwrap().logprob);
        }
    }
    all
}

/// The same, with packed sequences, whose common prefixes are computed once.
fn score_packed(
    model: &Qwen3<Cpu>,
    groups: &[PromptGroup],
    completions: &[Vec<Completion>],
    t: f32,
    capacity: usize,
) -> Vec<f32> {
    let mut scorer = Scorer::new(model, capacity).unwrap();
    let sequences: Vec<Sequence<'_>> = (groups.iter().zip(completions).enumerate())
        .flat_map(|(tree, (group, completions))| {
            let sequence = move |c| Sequence { tree, prompt: &group.prompt, completion: c };
            completions.iter().map(move |c| sequence(&c.tokens))
        })
        .collect();
    prefix_tree::score(&mut scorer, model, &sequences, capacity, t).unwrap().concat()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn recorded(completions: &[Vec<Completion>]) -> Vec<f32> {
    completions.iter().flatten().flat_map(|c| c.logprobs.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/proptest-regressions/equality.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn decoding_equals_the_training_forward_bit_for_bit(
        seed in 0u64..1000,
        prompts in proptest::collection::vec(1usize..70, 1..5),
        samples in 1usize..5,
        new in 1usize..24,
        page_size in 1usize..40,
        max_running in 1usize..12,
        extra_tokens in 1usize..50,
        share_prompts: bool,
        // At low temperatures completions stay equal for long, and share rows until they differ.
        temperature in prop_oneof![Just(1.0f32), Just(0.7), Just(0.1), Just(0.03)],
        capacity in 110usize..300,
    ) {
        let model = model(&Cpu, VOCAB, seed);
        let groups = groups(seed, &prompts, samples, new, temperature);
        let roomy = EngineLimits::for_lengths(80, 32, 64);
        let plain = generate(&model, roomy, &groups);
        // From just enough pages for the longest prompt with one sample to a few more.
        let longest = prompts.iter().max().unwrap();
        let pages = longest.div_ceil(page_size) + (new - 1).div_ceil(page_size) + extra_tokens % 8;
        let cramped = EngineLimits {
            cache_rows: pages * page_size,
            sequence_rows: pages * page_size,
            page_size,
            max_running,
            max_batch_tokens: max_running + extra_tokens,
            share_prompts,
            logit_rows: 1 + extra_tokens % 5,
        };
        let other = generate(&model, cramped, &groups);
        prop_assert_eq!(&plain, &other, "a completion depends on the schedule");
        let expected = bits(&recorded(&plain));
        prop_assert_eq!(&expected, &bits(&score_alone(&model, &groups, &plain, temperature)));
        prop_assert_eq!(&expected, &bits(&score_packed(&model, &groups, &plain, temperature, capacity)));
    }
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let model = model(&Cpu, VOCAB, 5);
    let groups = groups(5, &[40, 3, 64, 17], 4, 20, 1.0);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let completions = generate(&model, EngineLimits::for_lengths(80, 32, 8), &groups);
            let scored = score_packed(&model, &groups, &completions, 1.0, 256);
            (completions, bits(&scored))
        })
    };
    assert_eq!(on(1), on(3));
}

/// Completions that ran out of pages are the same as others, and the engine counts what that cost.
#[test]
fn a_small_cache_costs_tokens_and_changes_none() {
    let model = model(&Cpu, VOCAB, 3);
    let groups = groups(3, &[20, 33, 7, 16], 3, 40, 1.0);
    let roomy = EngineLimits::for_lengths(33, 40, 12);
    let with = |cache_rows: usize| {
        let mut engine = Engine::new(&model, EngineLimits { cache_rows, ..roomy }).unwrap();
        let completions = engine.generate(&model, &groups, None, |_| {}).unwrap();
        let statistics = engine.take_statistics();
        assert_eq!(engine.take_statistics(), EngineStatistics::default(), "taken once");
        (completions, statistics)
    };
    let (plain, full) = with(roomy.cache_rows);
    let (other, small) = with(EngineLimits::rows_min(33, 40));
    assert_eq!(plain, other);
    assert_eq!((full.preemptions, full.prompts_dropped, full.tokens_recomputed), (0, 0, 0));
    assert!(small.preemptions > 0, "{small:?}");
    assert!(small.tokens_recomputed > 0 && small.steps > full.steps, "{small:?}, {full:?}");
    assert!(small.pages_max <= EngineLimits::rows_min(33, 40) / roomy.page_size, "{small:?}");
    // Samples of which one is pre-empted no longer share what they computed, so more tokens may be computed than again.
    assert!(small.tokens - small.tokens_recomputed >= full.tokens, "{small:?}, {full:?}");
}

#[test]
fn a_cache_that_is_too_small_is_refused_with_what_fits() {
    let model = model(&Cpu, VOCAB, 3);
    let rows_min = EngineLimits::rows_min(33, 40);
    assert_eq!(rows_min, (3 + 3) * 16);
    let limits = EngineLimits { cache_rows: rows_min - 1, ..EngineLimits::for_lengths(33, 40, 12) };
    let error = Engine::new(&model, limits).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("needs 96 rows") && error.contains("has 95"), "{error}");
    let limits = EngineLimits { cache_rows: rows_min, ..limits };
    let mut engine = Engine::new(&model, limits).unwrap();
    let mut refusal = |prompt: usize, new: usize| {
        engine
            .generate(&model, &groups(1, &[5, prompt], 1, new, 1.0), None, |_| {})
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let error = refusal(33, 50);
    assert!(error.contains("prompt 1: 33 + 50 new tokens need 7 pages") && error.contains("up to 49 new"), "{error}");
    let error = refusal(100, 5);
    assert!(error.contains("has 6: the prompt does not fit"), "{error}");
    assert!(engine.generate(&model, &groups(1, &[33], 1, 49, 1.0), None, |_| {}).is_ok());
}
