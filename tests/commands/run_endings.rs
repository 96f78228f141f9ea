//! How runs end: killed, stopped by signals, on a full disk, or with nothing learnt. And that what goes on is the same run.

use std::process::Command;
use std::time::Duration;

use patarm::model::directory;
use patarm::tensor::DType;

use super::run_folders::{DEMO, RL, SFT, assert_same_run, with};
use super::runs;
use crate::common::cli::{CliFixture, Process, wait_until};

const STEPS: &str = "sft.steps=7";

/// Goes on with a run that was ended at any moment: with --resume if it had begun, else from nothing.
fn go_on(fixture: &CliFixture, args: &[&str], out: &str) {
    match fixture.path(out).join("config.toml").exists() {
        true => fixture.succeed(&[args[0], "--resume", "--out", out]),
        false => fixture.succeed(&with(args, &["--out", out])),
    };
}

/// No file of a killed process is left beside those of a run.
#[track_caller]
fn assert_clean(fixture: &CliFixture, out: &str) {
    for folder in [out.to_string(), format!("{out}/model"), format!("{out}/checkpoints")] {
        for entry in std::fs::read_dir(fixture.path(&folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with('.') && name != "run.lock", "{folder}/{name} was left");
        }
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_as_the_undisturbed_one() {
    let fixture = CliFixture::new();
    let (sft, rl) = (with(SFT, &["--set", STEPS]), with(&RL, &["--set", "rl.steps=5"]));
    fixture.succeed(&with(&sft, &["--out", "whole-sft"]));
    fixture.succeed(&with(&rl, &["--out", "whole-rl"]));
    let lines = |out: &str| {
        std::fs::read_to_string(fixture.path(&format!("{out}/metrics.jsonl"))).map_or(0, |text| text.lines().count())
    };
    let exists = |name: String| fixture.path(&name).exists();
    let writing = |out: &str| {
        let entries = std::fs::read_dir(fixture.path(&format!("{out}/checkpoints"))).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".writing-")).count() > 0
    };
    type Moment<'a> = (&'static str, Box<dyn Fn(&str) -> bool + 'a>);
    let moments: [Moment; 7] = [
        ("taken", Box::new(|out| exists(format!("{out}/run.lock")))),
        ("begun", Box::new(|out| exists(format!("{out}/run.toml")))),
        ("first step", Box::new(|out| lines(out) >= 1)),
        ("checkpoint", Box::new(writing)),
        ("third step", Box::new(|out| lines(out) >= 3)),
        ("last step", Box::new(|out| lines(out) >= 5)),
        ("export", Box::new(|out| exists(format!("{out}/model")))),
    ];
    for (args, whole) in [(&sft, "whole-sft"), (&rl, "whole-rl")] {
        for (index, (moment, reached)) in moments.iter().enumerate() {
            let out = format!("{}-{index}", args[0]);
            let mut process = fixture.start(&with(args, &["--out", &out]));
            wait_until(moment, || reached(&out) || !process.is_running());
            drop(process);
            if index == 2 {
                // Killed twice is no worse.
                drop(fixture.start(&[args[0], "--resume", "--out", &out]));
            }
            go_on(&fixture, args, &out);
            assert_same_run(&fixture, whole, &out);
            assert_clean(&fixture, &out);
        }
    }
}

#[test]
fn what_killed_processes_left_is_removed_and_nothing_else() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=2"]));
    std::fs::create_dir_all(fixture.path("run/checkpoints/.writing-abc123")).unwrap();
    std::fs::create_dir_all(fixture.path("run/checkpoints/.deleting-step-1")).unwrap();
    let ours = ["run/.tmpA1b2C3", "run/model/.tmpA1b2C3", "run/checkpoints/.writing-abc123/state.safetensors"];
    let theirs = ["run/.tmp", "run/.tmp-notes", "run/.tmpA1b2C3.txt", "run/notes", "run/checkpoints/mine"];
    ours.iter().chain(&theirs).for_each(|name| fixture.write(name, "x"));
    fixture.succeed(&["sft", "--resume", "--out", "run", "--set", "sft.steps=3"]);
    let left = |names: &[&str]| names.iter().filter(|name| fixture.path(name).exists()).count();
    assert_eq!((left(&ours), left(&theirs)), (0, theirs.len()));
    assert!(!fixture.path("run/checkpoints/.deleting-step-1").exists());
}

#[test]
fn what_is_left_of_a_start_that_was_killed_is_removed_by_the_next() {
    let fixture = CliFixture::new();
    fixture.succeed(&with(SFT, &["--out", "other", "--set", "sft.steps=1"]));
    let record = fixture.read("other/run.toml");
    std::fs::create_dir(fixture.path("run")).unwrap();
    let ours = [(".writing-abc123", ""), (".writing-abc124", &record[..9]), (".writing-abc125", &record)];
    let theirs = [(".writing-abc126", "mine"), (".writing-notes", ""), (".writing-abc1234", &record)];
    for (name, text) in ours.iter().chain(&theirs) {
        fixture.write(&format!("run/{name}"), text);
    }
    fixture.write("run/run.lock", "patarm-train, process 1 on nowhere\n");
    // A start that is refused cleans up too.
    fixture.fail(&with(SFT, &["--out", "run", "--data", "nowhere.jsonl"]), &["nowhere.jsonl"]);
    let left =
        |names: &[(&str, &str)]| names.iter().filter(|(name, _)| fixture.path(&format!("run/{name}")).exists()).count();
    assert_eq!((left(&ours), left(&theirs), left(&[("run.lock", "")])), (0, 3, 0));
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
    assert_eq!(left(&theirs), 3);
}

#[test]
fn a_run_without_a_checkpoint_says_what_to_do_and_starts_again() {
    let fixture = CliFixture::new();
    let args = with(SFT, &["--set", STEPS, "--set", "run.checkpoint_every=0"]);
    fixture.succeed(&with(&args, &["--out", "whole"]));
    let process = fixture.start(&with(&args, &["--out", "run"]));
    fixture.wait_for_lines("run/metrics.jsonl", 1);
    drop(process);
    if !fixture.path("run/checkpoints/step-7").exists() {
        fixture.fail(&with(&args, &["--out", "run"]), &["no checkpoint yet", "--resume to start it again"]);
        let outcome = fixture.succeed(&["sft", "--resume", "--out", "run"]);
        assert!(outcome.err.contains("no checkpoint yet, so the run starts again"), "{}", outcome.err);
        assert_same_run(&fixture, "whole", "run");
    }
}

/// A run of `args` that was signalled after some steps: its exit code and what it said.
fn signalled(fixture: &CliFixture, process: Process, signal: &str) -> (Option<i32>, String) {
    fixture.wait_for_lines("run/metrics.jsonl", 3);
    process.signal(signal);
    process.end()
}

#[test]
fn signals_save_and_stop_with_the_exit_code_of_a_shell() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let fixture = CliFixture::new();
        let args = with(SFT, &["--out", "run", "--set", "run.checkpoint_every=0", "--set", "sft.steps=1000000"]);
        let (ended, said) = signalled(&fixture, fixture.start(&args), signal);
        assert_eq!(ended, Some(code), "SIG{signal}: {said}");
        assert!(
            said.contains(&format!("SIG{signal}")) && said.contains("which is saved; go on with --resume"),
            "{said}"
        );
        let steps = fixture.read("run/metrics.jsonl").lines().count();
        assert!(fixture.path(&format!("run/checkpoints/step-{steps}")).is_dir(), "{said}");
        assert!(!fixture.path("run/model").exists() && !fixture.path("run/summary.json").exists(), "it has not ended");
        let steps = format!("sft.steps={}", steps + 2);
        fixture.succeed(&["sft", "--resume", "--out", "run", "--set", &steps]);
        fixture.succeed(&with(SFT, &["--out", "whole", "--set", &steps]));
        assert_same_run(&fixture, "whole", "run");
    }
}

#[test]
fn a_stop_in_the_middle_of_rollouts_loses_no_step() {
    let fixture = CliFixture::new();
    let args = with(&RL, &["--out", "run", "--set", "rl.steps=1000000", "--set", "run.checkpoint_every=0"]);
    let (code, said) = signalled(&fixture, fixture.start(&args), "TERM");
    assert_eq!(code, Some(143), "{said}");
    let steps = fixture.read("run/metrics.jsonl").lines().count();
    let steps = format!("rl.steps={}", steps + 1);
    fixture.succeed(&["rl", "--resume", "--out", "run", "--set", &steps]);
    fixture.succeed(&with(&RL, &["--out", "whole", "--set", &steps]));
    assert_same_run(&fixture, "whole", "run");
}

#[test]
fn a_stop_before_anything_is_begun_is_quick_and_leaves_the_place_free() {
    let fixture = CliFixture::new();
    // The data come from a pipe that nobody writes into: the run loads for ever.
    let made = Command::new("mkfifo").arg(fixture.path("pipe")).status().unwrap();
    assert!(made.success());
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let process = fixture.start(&["sft", "--model", "model", "--data", "pipe", "--out", "run"]);
        wait_until("the folder is taken", || fixture.path("run/run.lock").exists());
        // Signals are watched a moment after that.
        std::thread::sleep(Duration::from_millis(500));
        process.signal(signal);
        let (ended, said) = process.end();
        assert_eq!(ended, Some(code), "{said}");
    }
    fixture.succeed(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
}

#[test]
fn a_signal_at_any_moment_of_a_start_leaves_nothing() {
    let fixture = CliFixture::new();
    assert!(Command::new("mkfifo").arg(fixture.path("pipe")).status().unwrap().success());
    let sft = ["sft", "--model", "model", "--data", "pipe", "--out", "made/run"];
    let demo = ["demo", "--quick", "--out", "made/run"];
    std::fs::create_dir(fixture.path("empty")).unwrap();
    for delay in 0..24 {
        for (signal, args) in [("INT", &sft[..]), ("TERM", &demo), ("HUP", &with(&sft, &["--out", "empty"]))] {
            let mut process = fixture.start(args);
            std::thread::sleep(Duration::from_millis(delay * 2));
            process.signal(signal);
            wait_until("the end", || !process.is_running());
            let begun = fixture.path("made/run/run.toml").exists();
            assert!(begun || !fixture.path("made").exists(), "{args:?} after {delay}: something was left");
            assert_eq!(std::fs::read_dir(fixture.path("empty")).unwrap().count(), 0, "{args:?} after {delay}");
            let _ = std::fs::remove_dir_all(fixture.path("made"));
        }
    }
}

#[test]
fn a_signal_that_is_ignored_from_outside_stays_ignored() {
    let fixture = CliFixture::new();
    let words = with(SFT, &["--out", "run", "--set", "sft.steps=1000000"]).join(" ");
    // As nohup does.
    let script = format!("trap '' HUP; exec {} {words}", env!("CARGO_BIN_EXE_patarm-train"));
    let mut process = fixture.start_by(Command::new("sh").args(["-c", &script]));
    fixture.wait_for_lines("run/metrics.jsonl", 1);
    process.signal("HUP");
    let steps = fixture.read("run/metrics.jsonl").lines().count();
    fixture.wait_for_lines("run/metrics.jsonl", steps + 5);
    assert!(process.is_running());
    process.signal("TERM");
    assert_eq!(process.end().0, Some(143));
}

#[test]
fn a_demo_that_is_stopped_says_what_is_kept_and_is_not_a_success() {
    let fixture = CliFixture::new();
    let process = fixture.start(&["demo", "--quick", "--out", "demo", "--set", "sft.steps=100000"]);
    fixture.wait_for_lines("demo/metrics.jsonl", 1);
    process.signal("TERM");
    let (code, said) = process.end();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("are kept in demo") && said.contains("starts again"), "{said}");
    fixture.succeed(&["report", "demo"]);
    assert!(!fixture.path("demo/summary.json").exists());
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_full_disk_ends_a_run_in_words_and_the_run_goes_on_afterwards() {
    let fixture = CliFixture::new();
    let args = with(SFT, &["--set", "sft.steps=3", "--set", "run.checkpoint_every=1"]);
    fixture.succeed(&with(&args, &["--out", "whole"]));
    let words = with(&args, &["--out", "run"]).join(" ");
    // Blocks of 512 bytes: metrics fit, a checkpoint does not.
    let script = format!("trap '' XFSZ; ulimit -f 20; exec {} {words}", env!("CARGO_BIN_EXE_patarm-train"));
    let (code, said) = fixture.start_by(Command::new("sh").args(["-c", &script])).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the checkpoint cannot be saved") && said.contains("state.safetensors"), "{said}");
    assert!(!fixture.path("run/model").exists(), "{said}");
    fixture.succeed(&["sft", "--resume", "--out", "run"]);
    assert_same_run(&fixture, "whole", "run");
    assert_clean(&fixture, "run");
}

#[test]
fn a_run_that_has_learnt_nothing_is_no_success() {
    let fixture = CliFixture::new();
    let (config, mut weights) = directory::load(&fixture.path("model")).unwrap();
    weights.fill(f32::NAN);
    directory::save(&fixture.path("model"), &config, &weights, DType::F32).unwrap();
    let args = with(SFT, &["--out", "run", "--set", "sft.steps=2", "--set", "run.patience=9"]);
    let outcome = fixture.run(&args);
    assert!(!outcome.ok && outcome.out.is_empty(), "{} {}", outcome.out, outcome.err);
    for part in
        ["nothing was learnt", "no update of SFT was applied", "No model is exported", "health of SFT, to act on"]
    {
        assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
    }
    assert!(!fixture.path("run/model").exists());
    let summary: serde_json::Value = serde_json::from_str(&fixture.read("run/summary.json")).unwrap();
    assert!(summary["outcome"].as_str().unwrap().contains("nothing was learnt"), "{summary}");
    assert!(fixture.path("run/report.html").is_file());
}

#[test]
fn a_run_whose_every_update_changes_nothing_is_no_success() {
    let fixture = CliFixture::new();
    let sft = with(SFT, &["--set", "sft.steps=3"]);
    let rl = with(runs::RL, &["--set", "rl.steps=2", "--set", "rl.policy.kl_coefficient=0"]);
    let unchanged = "nothing was learnt: every weight is what it was before";
    let decayed = "nothing was learnt: weight decay alone changed the weights";
    let cases = [
        (with(&sft, &["--set", "sft.learning_rate=1e-30"]), unchanged),
        (with(&sft, &["--set", "sft.learning_rate=1e-18", "--set", "sft.adamw.weight_decay=0"]), unchanged),
        // No judgement of random weights has a verdict: all groups are dead.
        (with(&rl, &["--set", "rl.adamw.weight_decay=0"]), unchanged),
        (with(&rl, &["--set", "rl.adamw.weight_decay=0.1"]), decayed),
    ];
    for (index, (args, words)) in cases.iter().enumerate() {
        let out = format!("run{index}");
        let outcome = fixture.run(&with(args, &["--out", &out]));
        assert!(!outcome.ok && outcome.out.is_empty(), "{args:?}: {} {}", outcome.out, outcome.err);
        assert!(
            outcome.err.contains(words) && outcome.err.contains("No model is exported"),
            "{args:?}: {}",
            outcome.err
        );
        assert!(!fixture.path(&format!("{out}/model")).exists());
        let summary: serde_json::Value = serde_json::from_str(&fixture.read(&format!("{out}/summary.json"))).unwrap();
        assert!(summary["outcome"].as_str().unwrap().contains(words), "{summary}");
        // Where the run began is known after a resume too.
        fixture.fail(&[args[0], "--resume", "--out", &out], &[words]);
    }
    fixture.fail(&with(&sft, &["--out", "clipped", "--set", "sft.adamw.clip_norm=1e-300"]), &["`sft.adamw.clip_norm`"]);
    // What a resumed run has learnt before is not lost: nothing is left to do here.
    fixture.succeed(&with(&sft, &["--out", "learnt"]));
    fixture.succeed(&["sft", "--resume", "--out", "learnt"]);
    // A demo of few steps is there to be seen, and says what it has not done.
    let demo = with(DEMO, &["--out", "demo", "--set", "rl.learning_rate=1e-30"]);
    let outcome = fixture.succeed(&demo);
    assert!(outcome.err.contains("note: RL: nothing was learnt"), "{}", outcome.err);
    let whole: Vec<&str> = demo.iter().copied().filter(|word| *word != "--quick").collect();
    fixture.fail(&with(&whole, &["--set", "sft.warmup=0", "--set", "rl.warmup=0"]), &["RL: nothing was learnt"]);
}

#[test]
fn weights_that_are_not_finite_are_not_exported() {
    let fixture = CliFixture::new();
    let (mut config, _) = directory::load(&fixture.path("model")).unwrap();
    // A row of the embeddings that no text reads: no loss and no gradient sees that it is not a number.
    config.tie_word_embeddings = false;
    let mut weights = patarm::model::parameters::random_weights(&config, 1);
    let table = patarm::model::ParameterTable::new(&config);
    let embeddings = table.parameters().iter().find(|p| p.name.contains("embed_tokens")).unwrap();
    weights[embeddings.range()].last_mut().unwrap().clone_from(&f32::INFINITY);
    directory::save(&fixture.path("model"), &config, &weights, DType::F32).unwrap();
    let outcome = fixture.run(&with(SFT, &["--out", "run", "--set", "sft.steps=1"]));
    assert!(!outcome.ok && outcome.out.is_empty(), "{} {}", outcome.out, outcome.err);
    assert!(outcome.err.contains("embed_tokens") && outcome.err.contains("not finite"), "{}", outcome.err);
    assert!(!fixture.path("run/model").exists());
    assert!(fixture.path("run/report.html").is_file() && fixture.path("run/summary.json").is_file());
}

/// A judge of random weights writes no verdict: every group is dead, and that is said.
#[test]
fn weights_that_are_damaged_from_the_start_are_named() {
    let fixture = CliFixture::new();
    let (config, mut weights) = directory::load(&fixture.path("model")).unwrap();
    weights[3] = f32::NAN;
    directory::save(&fixture.path("model"), &config, &weights, DType::F32).unwrap();
    fixture.fail(
        &with(SFT, &["--out", "run", "--set", "sft.steps=2"]),
        &["model.embed_tokens.weight", "not finite", "fetch it again"],
    );
    fixture.fail(
        &with(SFT, &["--out", "other", "--set", "sft.micro_batch_tokens=8"]),
        &["no row has at most 8 tokens, which is sft.micro_batch_tokens"],
    );
}

#[test]
fn a_judge_without_a_valid_judgement_is_said_at_the_end() {
    let fixture = CliFixture::new();
    let outcome = fixture.succeed(&with(&RL, &["--out", "run", "--set", "rl.steps=2"]));
    for part in ["health of RL, to act on: Dead groups", "health of RL, to act on: Length"] {
        assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
    }
}
