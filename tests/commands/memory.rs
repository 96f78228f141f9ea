//! What a run holds is what its plan says, to the byte, in every phase; what does not fit is refused before anything is loaded.

use serde_json::Value;

use crate::common::cli::CliFixture;

const SFT: &str = "sft --model model --data sft.jsonl --set sft.steps=2 --set sft.warmup=0 --set sft.examples_per_step=3 \
                   --set sft.max_length=120 --set sft.micro_batch_tokens=128 --set model.context=128";

const RL: &str = "rl --model model --data train_pairs.jsonl --rubrics rubrics.toml --set rl.steps=1 --set rl.warmup=0 \
                  --set rl.pairs_per_step=2 --set rl.rollouts=2 --set rl.max_prompt_tokens=180 --set rl.max_new_tokens=12 \
                  --set rl.micro_batch_tokens=256 --set model.context=256 --set rl.policy.kl_coefficient=0.01";

/// Plan and peaks of the run in a folder must agree in every phase that the run had, for every use of memory.
fn assert_planned(fixture: &CliFixture, folder: &str, phases: &[&str]) {
    let summary: Value = serde_json::from_str(&fixture.read(&format!("{folder}/summary.json"))).unwrap();
    let (planned, held) = (&summary["memory"]["plan"]["phases"], &summary["memory"]["handed_out"]);
    for phase in phases {
        assert!(held[phase]["bytes"].as_u64().unwrap_or(0) > 0, "{folder}: no phase {phase} in {held}");
        assert_eq!(planned[phase], held[phase], "{folder}, {phase}: planned, handed out");
    }
}

const SFT_PHASES: [&str; 5] = ["load", "forward", "loss", "backward", "update"];
const RL_PHASES: [&str; 9] = ["load", "prefill", "decode", "reward", "score", "forward", "loss", "backward", "update"];

/// Runs a stage with more of a command line. Whether it learns is another matter.
fn train(fixture: &CliFixture, stage: &str, folder: &str, more: &str) {
    let words = format!("{stage} {more} --out {folder}");
    let outcome = fixture.run(&words.split_whitespace().collect::<Vec<_>>());
    assert!(outcome.ok || outcome.err.contains("nothing was learnt"), "{folder}: {}", outcome.err);
    assert!(outcome.err.contains("plan: fits on"), "{folder}: {}", outcome.err);
}

#[test]
fn on_the_cpu_a_run_holds_what_its_plan_says() {
    let fixture = CliFixture::new();
    for recompute in ["nothing", "norms", "attention_inputs", "block"] {
        let lever = format!("--set memory.recompute={recompute}");
        train(&fixture, SFT, recompute, &lever);
        assert_planned(&fixture, recompute, &SFT_PHASES);
        for share in ["on", "off"] {
            let folder = format!("{recompute}-{share}");
            train(&fixture, RL, &folder, &format!("{lever} --set memory.share={share} --set rl.max_running=8"));
            assert_planned(&fixture, &folder, &RL_PHASES);
        }
    }
    // Held-out pairs are judged between steps.
    let held_out = "--set eval.every=1 --set eval.data=[\"test_pairs.jsonl\"] --set eval.max_prompt_tokens=240 --set \
                    data.rubrics=rubrics.toml --set eval.max_new_tokens=12 --set rl.max_running=4 --set model.context=260";
    train(&fixture, SFT, "held-out", held_out);
    assert_planned(&fixture, "held-out", &[&SFT_PHASES[..], &["prefill", "decode"]].concat());
}

#[test]
fn what_is_computed_again_changes_no_weight() {
    let fixture = CliFixture::new();
    train(&fixture, SFT, "kept", "--set memory.recompute=nothing");
    train(&fixture, SFT, "again", "--set memory.recompute=block");
    let weights = |folder: &str| std::fs::read(fixture.path(&format!("{folder}model/model.safetensors"))).unwrap();
    assert!(weights("kept/") == weights("again/"));
    assert!(weights("kept/") != weights(""), "nothing was learnt");
}

/// What a plan says in JSON, and whether the run fits.
fn plan(fixture: &CliFixture, args: &str) -> (Value, bool) {
    let outcome = fixture.run(&format!("plan {args} --json").split_whitespace().collect::<Vec<_>>());
    assert!(!outcome.err.contains("panicked"), "{}", outcome.err);
    let json = serde_json::from_str(&outcome.out).unwrap_or_else(|e| panic!("{e}: {} {}", outcome.out, outcome.err));
    (json, outcome.ok)
}

#[test]
fn a_plan_needs_no_machine_and_says_what_fits() {
    let fixture = CliFixture::new();
    let (fits, ok) = plan(&fixture, "sft --shape 0.6b --card h100");
    assert!(ok && fits["fits"] == true, "{fits}");
    let (large, ok) = plan(&fixture, "sft --shape 8b --card rtx-4090");
    assert!(!ok && large["fits"] == false && large["recompute"] == "block", "{large}");
    // Weights, gradients and both moments in f32.
    let arena = 8_190_735_360u64;
    let labels = &large["phases"]["update"]["labels"];
    for (label, bytes) in [("weights", 4 * arena), ("gradients of weights", 4 * arena), ("moments", 8 * arena)] {
        assert_eq!(labels[label], bytes, "{label}: {labels}");
    }
    let table = fixture.run(&["plan", "rl", "--shape", "0.6b", "--memory", "40GiB"]);
    assert!(table.ok, "{}", table.err);
    for words in ["gradients of weights", "prefill", "in all", "fits on a card of 40.0 GiB", "FLOP", "the largest"] {
        assert!(table.out.contains(words), "{words:?} is missing in\n{}", table.out);
    }
    for (args, words) in [
        ("plan sft --shape 9b", "known are"),
        ("plan sft", "--shape"),
        ("plan sft --shape 8b --card h999", "--memory"),
        ("plan sft --shape 8b --memory lots", "80GiB"),
        ("plan sft --shape 8b --set memory.budget=lots", "80GiB"),
    ] {
        let outcome = fixture.run(&args.split_whitespace().collect::<Vec<_>>());
        assert!(!outcome.ok && outcome.err.contains(words), "{args}: {}", outcome.err);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_lever_to_pull_before_anything_is_made() {
    let fixture = CliFixture::new();
    let words = format!("{SFT} --out run --set memory.budget=2304KiB");
    let outcome = fixture.run(&words.split_whitespace().collect::<Vec<_>>());
    assert!(!outcome.ok && !fixture.path("run/metrics.jsonl").exists());
    for words in ["does not fit", "sft.micro_batch_tokens = ", "is the most that fits", "gradients of weights"] {
        assert!(outcome.err.contains(words), "{words:?} is missing in {}", outcome.err);
    }
}

#[cfg(has_cuda)]
mod cuda {
    use super::*;

    #[test]
    fn on_the_emulated_device_a_run_holds_what_its_plan_says() {
        let fixture = CliFixture::new();
        for recompute in ["nothing", "block"] {
            let more = format!("--device emulated --set sft.steps=1 --set memory.recompute={recompute}");
            train(&fixture, SFT, recompute, &more);
            assert_planned(&fixture, recompute, &SFT_PHASES);
        }
        for share in ["on", "off"] {
            let more = format!("--device emulated --set memory.recompute=norms --set memory.share={share}");
            train(&fixture, RL, share, &format!("{more} --set rl.max_running=4 --set memory.prefill_tokens=64"));
            assert_planned(&fixture, share, &RL_PHASES);
        }
    }

    /// The largest micro-batch runs on a card of that size; one token more does not.
    #[test]
    fn the_largest_that_fits_is_tight() {
        let fixture = CliFixture::new();
        let card = "--device emulated --set memory.budget=40MiB --set memory.recompute=block --set sft.steps=1";
        let planned = SFT.replace("--data sft.jsonl", "");
        let (planned, ok) = plan(&fixture, &format!("{planned} {card}"));
        assert!(ok, "{planned}");
        let most = planned["largest"]["micro_batch_tokens"].as_u64().unwrap();
        let tokens = |tokens: u64| format!("{card} --set sft.micro_batch_tokens={tokens}");
        train(&fixture, SFT, "most", &tokens(most));
        assert_planned(&fixture, "most", &SFT_PHASES);
        let words = format!("{SFT} {} --out more", tokens(most + 1));
        let outcome = fixture.run(&words.split_whitespace().collect::<Vec<_>>());
        assert!(!outcome.ok && outcome.err.contains(&format!("{most} is the most that fits")), "{}", outcome.err);
    }
}
