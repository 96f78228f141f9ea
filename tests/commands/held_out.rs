//! Evaluation on held-out pairs while a judge learns.

use serde_json::Value;

use super::runs::{RL, timeless};
use crate::common::cli::CliFixture;

const HELD_OUT: [&str; 12] = [
    "--set",
    "eval.every=2",
    "--set",
    "eval.data=[\"test_pairs.jsonl\"]",
    "--set",
    "eval.votes=2",
    "--set",
    "eval.max_prompt_tokens=200",
    "--set",
    "eval.max_new_tokens=8",
    "--set",
    "run.keep_checkpoints=1",
];

fn rl(fixture: &CliFixture, out: &str, more: &[&str]) -> String {
    fixture.succeed(&[RL, &["--out", out], more].concat()).out
}

/// Lines of a stage of metrics.jsonl, without what a clock measured.
fn lines(fixture: &CliFixture, out: &str, stage: &str) -> Vec<Value> {
    let mut lines = timeless(&fixture.read(&format!("{out}/metrics.jsonl")));
    lines.retain(|line| line["stage"] == stage);
    lines
}

#[test]
fn looking_changes_nothing_and_the_best_checkpoint_outlives_the_others() {
    let fixture = CliFixture::new();
    let steps = ["--set", "rl.steps=3"];
    rl(&fixture, "alone", &steps);
    let said = rl(&fixture, "looked", &[&steps[..], &HELD_OUT].concat());
    assert_eq!(lines(&fixture, "looked", "rl"), lines(&fixture, "alone", "rl"));
    let weights = |path: &str| std::fs::read(fixture.path(&format!("{path}/model.safetensors"))).unwrap();
    assert!(weights("looked/model") == weights("alone/model"), "looking changed what was learnt");

    // At step 2, and at the last one. Random weights write no verdict, so the first is the best.
    let looks = lines(&fixture, "looked", "eval");
    let of = |key: &str| looks.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!((of("step"), of("best")), (vec![2.into(), 3.into()], vec![true.into(), false.into()]));
    assert_eq!((&looks[0]["pairs"], &looks[0]["votes"], &looks[0]["of"]), (&4.into(), &2.into(), &"rl".into()));
    let mut kept: Vec<String> = std::fs::read_dir(fixture.path("looked/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["step-2", "step-3"]);
    assert!(said.contains("The best on held-out pairs is that of step 2"), "{said}");
    let summary: Value = serde_json::from_str(&fixture.read("looked/summary.json")).unwrap();
    assert_eq!(summary["held_out"]["best_step"], 2);
    assert!(fixture.read("looked/report.html").contains("Accuracy on held-out pairs"));

    // The best one's model is that of a run which ended there; a resume looks at a step that was not looked at.
    rl(&fixture, "shorter", &[&["--set", "rl.steps=2"], &HELD_OUT[..]].concat());
    assert!(weights("looked/model-best") == weights("shorter/model"), "model-best is not step 2's");
    let metrics = fixture.read("shorter/metrics.jsonl");
    let unseen: String =
        metrics.lines().filter(|line| !line.contains("\"eval\"")).map(|line| format!("{line}\n")).collect();
    fixture.write("shorter/metrics.jsonl", &unseen);
    fixture.succeed(&["rl", "--out", "shorter", "--resume", "--set", "rl.steps=3"]);
    assert_eq!(lines(&fixture, "shorter", "eval"), looks);
    assert!(
        weights("shorter/model") == weights("looked/model")
            && weights("shorter/model-best") == weights("looked/model-best")
    );
}

#[test]
fn a_share_is_held_out_by_prompts_and_what_holds_nothing_out_is_refused() {
    let fixture = CliFixture::new();
    // Every prompt twice, under two ids: both must be on one side.
    let twice: String = fixture
        .read("train_pairs.jsonl")
        .lines()
        .flat_map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            let first = format!("{row}\n");
            row["id"] = format!("{} again", row["id"]).into();
            [first, format!("{row}\n")]
        })
        .collect();
    fixture.write("train_pairs.jsonl", &twice);
    let small = ["--set", "eval.max_prompt_tokens=200", "--set", "eval.max_new_tokens=8", "--set", "rl.steps=2"];
    let share = [&small[..], &["--set", "eval.every=1", "--set", "eval.share=0.4"]].concat();
    rl(&fixture, "share", &share);
    let summary: Value = serde_json::from_str(&fixture.read("share/summary.json")).unwrap();
    let (left, held_out) =
        (summary["pairs"].as_u64().unwrap(), lines(&fixture, "share", "eval")[0]["pairs"].as_u64().unwrap());
    assert_eq!(left + held_out, 24);
    assert!(left > 0 && held_out > 0 && held_out.is_multiple_of(2), "{held_out} held out");

    let fail = |more: &[&str], words: &[&str]| fixture.fail(&[RL, &["--out", "refused"], &small, more].concat(), words);
    fail(&["--set", "eval.share=0.4"], &["eval.share", "eval.every"]);
    fail(&["--set", "eval.every=1"], &["there are no held-out pairs", "eval.data"]);
    fail(
        &["--set", "eval.every=1", "--set", "eval.share=0.1", "--set", "eval.data=[\"test_pairs.jsonl\"]"],
        &["leave out one"],
    );
    fail(&["--set", "eval.every=1", "--set", "eval.data=[\"none.jsonl\"]"], &["none.jsonl"]);
    let sft = ["sft", "--model", "model", "--data", "sft.jsonl", "--out", "refused", "--set", "eval.every=1"];
    fixture.fail(&[&sft[..], &["--set", "eval.share=0.4"]].concat(), &["eval.share", "eval.data"]);
    assert!(!fixture.path("refused/run.toml").exists());
}
