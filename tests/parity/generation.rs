//! Greedy generation.

use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Engine, EngineLimits, Finish, Member, PromptGroup};

use crate::golden::{Golden, floats, ids};

#[test]
fn greedy_generation_gives_the_tokens_of_transformers() {
    for case in ["tied_gqa2", "untied_gqa5"] {
        let golden = Golden::load(case);
        let greedy = &golden.json["greedy"];
        assert!(greedy["gap_min"].as_f64().unwrap() > 1e-3, "a golden without near ties");
        let tokens = ids(&greedy["tokens"]);
        let group = PromptGroup {
            prompt: ids(&greedy["prompt"]),
            members: vec![Member { sampling: Sampling::GREEDY, stream: Stream::new(0) }],
            stop: vec![],
            max_new_tokens: tokens.len(),
        };
        let model = golden.model();
        let mut engine = Engine::new(&model, EngineLimits::for_lengths(16, 32, 4)).unwrap();
        let completion = engine.generate(&model, &[group], None, |_| {}).unwrap().remove(0).remove(0);
        assert_eq!((completion.tokens, completion.finish), (tokens, Finish::Length), "{case}");
        for (got, expected) in completion.logprobs.iter().zip(floats(&greedy["logprobs"])) {
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{case}: log-probability {got}, expected {expected}");
        }
    }
}
