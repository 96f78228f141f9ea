//! What config.json may say, and what of it is refused.

use super::*;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn nano() -> Map<String, Value> {
    object(Qwen3Config::named("nano").unwrap().to_json())
}

fn read(json: &Map<String, Value>) -> Result<Qwen3Config, String> {
    Qwen3Config::from_json(json, &mut Vec::new())
}

/// Nano's config.json with these keys; `Value::Null` is null, and a key of `without` is left out.
fn with(keys: Value, without: &[&str]) -> Result<Qwen3Config, String> {
    let mut json = nano();
    json.extend(object(keys));
    without.iter().for_each(|key| drop(json.remove(*key)));
    read(&json)
}

#[test]
fn every_named_shape_survives_a_round_trip_through_json() {
    for name in Qwen3Config::names() {
        let config = Qwen3Config::named(name).unwrap();
        assert_eq!(read(&object(config.to_json())).unwrap(), config, "{name}");
    }
}

#[test]
fn every_scaling_survives_a_round_trip_through_json() {
    for scaling in [
        json!({"rope_type": "linear", "factor": 2}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "mscale": 2.0,
               "mscale_all_dim": 1, "beta_fast": 24, "beta_slow": 2, "truncate": false}),
        json!({"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 8192, "low_freq_factor": 1,
               "high_freq_factor": 4}),
    ] {
        let config = with(json!({ "rope_scaling": scaling }), &[]).unwrap();
        assert_ne!(config.rope, Rope::new(1e6), "{scaling}");
        assert_eq!(read(&object(config.to_json())).unwrap(), config, "{scaling}");
    }
}

/// As `Qwen3Config()` of transformers 5.24.
#[test]
fn what_is_missing_is_what_transformers_takes() {
    let config = read(&object(json!({"model_type": "qwen3"}))).unwrap();
    let expected = Qwen3Config {
        vocab_size: 151_936,
        hidden_size: 4096,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        intermediate_size: 22_016,
        tie_word_embeddings: false,
        max_position_embeddings: 32_768,
        rope: Rope::new(10_000.0),
        rms_norm_eps: 1e-6,
        initializer_range: 0.02,
    };
    assert_eq!(config, expected);
    assert_eq!(with(json!({"num_key_value_heads": null}), &[]).unwrap().num_key_value_heads, 4);
    // Null is no more than nothing where transformers takes it so.
    for key in ["rope_scaling", "rope_parameters", "layer_types", "architectures", "bos_token_id", "eos_token_id"] {
        let mut keys = Map::new();
        keys.insert(key.into(), Value::Null);
        assert_eq!(with(keys.into(), &[]).unwrap(), Qwen3Config::named("nano").unwrap(), "{key}");
    }
}

#[test]
fn a_key_of_the_wrong_type_or_out_of_range_is_named() {
    let wrong: &[(&str, &[Value])] = &[
        (
            "vocab_size",
            &[json!("512"), json!(512.0), json!(-1), json!(0), json!(null), json!(true), json!(1e30), json!([1])],
        ),
        ("hidden_size", &[json!(0), json!(1 << 25), json!("many")]),
        ("num_hidden_layers", &[json!(2.5), json!(null), json!(0), json!(70_000)]),
        ("num_attention_heads", &[json!(-4), json!(0), json!({})]),
        ("num_key_value_heads", &[json!(3), json!("2"), json!(0)]),
        ("head_dim", &[json!(null), json!(0), json!(24), json!(-16), json!(32.0), json!(1 << 13)]),
        ("intermediate_size", &[json!([]), json!(0)]),
        ("max_position_embeddings", &[json!(null), json!(0), json!(4096.5), json!(1_u64 << 60), json!("40960")]),
        (
            "rms_norm_eps",
            &[json!("1e-5"), json!(null), json!(0.0), json!(-1e-6), json!(1e-60), json!(1e300), json!(true)],
        ),
        ("initializer_range", &[json!("0.02"), json!(-0.02), json!(null)]),
        ("rope_theta", &[json!("1e6"), json!(null), json!(0), json!(-1e4), json!(1e200)]),
        ("rope_scaling", &[json!("yarn"), json!([]), json!(4)]),
        ("rope_parameters", &[json!("yarn"), json!(1)]),
        ("tie_word_embeddings", &[json!("false"), json!(1), json!(null)]),
        ("attention_bias", &[json!(true), json!("false"), json!(null), json!(0)]),
        ("use_sliding_window", &[json!(true), json!("true"), json!(null)]),
        ("layer_types", &[json!(["full_attention"]), json!("full_attention"), json!(["a", 1])]),
        ("layer_types", &[json!(["full_attention", "sliding_attention", "full_attention", "full_attention"])]),
        ("hidden_act", &[json!("gelu"), json!(null), json!(1)]),
        ("model_type", &[json!("qwen2"), json!("qwen3_moe"), json!("qwen3_vl"), json!(null), json!(3)]),
        ("architectures", &[json!(["Qwen3ForSequenceClassification"]), json!("Qwen3ForCausalLM"), json!([1])]),
        ("quantization_config", &[json!({"quant_method": "fp8"}), json!([])]),
        ("eos_token_id", &[json!("1"), json!([1, "2"]), json!(1.5)]),
        ("bos_token_id", &[json!([1]), json!(false)]),
        ("partial_rotary_factor", &[json!(0.5), json!("1")]),
    ];
    for (key, values) in wrong {
        for value in *values {
            let mut keys = Map::new();
            keys.insert(key.to_string(), value.clone());
            let reason = with(keys.into(), &[]).expect_err(&format!("{key} = {value}"));
            assert!(reason.contains(&format!("`{key}`")), "{key} = {value}: {reason}");
        }
    }
    let reason = with(json!({}), &["model_type"]).unwrap_err();
    assert!(reason.contains("`model_type` is missing"), "{reason}");
    // transformers takes 32 where none is given, whatever the number of queries' heads.
    let reason = with(json!({}), &["num_key_value_heads"]).unwrap_err();
    assert!(reason.contains("`num_key_value_heads` (32;"), "{reason}");
    // A number is a number, however it is written.
    for eps in [json!(1), json!(1e0), json!(1.0)] {
        assert_eq!(with(json!({ "rms_norm_eps": eps }), &[]).unwrap().rms_norm_eps, 1.0);
    }
    assert_eq!(with(json!({"rope_theta": 1_000_000}), &[]).unwrap().rope, Rope::new(1e6));
}

#[test]
fn sizes_that_no_memory_holds_are_refused_with_the_arithmetic() {
    let big = 1 << 24;
    let keys = json!({"vocab_size": big, "hidden_size": big, "intermediate_size": big, "num_hidden_layers": 65_536});
    let reason = with(keys, &[]).unwrap_err();
    for word in ["`hidden_size` 16777216", "parameters", "GB in f32"] {
        assert!(reason.contains(word), "{reason}");
    }
    assert_eq!(Qwen3Config::named("0.6b").unwrap().parameters(), 596_049_920);
    for name in Qwen3Config::names() {
        let config = Qwen3Config::named(name).unwrap();
        let table = crate::model::ParameterTable::new(&config);
        let elements: usize = table.parameters().iter().map(crate::model::Parameter::len).sum();
        assert_eq!(config.parameters(), elements as u128, "{name}");
    }
}

#[test]
fn scalings_that_are_not_computed_or_not_whole_are_refused() {
    let yarn = |keys: Value| {
        let mut scaling = object(json!({"rope_type": "yarn", "factor": 4.0}));
        scaling.extend(object(keys));
        json!({ "rope_scaling": scaling })
    };
    let rope = |scaling: Value| json!({ "rope_scaling": scaling });
    for (keys, word) in [
        (rope(json!({"rope_type": "dynamic", "factor": 2})), "`dynamic`"),
        (rope(json!({"type": "longrope", "short_factor": [], "long_factor": []})), "`longrope`"),
        (rope(json!({"rope_type": "ntk"})), "\"ntk\""),
        (rope(json!({"rope_type": "proportional"})), "\"proportional\""),
        (rope(json!({"rope_type": null})), "`rope_scaling.rope_type`"),
        (rope(json!({"rope_type": "default", "type": "yarn", "factor": 4})), "`rope_scaling.type`"),
        (rope(json!({"rope_type": "linear"})), "`rope_scaling.factor` is missing"),
        (rope(json!({"rope_type": "linear", "factor": 0.5})), "`rope_scaling.factor`"),
        (rope(json!({"rope_type": "linear", "factor": null})), "`rope_scaling.factor`"),
        (rope(json!({"rope_type": "yarn"})), "`rope_scaling.factor` is missing"),
        (rope(json!({"rope_type": "llama3", "factor": 8})), "`rope_scaling.low_freq_factor` is missing"),
        (
            rope(json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})),
            "`rope_scaling.high_freq_factor`",
        ),
        (rope(json!({"full_attention": {"rope_type": "yarn", "factor": 4}})), "`rope_scaling.full_attention`"),
        (rope(json!({"rope_type": "default", "partial_rotary_factor": 0.25})), "`rope_scaling.partial_rotary_factor`"),
        (rope(json!({"rope_theta": 1e4})), "`rope_scaling.rope_theta` is 10000"),
        (yarn(json!({"factor": "4"})), "`rope_scaling.factor`"),
        (yarn(json!({"factor": null, "original_max_position_embeddings": 50_000})), "`max_position_embeddings`"),
        (yarn(json!({"beta_fast": "32"})), "`rope_scaling.beta_fast`"),
        (yarn(json!({"beta_fast": 1, "beta_slow": 32})), "`rope_scaling.beta_fast`"),
        (yarn(json!({"beta_slow": -1})), "`rope_scaling.beta_slow`"),
        (yarn(json!({"attention_factor": 0})), "`rope_scaling.attention_factor`"),
        (yarn(json!({"attention_factor": -1.0})), "`rope_scaling.attention_factor`"),
        (yarn(json!({"mscale": -100.0, "mscale_all_dim": 1.0})), "`rope_scaling.attention_factor`"),
        (yarn(json!({"truncate": "no"})), "`rope_scaling.truncate`"),
        (yarn(json!({"original_max_position_embeddings": 0})), "`rope_scaling.original_max_position_embeddings`"),
        (yarn(json!({"original_max_position_embeddings": 32.5})), "`rope_scaling.original_max_position_embeddings`"),
    ] {
        let reason = with(keys.clone(), &[]).expect_err(&keys.to_string());
        assert!(reason.contains(word), "{keys}: {reason}");
    }
    let theta = json!({"rope_theta": 0.5, "rope_scaling": {"rope_type": "yarn", "factor": 2}});
    assert!(with(theta, &[]).unwrap_err().contains("`rope_theta`"));
    let both = |old: Value, new: Value| with(json!({"rope_scaling": old, "rope_parameters": new}), &[]);
    let yarn = |factor: f64| json!({"type": "yarn", "factor": factor});
    assert!(both(yarn(4.0), yarn(2.0)).unwrap_err().contains("say different things"));
    assert!(both(json!({"rope_type": "default"}), yarn(2.0)).unwrap_err().contains("say different things"));
    assert!(both(yarn(4.0), yarn(4.0)).is_ok());
}

#[test]
fn scaling_beside_the_new_spelling_is_read_and_the_base_that_is_not_is_named() {
    let json = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                      "rope_scaling": {"type": "yarn", "factor": 4.0}});
    let (mut both, mut notes) = (nano(), Vec::new());
    both.extend(object(json));
    both.remove("rope_theta");
    let config = Qwen3Config::from_json(&both, &mut notes).unwrap();
    assert!(matches!(config.rope.scaling, RopeScaling::Yarn(_)));
    assert_eq!(config.rope.theta, 10_000.0, "as transformers reads it");
    assert!(notes.len() == 1 && notes[0].contains("10000") && notes[0].contains("1000000"), "{notes:?}");
    // With the base outside there is nothing to say.
    both.insert("rope_theta".into(), json!(1e6));
    notes.clear();
    assert_eq!(Qwen3Config::from_json(&both, &mut notes).unwrap().rope.theta, 1e6);
    assert_eq!(notes, [""; 0]);
}

/// Qwen3's card: a factor of 4 over 32,768 beside the 40,960 that config.json has anyway.
#[test]
fn scaling_lengthens_the_context() {
    let context = |scaling: Value| with(json!({ "rope_scaling": scaling }), &[]).unwrap().context();
    assert_eq!(context(json!(null)), 40_960);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768});
    assert_eq!(context(yarn), 131_072);
    assert_eq!(
        context(json!({"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 32_768})),
        40_960
    );
    assert_eq!(context(json!({"rope_type": "linear", "factor": 2})), 81_920);
    assert_eq!(context(json!({"rope_type": "linear", "factor": 1e30})), POSITIONS_MAX);
}
