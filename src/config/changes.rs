//! What a changed setting does to a run that goes on: the class of each key, in one table.

use toml::{Table, Value};

use super::Settings;

/// What a setting changes in a run that goes on with another value of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClass {
    /// Speed, memory, length, or what is kept on disk. Allowed, said and recorded.
    Free,
    /// The path of an input. What it holds is compared instead, so that a moved file is no change.
    Input,
    /// What is learnt, or the bits of it. Refused unless it is asked for.
    Learnt,
}

use KeyClass::{Free, Input, Learnt};

/// The class of every key of [`Settings`]; a name that ends in `.*` stands for a whole section. A test holds it to the keys.
pub const KEY_CLASSES: &[(&str, KeyClass)] = &[
    ("run.out", Free),
    ("run.threads", Free),
    ("run.checkpoint_every", Free),
    ("run.keep_checkpoints", Free),
    ("run.patience", Free),
    ("run.export_dtype", Free),
    ("run.seed", Learnt),
    // On a GPU it changes the order of sums.
    ("run.lm_head_chunk_rows", Learnt),
    ("memory.budget", Free),
    // On a GPU a norm in the backward pass then reads rounded numbers.
    ("memory.recompute", Learnt),
    ("memory.share", Free),
    ("memory.cache_tokens", Free),
    ("memory.prefill_tokens", Free),
    ("model.path", Input),
    ("model.tokenizer", Input),
    ("model.init", Learnt),
    // Decides which rows are short enough.
    ("model.context", Learnt),
    ("model.thinking", Learnt),
    ("data.train", Input),
    ("data.rubrics", Input),
    ("data.task", Learnt),
    ("data.skip_bad", Learnt),
    ("data.flip", Learnt),
    // Used by the demo alone, which does not resume.
    ("data.teacher_error", Free),
    ("data.score_noise", Free),
    ("judge.*", Learnt),
    ("eval.pairs", Free),
    ("eval.every", Free),
    ("eval.data", Free),
    ("eval.votes", Free),
    ("eval.max_prompt_tokens", Free),
    ("eval.max_new_tokens", Free),
    // Decides which pairs are left to learn from.
    ("eval.share", Learnt),
    // Where the rate decays, the rates of the steps that are left change with the number of steps: asked for with the length.
    ("sft.steps", Free),
    ("sft.target", Learnt),
    ("sft.examples_per_step", Learnt),
    ("sft.max_length", Learnt),
    // Changes rounding.
    ("sft.micro_batch_tokens", Learnt),
    ("sft.learning_rate", Learnt),
    ("sft.warmup", Learnt),
    ("sft.decay", Learnt),
    ("sft.floor", Learnt),
    ("sft.adamw.*", Learnt),
    ("rl.steps", Free),
    ("rl.max_running", Free),
    ("rl.samples_per_step", Free),
    ("rl.pairs_per_step", Learnt),
    ("rl.rollouts", Learnt),
    ("rl.updates_per_step", Learnt),
    ("rl.temperature", Learnt),
    ("rl.max_prompt_tokens", Learnt),
    ("rl.max_new_tokens", Learnt),
    ("rl.micro_batch_tokens", Learnt),
    ("rl.learning_rate", Learnt),
    ("rl.warmup", Learnt),
    ("rl.decay", Learnt),
    ("rl.floor", Learnt),
    ("rl.adamw.*", Learnt),
    ("rl.policy.*", Learnt),
    ("rl.aggregation", Learnt),
    ("rl.resample", Learnt),
    ("reward.*", Learnt),
];

/// Sections that only one stage reads, the stage they belong to, and the part of them that others read as well.
const OF_ONE_STAGE: [(&str, &str, &str); 3] =
    [("sft.", "sft", ""), ("rl.", "rl", ""), ("reward.", "rl", "reward.verdict.")];

/// A setting with two values.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub key: String,
    pub from: Value,
    pub to: Value,
    pub class: KeyClass,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} in the run, {} now", self.key, shown(&self.from), shown(&self.to))
    }
}

/// A value as it was written: an f32 with the digits of one.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) if f64::from(*number as f32) == *number => (*number as f32).to_string(),
        other => other.to_string(),
    }
}

/// The settings that differ, by key, as they concern a run of `stage`.
pub fn changes(stage: &str, from: &Settings, to: &Settings) -> Vec<Change> {
    let (mut from, mut to) = (leaves(from), leaves(to));
    // A key that only one side has is compared with an empty text.
    let keys: std::collections::BTreeSet<String> = from.keys().chain(to.keys()).cloned().collect();
    let value = |table: &mut Table, key: &str| table.remove(key).unwrap_or_else(|| Value::String(String::new()));
    let both = keys.into_iter().map(|key| (value(&mut from, &key), value(&mut to, &key), key));
    both.filter(|(from, to, _)| from != to)
        .map(|(from, to, key)| Change { class: class_for(stage, &key), key, from, to })
        .collect()
}

/// A key that the table does not know counts as one that changes what is learnt.
fn class_for(stage: &str, key: &str) -> KeyClass {
    let other_stages = |(section, owner, shared): &(&str, &str, &str)| {
        key.starts_with(section) && *owner != stage && (shared.is_empty() || !key.starts_with(shared))
    };
    match OF_ONE_STAGE.iter().any(other_stages) {
        true => Free,
        false => class_of(key).unwrap_or(Learnt),
    }
}

fn class_of(key: &str) -> Option<KeyClass> {
    let is = |name: &str| match name.strip_suffix('*') {
        Some(section) => key.starts_with(section),
        None => key == name,
    };
    KEY_CLASSES.iter().find(|(name, _)| is(name)).map(|(_, class)| *class)
}

/// All values by their full keys.
fn leaves(settings: &Settings) -> Table {
    fn visit(path: &str, table: Table, found: &mut Table) {
        for (key, value) in table {
            let full = if path.is_empty() { key } else { format!("{path}.{key}") };
            match value {
                Value::Table(inner) => visit(&full, inner, found),
                value => drop(found.insert(full, value)),
            }
        }
    }
    let mut found = Table::new();
    visit("", Table::try_from(settings).expect("settings are a TOML table"), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_class_and_every_class_has_its_key() {
        let keys = leaves(&Settings::default());
        let without: Vec<&String> = keys.keys().filter(|key| class_of(key).is_none()).collect();
        assert!(without.is_empty(), "keys that KEY_CLASSES does not name: {without:?}");
        for (name, _) in KEY_CLASSES {
            let found =
                keys.keys().any(|key| key == name || name.strip_suffix('*').is_some_and(|s| key.starts_with(s)));
            assert!(found, "{name}: there is no such setting");
        }
        assert_eq!(class_of("rl.learning_rat"), None);
    }

    #[test]
    fn changes_are_named_with_both_values_and_the_class_they_have_for_a_stage() {
        let (from, mut to) = (Settings::default(), Settings::default());
        assert_eq!(changes("rl", &from, &to), []);
        to.rl.steps = 7;
        to.reward.low = 1.25;
        to.reward.verdict.max = 9.0;
        to.sft.learning_rate = 1.0;
        to.data.train = vec!["b.jsonl".into()];
        let classes = |stage| -> Vec<(String, KeyClass)> {
            changes(stage, &from, &to).into_iter().map(|change| (change.key, change.class)).collect()
        };
        let named = |keys: [(&str, KeyClass); 5]| keys.map(|(key, class)| (key.to_string(), class)).to_vec();
        let rl = [
            ("data.train", Input),
            ("reward.low", Learnt),
            ("reward.verdict.max", Learnt),
            ("rl.steps", Free),
            ("sft.learning_rate", Free),
        ];
        assert_eq!(classes("rl"), named(rl));
        let sft = [
            ("data.train", Input),
            ("reward.low", Free),
            ("reward.verdict.max", Learnt),
            ("rl.steps", Free),
            ("sft.learning_rate", Learnt),
        ];
        assert_eq!(classes("sft"), named(sft));
        let change = &changes("rl", &from, &to)[3];
        assert_eq!(change.to_string(), "rl.steps: 300 in the run, 7 now");
    }
}
