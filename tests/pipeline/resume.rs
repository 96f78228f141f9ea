//! Save, load, and the next ten steps have the same bits: llm.c's test, for SFT and for RL.

use std::path::Path;

use patarm::checkpoint::{self, Progress, RunState};
use patarm::config::SftSettings;
use patarm::ops::{Backend, Cpu};
use patarm::rollout::{Engine, EngineLimits};
use patarm::setting::Valid;
use patarm::train::rl::{RlContext, RlPlan, rl_step};
use patarm::train::sft::sft_step;
use patarm::train::{Guard, Learner, Scorer};
use serde_json::Value;

use crate::common::suite::{SuiteFixture, rl_settings};

/// A metrics line without what a clock measured.
fn timeless(metrics: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(metrics).unwrap();
    let clock = |key: &String| ["_ms", "_s", "_per_s", "_bytes"].iter().any(|end| key.ends_with(end));
    value.as_object_mut().unwrap().retain(|key, _| !clock(key));
    value
}

fn bits<B: Backend>(learner: &Learner<B>) -> Vec<u32> {
    let (b, len) = (&learner.model.backend, learner.model.table.arena_len());
    let arenas = [learner.model.master(), &learner.optimizer.moment1, &learner.optimizer.moment2];
    arenas.into_iter().flat_map(|arena| b.download(b.view(arena, 0..len)).unwrap()).map(f32::to_bits).collect()
}

/// Runs three steps, saves, runs `steps`; loads into a fresh learner, runs as many: lines, weights and moments must agree.
fn assert_resumes<B: Backend>(
    stage: &str,
    steps: usize,
    mut fresh: impl FnMut() -> Learner<B>,
    mut step: impl FnMut(&mut Learner<B>, &mut Progress, &Path) -> Value,
) {
    let folder = tempfile::tempdir().unwrap();
    let (mut learner, mut progress) = (fresh(), Progress::default());
    for _ in 0..3 {
        step(&mut learner, &mut progress, folder.path());
    }
    let state = RunState { stage: stage.into(), progress, updates: learner.optimizer.updates };
    let saved = checkpoint::save(folder.path(), &state, &learner.model.backend, &learner.arenas()).unwrap();
    let lines: Vec<Value> = (0..steps).map(|_| step(&mut learner, &mut progress, folder.path())).collect();

    let mut resumed = fresh();
    assert_ne!(bits(&resumed), bits(&learner), "three steps that change nothing test nothing");
    assert_eq!(checkpoint::latest(folder.path()).as_deref(), Some(saved.as_path()));
    let backend = resumed.model.backend.clone();
    let state = checkpoint::load(&saved, &backend, &mut resumed.arenas_mut()).unwrap();
    resumed.restored(state.updates).unwrap();
    let mut progress = state.progress;
    let again: Vec<Value> = (0..steps).map(|_| step(&mut resumed, &mut progress, folder.path())).collect();
    assert_eq!(lines, again);
    assert_eq!(bits(&learner), bits(&resumed));
}

fn sft_resumes<B: Backend>(backend: &B, steps: usize) {
    let fixture = SuiteFixture::new();
    let settings =
        SftSettings { steps: 13, examples_per_step: 5, learning_rate: 1e-2, warmup: 5, ..SftSettings::default() };
    let settings = Valid::new(settings).unwrap();
    assert_resumes(
        "sft",
        steps,
        || Learner::new(fixture.model(backend), Valid::default(), 256).unwrap(),
        |learner, progress, folder| {
            let mut guard = Guard::new(folder.to_path_buf(), 1);
            timeless(&sft_step(learner, &fixture, &settings, &mut guard, progress, None).unwrap())
        },
    );
}

/// `mismatch`: how far log-probabilities of decoding may be from those of training.
fn rl_resumes<B: Backend>(backend: &B, steps: usize, mismatch: f64) {
    let fixture = SuiteFixture::new();
    let settings = rl_settings();
    let reference = fixture.model(backend).frozen().unwrap();
    let plan = RlPlan {
        settings: Valid::new(settings.clone()).unwrap(),
        reward: Valid::default(),
        judge: &fixture.judge,
        seed: 9,
        share: false,
        stop: None,
    };
    let limits = EngineLimits::for_lengths(settings.max_prompt_tokens, settings.max_new_tokens, settings.max_running);
    let mut engine = Engine::new(&reference, limits).unwrap();
    let mut scorer = Scorer::new(&reference, 256).unwrap();
    assert_resumes(
        "rl",
        steps,
        || Learner::new(fixture.model(backend), Valid::default(), 256).unwrap(),
        |learner, progress, folder| {
            let mut guard = Guard::new(folder.to_path_buf(), 1);
            let mut context = RlContext {
                learner,
                reference: Some(&reference),
                engine: &mut engine,
                scorer: &mut scorer,
                guard: &mut guard,
            };
            let metrics = rl_step(&mut context, &fixture, &plan, progress, None).unwrap().metrics;
            assert!(metrics.mismatch_max <= mismatch, "{metrics:?}");
            timeless(&metrics)
        },
    );
}

#[test]
fn sft_resumes_bit_equal() {
    sft_resumes(&Cpu, 10);
}

#[test]
fn rl_resumes_bit_equal_and_decoding_matches_training_in_every_step() {
    rl_resumes(&Cpu, 10, 0.0);
}

/// The same promises on the device, but that decoding may differ by rounding: random weights this wide have logits of a few tens.
#[cfg(has_cuda)]
#[test]
fn both_resume_bit_equal_on_cuda() {
    // One target each and few steps: an emulated step takes seconds.
    let devices = crate::common::devices::devices();
    sft_resumes(&devices[devices.len() - 1], 3);
    rl_resumes(&devices[0], 2, 0.5);
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused() {
    let fixture = SuiteFixture::new();
    let folder = tempfile::tempdir().unwrap();
    let learner = || Learner::new(fixture.model(&Cpu), Valid::default(), 64).unwrap();
    let state = RunState { stage: "sft".into(), progress: Progress::default(), updates: 0 };
    let saved = checkpoint::save(folder.path(), &state, &Cpu, &learner().arenas()).unwrap();
    let file = saved.join("state.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let message = checkpoint::load(&saved, &Cpu, &mut learner().arenas_mut()).unwrap_err().to_string();
    assert!(message.contains("state.safetensors") && message.contains("hash"), "{message}");
    let mut other = Learner::new(crate::common::suite::model(&Cpu, 61, 1), Valid::default(), 64).unwrap();
    let message = checkpoint::load(&saved, &Cpu, &mut other.arenas_mut()).unwrap_err().to_string();
    assert!(message.contains("another model"), "{message}");
    // A folder without a manifest is not a checkpoint: what a kill in the middle of writing leaves behind.
    std::fs::remove_file(saved.join("manifest.json")).unwrap();
    assert_eq!(checkpoint::latest(folder.path()), None);
}
