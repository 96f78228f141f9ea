//! Model directories that nobody wrote: whatever is in config.json or a weights file, reading it is a model or an error.
//!
//! `PATARM_CASES` is the number of cases of each test; without it there are enough to find a new fault in seconds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::rope::rope_table;
use super::{ModelDirectory, ParameterTable, Qwen3Config, directory};
use crate::tensor::DType;

fn runner(cases: u32) -> TestRunner {
    let cases = std::env::var("PATARM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Numbers at which things break, and whatever else is no list and no object.
fn any_leaf() -> impl Strategy<Value = Value> {
    let numbers = [
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(16),
        json!(32),
        json!(1e6),
        json!(0.5),
        json!(-0.0),
        json!(1e-300),
        json!(1e300),
        json!(f64::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(4_294_967_296_u64),
        json!(16_777_216),
        json!(4.0),
        json!(32_768),
    ];
    let texts = [
        "",
        "yarn",
        "linear",
        "llama3",
        "default",
        "dynamic",
        "qwen3",
        "full_attention",
        "Qwen3ForCausalLM",
        "1e-6",
        "é",
    ];
    prop_oneof![
        4 => proptest::sample::select(numbers.to_vec()),
        2 => proptest::sample::select(texts.to_vec()).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

/// JSON of any shape.
fn any_json() -> impl Strategy<Value = Value> {
    any_leaf().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key(), inner), 0..5)
                .prop_map(|pairs| pairs.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let keys = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "initializer_range",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_type",
        "type",
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "truncate",
        "low_freq_factor",
        "high_freq_factor",
        "partial_rotary_factor",
        "model_type",
        "architectures",
        "hidden_act",
        "attention_bias",
        "use_sliding_window",
        "layer_types",
        "quantization_config",
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
        "attention_dropout",
    ];
    proptest::sample::select(keys.to_vec()).prop_map(String::from)
}

/// Scaling that may well be right.
fn scaling() -> impl Strategy<Value = Value> {
    let kind = proptest::sample::select(vec!["default", "linear", "yarn", "llama3"]);
    let base = (kind, 0.5f64..64.0, 1u32..100_000, 0.1f64..64.0, 0.1f64..64.0);
    let keys = [
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "beta_fast",
        "beta_slow",
        "factor",
        "original_max_position_embeddings",
        "rope_theta",
        "truncate",
    ];
    let more = (proptest::sample::select(keys.to_vec()).prop_map(String::from), any_leaf());
    (base, proptest::collection::vec(more, 0..3)).prop_map(|((kind, factor, original, a, b), more)| {
        let mut scaling = json!({
            "rope_type": kind, "factor": factor, "original_max_position_embeddings": original, "beta_fast": a, "beta_slow": b,
            "low_freq_factor": a, "high_freq_factor": b,
        });
        scaling.as_object_mut().unwrap().extend(more);
        scaling
    })
}

/// A config.json with a few keys that are anything.
fn config() -> impl Strategy<Value = Map<String, Value>> {
    // Half of them change nothing but the scaling: most other changes are refused.
    let changes = proptest::option::of(proptest::collection::vec((key(), any_json()), 0..4));
    let scaled = proptest::option::of((proptest::sample::select(vec!["rope_scaling", "rope_parameters"]), scaling()));
    (changes, scaled, proptest::option::of(proptest::collection::vec(key(), 0..3))).prop_map(
        |(changes, scaled, gone)| {
            let mut json = tiny().to_json().as_object().unwrap().clone();
            json.extend(scaled.map(|(key, scaling)| (key.to_string(), scaling)));
            json.extend(changes.unwrap_or_default());
            gone.unwrap_or_default().iter().for_each(|key| drop(json.remove(key)));
            json
        },
    )
}

fn tiny() -> Qwen3Config {
    let mut config = Qwen3Config::named("nano").unwrap();
    (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size) = (16, 16, 1, 16);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (1, 1, 16);
    config
}

fn never_panics<T>(what: &str, work: impl FnOnce() -> T) -> Result<T, TestCaseError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| TestCaseError::fail(format!("{what} panics")))
}

#[test]
fn any_config_is_a_model_or_a_reason() {
    let accepted = std::cell::Cell::new(0);
    let result = runner(20_000).run(&config(), |json| {
        let mut notes = Vec::new();
        match never_panics("config.json", || Qwen3Config::from_json(&json, &mut notes))? {
            Ok(config) => {
                let table = never_panics("its rotary table", || rope_table(3, config.head_dim, &config.rope))?;
                prop_assert!(table.iter().all(|x| x.is_finite()), "{table:?}");
                prop_assert!(config.context() >= config.max_position_embeddings);
                prop_assert!(config.parameters() <= 1 << 40);
                let again = Qwen3Config::from_json(config.to_json().as_object().unwrap(), &mut notes);
                prop_assert_eq!(again.as_ref(), Ok(&config));
                if config.parameters() < 1 << 20 {
                    never_panics("its table", || ParameterTable::new(&config))?;
                }
                accepted.set(accepted.get() + 1);
            }
            Err(reason) => prop_assert!(reason.len() < 1000 && !reason.is_empty(), "{reason}"),
        }
        Ok(())
    });
    result.unwrap();
    assert!(accepted.get() > 1000, "only {} configs are models: the cases say little", accepted.get());
}

/// What is done to the bytes of a weights file.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Cut(usize),
    Length(u64),
    Replace(usize, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let words = [
        "0",
        "-1",
        "18446744073709551615",
        "9223372036854775807",
        "[",
        "{",
        "\"",
        "null",
        "1e99",
        "\"I16\"",
        "\"F64\"",
        "],[",
        ",",
        "\0",
    ];
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => any::<u64>().prop_map(Damage::Length),
        1 => (0u64..4096).prop_map(Damage::Length),
        4 => (any::<usize>(), proptest::sample::select(words.to_vec())).prop_map(|(at, word)| Damage::Replace(at, word)),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Most of it into the header, where it matters.
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for damage in damages {
        let end = header.min(bytes.len()).max(1);
        match damage {
            _ if bytes.is_empty() => {}
            Damage::Set(at, byte) => bytes[at % end] = *byte,
            Damage::Cut(at) => bytes.truncate(at % bytes.len()),
            Damage::Length(length) if bytes.len() >= 8 => bytes[..8].copy_from_slice(&length.to_le_bytes()),
            Damage::Length(_) => {}
            Damage::Replace(at, word) => {
                let at = at % end;
                let stop = (at + word.len()).min(bytes.len());
                bytes.splice(at..stop, word.bytes());
            }
        }
    }
    bytes
}

#[test]
fn any_weights_file_is_a_model_or_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny();
    let weights = super::parameters::random_weights(&config, 1);
    directory::save(folder.path(), &config, &weights, DType::F16).unwrap();
    let file = folder.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let cases = prop_oneof![
        9 => proptest::collection::vec(damage(), 1..4).prop_map(|damages| (damages, Vec::new())),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| (Vec::new(), bytes)),
    ];
    let result = runner(4000).run(&cases, |(damages, random)| {
        let bytes = if damages.is_empty() { random } else { damaged(&whole, &damages) };
        std::fs::write(&file, &bytes).unwrap();
        match never_panics("the file", || ModelDirectory::open(folder.path()))? {
            Ok(opened) => drop(never_panics("its weights", || opened.weights(|_| {}))?),
            Err(reason) => prop_assert!(!reason.to_string().is_empty()),
        }
        Ok(())
    });
    result.unwrap();
}
