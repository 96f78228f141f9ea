//! Whose a run's folder is: locks, what is replaced and what is refused, and what a resumed run takes from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use patarm::model::directory;
use patarm::model::parameters::random_weights;
use patarm::tensor::DType;

use super::runs::{self, timeless};
use crate::common::cli::CliFixture;

/// A small run of `sft` whose every step is the same whatever the number of steps.
pub const SFT: &[&str] = &[
    "sft",
    "--model",
    "model",
    "--data",
    "sft.jsonl",
    "--set",
    "sft.examples_per_step=2",
    "--set",
    "sft.decay=constant",
    "--set",
    "sft.learning_rate=1e-3",
    "--set",
    "run.checkpoint_every=2",
];

/// A small run of `rl`, with checkpoints.
pub static RL: LazyLock<Vec<&str>> = LazyLock::new(|| with(runs::RL, &["--set", "run.checkpoint_every=2"]));

/// A demo of one step a stage.
pub const DEMO: &[&str] = &[
    "demo",
    "--quick",
    "--set",
    "sft.steps=1",
    "--set",
    "sft.examples_per_step=2",
    "--set",
    "rl.steps=1",
    "--set",
    "rl.pairs_per_step=2",
    "--set",
    "rl.rollouts=2",
    "--set",
    "rl.max_new_tokens=4",
    "--set",
    "eval.pairs=1",
];

pub fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

/// Everything in a folder, by path.
fn snapshot(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// That a run is the undisturbed one: every number of every line, and every bit of the weights.
#[track_caller]
pub fn assert_same_run(fixture: &CliFixture, whole: &str, other: &str) {
    for file in ["metrics.jsonl", "samples.jsonl"] {
        let lines = |run: &str| timeless(&fixture.read(&format!("{run}/{file}")));
        assert_eq!(lines(whole), lines(other), "{file}");
    }
    let weights = |run: &str| std::fs::read(fixture.path(&format!("{run}/model/model.safetensors"))).unwrap();
    assert!(weights(whole) == weights(other), "the weights of {whole} and {other} differ");
}

#[test]
fn a_folder_has_one_process() {
    let fixture = CliFixture::new();
    let first = fixture.start(&with(SFT, &["--out", "run", "--set", "sft.steps=1000000"]));
    fixture.wait_for_lines("run/metrics.jsonl", 2);
    let who = format!("process {}", first.id());
    let demo = ["demo", "--out", "run"];
    for args in [with(SFT, &["--out", "run"]), with(&RL, &["--out", "run"]), demo.to_vec()] {
        fixture.fail(&args, &["run: is in use by", &who, "--out"]);
    }
    fixture.fail(&["sft", "--resume", "--out", "run"], &["run: is in use by", &who]);
    // A report of a running run is as good as another.
    fixture.succeed(&["report", "run"]);
    assert!(fixture.path("run/report.html").is_file());
    // The system releases the lock of a process that dies.
    drop(first);
    let outcome = fixture.run(&["sft", "--resume", "--out", "run", "--set", "sft.steps=1"]);
    assert!(!outcome.err.contains("in use"), "{}", outcome.err);
}

#[test]
fn a_demo_replaces_a_demo_and_nothing_else() {
    let fixture = CliFixture::new();
    let demo = with(DEMO, &["--out", "demo"]);
    let first = fixture.succeed(&demo);
    assert!(first.out.contains("The trained judge"), "{}", first.out);
    std::fs::write(fixture.path("demo/model/notes.txt"), "mine").unwrap();
    std::fs::write(fixture.path("demo/notes.txt"), "mine").unwrap();
    let metrics = timeless(&fixture.read("demo/metrics.jsonl"));
    fixture.succeed(&demo);
    assert_eq!(timeless(&fixture.read("demo/metrics.jsonl")), metrics);
    assert_eq!([fixture.read("demo/model/notes.txt"), fixture.read("demo/notes.txt")], ["mine", "mine"]);

    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=2"]));
    let before = snapshot(&fixture.path("run"));
    fixture.fail(&with(DEMO, &["--out", "run"]), &["run: holds a run already (`sft`, 2 steps)", "--out"]);
    // A comparison is not a demo either, and its default folder is inside the demo's.
    fixture.fail(&["demo", "--from", "demo", "--out", "run"], &["run: holds a run already"]);
    assert!(snapshot(&fixture.path("run")) == before, "the run is as it was");
    for command in ["sft", "rl"] {
        fixture.fail(&[command, "--resume", "--out", "demo"], &["demo: holds a run of `demo`"]);
    }
    // A folder of an earlier version has the files and not the record.
    std::fs::remove_file(fixture.path("demo/run.toml")).unwrap();
    let before = snapshot(&fixture.path("demo"));
    fixture.fail(&demo, &["demo: holds config.toml", "no run.toml", "--out"]);
    assert!(snapshot(&fixture.path("demo")) == before, "the old demo is as it was");
}

#[test]
fn a_summary_of_a_demo_records_what_was_used() {
    let fixture = CliFixture::new();
    let sets = ["--set", "data.flip=0.25", "--set", "run.seed=7", "--set", "data.score_noise=0.5"];
    fixture.succeed(&with(DEMO, &[&["--out", "demo", "--flip", "0.125"], &sets[..]].concat()));
    let summary: serde_json::Value = serde_json::from_str(&fixture.read("demo/summary.json")).unwrap();
    assert_eq!(
        [&summary["flip"], &summary["seed"], &summary["score_noise"]],
        [&serde_json::json!(0.125), &serde_json::json!(7), &serde_json::json!(0.5)]
    );
    let config: toml::Table = fixture.read("demo/config.toml").parse().unwrap();
    assert_eq!((config["data"]["flip"].as_float(), config["data"]["score_noise"].as_float()), (Some(0.125), Some(0.5)));
}

#[test]
fn files_that_are_not_ours_are_never_replaced() {
    let fixture = CliFixture::new();
    let foreign = [
        "config.toml",
        "metrics.jsonl",
        "samples.jsonl",
        "summary.json",
        "report.html",
        "environment.json",
        "run.toml",
    ];
    for (index, name) in foreign.into_iter().enumerate() {
        let out = format!("foreign{index}");
        std::fs::create_dir(fixture.path(&out)).unwrap();
        fixture.write(&format!("{out}/{name}"), "mine");
        for command in ["sft", "rl"] {
            // Refused before data and model are looked at.
            fixture.fail(&[command, "--model", "nowhere", "--data", "none.jsonl", "--out", &out], &[&out, name]);
        }
        fixture.fail(&["demo", "--out", &out], &[&out, name]);
        fixture.fail(&["sft", "--resume", "--out", &out], &[&out]);
        let left = snapshot(&fixture.path(&out));
        assert!(left.len() == 1 && left.values().all(|bytes| bytes == b"mine"), "{name}: {left:?}");
    }
    for folder in ["model", "checkpoints"] {
        let out = format!("of-{folder}");
        std::fs::create_dir_all(fixture.path(&format!("{out}/{folder}"))).unwrap();
        fixture.write(&format!("{out}/{folder}/config.json"), "mine");
        fixture.fail(&with(SFT, &["--out", &out]), &[&out, folder]);
        assert_eq!(fixture.read(&format!("{out}/{folder}/config.json")), "mine");
    }
    // A trained model is not given up because the rest of its run was deleted.
    fixture.succeed(&with(SFT, &["--out", "kept", "--set", "sft.steps=1"]));
    std::fs::remove_dir_all(fixture.path("kept/checkpoints")).unwrap();
    std::fs::remove_file(fixture.path("kept/metrics.jsonl")).unwrap();
    fixture.fail(&with(SFT, &["--out", "kept"]), &["kept: holds a run already (`sft`, 0 steps"]);
    assert!(fixture.path("kept/model/model.safetensors").exists());
    // What no run writes is no obstacle, and stays.
    std::fs::create_dir(fixture.path("notes")).unwrap();
    fixture.write("notes/README.md", "mine");
    fixture.succeed(&with(SFT, &["--out", "notes", "--set", "sft.steps=1"]));
    assert_eq!(fixture.read("notes/README.md"), "mine");
}

#[test]
fn a_folder_that_cannot_be_one_is_refused_by_name() {
    let fixture = CliFixture::new();
    fixture.write("file", "mine");
    for out in ["file", "file/below", "/proc/patarm", "/dev/null"] {
        for command in [with(SFT, &["--out", out]), with(&RL, &["--out", out]), with(&["demo"], &["--out", out])] {
            fixture.fail(&command, &[out]);
        }
    }
    assert_eq!(fixture.read("file"), "mine");
    fixture.fail(&["rl", "--resume", "--out", "nowhere"], &["nowhere", "no run to resume", "--resume"]);
    fixture.fail(&["report", "model"], &["model: holds no run"]);
    fixture.fail(&["report", "file"], &["file: is not a folder"]);
    fixture.fail(&["report", "nowhere"], &["nowhere: there is no such folder"]);
    // A page that is not ours is not written over, whatever lies beside it.
    std::fs::create_dir(fixture.path("pages")).unwrap();
    fixture.write("pages/metrics.jsonl", "");
    fixture.write("pages/report.html", "<html>mine</html>");
    fixture.fail(&["report", "pages"], &["report.html", "not of this program"]);
    assert_eq!(fixture.read("pages/report.html"), "<html>mine</html>");
    fixture.fail(&["sft", "--accept-changes"], &["--resume"]);
}

/// Reading a pipe that nobody writes into would never end.
#[test]
fn a_pipe_in_the_place_of_a_file_of_a_run_is_not_read() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
    let names =
        ["summary.json", "config.toml", "config-history.jsonl", "metrics.jsonl", "samples.jsonl", "environment.json"];
    for name in names {
        let file = fixture.path("run").join(name);
        let text = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        let (code, said) = fixture.start(&["report", "run"]).end();
        assert_eq!(code, Some(0), "{name}: {said}");
        // It is written, and whoever reads the pipe gets it.
        if name != "environment.json" {
            let (_, said) = fixture.start(&["sft", "--resume", "--out", "run", "--set", "sft.steps=1"]).end();
            assert!(!said.contains("panicked"), "{name}: {said}");
        }
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, text).unwrap();
    }
}

#[test]
fn a_start_that_is_refused_leaves_nothing_that_blocks_the_next() {
    let fixture = CliFixture::new();
    fixture.write("bad.jsonl", "{}\n");
    std::fs::create_dir(fixture.path("empty")).unwrap();
    let attempts: [&[&str]; 4] = [
        &["sft", "--model", "model", "--data", "bad.jsonl"],
        &["sft", "--model", "nowhere", "--data", "sft.jsonl"],
        &with(&RL, &["--set", "rl.rollouts=65"]),
        &with(&RL, &["--set", "rl.micro_batch_tokens=40"]),
    ];
    for attempt in attempts {
        for out in ["made/run", "empty"] {
            let outcome = fixture.run(&with(attempt, &["--out", out]));
            assert!(!outcome.ok && !outcome.err.contains("panicked"), "{attempt:?}: {}", outcome.err);
        }
        assert!(!fixture.path("made").exists(), "{attempt:?} made a folder");
        assert_eq!(snapshot(&fixture.path("empty")).len(), 0, "{attempt:?} left files");
    }
    // A run that fails in its first step has done nothing that the next needs to spare.
    let weights = fixture.path("model/model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let (config, mut bad) = directory::load(&fixture.path("model")).unwrap();
    bad.fill(f32::NAN);
    directory::save(&fixture.path("model"), &config, &bad, DType::F32).unwrap();
    let outcome = fixture.run(&with(SFT, &["--out", "run", "--set", "run.patience=1", "--set", "sft.steps=2"]));
    assert!(!outcome.ok, "{}", outcome.err);
    std::fs::write(&weights, good).unwrap();
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
    assert!(!fixture.path("run/skipped-step-1.json").exists(), "it is of the failed run");
}

#[test]
fn a_resumed_run_needs_no_flags_and_records_what_changes_its_length() {
    let fixture = CliFixture::new();
    let whole = with(&RL, &["--out", "whole", "--set", "rl.steps=5", "--seed", "3"]);
    fixture.succeed(&whole);
    let parts = with(&RL, &["--out", "parts", "--set", "rl.steps=3", "--seed", "3"]);
    fixture.succeed(&parts);
    fixture.fail(&parts, &["parts: holds a run already (`rl`, 3 steps)", "--resume"]);
    let outcome = fixture.succeed(&[
        "rl",
        "--resume",
        "--out",
        "parts",
        "--set",
        "rl.steps=5",
        "--set",
        "run.keep_checkpoints=9",
        "--threads",
        "1",
    ]);
    for part in ["rl.steps: 3 in the run, 5 now", "run.keep_checkpoints: 2 in the run, 9 now", "run.threads"] {
        assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
    }
    assert_same_run(&fixture, "whole", "parts");
    let config: toml::Table = fixture.read("parts/config.toml").parse().unwrap();
    assert_eq!(config["rl"]["steps"].as_integer(), Some(5), "config.toml is the newest");
    let history: Vec<serde_json::Value> =
        fixture.read("parts/config-history.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let held: Vec<_> = history.iter().map(|line| (&line["after_step"], &line["settings"]["rl"]["steps"])).collect();
    assert_eq!(held, [(&0.into(), &3.into()), (&3.into(), &5.into())]);
    fixture.fail(
        &["rl", "--resume", "--out", "parts", "--set", "rl.steps=4"],
        &["at step 5 already", "beyond the 4 steps asked for"],
    );
    // Nothing to do but the end: the run is whole all the same.
    fixture.succeed(&["rl", "--resume", "--out", "parts"]);
    assert_same_run(&fixture, "whole", "parts");
}

#[test]
fn a_resumed_run_refuses_what_changes_what_it_learns() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(&RL, &["--out", "run", "--set", "rl.steps=2"]));
    let before = snapshot(&fixture.path("run"));
    let resume = ["rl", "--resume", "--out", "run", "--set", "rl.steps=3"];
    let refused = |more: &[&str], words: &[&str]| {
        fixture.fail(&with(&resume, more), &[words, &["--accept-changes"]].concat());
    };
    for (setting, words) in [
        ("rl.learning_rate=1e-2", "rl.learning_rate: 0.001 in the run, 0.01 now"),
        ("rl.policy.kl_coefficient=0", "rl.policy.kl_coefficient"),
        ("reward.low=1.3", "reward.low: 1.2 in the run, 1.3 now"),
        ("reward.verdict.max=5", "reward.verdict.max"),
        ("rl.aggregation=sequence_mean", "rl.aggregation"),
        ("rl.rollouts=3", "rl.rollouts: 2 in the run, 3 now"),
        ("run.seed=1", "run.seed: 0 in the run, 1 now"),
        ("run.lm_head_chunk_rows=16", "run.lm_head_chunk_rows"),
        ("data.flip=0.5", "data.flip"),
    ] {
        refused(&["--set", setting], &[words]);
    }
    // Sums of a GPU are others, so the device must be named again where it was not the CPU.
    let record = fixture.read("run/run.toml");
    fixture.write("run/run.toml", &record.replace("device = \"cpu\"", "device = \"cuda\""));
    refused(&[], &["device: cuda in the run, cpu now"]);
    fixture.write("run/run.toml", &record);
    // Two at once are both named.
    refused(&["--set", "reward.low=1.3", "--set", "rl.warmup=2"], &["reward.low", "rl.warmup"]);

    // Inputs are told apart by what they hold.
    let text = fixture.read("train_pairs.jsonl");
    let changed = |file: &str, text: &str, what: &str| {
        let old = fixture.read(file);
        fixture.write(file, text);
        refused(&[], &[what, file.split('/').next().unwrap()]);
        fixture.write(file, &old);
    };
    let swapped: Vec<&str> = text.lines().rev().collect();
    changed("train_pairs.jsonl", &swapped.join("\n"), "data 1");
    let rubrics = fixture.read("rubrics.toml");
    changed("rubrics.toml", &format!("{rubrics}\n# a comment\n"), "rubrics");
    let tokenizer = fixture.read("model/tokenizer_config.json");
    changed("model/tokenizer_config.json", &format!("{tokenizer}\n"), "tokenizer");
    // The KL reference is the model of the path: one step of training there would be another reference.
    let weights = std::fs::read(fixture.path("model/model.safetensors")).unwrap();
    let config = directory::load(&fixture.path("model")).unwrap().0;
    directory::save(&fixture.path("model"), &config, &random_weights(&config, 2), DType::F32).unwrap();
    refused(&[], &["model: model"]);
    std::fs::write(fixture.path("model/model.safetensors"), weights).unwrap();
    assert!(snapshot(&fixture.path("run")) == before, "a refused resume changes nothing");

    // A file of the same content elsewhere is no change.
    fixture.write("copy.jsonl", &text);
    std::fs::remove_file(fixture.path("train_pairs.jsonl")).unwrap();
    fixture.succeed(&with(&resume, &["--data", "copy.jsonl"]));
    // What was asked for is done, and recorded.
    let accepted = ["--set", "rl.steps=4", "--set", "rl.learning_rate=1e-2", "--accept-changes"];
    let outcome = fixture.succeed(&with(&resume, &accepted));
    assert!(outcome.err.contains("rl.learning_rate: 0.001 in the run, 0.01 now"), "{}", outcome.err);
    let lines = timeless(&fixture.read("run/metrics.jsonl"));
    let rates: Vec<f64> = lines.iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect();
    assert!(rates.len() == 4 && rates[3] > 5.0 * rates[2], "{rates:?}");
    let config: toml::Table = fixture.read("run/config.toml").parse().unwrap();
    assert_eq!(config["rl"]["learning_rate"].as_float(), Some(1e-2));
    fixture.succeed(&["rl", "--resume", "--out", "run"]);
}

#[test]
fn a_resumed_run_refuses_what_was_edited_behind_its_back() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=2"]));
    let resume = ["sft", "--resume", "--out", "run", "--set", "sft.steps=3"];
    let config = fixture.read("run/config.toml");
    fixture.write("run/config.toml", &config.replace("learning_rate = 0.001", "learning_rate = 0.5"));
    fixture.fail(&resume, &["sft.learning_rate: 0.001 in the run, 0.5 now", "--accept-changes"]);
    std::fs::remove_file(fixture.path("run/config.toml")).unwrap();
    fixture.fail(&resume, &["has lost its config.toml", "put it back"]);
    fixture.write("run/config.toml", &config);
    fixture.write("model/special_tokens_map.json", r#"{"eos_token": "<|endoftext|>"}"#);
    fixture.fail(&resume, &["tokenizer", "--accept-changes"]);
    std::fs::remove_file(fixture.path("model/special_tokens_map.json")).unwrap();
    fixture.succeed(&resume);
}

#[test]
fn a_demo_takes_its_flags_last_and_refuses_what_it_has_no_use_for() {
    let fixture = CliFixture::new();
    let small = [
        "demo",
        "--quick",
        "--set",
        "sft.steps=1",
        "--set",
        "sft.warmup=0",
        "--set",
        "rl.steps=1",
        "--set",
        "rl.warmup=0",
        "--set",
        "rl.pairs_per_step=2",
        "--set",
        "rl.rollouts=2",
        "--set",
        "eval.pairs=2",
        "--out",
        "demo",
        "--seed",
        "3",
    ];
    let outcome = fixture.run_with(&small, &[("PATARM_CFG_RUN__OUT", "other"), ("PATARM_CFG_RUN__SEED", "7")]);
    assert!(outcome.ok && !fixture.path("other").exists(), "{}", outcome.err);
    let summary: serde_json::Value = serde_json::from_str(&fixture.read("demo/summary.json")).unwrap();
    assert_eq!(summary["seed"], 3);
    for key in ["data.train=[\"nope.jsonl\"]", "run.export_dtype=bf16", "run.checkpoint_every=1", "model.thinking=true"]
    {
        let name = key.split('=').next().unwrap();
        fixture.fail(&["demo", "--set", key, "--out", "none"], &[name, "a demo has no use for it"]);
    }
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
    fixture.fail(&["demo", "--from", "run"], &["--from run", "of `sft`, not of a demo"]);
}

#[test]
fn a_run_is_resumed_from_another_folder() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(&RL, &["--out", "whole", "--set", "rl.steps=3"]));
    fixture.succeed(&with(&RL, &["--out", "run", "--set", "rl.steps=2"]));
    let program = env!("CARGO_BIN_EXE_patarm-train");
    let script = format!("cd run && {program} rl --resume --out . --set rl.steps=3");
    let (code, said) = fixture.start_by(std::process::Command::new("sh").args(["-c", &script])).end();
    assert_eq!(code, Some(0), "{said}");
    assert_same_run(&fixture, "whole", "run");
}

#[test]
fn a_run_of_an_earlier_version_goes_on_only_if_that_is_asked_for() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=2"]));
    std::fs::remove_file(fixture.path("run/run.toml")).unwrap();
    let resume = ["sft", "--resume", "--out", "run", "--set", "sft.steps=3"];
    fixture.fail(&resume, &["no run.toml", "--accept-changes"]);
    let outcome = fixture.succeed(&with(&resume, &["--accept-changes", "--set", "sft.warmup=2"]));
    assert!(outcome.err.contains("sft.warmup: 20 in the run, 2 now"), "{}", outcome.err);
    fixture.succeed(&["sft", "--resume", "--out", "run"]);
}
