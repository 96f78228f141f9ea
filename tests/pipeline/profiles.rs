//! A profiled step gives the same weights and tokens as one without a profile, bit for bit.

use patarm::cuda::{Cuda, Emulation};
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Completion, Engine, EngineLimits, PromptGroup, SampleRequest};
use patarm::setting::Valid;
use patarm::tensor::{Device, ProfileDetail};
use patarm::train::{Learner, Targets, TokenObjective};

use crate::common::devices::devices;
use crate::common::suite::model;

const VOCAB: usize = 61;

/// Two updates on one sequence, then completions of the resulting model, on a separate device.
fn train_and_generate(detail: Option<ProfileDetail>) -> (Vec<f32>, Vec<Vec<Completion>>) {
    devices();
    let device = Cuda::open(0, Emulation::Allowed).unwrap();
    let mut learner = Learner::new(model(&device, VOCAB, 5), Valid::default(), 16).unwrap();
    let mut engine = Engine::new(&learner.model, EngineLimits::for_lengths(3, 12, 6)).unwrap();
    let sample = |m: u64| SampleRequest { sampling: Sampling::temperature(1.0), stream: Stream::new(m) };
    let prompt = vec![3, 1, 4];
    let group = PromptGroup { prompt, samples: (0..5).map(sample).collect(), stop: vec![7], max_new_tokens: 12 };
    let work = || {
        for _ in 0..2 {
            let (mut batch, mut targets) = (patarm::model::Batch::default(), Targets::default());
            batch.push_sequence(&[5, 9, 2, 6, 30, 12]);
            [9, 2, 6, 30, 12].iter().enumerate().for_each(|(row, id)| targets.push(row, *id));
            let objective = TokenObjective::cross_entropy(&targets, &[0.2; 5]);
            let _ = learner.accumulate(&mut batch, &objective).unwrap();
            learner.update_if(true, 1e-2).unwrap();
        }
        // The second time, decode steps are replayed, unless commands are measured.
        let groups = [group];
        let first = engine.generate(&learner.model, &groups, None, |_| {}).unwrap();
        assert_eq!(engine.generate(&learner.model, &groups, None, |_| {}).unwrap(), first);
        (
            device
                .download(learner.model.backend.view(learner.model.master(), 0..learner.model.table.arena_len()))
                .unwrap(),
            first,
        )
    };
    match detail {
        None => work(),
        Some(detail) => device.profiled(detail, work).unwrap().0,
    }
}

#[test]
fn a_profile_does_not_change_a_step() {
    let plain = train_and_generate(None);
    for detail in [ProfileDetail::Phases, ProfileDetail::Commands] {
        assert!(train_and_generate(Some(detail)) == plain, "{detail:?}");
    }
}
