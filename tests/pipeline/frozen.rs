//! A frozen model scores as the model that it was made from, whatever becomes of that, and holds no more than scoring reads.

use patarm::model::parameters::random_weights;
use patarm::model::{Batch, Qwen3};
use patarm::ops::{Backend, Cpu};
use patarm::train::{Scorer, Targets};

use crate::common::suite::config;

const VOCAB: usize = 61;

fn logprobs<B: Backend>(model: &Qwen3<B>) -> Vec<u32> {
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    for length in [17u32, 4] {
        let first = batch.tokens();
        batch.push_sequence(&(0..length).map(|i| i * 7 % VOCAB as u32).collect::<Vec<_>>());
        (0..length).for_each(|i| targets.push(first + i as usize, i * 5 % VOCAB as u32));
    }
    let results = Scorer::new(model, 64).unwrap().score(model, &batch, &targets, 0.8).unwrap();
    results.get().unwrap().logprob.into_iter().map(f32::to_bits).collect()
}

fn scores_as_its_model<B: Backend>(backend: &B) {
    for tied in [true, false] {
        let mut config = config(VOCAB);
        config.tie_word_embeddings = tied;
        let mut model = Qwen3::new(backend, config.clone(), &random_weights(&config, 5), 64).unwrap();
        let (before, frozen) = (logprobs(&model), model.frozen().unwrap());
        assert!(logprobs(&frozen) == before, "tied {tied}: other bits");
        let changed = random_weights(&config, 6);
        backend.write(backend.view_mut(model.master_mut(), 0..changed.len()), &changed).unwrap();
        model.refresh().unwrap();
        assert!(logprobs(&model) != before && logprobs(&frozen) == before, "tied {tied}: the reference moved");
    }
}

#[test]
fn a_frozen_model_scores_as_its_model() {
    scores_as_its_model(&Cpu);
    #[cfg(has_cuda)]
    crate::common::devices::devices().iter().for_each(scores_as_its_model);
}

#[test]
#[should_panic(expected = "a frozen model has no master weights")]
fn a_frozen_model_has_no_master_weights() {
    crate::common::suite::model(&Cpu, VOCAB, 1).frozen().unwrap().master();
}

/// By the device's own table: bf16 matrices, f32 norms and rotary positions, and an embedding in f32 only where it is no head.
#[cfg(has_cuda)]
#[test]
fn a_frozen_model_holds_no_master_weights_of_its_matrices() {
    use patarm::cuda::{Cuda, Emulation};
    use patarm::tensor::Device;

    crate::common::devices::devices();
    for tied in [true, false] {
        // A device of its own: nobody else's buffers are in its table.
        let device = Cuda::open(0, Emulation::Allowed).unwrap();
        let mut config = config(8192);
        (config.hidden_size, config.intermediate_size, config.tie_word_embeddings) = (64, 2048, tied);
        let context = 512;
        let model = Qwen3::new(&device, config.clone(), &random_weights(&config, 1), context).unwrap();
        let _frozen = model.frozen().unwrap();
        let held = |label: &str| device.ledger().held(label);
        let (matrices, norms) = model.table.decay_ranges();
        let embedding = if tied { 0 } else { model.table.embedding.range.len() };
        // What is looked up and not multiplied has no bf16 copy.
        let bytes = 2 * (matrices.len() - embedding) + 4 * (norms.len() + embedding + context * config.head_dim);
        assert_eq!(held("reference"), bytes, "tied {tied}");
        assert!(10 * held("reference") < 6 * (held("weights") + held("prepared weights")));
    }
}
