//! Greedy generation.

use patarm::ops::sample::Sampling;
use patarm::ops::{Backend, Cpu};
use patarm::random::Stream;
use patarm::rollout::{Completion, Engine, EngineLimits, FinishReason, PromptGroup, SampleRequest};

use crate::parity::golden::{Golden, floats, ids};

/// The golden's prompt with as many greedy tokens as the golden has.
pub fn generate<B: Backend>(backend: &B, golden: &Golden) -> Completion {
    let greedy = &golden.json["greedy"];
    let group = PromptGroup {
        prompt: ids(&greedy["prompt"]),
        samples: vec![SampleRequest { sampling: Sampling::GREEDY, stream: Stream::new(0) }],
        stop: vec![],
        max_new_tokens: ids(&greedy["tokens"]).len(),
    };
    let model = golden.model(backend);
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(16, 32, 4)).unwrap();
    engine.generate(&model, &[group], None, |_| {}).unwrap().remove(0).remove(0)
}

#[test]
fn greedy_generation_gives_the_tokens_of_transformers() {
    for case in ["tied_gqa2", "untied_gqa5"] {
        let golden = Golden::load(case);
        let greedy = &golden.json["greedy"];
        assert!(greedy["gap_min"].as_f64().unwrap() > 1e-3, "a golden without near ties");
        let tokens = ids(&greedy["tokens"]);
        let completion = generate(&Cpu, &golden);
        assert_eq!((completion.tokens, completion.finish_reason), (tokens, FinishReason::Length), "{case}");
        for (got, expected) in completion.logprobs.iter().zip(floats(&greedy["logprobs"])) {
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{case}: log-probability {got}, expected {expected}");
        }
    }
}
