//! Logits and every named gradient, alone, packed, and with a shared prefix.

use patarm::model::{Activations, Batch, KvPool, Qwen3};
use patarm::ops::{Backend, Cpu};
use patarm::optimizer::AdamWConfig;
use patarm::train::shared_prefix::{Group, pack_groups};
use patarm::train::{Learner, Loss, Targets};

use crate::golden::{Golden, assert_near, assert_near_l2, floats, ids};

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

fn assert_gradients(golden: &Golden, learner: &Learner<Cpu>) {
    let names = golden.names("grad.");
    assert_eq!(names.len(), learner.model.table.parameters().len(), "a golden gradient for every parameter");
    for name in names {
        let parameter = learner.model.table.get(&name["grad.".len()..]).expect("a parameter of that name");
        let got = &learner.gradients.weights[parameter.range()];
        assert_near_l2(&name, got, &golden.tensor(&name), 2e-5);
    }
}

fn learner(golden: &Golden) -> Learner<Cpu> {
    Learner::new(golden.model(), AdamWConfig::default(), 128).unwrap()
}

#[test]
fn one_sequence_has_the_logits_losses_and_gradients_of_transformers() {
    for case in ["tied_gqa2", "untied_gqa5"] {
        let golden = Golden::load(case);
        let mut learner = learner(&golden);
        let ids = ids(&golden.json["ids"]);
        let mut batch = Batch::default();
        batch.push_sequence(&ids);
        assert_near(case, &logits(&learner.model, &batch), &golden.tensor("logits"), 1e-4);

        let mut targets = Targets::default();
        ids[1..].iter().enumerate().for_each(|(row, id)| targets.push(row, *id));
        let weights = vec![1.0 / targets.rows.len() as f32; targets.rows.len()];
        let results = learner.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
        assert_near(case, &results.loss, &golden.tensor("target_losses"), 1e-5);
        assert_gradients(&golden, &learner);
    }
}

/// The packed golden's batch: three sequences, loss on masked-in tokens.
pub fn packed(golden: &Golden) -> (Batch, Targets, Vec<f32>) {
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    let sequences = golden.json["ids"].as_array().unwrap();
    for (sequence, mask) in sequences.iter().zip(golden.json["mask"].as_array().unwrap()) {
        let (ids, first) = (ids(sequence), batch.tokens());
        batch.push_sequence(&ids);
        for (place, learned) in mask.as_array().unwrap().iter().enumerate() {
            if learned.as_bool().unwrap() {
                targets.push(first + place - 1, ids[place]);
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
    let mut learner = learner(&golden);
    let (mut batch, targets, weights) = packed(&golden);
    let expected: Vec<f32> = (0..3).flat_map(|i| golden.tensor(&format!("logits.{i}"))).collect();
    assert_near("logits", &logits(&learner.model, &batch), &expected, 1e-4);
    learner.accumulate(&mut batch, &targets, &weights, 1.0, &Loss::CrossEntropy).unwrap();
    assert_gradients(&golden, &learner);
}

#[test]
fn a_prompt_computed_once_gives_the_gradients_of_whole_sequences() {
    let golden = Golden::load("shared_prefix");
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
    let group = Group { prompt: &prompt, completions: completions.iter().map(Vec::as_slice).collect() };
    let mut learner = learner(&golden);
    // Once with everything in one micro-batch, once cut so that the prompt is repeated: the same gradient.
    for capacity in [64, 18] {
        let mut losses = Vec::new();
        let mut first = 0;
        for mut micro in pack_groups(std::slice::from_ref(&group), capacity).unwrap() {
            let n = micro.targets.rows.len();
            let part = &weights[first..first + n];
            let results = learner.accumulate(&mut micro.batch, &micro.targets, part, 1.0, &Loss::CrossEntropy).unwrap();
            losses.extend(results.loss);
            first += n;
        }
        let expected: Vec<f32> = (0..3).flat_map(|i| golden.tensor(&format!("target_losses.{i}"))).collect();
        assert_near("target losses", &losses, &expected, 1e-5);
        assert_gradients(&golden, &learner);
        learner.gradients.clear(&Cpu).unwrap();
    }
}

#[test]
fn rotary_tables_are_those_of_transformers() {
    let golden = Golden::load("rope");
    let expected = golden.tensor("rope");
    let (dim, theta) = (golden.json["head_dim"].as_u64().unwrap() as usize, golden.json["theta"].as_f64().unwrap());
    let positions = ids(&golden.json["positions"]);
    let table = patarm::model::rope::rope_table(*positions.iter().max().unwrap() as usize + 1, dim, theta);
    for (index, position) in positions.iter().enumerate() {
        let got = &table[*position as usize * dim..][..dim];
        // One ulp of a frequency turns an angle by 6e-8 of itself.
        let limit = 1e-7 + 1.2e-7 * f64::from(*position);
        assert_near(&format!("position {position}"), got, &expected[index * dim..][..dim], limit);
    }
}
