//! Bad input gets one clear message and a failing exit code.

use patarm::model::directory;
use patarm::model::parameters::random_weights;
use patarm::tensor::DType;

use crate::world::{World, config, tokenizer};

const SFT: &[&str] = &["sft", "--model", "model", "--data", "sft.jsonl", "--out", "run", "--set", "sft.steps=2"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

#[test]
fn settings_that_do_not_exist_are_refused_with_the_nearest_name() {
    let world = World::new();
    world.fail(&with(SFT, &["--set", "sft.stepps=3"]), &["sft.stepps", "did you mean `steps`"]);
    world.write("config.toml", "[rl]\nrollout = 3\n");
    world.fail(&with(SFT, &["--config", "config.toml"]), &["config.toml", "rl.rollout", "`rollouts`"]);
    assert!(!world.path("run").exists(), "nothing is begun");
}

#[test]
fn models_that_cannot_be_used_are_named() {
    let world = World::new();
    let judge = ["judge", "--input", "train_pairs.jsonl", "--model"];
    world.fail(&with(&judge, &["nowhere"]), &["train_pairs.jsonl", "response"]);
    world.fail(&["generate", "--prompt", "x", "--model", "nowhere"], &["nowhere", "no such model directory"]);

    let file = world.path("model/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    world.fail(SFT, &["model.safetensors", "cut short"]);
    std::fs::write(&file, &bytes).unwrap();

    let mut other = config(tokenizer().vocab_size().next_multiple_of(16));
    other.intermediate_size = 64;
    std::fs::write(world.path("model/config.json"), other.to_json().to_string()).unwrap();
    world.fail(SFT, &["gate_proj", "expected [64, 32]", "got [48, 32]"]);

    let small = config(64);
    directory::save(&world.path("model"), &small, &random_weights(&small, 1), DType::F32).unwrap();
    world.fail(SFT, &["tokenizer has", "only 64 rows"]);

    std::fs::remove_file(world.path("model/tokenizer.json")).unwrap();
    world.fail(SFT, &["tokenizer.json"]);
}

#[test]
fn bad_rows_are_named_by_file_and_line_or_skipped_and_counted() {
    let world = World::new();
    let good = world.read("sft.jsonl");
    world.write("bad.jsonl", &format!("{}{{\"messages\": 3}}\n{{not json\n", good));
    let data = |file| ["sft", "--model", "model", "--data", file, "--out", "run", "--set", "sft.steps=1"];
    world.fail(&data("bad.jsonl"), &["bad.jsonl", "21"]);
    let outcome = world.succeed(&with(&data("bad.jsonl"), &["--skip-bad"]));
    assert!(outcome.err.contains("2 bad rows were skipped"), "{}", outcome.err);
    let summary: serde_json::Value = serde_json::from_str(&world.read("run/summary.json")).unwrap();
    assert_eq!((summary["skipped_rows"].as_u64(), summary["examples"].as_u64()), (Some(2), Some(20)));

    world.write("empty.jsonl", "");
    world.fail(&data("empty.jsonl"), &["empty.jsonl"]);
    world.fail(&data("missing.jsonl"), &["missing.jsonl"]);
    world.fail(&["sft", "--model", "model"], &["no training rows", "--data"]);
}

#[test]
fn rows_over_the_limit_are_kept_out_and_counted() {
    let world = World::new();
    world.fail(&with(SFT, &["--set", "sft.max_length=5"]), &["no row has at most 5 tokens"]);
    let rl = ["rl", "--model", "model", "--data", "train_pairs.jsonl", "--out", "run"];
    let limits = ["--set", "rl.max_prompt_tokens=16", "--set", "rl.max_new_tokens=8"];
    world.fail(&with(&rl, &limits), &["12 rows of more than 16 tokens", "0 usable pairs"]);
    world.write("long.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let judge = ["judge", "--model", "model", "--input", "long.jsonl", "--max-new-tokens", "4"];
    let outcome = world.succeed(&with(&judge, &["--max-prompt-tokens", "4"]));
    let row: serde_json::Value = serde_json::from_str(outcome.out.trim()).unwrap();
    assert!(row["score"].is_null() && row["skipped"].as_str().unwrap().contains("more than 4"), "{row}");
}

#[test]
fn a_loss_that_is_not_a_number_is_skipped_dumped_and_in_the_end_stops() {
    let world = World::new();
    let config = config(tokenizer().vocab_size().next_multiple_of(16));
    let mut weights = random_weights(&config, 1);
    weights[0..2000].fill(f32::NAN);
    directory::save(&world.path("model"), &config, &weights, DType::F32).unwrap();
    let args = with(SFT, &["--set", "sft.steps=9", "--set", "run.patience=3"]);
    world.fail(&args, &["3 steps in a row", "not a number"]);
    for step in 1..=3 {
        assert!(world.read(&format!("run/skipped-step-{step}.json")).contains("NaN"));
    }
    assert!(!world.path("run/skipped-step-4.json").exists());
}
