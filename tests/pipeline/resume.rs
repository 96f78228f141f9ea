//! Save, load, and the next ten steps have the same bits: llm.c's test, for SFT and for RL.

use std::path::Path;

use patarm::checkpoint::{self, RunState};
use patarm::ops::Cpu;
use patarm::optimizer::{AdamWConfig, Decay, Schedule};
use patarm::reward::RewardSettings;
use patarm::rollout::{Engine, EngineLimits};
use patarm::train::rl::{RlMachines, RlPlan, rl_step};
use patarm::train::sft::{Progress, SftPlan, sft_step};
use patarm::train::{Guard, Learner, Scorer};
use serde_json::Value;

use crate::world::{World, rl_settings};

/// A metrics line without what a clock measured.
fn timeless(metrics: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(metrics).unwrap();
    let clock = |key: &String| ["_ms", "_s", "_per_s", "_bytes"].iter().any(|end| key.ends_with(end));
    value.as_object_mut().unwrap().retain(|key, _| !clock(key));
    value
}

fn bits(learner: &Learner<Cpu>) -> Vec<u32> {
    let arenas = [&learner.model.master, &learner.optimizer.moment1, &learner.optimizer.moment2];
    arenas.into_iter().flatten().map(|x| x.to_bits()).collect()
}

/// Runs three steps, saves, runs ten; loads into a fresh learner, runs ten: lines, weights and moments must agree.
fn assert_resumes(
    stage: &str,
    mut fresh: impl FnMut() -> Learner<Cpu>,
    mut step: impl FnMut(&mut Learner<Cpu>, &mut Progress, &Path) -> Value,
) {
    let folder = tempfile::tempdir().unwrap();
    let (mut learner, mut progress) = (fresh(), Progress::default());
    for _ in 0..3 {
        step(&mut learner, &mut progress, folder.path());
    }
    let state = RunState { stage: stage.into(), seed: 1, progress, updates: learner.optimizer.updates };
    let saved = checkpoint::save(folder.path(), &state, &learner).unwrap();
    let lines: Vec<Value> = (0..10).map(|_| step(&mut learner, &mut progress, folder.path())).collect();

    let mut resumed = fresh();
    assert_ne!(bits(&resumed), bits(&learner), "three steps that change nothing test nothing");
    assert_eq!(checkpoint::latest(folder.path()).as_deref(), Some(saved.as_path()));
    let state = checkpoint::load(&saved, &mut resumed).unwrap();
    let mut progress = state.progress;
    let again: Vec<Value> = (0..10).map(|_| step(&mut resumed, &mut progress, folder.path())).collect();
    assert_eq!(lines, again);
    assert_eq!(bits(&learner), bits(&resumed));
}

#[test]
fn sft_resumes_bit_equal() {
    let world = World::new();
    let schedule = Schedule { peak: 1e-2, warmup: 5, decay: Decay::Cosine, total: 13, floor: 0.1 };
    let plan = SftPlan { steps: 13, examples_per_step: 5, schedule };
    assert_resumes(
        "sft",
        || Learner::new(world.model(), AdamWConfig::default(), 256).unwrap(),
        |learner, progress, folder| {
            let mut guard = Guard::new(folder.to_path_buf(), 1);
            timeless(&sft_step(learner, &world, &plan, &mut guard, progress).unwrap())
        },
    );
}

#[test]
fn rl_resumes_bit_equal_and_decoding_matches_training_in_every_step() {
    let world = World::new();
    let settings = rl_settings();
    let reward = RewardSettings::default();
    let reference = world.model();
    let plan = RlPlan {
        settings: &settings,
        reward: &reward,
        rules: &reward.verdict,
        tokenizer: &world.tokenizer,
        schedule: settings.schedule(),
        seed: 9,
        stop: None,
    };
    let limits = EngineLimits::for_lengths(settings.max_prompt_tokens, settings.max_new_tokens, settings.max_running);
    let mut engine = Engine::new(&reference, limits).unwrap();
    let mut scorer = Scorer::new(&reference, 256).unwrap();
    assert_resumes(
        "rl",
        || Learner::new(world.model(), AdamWConfig::default(), 256).unwrap(),
        |learner, progress, folder| {
            let mut guard = Guard::new(folder.to_path_buf(), 1);
            let mut machines = RlMachines {
                learner,
                reference: Some(&reference),
                engine: &mut engine,
                scorer: &mut scorer,
                guard: &mut guard,
            };
            let metrics = rl_step(&mut machines, &world, &plan, progress).unwrap().metrics;
            assert_eq!(metrics.mismatch_max, 0.0);
            timeless(&metrics)
        },
    );
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let learner = || Learner::new(world.model(), AdamWConfig::default(), 64).unwrap();
    let state = RunState { stage: "sft".into(), seed: 1, progress: Progress::default(), updates: 0 };
    let saved = checkpoint::save(folder.path(), &state, &learner()).unwrap();
    let file = saved.join("state.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let message = checkpoint::load(&saved, &mut learner()).unwrap_err().to_string();
    assert!(message.contains("state.safetensors") && message.contains("hash"), "{message}");
    let mut other = Learner::new(crate::world::model(61, 1), AdamWConfig::default(), 64).unwrap();
    let message = checkpoint::load(&saved, &mut other).unwrap_err().to_string();
    assert!(message.contains("another model"), "{message}");
    // A folder without a manifest is not a checkpoint: what a kill in the middle of writing leaves behind.
    std::fs::remove_file(saved.join("manifest.json")).unwrap();
    assert_eq!(checkpoint::latest(folder.path()), None);
}
