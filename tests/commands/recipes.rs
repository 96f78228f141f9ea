//! `tools/recipes/paper`: its settings are valid, and its script goes from pairs to tables.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::cli::CliFixture;

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/recipes/paper").join(name)
}

#[test]
fn the_settings_of_every_size_are_valid() {
    let fixture = CliFixture::new();
    for size in ["0.6b", "8b", "14b"] {
        let config = recipe(&format!("{size}.toml"));
        let config = config.to_str().unwrap();
        for command in ["sft", "rl"] {
            let printed = fixture.succeed(&[command, "--config", config, "--print-config"]).out;
            assert!(printed.contains("threshold = 2.0") && printed.contains("prompt = 12000"), "{printed}");
        }
    }
}

/// Toy settings, with whose judges nothing is learnt but that every step is there.
const TOY: &str = r#"
[run]
checkpoint_every = 0
[model]
context = 512
[judge.length]
prompt = 400
[sft]
steps = 2
examples_per_step = 8
max_length = 400
micro_batch_tokens = 1024
warmup = 1
learning_rate = 1e-3
[rl]
steps = 1
pairs_per_step = 4
rollouts = 2
warmup = 1
learning_rate = 1e-3
max_prompt_tokens = 200
max_new_tokens = 100
micro_batch_tokens = 1024
[eval]
every = 1
share = 0.1
votes = 1
max_prompt_tokens = 200
max_new_tokens = 100
"#;

#[test]
fn the_recipe_goes_from_pairs_to_tables_and_has_nothing_to_do_when_it_is_called_again() {
    let fixture = CliFixture::new();
    let demo = ["sft.steps=150", "rl.steps=1", "rl.pairs_per_step=4", "eval.pairs=48"];
    let demo = demo.iter().flat_map(|setting| ["--set", setting]);
    fixture.succeed(&["demo", "--out", "demo"].into_iter().chain(demo).collect::<Vec<_>>());
    // Three sets and two benchmarks with prompts of their own.
    let pairs: Vec<String> = fixture.read("demo/held_out_pairs.jsonl").lines().map(str::to_string).collect();
    for (name, range) in [("code", 0..12), ("math", 12..24), ("chat", 24..40), ("one", 40..44), ("two", 44..48)] {
        fixture.write(&format!("{name}.jsonl"), &(pairs[range].join("\n") + "\n"));
    }
    fixture.write("toy.toml", TOY);
    let run = || {
        let mut command = Command::new("bash");
        command.arg(recipe("run")).args(["toy.toml", "demo/model-sft", "out", "--", "--model", "demo/model"]);
        // A gap of 0 keeps pairs whatever the teacher has learnt; short judgements fit the demo's context.
        command.args(["--min-gap", "0", "--votes", "2", "--max-prompt-tokens", "200", "--max-new-tokens", "200"]);
        command.env("PATARM", env!("CARGO_BIN_EXE_patarm-train")).current_dir(fixture.path(""));
        for (variable, name) in
            [("CODE", "code"), ("MATH", "math"), ("CHAT", "chat"), ("REWARDBENCH", "one"), ("RM_BENCH", "two")]
        {
            command.env(variable, format!("{name}.jsonl"));
        }
        command.env("EVAL_FLAGS", "--max-prompt-tokens 200 --max-new-tokens 200");
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert!(ended.status.success(), "{said}");
        said
    };
    let said = run();
    assert!(said.contains("eval compare out/sft-rewardbench.jsonl out/rl-rewardbench.jsonl"), "{said}");
    let made = [
        "sft_pairs.jsonl",
        "rl_pairs.jsonl",
        "judgements.jsonl",
        "sft.jsonl",
        "rl/model/model.safetensors",
        "rl-rm_bench.json",
    ];
    let read = || made.map(|name| std::fs::read(fixture.path(&format!("out/{name}"))).unwrap());
    let before = read();
    let again = run();
    assert!(!again.contains("patarm-train data mix") && !again.contains(" rl --"), "{again}");
    assert!(read() == before);
}
