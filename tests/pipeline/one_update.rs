//! With one update a step, the old log-probabilities are those of the update's own forward pass: no scoring pass, and the bits of
//! an update that had one.

use patarm::checkpoint::Progress;
use patarm::config::RlSettings;
use patarm::loss::Denominator;
use patarm::ops::{Backend, Cpu};
use patarm::rollout::{Engine, EngineLimits};
use patarm::setting::Valid;
use patarm::train::prefix_tree::{self, Sequence, pack};
use patarm::train::rl::{RlContext, RlPlan, StepOutcome, rl_step};
use patarm::train::trajectory::{Inputs, Rows};
use patarm::train::{Guard, Learner, Loss, Scorer, TokenObjective};

use crate::common::suite::{SuiteFixture, model, rl_settings};

/// Less than two pairs need.
const CAPACITY: usize = 96;

fn settings() -> RlSettings {
    RlSettings { updates_per_step: 1, pairs_per_step: 2, rollouts: 2, max_new_tokens: 8, ..rl_settings() }
}

fn learner<B: Backend>(backend: &B, fixture: &SuiteFixture) -> Learner<B> {
    Learner::new(fixture.model(backend), Valid::default(), CAPACITY).unwrap()
}

fn bits<B: Backend>(learner: &Learner<B>) -> Vec<u32> {
    let (b, len) = (&learner.model.backend, learner.model.table.arena_len());
    b.download(b.view(learner.model.master(), 0..len)).unwrap().into_iter().map(f32::to_bits).collect()
}

/// What `rl_step` makes of a fresh learner, and what it says.
fn step<B: Backend>(backend: &B, fixture: &SuiteFixture) -> (StepOutcome, Vec<u32>) {
    let settings = settings();
    // Random weights write no verdict, so advantages are 0 and the pull to another model is what is learned.
    let other = model(backend, fixture.model(&Cpu).config.vocab_size, 8);
    let reference = other.frozen().unwrap();
    let plan = RlPlan {
        settings: Valid::new(settings.clone()).unwrap(),
        reward: Valid::default(),
        judge: &fixture.judge,
        seed: 9,
        share: false,
        stop: None,
    };
    let limits = EngineLimits::for_lengths(settings.max_prompt_tokens, settings.max_new_tokens, settings.max_running);
    let folder = tempfile::tempdir().unwrap();
    let mut learner = learner(backend, fixture);
    let mut context = RlContext {
        reference: Some(&reference),
        engine: &mut Engine::new(&learner.model, limits).unwrap(),
        scorer: &mut Scorer::new(&learner.model, CAPACITY).unwrap(),
        guard: &mut Guard::new(folder.path().to_path_buf(), 1),
        learner: &mut learner,
    };
    let outcome = rl_step(&mut context, fixture, &plan, &mut Progress::default(), None).unwrap();
    (outcome, bits(&learner))
}

/// A fresh learner after an update on a step's trajectories, with the old log-probabilities of a scoring pass if `scored`, and
/// how far that pass is from decoding.
fn update<B: Backend>(
    backend: &B,
    fixture: &SuiteFixture,
    step: &StepOutcome,
    scored: bool,
    advantage: impl Fn(usize) -> f32,
) -> (Vec<u32>, f64) {
    let (settings, mut learner, trajectories) = (settings(), learner(backend, fixture), &step.trajectories);
    let mut scorer = Scorer::new(&learner.model, CAPACITY).unwrap();
    let sequences: Vec<Sequence<'_>> = (trajectories.iter())
        .map(|t| Sequence {
            tree: t.pair,
            prompt: &step.pairs[t.pair].prompts[t.role.index()],
            completion: &t.judged.completion.tokens,
        })
        .collect();
    let old = prefix_tree::score(&mut scorer, &learner.model, &sequences, CAPACITY, settings.temperature).unwrap();
    let of = Denominator {
        tokens: sequences.iter().map(|s| s.completion.len()).sum(),
        sequences: sequences.len(),
        max_new_tokens: settings.max_new_tokens,
    };
    let micro_batches = pack(&sequences, CAPACITY).unwrap();
    assert!(micro_batches.len() > 1, "all of them run under the same weights");
    for mut micro in micro_batches {
        let rows = Rows::gather(&micro, |i| Inputs {
            weight: settings.aggregation.token_weight(sequences[i].completion.len(), of),
            advantage: advantage(i),
            rollout: &trajectories[i].judged.completion.logprobs,
            old: scored.then_some(&old[i]),
            reference: trajectories[i].reference_logprobs.as_deref(),
        });
        let loss = Loss::Grpo {
            loss: settings.policy,
            old_logprob: rows.old.as_deref(),
            reference_logprob: rows.reference.as_deref(),
            advantages: &rows.advantages,
        };
        learner
            .accumulate(
                &mut micro.batch,
                &TokenObjective {
                    targets: &micro.targets,
                    row_weights: &rows.weight,
                    temperature: settings.temperature,
                    loss: &loss,
                },
            )
            .unwrap();
    }
    learner.update_if(true, step.metrics.learning_rate).unwrap();
    let recorded = trajectories.iter().flat_map(|t| &t.judged.completion.logprobs);
    let gaps = recorded.zip(old.iter().flatten()).map(|(recorded, scored)| f64::from((scored - recorded).abs()));
    (bits(&learner), gaps.fold(0.0, f64::max))
}

fn one_update_is_the_update_of_two_passes<B: Backend>(backend: &B, mismatch_limit: f64) {
    let fixture = SuiteFixture::new();
    let (outcome, weights) = step(backend, &fixture);
    assert!(outcome.trajectories.iter().all(|t| t.old_logprobs.is_none()), "nobody scored them");
    assert!(
        outcome.metrics.clip_share == 0.0 && outcome.metrics.kl_mean.is_some_and(|kl| kl > 0.0),
        "{:?}",
        outcome.metrics
    );
    let rewarded = |i: usize| outcome.trajectories[i].rewarded.advantage;
    let (two_passes, mismatch) = update(backend, &fixture, &outcome, true, rewarded);
    assert!(weights == two_passes, "two passes give other weights");
    // What the scoring pass was for as well: the update's own numbers say how far decoding was from training.
    assert!(
        mismatch == outcome.metrics.mismatch_max && mismatch <= mismatch_limit,
        "{mismatch}: {:?}",
        outcome.metrics
    );
    // The same where advantages are not 0.
    let drawn = |i: usize| [0.7, -1.3, 0.4, -0.2][i % 4];
    let (two_passes, _) = update(backend, &fixture, &outcome, true, drawn);
    assert!(two_passes == update(backend, &fixture, &outcome, false, drawn).0, "two passes give other weights");
    assert!(two_passes != weights && weights != bits(&learner(backend, &fixture)), "something was learned");
}

#[test]
fn one_update_is_that_of_two_passes_on_the_cpu() {
    one_update_is_the_update_of_two_passes(&Cpu, 0.0);
}

#[cfg(has_cuda)]
#[test]
fn one_update_is_that_of_two_passes_on_cuda() {
    one_update_is_the_update_of_two_passes(&crate::common::devices::devices()[0], 0.5);
}
