//! Frozen weights cost no gradient and stay as they are; the others learn as if all were trained, bit for bit.

use patarm::model::parameters::random_weights;
use patarm::model::{Batch, ParameterTable, Qwen3};
use patarm::ops::{Backend, Cpu};
use patarm::optimizer::AdamWConfig;
use patarm::setting::Valid;
use patarm::train::{Learner, Loss, Targets, TokenObjective};

use crate::common::suite::config;

const VOCAB: usize = 61;

/// Matrices and norms here and there.
fn scattered(name: &str) -> bool {
    ["0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj", "1.mlp.down_proj", "0.post_attention_layernorm"]
        .into_iter()
        .chain(["1.self_attn.q_norm", "lm_head"])
        .any(|part| name.contains(part))
}

/// Everything that a backward pass reaches after layer 1's attention: it can end there.
fn bottom(name: &str) -> bool {
    let attention = ["q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "input_layernorm"];
    name.contains("embed_tokens")
        || name.contains("layers.0.")
        || (name.contains("layers.1.") && attention.iter().any(|part| name.contains(part)))
}

/// A model whose parameters are frozen where `frozen` says so.
fn learner<B: Backend>(backend: &B, tied: bool, frozen: impl Fn(&str) -> bool) -> Learner<B> {
    let mut config = config(VOCAB);
    config.tie_word_embeddings = tied;
    let mut table = ParameterTable::new(&config);
    table.freeze(frozen);
    let model = Qwen3::with_table(backend, table, &random_weights(&config, 5), 64).unwrap();
    // The norm of a gradient depends on what is frozen, and so would clipping.
    Learner::new(model, Valid::new(AdamWConfig { clip_norm: 0.0, ..AdamWConfig::default() }).unwrap(), 16).unwrap()
}

/// Adds the gradient of one sequence; losses of its tokens.
fn accumulate<B: Backend>(learner: &mut Learner<B>) -> Vec<f32> {
    let ids = [5, 9, 2, 6, 30, 12];
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    batch.push_sequence(&ids);
    ids[1..].iter().enumerate().for_each(|(row, id)| targets.push(row, *id));
    let (row_weights, loss) = (&[0.2; 5][..], &Loss::CrossEntropy);
    let objective = TokenObjective { targets: &targets, row_weights, temperature: 1.0, loss };
    learner.accumulate(&mut batch, &objective).unwrap().get().unwrap().loss
}

/// The gradient, then weights and both moments after an update with it.
fn gradient_and_update<B: Backend>(learner: &mut Learner<B>) -> [Vec<f32>; 4] {
    accumulate(learner);
    let (b, len) = (learner.model.backend.clone(), learner.model.table.arena_len());
    let gradient = b.download(b.view(&learner.gradients.weights, 0..len)).unwrap();
    assert!(learner.update_if(true, 1e-2).unwrap().applied);
    let [weights, moment1, moment2] = learner.arenas().map(|arena| b.download(b.view(arena.1, 0..len)).unwrap());
    [gradient, weights, moment1, moment2]
}

fn frozen_weights_stay_and_the_others_learn<B: Backend>(backend: &B) {
    for (tied, frozen) in [(true, scattered as fn(&str) -> bool), (false, scattered), (false, bottom)] {
        let before = random_weights(&learner(backend, tied, |_| false).model.config, 5);
        let whole = gradient_and_update(&mut learner(backend, tied, |_| false));
        let mut learner = learner(backend, tied, frozen);
        let part = gradient_and_update(&mut learner);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for parameter in learner.model.table.parameters() {
            let (name, range) = (&parameter.name, parameter.range());
            let zeros = vec![0.0; parameter.len()];
            let kept = [&zeros, &before[range.clone()], &zeros, &zeros];
            let learned = whole.each_ref().map(|values| &values[range.clone()]);
            assert!(bits(learned[0]) != bits(&zeros) && bits(learned[1]) != bits(kept[1]), "{name} learns nothing");
            let expected = if frozen(name) { kept } else { learned };
            for (what, (got, expected)) in
                ["gradient", "weight", "moment1", "moment2"].iter().zip(part.iter().zip(expected))
            {
                assert!(bits(&got[range.clone()]) == bits(expected), "tied {tied}, {what} of {name}");
            }
        }
        // The update has kept the prepared weights of both kinds in step with the master weights.
        let losses = accumulate(&mut learner);
        learner.model.refresh().unwrap();
        assert_eq!(bits(&losses), bits(&accumulate(&mut learner)), "tied {tied}: prepared weights differ");
    }
}

#[test]
fn frozen_weights_stay_and_the_others_learn_on_the_cpu() {
    frozen_weights_stay_and_the_others_learn(&Cpu);
}

#[cfg(has_cuda)]
#[test]
fn frozen_weights_stay_and_the_others_learn_on_cuda() {
    crate::common::devices::devices().iter().for_each(frozen_weights_stay_and_the_others_learn);
}

/// Matmuls, and launches of kernels, that a gradient takes.
#[cfg(has_cuda)]
fn commands(tied: bool, frozen: fn(&str) -> bool) -> (u64, std::collections::BTreeMap<&'static str, u64>) {
    use patarm::cuda::{Cuda, Emulation};
    use patarm::tensor::{Device, ProfileDetail};

    crate::common::devices::devices();
    // Opened for this alone: other tests launch kernels at the same time.
    let device = Cuda::open(0, Emulation::Allowed).unwrap();
    let mut learner = learner(&device, tied, frozen);
    let (_, profile) = device.profiled(ProfileDetail::Commands, || accumulate(&mut learner)).unwrap();
    let matmuls = profile.unwrap().ops.iter().filter(|op| op.op == "matmul").map(|op| op.calls).sum();
    (matmuls, device.launch_counts().into_iter().collect())
}

#[cfg(has_cuda)]
#[test]
fn frozen_weights_cost_no_matmuls() {
    let all = commands(false, |_| false);
    // The gradients of layer 0's q, k, v, of layer 1's down, and of the LM head.
    assert_eq!(commands(false, scattered).0, all.0 - 3);
    let end = commands(false, bottom);
    // Both gradients of layer 0's four matrices and of layer 1's q, k, v.
    assert_eq!(end.0, all.0 - 10);
    let launches = |counts: &std::collections::BTreeMap<&str, u64>, part: &str| -> u64 {
        counts.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
    };
    // (part of a kernel's name, launches that are left of those for all weights)
    for (part, left) in [("embedding_backward", 0), ("swiglu_backward", 1), ("rmsnorm_backward", 4)] {
        let (whole, part_frozen) = (launches(&all.1, part), launches(&end.1, part));
        assert!(whole > part_frozen && part_frozen == left, "{part}: {part_frozen} of {whole}: {:?}", end.1);
    }
}
