//! Decode steps that are replayed as CUDA graphs generate the same tokens as others.

use patarm::cuda::{Cuda, Emulation, ReplayCounts};
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Completion, Engine, EngineLimits, PromptGroup, SampleRequest};

use crate::common::devices::devices;
use crate::common::suite::model;

const VOCAB: usize = 61;

/// A separate device, which has not replayed anything yet.
fn open() -> Cuda {
    devices();
    Cuda::open(0, Emulation::Allowed).unwrap()
}

/// Prompts of these lengths with three samples each, which stop on tokens that occur now and then.
fn groups(seed: u64, prompts: &[usize]) -> Vec<PromptGroup> {
    let group = |(index, length): (usize, &usize)| {
        let stream = Stream::new(seed).fold(index as u64);
        let prompt = (0..*length as u32).map(|i| stream.below(i, VOCAB) as u32).collect();
        let sample = |m: u64| SampleRequest { sampling: Sampling::temperature(1.0), stream: stream.fold(1 + m) };
        PromptGroup { prompt, samples: (0..3).map(sample).collect(), stop: vec![7, 8], max_new_tokens: 40 }
    };
    prompts.iter().enumerate().map(group).collect()
}

/// Up to eleven completions run at a time, so most batches are padded.
fn limits() -> EngineLimits {
    EngineLimits::for_lengths(160, 40, 11)
}

/// The completions of each request, and the replay counts after each.
fn generate(device: &Cuda, requests: &[&[PromptGroup]]) -> Vec<(Vec<Vec<Completion>>, ReplayCounts)> {
    let model = model(device, VOCAB, 5);
    let mut engine = Engine::new(&model, limits()).unwrap();
    let mut one = |groups: &&[PromptGroup]| {
        let completions = engine.generate(&model, groups, None, |_| {}).unwrap_or_else(|e| panic!("{e}"));
        (completions, device.replay_counts())
    };
    requests.iter().map(&mut one).collect()
}

#[test]
fn replayed_decode_steps_generate_the_same_tokens() {
    let (first, second) = (groups(1, &[5, 130, 3, 17]), groups(2, &[40, 1, 8, 9]));
    let [one, again, other] = generate(&open(), &[&first, &first, &second]).try_into().unwrap();
    assert_eq!(one.0, again.0, "the second time, most steps are replayed");
    let fresh = generate(&open(), &[&second]).remove(0);
    assert_eq!(other.0, fresh.0, "replays of another request's graphs");
    // Lists and scratch get the same addresses, so a repeated request has no new steps.
    assert_eq!(again.1.sent, one.1.sent);
    assert_eq!(again.1.launched - one.1.launched, one.1.sent + one.1.launched, "{:?}, {:?}", one.1, again.1);
    // Other requests mostly have batches of the same few sizes.
    assert!(other.1.sent < one.1.sent + fresh.1.sent, "{:?}, {:?}, alone {:?}", again.1, other.1, fresh.1);
}

/// Rows that only pad a batch follow those of the pages, however few these are, and pre-empted sequences come back into replayed
/// steps.
#[test]
fn steps_are_replayed_in_a_cache_that_is_too_small_for_all() {
    let device = open();
    let model = model(&device, VOCAB, 5);
    let mut requests = groups(1, &[5, 30, 3, 17]);
    requests.iter_mut().for_each(|group| group.stop.clear());
    let cache_rows = EngineLimits::rows_min(160, 40);
    let mut engine = Engine::new(&model, EngineLimits { cache_rows, ..limits() }).unwrap();
    let mut one = || {
        let completions = engine.generate(&model, &requests, None, |_| {}).unwrap_or_else(|e| panic!("{e}"));
        (completions, engine.take_statistics(), device.replay_counts())
    };
    let (first, again) = (one(), one());
    assert_eq!((&first.0, first.1), (&again.0, again.1), "the second time, most steps are replayed");
    assert!(first.1.preemptions > 0 && first.1.pages_max == cache_rows / 16, "{:?}", first.1);
    assert_eq!(again.2.sent, first.2.sent);
    assert!(again.2.launched > first.2.launched);
}
