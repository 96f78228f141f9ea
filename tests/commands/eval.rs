//! `eval`: a judge that a demo trained on the pairs that the demo measured it on, and recorded results.

use serde_json::{Value, json};

use crate::common::cli::CliFixture;

const PAIRS: usize = 24;

/// A fixture with `demo/`, whose judges have learnt to write verdicts and not much more.
fn trained() -> CliFixture {
    let fixture = CliFixture::new();
    let pairs = format!("eval.pairs={PAIRS}");
    let settings = ["sft.steps=120", "rl.steps=1", "rl.pairs_per_step=4", &pairs];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    fixture.succeed(&["demo", "--out", "demo"].into_iter().chain(settings).collect::<Vec<_>>());
    fixture
}

const EVAL: [&str; 9] = [
    "eval",
    "--model",
    "demo/model",
    "--data",
    "demo/held_out_pairs.jsonl",
    "--max-prompt-tokens",
    "200",
    "--max-new-tokens",
    "200",
];

fn json_of(fixture: &CliFixture, name: &str) -> Value {
    serde_json::from_str(&fixture.read(name)).unwrap()
}

#[test]
fn the_demos_judge_scores_as_the_demo_says_and_a_killed_evaluation_is_gone_on_with() {
    let fixture = trained();
    let summary = json_of(&fixture, "demo/summary.json");
    let stage = &summary["stages"]["rl"];
    assert!(stage["format_valid"].as_f64().unwrap() > 0.3, "the judge must have learnt something: {stage}");

    let greedy = [&EVAL[..], &["--temperature", "0", "--json", "greedy.json", "--output", "greedy.jsonl"]].concat();
    let table = fixture.succeed(&greedy).out;
    let found = json_of(&fixture, "greedy.json");
    let strict = &found["readings"][0];
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-12;
    assert!(near(&strict["headline"]["value"], &stage["accuracy_greedy"]), "{stage}\n{table}");
    for subset in strict["subsets"].as_array().unwrap() {
        assert!(near(&subset["value"], &stage["greedy_by_task"][subset["name"].as_str().unwrap()]), "{subset}");
    }
    assert_eq!((&found["rows"], &found["judging"]["calls"]), (&json!(PAIRS), &json!(2 * PAIRS)));
    let accuracy = format!("{:.2} %", 100.0 * strict["headline"]["value"].as_f64().unwrap());
    assert!(table.lines().any(|line| line.starts_with("all pairs") && line.contains(&accuracy)), "{table}");

    // Sampled votes: on any number of threads, in one go or in two, the same bytes and the same table.
    let sampled = [&EVAL[..], &["--votes", "4", "--seed", "3"]].concat();
    let run = |more: &[&str]| fixture.succeed(&[&sampled[..], more].concat()).out;
    let whole = run(&["--output", "whole.jsonl", "--json", "whole.json", "--threads", "1", "--page", "whole.html"]);
    let rows = fixture.read("whole.jsonl");
    assert_eq!(rows.lines().count(), PAIRS);
    run(&["--output", "part.jsonl", "--threads", "2"]);
    let kept: String = rows.lines().take(7).map(|line| format!("{line}\n")).collect();
    fixture.write("part.jsonl", &(kept + "{\"benchmark\":\"pai"));
    assert_eq!(run(&["--output", "part.jsonl", "--resume", "--max-running", "3"]), whole);
    assert_eq!(fixture.read("part.jsonl"), rows);
    fixture.fail(&[&sampled[..], &["--output", "part.jsonl"]].concat(), &["part.jsonl", "--resume"]);

    // A row that the judge cannot read is named, or left out.
    let mut lines: Vec<String> =
        fixture.read("demo/held_out_pairs.jsonl").lines().take(3).map(str::to_string).collect();
    lines[1] = r#"{"prompt": "p", "chosen": "c", "rejected": "r", "task": "maths"}"#.into();
    fixture.write("misspelt.jsonl", &lines.join("\n"));
    let misspelt = ["eval", "--model", "demo/model", "--data", "misspelt.jsonl", "--temperature", "0"];
    let misspelt = [&misspelt[..], &EVAL[5..]].concat();
    fixture.fail(&misspelt, &["misspelt.jsonl: line 2", "`maths`: did you mean `math`?"]);
    fixture.succeed(&[&misspelt[..], &["--skip-bad", "--json", "skipped.json"]].concat());
    assert_eq!(json_of(&fixture, "skipped.json")["rows"], 2);

    // What was written gives the table again.
    fixture.succeed(&["eval", "--from-scores", "whole.jsonl", "--json", "again.json"]);
    let (mut before, again) = (json_of(&fixture, "whole.json"), json_of(&fixture, "again.json"));
    let judging = before.as_object_mut().unwrap().remove("judging").unwrap();
    for key in ["benchmark", "rows", "ties", "missing", "readings"] {
        assert_eq!(before[key], again[key], "{key}");
    }
    let votes_at: Vec<u64> =
        judging["votes_at"].as_array().unwrap().iter().map(|at| at["votes"].as_u64().unwrap()).collect();
    assert_eq!(votes_at, [1, 2, 4]);
    assert!(near(&judging["votes_at"][2]["headline"], &before["readings"][0]["headline"]["value"]), "{judging}");
    let page = fixture.read("whole.html");
    for part in ["<svg", "Margins", "Scores", "Accuracy by votes", "all pairs"] {
        assert!(page.contains(part), "the page has no {part}");
    }

    // Greedy against sampled: every row is right or wrong, so McNemar's test applies.
    let compared = fixture.succeed(&["eval", "compare", "greedy.jsonl", "whole.jsonl", "--json"]).out;
    let compared: Value = serde_json::from_str(&compared).unwrap();
    assert!(near(&compared["all"]["a"], &strict["headline"]["value"]), "{compared}");
    assert_eq!(compared["all"]["rows"], PAIRS);
    let alone = |side: &str| compared["all"]["discordant"][side].as_f64().unwrap();
    let difference = compared["all"]["difference"]["mean"].as_f64().unwrap();
    assert!((difference - (alone("second") - alone("first")) / PAIRS as f64).abs() < 1e-12, "{compared}");
    assert!(compared["all"]["mcnemar"]["mid_p"].is_number(), "{compared}");
}

#[test]
fn recorded_results_are_read_and_what_cannot_work_is_refused_before_anything_is_loaded() {
    let fixture = CliFixture::new();
    let row = |id: u32, chosen: f64| format!("{}\n", json!({"id": id, "scores_chosen": chosen, "scores_rejected": 5}));
    fixture.write("a.jsonl", &(row(1, 6.0) + &row(2, 5.0) + &row(3, 4.0)));
    fixture.write("b.jsonl", &(row(3, 6.0) + &row(1, 6.0) + &row(2, 6.0)));
    let table = fixture.succeed(&["eval", "--from-scores", "a.jsonl"]).out;
    assert!(table.lines().any(|line| line.starts_with("all pairs") && line.ends_with("33.33 %  50.00 %")), "{table}");
    let compared = fixture.succeed(&["eval", "compare", "a.jsonl", "b.jsonl"]).out;
    assert!(compared.contains("underpowered for ranking the two"), "{compared}");
    let same = fixture.succeed(&["eval", "compare", "a.jsonl", "a.jsonl"]).out;
    assert!(same.contains("the two decide every row alike"), "{same}");

    fixture.write("bad.jsonl", &(row(1, 6.0) + "{\"id\": 2}\n"));
    fixture
        .fail(&["eval", "--from-scores", "bad.jsonl"], &["bad.jsonl", "row 2", "no known form of results", "found id"]);
    fixture.fail(&["eval", "--from-scores", "none.jsonl"], &["none.jsonl", "No such file"]);
    fixture.fail(&["eval"], &["--model"]);
    fixture.fail(&["eval", "--model", "model"], &["--data"]);
    fixture.fail(&["eval", "--model", "model", "--from-scores", "a.jsonl"], &["cannot be used with"]);
    fixture.fail(&["eval", "--from-scores", "a.jsonl", "--benchmark", "mmlu"], &["expected one of rewardbench"]);
    fixture.fail(&["eval", "--from-scores", "a.jsonl", "--json", "a.jsonl"], &["--json a.jsonl", "is an input too"]);
    let twice = ["eval", "--from-scores", "a.jsonl", "--json", "b", "--page", "b"];
    fixture.fail(&twice, &["--page b: is the same file as --json"]);
    fixture.fail(&["eval", "--from-scores", "a.jsonl", "--page", "b.jsonl"], &["--page b.jsonl", "exists already"]);
    let data = ["eval", "--model", "model", "--data", "test_pairs.jsonl"];
    fixture.fail(&[&data[..], &["--resume"]].concat(), &["--resume", "--output FILE"]);
    fixture.fail(&[&data[..], &["--output", "test_pairs.jsonl"]].concat(), &["test_pairs.jsonl", "input"]);
    fixture.fail(&["eval", "compare", "a.jsonl", "bad.jsonl"], &["bad.jsonl", "row 2"]);
    assert_eq!(fixture.read("a.jsonl").lines().count(), 3);
}
