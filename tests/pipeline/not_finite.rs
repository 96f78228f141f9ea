//! A sample whose logits are not finite ends alone: the others are what they would have been without it.

use std::ops::ControlFlow;

use patarm::model::Qwen3;
use patarm::model::parameters::random_weights;
use patarm::ops::Cpu;
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Ended, Engine, EngineError, EngineLimits, NotFinite, PromptGroup, SampleRequest};

use crate::common::suite;

const VOCAB: usize = 61;
/// Its embedding is NaN.
const DAMAGED: u32 = 60;

fn model() -> Qwen3<Cpu> {
    let mut config = suite::config(VOCAB);
    config.tie_word_embeddings = false;
    let mut weights = random_weights(&config, 3);
    let hidden = config.hidden_size;
    let table = patarm::model::ParameterTable::new(&config);
    let embedding = table.parameters().iter().find(|p| p.name == "model.embed_tokens.weight").unwrap().range();
    weights[embedding][DAMAGED as usize * hidden..][..hidden].fill(f32::NAN);
    Qwen3::new(&Cpu, config, &weights, 512).unwrap()
}

fn group(index: u64, damaged: bool) -> PromptGroup {
    let stream = Stream::new(index);
    // Never drawn: its own logit is finite, but the prompts decide which rows are damaged.
    let mut prompt: Vec<u32> = (0..5 + index as u32).map(|i| stream.below(i, VOCAB - 1) as u32).collect();
    if damaged {
        prompt[2] = DAMAGED;
    }
    let sample = |m: u64| SampleRequest { sampling: Sampling::temperature(1.0), stream: stream.fold(1 + m) };
    PromptGroup { prompt, samples: (0..3).map(sample).collect(), stop: vec![7], max_new_tokens: 12 }
}

fn limits(share_prompts: bool) -> EngineLimits {
    EngineLimits { share_prompts, ..EngineLimits::for_lengths(16, 12, 7) }
}

fn each(model: &Qwen3<Cpu>, limits: EngineLimits, groups: &[PromptGroup]) -> Vec<Ended> {
    let mut all = Vec::new();
    let take = |ended| {
        all.push(ended);
        ControlFlow::Continue(())
    };
    Engine::new(model, limits).unwrap().generate_each(model, groups, None, take).unwrap();
    all.sort_by_key(|ended| (ended.group, ended.sample));
    all
}

#[test]
fn a_damaged_prompt_fails_alone_and_changes_no_other() {
    let model = model();
    let groups: Vec<PromptGroup> = (0..6).map(|index| group(index, index == 2)).collect();
    for share_prompts in [true, false] {
        let all = each(&model, limits(share_prompts), &groups);
        assert_eq!(all.len(), 18);
        let whole: Vec<PromptGroup> =
            groups.iter().enumerate().filter(|(i, _)| *i != 2).map(|(_, g)| g.clone()).collect();
        let mut without = each(&model, limits(share_prompts), &whole).into_iter();
        let mut finite = 0;
        for ended in all {
            match ended.completion {
                Err(NotFinite { position }) if ended.group == 2 => assert_eq!(position, groups[2].prompt.len()),
                // A completion may draw the damaged token itself; with or without the others.
                completion => {
                    finite += usize::from(completion.is_ok());
                    assert_eq!(completion, without.next().unwrap().completion, "group {}", ended.group);
                }
            }
        }
        assert!(finite > 8, "{finite} of 15 are finite");
    }
}

#[test]
fn whoever_wants_all_completions_gets_an_error() {
    let model = model();
    let mut engine = Engine::new(&model, limits(true)).unwrap();
    let groups = [group(0, false), group(1, true)];
    match engine.generate(&model, &groups, None, |_| {}) {
        Err(EngineError::NotFinite { group, sample, position }) => {
            assert_eq!((group, sample, position), (1, 0, groups[1].prompt.len()))
        }
        other => panic!("{other:?}"),
    }
    // The engine is as good as new.
    let again = engine.generate(&model, &groups[..1], None, |_| {});
    assert!(again.is_ok() || matches!(again, Err(EngineError::NotFinite { group: 0, .. })));
}

#[test]
fn whoever_has_seen_enough_ends_the_work() {
    let model = model();
    let mut groups: Vec<PromptGroup> = (0..6).map(|index| group(index, false)).collect();
    groups.iter_mut().for_each(|group| group.max_new_tokens = 1);
    let mut taken = 0;
    let result = Engine::new(&model, limits(true)).unwrap().generate_each(&model, &groups, None, |_| {
        taken += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(result, Err(EngineError::Interrupted)), "{result:?}");
    // Even if several end in the same step.
    assert_eq!(taken, 1);
}
