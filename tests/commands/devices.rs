//! `--device` and `doctor`: what is said of devices that are there, and of those that are not.

use crate::common::cli::CliFixture;

#[test]
fn a_device_that_does_not_exist_is_named() {
    let fixture = CliFixture::new();
    let generate = ["generate", "--model", "model", "--prompt", "x", "--max-new-tokens", "2", "--device"];
    let with = |device: &'static str| [&generate[..], &[device]].concat();
    fixture.fail(&with("gpu"), &["--device", "gpu", "cuda:N"]);
    #[cfg(has_cuda)]
    if !std::path::Path::new("/proc/driver/nvidia").exists() {
        fixture.fail(&with("cuda"), &["--device cuda:0", "no CUDA driver", "libcuda is not installed"]);
    }
    #[cfg(not(has_cuda))]
    fixture.fail(&with("cuda"), &["--device cuda:0", "built without nvcc", "tools/install-nvcc"]);
}

#[test]
fn doctor_never_fails_and_says_what_is_missing() {
    let fixture = CliFixture::new();
    let lines = fixture.succeed(&["doctor"]).out;
    assert!(lines.contains("processor") && lines.contains("CUDA kernels"), "{lines}");
    let json = fixture.succeed(&["doctor", "--json"]).out;
    let findings: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert!(findings.len() >= 5 && findings.iter().all(|f| f["fine"].is_boolean()), "{json}");
    // Where cuBLASLt lies, or where it was looked for.
    #[cfg(has_cuda)]
    {
        let said = fixture.run_with(&["doctor", "--json"], &[("LD_LIBRARY_PATH", "/nowhere/at/all")]).out;
        let findings: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        let blas = findings.iter().find(|f| f["what"] == "cuBLASLt").unwrap();
        let words: &[&str] = match blas["fine"].as_bool().unwrap() {
            true => &["/libcublasLt.so"],
            false => &["libcublasLt.so.13", "/nowhere/at/all", "nvidia/cu13/lib", "add that folder to LD_LIBRARY_PATH"],
        };
        assert!(words.iter().all(|word| blas["found"].as_str().unwrap().contains(word)), "{blas}");
    }
}

#[cfg(has_cuda)]
mod emulated {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::commands::runs::timeless;
    use crate::common::cli::Outcome;

    #[test]
    fn doctor_lists_the_devices_and_what_they_can_run() {
        let fixture = CliFixture::new();
        let lines = fixture.succeed(&["doctor", "--emulated"]).out;
        for words in [
            "Emulated A100",
            "Emulated H100",
            "capability 9.0",
            "runs the code",
            "80,90a",
            "CUDA 13.0",
            "libcuda_emulator_cublaslt.so",
        ] {
            assert!(lines.contains(words), "{words:?} is missing in:\n{lines}");
        }
        let old = fixture.run_with(&["doctor", "--emulated"], &[("PATARM_EMULATOR_TARGET", "75")]).out;
        assert!(old.contains("✗ device cuda:0") && old.contains("PATARM_CUDA_ARCH=75"), "{old}");
    }

    #[test]
    fn every_device_that_cannot_work_has_an_error_of_its_own() {
        let fixture = CliFixture::new();
        let generate =
            ["generate", "--model", "model", "--prompt", "x", "--max-new-tokens", "2", "--device", "emulated"];
        for (setting, value, words) in [
            ("PATARM_EMULATOR_DRIVER_VERSION", "12080", &["driver is too old", "12.8", "13.0"][..]),
            ("PATARM_EMULATOR_TARGET", "75", &["compute capability 7.5", "80,90a", "PATARM_CUDA_ARCH=75"]),
            // The workspace of matmuls alone takes 32 MiB.
            ("PATARM_EMULATOR_MEMORY", "16000000", &["out of device memory", "needed for matmul workspace"]),
            (
                "PATARM_EMULATOR_MEMORY",
                "33900000",
                &["does not fit on Emulated", "matmul workspace", "prepared weights", "in all", "too much"],
            ),
        ] {
            let outcome = fixture.run_with(&generate, &[(setting, value)]);
            assert!(!outcome.ok && !outcome.err.contains("panicked"), "{setting}={value}: {}", outcome.err);
            for word in words {
                assert!(outcome.err.contains(word), "{setting}={value}: {word:?} is missing in: {}", outcome.err);
            }
        }
    }

    /// The emulator's library listens like a profiler, and counts what it hears.
    fn listener() -> PathBuf {
        let exe = Path::new(env!("CARGO_BIN_EXE_patarm-train"));
        let listener = exe.with_file_name("deps").join("libcuda_emulator.so");
        assert!(listener.is_file(), "{}", listener.display());
        listener
    }

    #[test]
    fn a_timeline_reads_like_the_model() {
        let fixture = CliFixture::new();
        let listener = listener();
        let sft = ["sft", "--model", "model", "--data", "sft.jsonl", "--out", "run", "--set", "sft.steps=2"];
        let steps = ["--set", "sft.examples_per_step=2", "--device", "emulated"];
        let variables = [("NVTX_INJECTION64_PATH", listener.to_str().unwrap()), ("PATARM_EMULATOR_STATS", "1")];
        let outcome = fixture.run_with(&[&sft[..], &steps].concat(), &variables);
        assert!(outcome.ok, "{}", outcome.err);
        for line in [
            "range layer 0 attention: 2",
            "range layer 1 mlp backward: 2",
            "range lm_head loss: 2",
            "range optimizer: 2",
        ] {
            assert!(outcome.err.lines().any(|l| l == line), "{line:?} is missing in: {}", outcome.err);
        }
    }

    /// What a run's timeline says of a range: how often it was entered.
    fn entered(outcome: &Outcome, range: &str) -> usize {
        let counts = outcome.err.lines().filter_map(|line| line.strip_prefix("range ")?.rsplit_once(": "));
        counts.filter(|(name, _)| *name == range).map(|(_, count)| count.parse::<usize>().unwrap()).sum()
    }

    /// The head runs once after every forward pass that scores or trains.
    #[test]
    fn the_one_update_of_a_step_needs_no_scoring_pass_before_it() {
        let fixture = CliFixture::new();
        let listener = listener();
        let variables = [("NVTX_INJECTION64_PATH", listener.to_str().unwrap()), ("PATARM_EMULATOR_STATS", "1")];
        let rl = [
            "rl",
            "--model",
            "model",
            "--data",
            "train_pairs.jsonl",
            "--rubrics",
            "rubrics.toml",
            "--device",
            "emulated",
        ];
        let run = |out, updates| {
            let mut args = [&rl[..], &["--out", out]].concat();
            for setting in [
                updates,
                "rl.steps=1",
                "rl.pairs_per_step=2",
                "rl.rollouts=2",
                "rl.max_prompt_tokens=200",
                "rl.max_new_tokens=4",
                "rl.micro_batch_tokens=1024",
                "rl.max_running=8",
            ] {
                args.extend(["--set", setting]);
            }
            let outcome = fixture.run_with(&args, &variables);
            // One step, all of whose groups are dead.
            assert!(outcome.err.contains("nothing was learnt"), "{}", outcome.err);
            ["reference log-probabilities", "old log-probabilities", "update", "lm_head loss"]
                .map(|r| entered(&outcome, r))
        };
        // The step fits one micro-batch: a pass of the reference and one of the update; two updates are scored first.
        assert_eq!(run("one", "rl.updates_per_step=1"), [1, 0, 1, 2]);
        assert_eq!(run("two", "rl.updates_per_step=2"), [1, 1, 2, 4]);
        let line: serde_json::Value = serde_json::from_str(fixture.read("one/metrics.jsonl").trim()).unwrap();
        assert!(line["mismatch_max"].is_number() && line["mismatch_kl"].is_number(), "{line}");
    }

    /// The chunk of the LM head changes the order of sums: a resumed run takes it from config.toml, whatever card it is on.
    #[test]
    fn a_resumed_run_keeps_its_chunk_of_the_lm_head() {
        let fixture = CliFixture::new();
        let run = |out: &str, steps: &str, more: &[&str], memory: &str| {
            let mut args = vec!["sft", "--model", "model", "--data", "sft.jsonl", "--device", "emulated", "--out", out];
            for setting in [steps, "sft.examples_per_step=2", "sft.micro_batch_tokens=256", "sft.max_length=256"] {
                args.extend(["--set", setting]);
            }
            args.extend(["--set", "sft.decay=constant", "--set", "sft.learning_rate=1e-2"]);
            let outcome = fixture.run_with(&[&args, more].concat(), &[("PATARM_EMULATOR_MEMORY", memory)]);
            assert!(outcome.ok, "{}", outcome.err);
        };
        let chunk = |out: &str| {
            let config: toml::Table = fixture.read(&format!("{out}/config.toml")).parse().unwrap();
            config["run"]["lm_head_chunk_rows"].as_integer().unwrap()
        };
        let (small, large) = ("80000000", "1000000000");
        run("whole", "sft.steps=2", &["--set", "run.lm_head_chunk_rows=8"], small);
        run("parts", "sft.steps=1", &["--set", "run.lm_head_chunk_rows=8"], small);
        run("parts", "sft.steps=2", &["--resume"], large);
        run("chosen", "sft.steps=2", &[], small);
        let metrics = |out: &str| timeless(&fixture.read(&format!("{out}/metrics.jsonl")));
        assert_eq!((chunk("whole"), chunk("parts")), (8, 8));
        assert!(chunk("chosen") > 100 && chunk("chosen") < 4096, "{}", chunk("chosen"));
        assert_eq!(metrics("whole"), metrics("parts"));
        assert_ne!(metrics("whole"), metrics("chosen"), "a test that cannot see the chunk shows nothing");
        let other =
            ["sft", "--model", "model", "--data", "sft.jsonl", "--out", "parts", "--resume", "--device", "emulated"];
        fixture.fail(
            &[&other[..], &["--set", "run.lm_head_chunk_rows=16"]].concat(),
            &["run.lm_head_chunk_rows: 8 in the run, 16 now"],
        );
    }

    #[test]
    fn a_chunk_of_the_lm_head_that_cannot_work_is_refused_before_a_run_is_begun() {
        let fixture = CliFixture::new();
        for (command, data) in [("sft", "sft.jsonl"), ("rl", "train_pairs.jsonl")] {
            let args = [command, "--model", "model", "--data", data, "--out", "run", "--device", "emulated"];
            let refused = ["--set", "run.lm_head_chunk_rows=16777216"];
            fixture.fail(&[&args[..], &refused].concat(), &["run.lm_head_chunk_rows = 16777216 cannot work", "in all"]);
        }
        assert!(!fixture.path("run").exists(), "nothing is begun");
    }

    #[test]
    fn the_same_command_gives_the_same_greedy_tokens_on_cpu_and_device() {
        let fixture = CliFixture::new();
        let generate =
            ["generate", "--model", "model", "--prompt", "repeat", "--max-new-tokens", "8", "--json", "--device"];
        let tokens = |device: &'static str| {
            let out = fixture.succeed(&[&generate[..], &[device]].concat()).out;
            serde_json::from_str::<serde_json::Value>(&out).unwrap()["token_ids"].clone()
        };
        let on_cpu = tokens("cpu");
        assert_eq!(on_cpu.as_array().unwrap().len(), 8);
        assert_eq!(tokens("emulated"), on_cpu);
        assert_eq!(tokens("emulated:1"), on_cpu);
    }
}
