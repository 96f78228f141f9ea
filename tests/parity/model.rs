//! Logits and every named gradient, alone, packed, and with a shared prefix.

use patarm::model::rope::{Rope, rope_table};
use patarm::model::{Activations, Batch, KvPool, Qwen3, Qwen3Config};
use patarm::ops::{Backend, Cpu};
use patarm::setting::Valid;
use patarm::train::prefix_tree::{Sequence, pack};
use patarm::train::{Learner, Targets, TokenObjective};

use crate::parity::golden::{Golden, assert_near, assert_near_l2, floats, ids};

/// Logits of all rows of a batch.
pub fn logits<B: Backend>(model: &Qwen3<B>, batch: &Batch) -> Vec<f32> {
    let (b, t, vocab) = (&model.backend, batch.tokens(), model.config.vocab_size);
    let mut pool = KvPool::new(b, &model.config, t).unwrap();
    let mut acts = Activations::for_inference(b, &model.config, t).unwrap();
    model.forward(batch, &mut pool, &mut acts).unwrap();
    let rows = b.upload(&(0..t as u32).collect::<Vec<_>>()).unwrap();
    let mut out = b.zeros::<f32>(t * vocab).unwrap();
    model.logits(&acts, t, b.view(&rows, 0..t), b.view_mut(&mut out, 0..t * vocab)).unwrap();
    b.download(b.view(&out, 0..t * vocab)).unwrap()
}

/// Relative L2 error of every named gradient.
pub fn assert_gradients<B: Backend>(golden: &Golden, learner: &Learner<B>, limit: f64) {
    let (b, gradients) = (&learner.model.backend, &learner.gradients.weights);
    let names = golden.names("grad.");
    assert_eq!(names.len(), learner.model.table.parameters().len(), "a golden gradient for every parameter");
    for name in names {
        let parameter = learner.model.table.get(&name["grad.".len()..]).expect("a parameter of that name");
        let got = b.download(b.view(gradients, parameter.range())).unwrap();
        assert_near_l2(&name, &got, &golden.tensor(&name), limit);
    }
}

/// Of gradients in f32 against f64.
const F32: f64 = 2e-5;

pub fn learner<B: Backend>(backend: &B, golden: &Golden) -> Learner<B> {
    Learner::new(golden.model(backend), Valid::default(), 128).unwrap()
}

/// Passes the golden's one sequence forward and back; (logits, losses of its next tokens).
pub fn one_sequence<B: Backend>(golden: &Golden, learner: &mut Learner<B>) -> (Vec<f32>, Vec<f32>) {
    let ids = ids(&golden.json["ids"]);
    let mut batch = Batch::default();
    batch.push_sequence(&ids);
    let logits = logits(&learner.model, &batch);
    let mut targets = Targets::default();
    ids[1..].iter().enumerate().for_each(|(row, id)| targets.push(row, *id));
    let weights = vec![1.0 / targets.rows.len() as f32; targets.rows.len()];
    let results = learner.accumulate(&mut batch, &TokenObjective::cross_entropy(&targets, &weights)).unwrap();
    (logits, results.get().unwrap().loss)
}

/// Models whose config.json others wrote: YaRN in both spellings, no head_dim, a tied model with another head.
pub const WRITTEN_BY_OTHERS: [&str; 4] = ["rope_yarn", "rope_parameters", "default_head_dim", "tied_other_head"];

/// That a golden of one sequence has these logits, losses and gradients.
fn assert_one_sequence(case: &str) {
    let golden = Golden::load(case);
    let mut learner = learner(&Cpu, &golden);
    let (logits, losses) = one_sequence(&golden, &mut learner);
    assert_near(case, &logits, &golden.tensor("logits"), 1e-4);
    assert_near(case, &losses, &golden.tensor("target_losses"), 1e-5);
    assert_gradients(&golden, &learner, F32);
}

#[test]
fn a_config_that_others_wrote_has_the_logits_losses_and_gradients_of_transformers() {
    WRITTEN_BY_OTHERS.into_iter().for_each(assert_one_sequence);
}

#[test]
fn one_sequence_has_the_logits_losses_and_gradients_of_transformers() {
    ["tied_gqa2", "untied_gqa5"].into_iter().for_each(assert_one_sequence);
}

/// The packed golden's batch: three sequences, loss on masked-in tokens.
pub fn packed(golden: &Golden) -> (Batch, Targets, Vec<f32>) {
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    let sequences = golden.json["ids"].as_array().unwrap();
    for (sequence, mask) in sequences.iter().zip(golden.json["mask"].as_array().unwrap()) {
        let (ids, first) = (ids(sequence), batch.tokens());
        batch.push_sequence(&ids);
        for (index, learned) in mask.as_array().unwrap().iter().enumerate() {
            if learned.as_bool().unwrap() {
                targets.push(first + index - 1, ids[index]);
            }
        }
    }
    let count = golden.json["targets"].as_u64().unwrap() as usize;
    assert_eq!(targets.rows.len(), count);
    (batch, targets, vec![1.0 / count as f32; count])
}

#[test]
fn packed_sequences_are_as_if_each_were_alone() {
    let golden = Golden::load("packed");
    let mut learner = learner(&Cpu, &golden);
    let (mut batch, targets, weights) = packed(&golden);
    let expected: Vec<f32> = (0..3).flat_map(|i| golden.tensor(&format!("logits.{i}"))).collect();
    assert_near("logits", &logits(&learner.model, &batch), &expected, 1e-4);
    learner.accumulate(&mut batch, &TokenObjective::cross_entropy(&targets, &weights)).unwrap();
    assert_gradients(&golden, &learner, F32);
}

/// Passes the golden's prompt and continuations forward and back in micro-batches of `capacity` tokens; the losses.
pub fn shared_prefix<B: Backend>(golden: &Golden, learner: &mut Learner<B>, capacity: usize) -> Vec<f32> {
    let prompt = ids(&golden.json["prompt"]);
    let completions: Vec<Vec<u32>> = golden.json["continuations"].as_array().unwrap().iter().map(ids).collect();
    let denominator = golden.json["denominator"].as_f64().unwrap();
    let weights: Vec<Vec<f32>> = golden.json["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| floats(w).iter().map(|x| (x / denominator) as f32).collect())
        .collect();
    // Weights of the golden belong to the tokens of the whole sequence or of the continuation: take the last ones.
    let weights: Vec<f32> =
        weights.iter().zip(&completions).flat_map(|(w, c)| w[w.len() - c.len()..].to_vec()).collect();
    let sequences: Vec<Sequence<'_>> =
        completions.iter().map(|completion| Sequence { tree: 0, prompt: &prompt, completion }).collect();
    let mut losses = Vec::new();
    let mut first = 0;
    for mut micro in pack(&sequences, capacity).unwrap() {
        let n = micro.targets.rows.len();
        let part = &weights[first..first + n];
        let results =
            learner.accumulate(&mut micro.batch, &TokenObjective::cross_entropy(&micro.targets, part)).unwrap();
        losses.extend(results.get().unwrap().loss);
        first += n;
    }
    losses
}

#[test]
fn a_prompt_computed_once_gives_the_gradients_of_whole_sequences() {
    let golden = Golden::load("shared_prefix");
    let mut learner = learner(&Cpu, &golden);
    // Once with everything in one micro-batch, once cut so that the prompt is repeated: the same gradient.
    for capacity in [64, 18] {
        let losses = shared_prefix(&golden, &mut learner, capacity);
        let expected: Vec<f32> = (0..3).flat_map(|i| golden.tensor(&format!("target_losses.{i}"))).collect();
        assert_near("target losses", &losses, &expected, 1e-5);
        assert_gradients(&golden, &learner, F32);
        learner.gradients.clear(&Cpu).unwrap();
    }
}

#[test]
fn rotary_tables_are_those_of_transformers() {
    let golden = Golden::load("rope");
    let expected = golden.tensor("rope");
    let (dim, theta) = (golden.json["head_dim"].as_u64().unwrap() as usize, golden.json["theta"].as_f64().unwrap());
    let positions = ids(&golden.json["positions"]);
    let table = rope_table(*positions.iter().max().unwrap() as usize + 1, dim, &Rope::new(theta));
    for (index, position) in positions.iter().enumerate() {
        let got = &table[*position as usize * dim..][..dim];
        // One ulp of a frequency turns an angle by 6e-8 of itself.
        let limit = 1e-7 + 1.2e-7 * f64::from(*position);
        assert_near(&format!("position {position}"), got, &expected[index * dim..][..dim], limit);
    }
}

/// Every spelling and every type of scaling. Frequencies are f32: powers, quotients and a ramp take a few roundings, of which the
/// ramp's are relative to a frequency that is up to `factor` times the one that comes out.
#[test]
fn scaled_rotary_tables_are_those_of_transformers() {
    let golden = Golden::load("rope_scaling");
    let positions = ids(&golden.json["positions"]);
    let cases = golden.json["cases"].as_object().unwrap();
    assert!(cases.len() >= 12, "{} cases", cases.len());
    for (name, case) in cases {
        let config = Qwen3Config::from_json(case["config"].as_object().unwrap(), &mut Vec::new()).unwrap();
        let factor = case["attention_factor"].as_f64().unwrap();
        let got = config.rope.attention_factor();
        assert!((got - factor).abs() <= 1e-15 * factor, "{name}: attention factor {got}, expected {factor}");
        let expected = floats(&case["inv_freq"]);
        let got = config.rope.frequencies(config.head_dim);
        assert_eq!(got.len(), expected.len(), "{name}");
        let scale = case["config"]["rope_scaling"]["factor"].as_f64().unwrap_or(4.0);
        let ulps = golden.tensor(&format!("inv_freq.{name}"));
        for (index, ((got, expected), theirs)) in got.iter().zip(&expected).zip(&ulps).enumerate() {
            let error = (f64::from(*got) / expected - 1.0).abs();
            assert!(
                error <= 1e-6 + 1e-7 * scale,
                "{name}: frequency {index} is {got}, expected {expected}: {error:.1e}"
            );
            // The same roundings in the same order: what differs is their power of θ, by two ulps.
            let apart = (f64::from(*got) / f64::from(*theirs) - 1.0).abs();
            assert!(apart <= 2.4e-7, "{name}: frequency {index} is {got}, in transformers {theirs}: {apart:.1e}");
        }
        let dim = config.head_dim;
        let table = rope_table(*positions.iter().max().unwrap() as usize + 1, dim, &config.rope);
        let expected = golden.tensor(&format!("rope.{name}"));
        for (index, position) in positions.iter().enumerate() {
            let got = &table[*position as usize * dim..][..dim];
            let limit = 2e-7 + 2.4e-7 * f64::from(*position);
            assert_near(&format!("{name}, position {position}"), got, &expected[index * dim..][..dim], limit);
        }
    }
}
