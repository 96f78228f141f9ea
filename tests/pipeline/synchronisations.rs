//! How often the host waits for the device in a step.

use patarm::checkpoint::Progress;
use patarm::config::SftSettings;
use patarm::cuda::{Cuda, Emulation};
use patarm::ops::sample::Sampling;
use patarm::random::Stream;
use patarm::rollout::{Engine, EngineLimits, PromptGroup, SampleRequest};
use patarm::setting::Valid;
use patarm::train::sft::sft_step;
use patarm::train::{Guard, Learner};

use crate::common::devices::devices;
use crate::common::suite::{SuiteFixture, model};

/// A separate device, so that no other test waits for it.
fn open() -> Cuda {
    devices();
    Cuda::open(0, Emulation::Allowed).unwrap()
}

/// How often the host waits during `step`.
fn synchronisations(device: &Cuda, step: impl FnOnce()) -> u64 {
    let before = device.synchronisation_count();
    step();
    device.synchronisation_count() - before
}

#[test]
fn a_training_step_waits_for_its_losses_and_for_the_norm() {
    let (device, fixture) = (open(), SuiteFixture::new());
    let settings =
        SftSettings { steps: 13, examples_per_step: 5, learning_rate: 1e-2, warmup: 5, ..SftSettings::default() };
    let settings = Valid::new(settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for capacity in [1024, 256] {
        let mut learner = Learner::new(fixture.model(&device), Valid::default(), capacity).unwrap();
        let mut guard = Guard::new(folder.path().to_path_buf(), 1);
        let mut progress = Progress::default();
        let step = || {
            sft_step(&mut learner, &fixture, &settings, &mut guard, &mut progress, None).unwrap();
        };
        assert_eq!(synchronisations(&device, step), 2, "micro-batches of up to {capacity} tokens");
    }
}

#[test]
fn a_decode_step_waits_once() {
    let device = open();
    let model = model(&device, 61, 5);
    let sample = |m: u64| SampleRequest { sampling: Sampling::temperature(1.0), stream: Stream::new(m) };
    let group = |i: u32| PromptGroup {
        prompt: vec![1 + i, 2, 3],
        samples: (0..4).map(sample).collect(),
        stop: vec![],
        max_new_tokens: 9,
    };
    let mut engine = Engine::new(&model, EngineLimits::for_lengths(3, 9, 12)).unwrap();
    let groups = [0, 1, 2].map(group);
    let generate = || {
        engine.generate(&model, &groups, None, |_| {}).unwrap();
    };
    assert_eq!(synchronisations(&device, generate), 9, "once per token, since all completions decode together");
}
