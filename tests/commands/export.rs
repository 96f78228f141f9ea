//! What a run exports is what it read: types, stop tokens and every key, changed only where training changed them.

use patarm::model::{Description, Export, directory};
use patarm::tensor::DType;
use patarm::tensor::safetensors::TensorDirectory;
use patarm::tokenizer::{CHAT_TEMPLATE, Tokenizer};
use serde_json::{Value, json};

use patarm::data::synthetic;

use super::run_folders::{RL, with};
use crate::common::cli::CliFixture;

/// One step that changes no number of bf16.
const STEP: [&str; 12] = [
    "sft",
    "--model",
    "model",
    "--data",
    "sft.jsonl",
    "--set",
    "sft.steps=1",
    "--set",
    "sft.learning_rate=1e-12",
    "--set",
    "sft.warmup=0",
    "--out",
];

fn step(fixture: &CliFixture, out: &str, more: &[&str]) {
    fixture.succeed(&STEP.iter().chain([&out]).chain(more).copied().collect::<Vec<_>>());
}

fn json_of(fixture: &CliFixture, name: &str) -> Value {
    serde_json::from_str(&fixture.read(name)).unwrap()
}

/// Writes the fixture's model again, in bf16, with these keys in its files.
fn write_model(fixture: &CliFixture, config: Value, generation: Value) {
    let (shape, weights) = directory::load(&fixture.path("model")).unwrap();
    let mut description = Description::new(&shape);
    description.config.extend(config.as_object().unwrap().clone());
    description.generation = generation.as_object().unwrap().clone();
    Export::new(&shape, &weights, &description, Some(DType::Bf16)).write(&fixture.path("model")).unwrap();
}

fn stop_tokens(fixture: &CliFixture, model: &str) -> Vec<u32> {
    Tokenizer::from_dir(&fixture.path(model)).unwrap().eos_ids().to_vec()
}

/// Tokens of greedy text.
fn greedy(fixture: &CliFixture, model: &str) -> Vec<u32> {
    let args =
        ["generate", "--prompt", "Say", "--temperature", "0", "--max-new-tokens", "24", "--json", "--model", model];
    let row: Value = serde_json::from_str(fixture.succeed(&args).out.trim()).unwrap();
    row["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn a_step_too_small_to_see_leaves_the_judge_as_it_was() {
    let fixture = CliFixture::new();
    // A second stop token, which the model writes in the middle of its text: without it everything it says is longer.
    let tokens = greedy(&fixture, "model");
    let (stop, at) = (tokens[tokens.len() / 2], tokens.iter().position(|t| *t == tokens[tokens.len() / 2]).unwrap());
    assert!(at + 1 < tokens.len() && !stop_tokens(&fixture, "model").contains(&stop));
    let eos = stop_tokens(&fixture, "model")[0];
    let generation = json!({"bos_token_id": 259, "do_sample": true, "eos_token_id": [eos, stop], "pad_token_id": 259,
                            "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"});
    let config = json!({"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16", "max_window_layers": 28,
                        "bos_token_id": 259, "eos_token_id": [eos, stop], "pad_token_id": 259, "use_cache": true});
    write_model(&fixture, config, generation);
    assert_eq!(greedy(&fixture, "model").len(), at + 1, "the second stop token ends the text");
    fixture.write("responses.jsonl", &"{\"prompt\": \"Say it\", \"response\": \"It.\"}\n".repeat(3));
    let judge = |model| {
        let args = ["judge", "--input", "responses.jsonl", "--texts", "--temperature", "0", "--max-new-tokens", "40"];
        fixture.succeed(&[&args[..], &["--model", model]].concat()).out
    };
    let before = judge("model");
    // Tokenizer files with what no reader here knows.
    let mut tokenizer = json_of(&fixture, "model/tokenizer_config.json");
    tokenizer["model_max_length"] = json!(131_072);
    tokenizer["pad_token"] = json!({"content": synthetic::PAD_TOKEN, "lstrip": false});
    fixture.write("model/tokenizer_config.json", &tokenizer.to_string());
    fixture.write("model/special_tokens_map.json", "{\"additional_special_tokens\": []}\n");
    fixture.write("model/tokenizer.json", &(fixture.read("model/tokenizer.json") + "\n\n"));

    step(&fixture, "run", &["--set", "model.context=256"]);
    let of_model = ["config.json", "generation_config.json", "model.safetensors"];
    let of_tokenizer = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
    for name in of_model.into_iter().chain(of_tokenizer) {
        let bytes = |folder: &str| std::fs::read(fixture.path(folder).join(name)).unwrap();
        assert!(bytes("run/model") == bytes("model"), "{name} is what was read");
    }
    assert_eq!(stop_tokens(&fixture, "run/model"), stop_tokens(&fixture, "model"));
    assert_eq!(greedy(&fixture, "run/model").len(), at + 1);
    assert_eq!(judge("run/model"), before);
}

#[test]
fn what_training_taught_to_stop_is_in_the_export() {
    let fixture = CliFixture::new();
    // A base model: its end of text is not what closes a turn.
    let inner = synthetic::tokenizer().unwrap();
    let (eos, pad) =
        (inner.token_to_id(synthetic::EOS_TOKEN).unwrap(), inner.token_to_id(synthetic::PAD_TOKEN).unwrap());
    let base = Tokenizer::from_parts(inner, CHAT_TEMPLATE.into(), synthetic::PAD_TOKEN, synthetic::PAD_TOKEN).unwrap();
    base.save(&fixture.path("model")).unwrap();
    for generation in [json!({"eos_token_id": pad, "max_new_tokens": 2048}), json!({"max_new_tokens": 2048})] {
        write_model(&fixture, json!({"eos_token_id": pad}), generation);
        let out = fixture.path("run");
        step(&fixture, "run", &[]);
        let generation = json_of(&fixture, "run/model/generation_config.json");
        assert_eq!(generation, json!({"eos_token_id": [pad, eos], "max_new_tokens": 2048}));
        assert_eq!(json_of(&fixture, "run/model/config.json")["eos_token_id"], json!(pad));
        assert_eq!(stop_tokens(&fixture, "run/model"), stop_tokens(&fixture, "model"));
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn what_ends_the_models_text_ends_it_in_training_with_the_tokenizer_of_another_directory() {
    let fixture = CliFixture::new();
    Tokenizer::from_dir(&fixture.path("model")).unwrap().save(&fixture.path("tokenizer")).unwrap();
    let vocabulary = directory::load(&fixture.path("model")).unwrap().0.vocab_size;
    let all: Vec<usize> = (0..vocabulary).collect();
    let places = [
        (json!({}), json!({ "eos_token_id": all })),
        // Where generation_config.json names none, those of config.json hold.
        (json!({ "eos_token_id": all }), json!({"temperature": 0.6})),
    ];
    for (index, (config, generation)) in places.into_iter().enumerate() {
        write_model(&fixture, config, generation);
        let out = format!("rl{index}");
        fixture.succeed(&with(&RL, &["--tokenizer", "tokenizer", "--out", &out, "--set", "rl.steps=2"]));
        let metrics = fixture.read(&format!("{out}/metrics.jsonl"));
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert_eq!(first["length_mean"], 1.0, "every token ends a judgement: {first}");
        let mut exported = stop_tokens(&fixture, &format!("{out}/model"));
        exported.sort_unstable();
        assert!(exported.iter().copied().eq(0..vocabulary as u32), "{exported:?}");
    }
}

#[test]
fn the_type_of_an_export_is_the_sources_or_what_is_asked_for() {
    let fixture = CliFixture::new();
    write_model(&fixture, json!({"dtype": "bfloat16"}), json!({}));
    let dtype = |out: &str| {
        let files = TensorDirectory::open(&fixture.path(out).join("model")).unwrap();
        let dtype = files.check("model.norm.weight", &[32]).unwrap();
        (dtype, json_of(&fixture, &format!("{out}/model/config.json"))["dtype"].clone())
    };
    step(&fixture, "source", &[]);
    assert_eq!(dtype("source"), (DType::Bf16, json!("bfloat16")));
    step(&fixture, "flag", &["--dtype", "f32"]);
    assert_eq!(dtype("flag"), (DType::F32, json!("float32")));
    step(&fixture, "setting", &["--set", "run.export_dtype=f32"]);
    assert_eq!(dtype("setting"), (DType::F32, json!("float32")));
    fixture.fail(&["sft", "--model", "model", "--data", "sft.jsonl", "--dtype", "fp8"], &["--dtype", "fp8"]);
}

#[test]
fn a_scaled_model_reads_beyond_what_it_was_trained_on() {
    let fixture = CliFixture::new();
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let long = "word ".repeat(40);
    let generate = ["generate", "--model", "model", "--prompt", long.as_str(), "--max-new-tokens", "4"];
    write_model(&fixture, json!({"max_position_embeddings": 64, "rope_scaling": null}), json!({}));
    fixture.fail(&generate, &["exceed the model's context of 64"]);
    write_model(&fixture, json!({"max_position_embeddings": 64, "rope_scaling": yarn}), json!({}));
    fixture.succeed(&generate);
    step(&fixture, "run", &[]);
    assert_eq!(json_of(&fixture, "run/model/config.json")["rope_scaling"], yarn);
}

#[test]
fn what_may_surprise_is_said_and_what_cannot_work_is_refused_before_anything_is_read() {
    let fixture = CliFixture::new();
    let generate = ["generate", "--model", "model", "--prompt", "a", "--max-new-tokens", "1"];
    write_model(
        &fixture,
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e6,
               "rope_scaling": {"type": "yarn", "factor": 2}}),
        json!({}),
    );
    // The base outside and the one of the new spelling differ, and it is the old spelling that is taken.
    let outcome = fixture.succeed(&generate);
    assert!(outcome.err.contains("note: model: ") && outcome.err.contains("500000"), "{}", outcome.err);
    for (keys, word) in [
        (json!({"rms_norm_eps": "1e-5"}), "`rms_norm_eps`"),
        (json!({"architectures": ["Qwen3ForSequenceClassification"]}), "Qwen3ForSequenceClassification"),
        (json!({"model_type": "qwen3_moe"}), "qwen3_moe"),
        (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}), "`dynamic`"),
    ] {
        write_config(&fixture, keys);
        fixture.fail(&generate, &["config.json", word]);
        fixture.fail(&["sft", "--model", "model", "--data", "sft.jsonl", "--out", "run"], &["config.json", word]);
    }
    assert!(!fixture.path("run").exists());
    let init = ["sft", "--init", "32b", "--tokenizer", "model", "--data", "sft.jsonl", "--out", "run"];
    // A machine that could hold it would also try.
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap();
    if total < 100_000_000 {
        fixture.fail(&init, &["--init 32b", "31210230784", "parameters", "4 bytes each", "GB are left"]);
    }
}

fn write_config(fixture: &CliFixture, keys: Value) {
    let config = crate::common::cli::config(crate::common::cli::tokenizer().vocab_size().next_multiple_of(16));
    let mut json = config.to_json();
    json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    fixture.write("model/config.json", &json.to_string());
}
