//! A pairwise judge: trained by a demo, measured, and used on pairs and on lists.

use serde_json::{Value, json};

use crate::common::cli::CliFixture;

const PAIRS: usize = 16;
const LENGTHS: [&str; 4] = ["--max-prompt-tokens", "200", "--max-new-tokens", "240"];

/// A fixture with `demo/`, whose judges have learnt to write preferences and not much more.
fn trained() -> CliFixture {
    let fixture = CliFixture::new();
    let pairs = format!("eval.pairs={PAIRS}");
    let settings = ["judge.mode=pairwise", "sft.steps=160", "rl.steps=1", "rl.pairs_per_step=4", &pairs];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    fixture.succeed(&["demo", "--out", "demo"].into_iter().chain(settings).collect::<Vec<_>>());
    fixture
}

fn json_of(fixture: &CliFixture, name: &str) -> Value {
    serde_json::from_str(&fixture.read(name)).unwrap()
}

fn rows_of(fixture: &CliFixture, name: &str) -> Vec<Value> {
    fixture.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_pairwise_judge_is_measured_in_both_orders() {
    let fixture = trained();
    assert!(fixture.read("demo/model/judge.toml").contains("mode = \"pairwise\""));
    let stage = &json_of(&fixture, "demo/summary.json")["stages"]["rl"];
    assert!(stage["format_valid"].as_f64().unwrap() > 0.3, "the judge must have learnt something: {stage}");

    // A line of samples.jsonl gives its reward: a right preference earns 1.
    let samples = rows_of(&fixture, "demo/samples.jsonl");
    assert!(samples.iter().any(|sample| sample["par"] == 1.0), "something must be right");
    for sample in &samples {
        let right = [("chosen", "first"), ("rejected", "second")]
            .contains(&(sample["role"].as_str().unwrap(), sample["verdict"].as_str().unwrap()));
        assert_eq!(sample["par"], if right { 1.0 } else { 0.0 }, "{sample}");
        assert!(sample["second"].is_string() && sample["second"] != sample["response"], "{sample}");
    }

    // As the demo says: right is preferred in both orders.
    let eval = ["eval", "--model", "demo/model", "--data", "demo/held_out_pairs.jsonl"];
    let eval = [&eval[..], &LENGTHS].concat();
    let table = fixture.succeed(&[&eval[..], &["--temperature", "0", "--json", "greedy.json"]].concat()).out;
    let found = json_of(&fixture, "greedy.json");
    let headline = &found["readings"][0]["headline"]["value"];
    let difference = headline.as_f64().unwrap() - stage["accuracy_greedy"].as_f64().unwrap();
    assert!(difference.abs() < 1e-12, "{headline} {stage}");
    assert_eq!(found["judging"]["calls"], 2 * PAIRS);
    assert!(found["order"]["compared"].as_u64().unwrap() <= PAIRS as u64, "{}", found["order"]);
    assert!(table.contains("order: the response shown first is preferred in"), "{table}");

    // The same bytes in one go or in two, and the same table from what was written.
    let sampled = [&eval[..], &["--votes", "2"]].concat();
    let run = |more: &[&str]| fixture.succeed(&[&sampled[..], more].concat()).out;
    let whole = run(&["--output", "whole.jsonl", "--json", "whole.json", "--threads", "1", "--page", "whole.html"]);
    let rows = fixture.read("whole.jsonl");
    let kept: String = rows.lines().take(5).map(|line| format!("{line}\n")).collect();
    run(&["--output", "part.jsonl"]);
    fixture.write("part.jsonl", &kept);
    assert_eq!(run(&["--output", "part.jsonl", "--resume"]), whole);
    assert_eq!(fixture.read("part.jsonl"), rows);
    let first = &rows_of(&fixture, "whole.jsonl")[0];
    assert_eq!(first["comparisons"], json!([[0, 1], [1, 0]]));
    fixture.succeed(&["eval", "--from-scores", "whole.jsonl", "--json", "again.json"]);
    let (before, again) = (json_of(&fixture, "whole.json"), json_of(&fixture, "again.json"));
    for key in ["readings", "order", "ties", "missing"] {
        assert_eq!(before[key], again[key], "{key}");
    }
    assert!(fixture.read("whole.html").contains("Order: "));
}

#[test]
fn pairs_and_lists_are_compared_and_single_responses_are_refused() {
    let fixture = trained();
    let judge = |input: &str, more: &[&str]| {
        let fixed = ["judge", "--model", "demo/model", "--input", input, "--output", "out.jsonl", "--overwrite"];
        [&fixed[..], &LENGTHS, more].concat().into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let run = |line: Vec<String>| fixture.succeed(&line.iter().map(String::as_str).collect::<Vec<_>>());
    let said = run(judge("demo/held_out_pairs.jsonl", &["--votes", "2"])).err;
    assert!(
        said.contains(&format!("{} comparisons", 2 * PAIRS)) && said.contains(&format!("of {PAIRS} pairs right")),
        "{said}"
    );
    for row in rows_of(&fixture, "out.jsonl") {
        let [chosen, rejected] = ["chosen", "rejected"].map(|side| &row[side]);
        for vote in chosen["votes"].as_array().unwrap().iter().chain(rejected["votes"].as_array().unwrap()) {
            let expected = match vote["verdict"].as_str().unwrap() {
                "first" => json!(1.0),
                "second" => json!(0.0),
                _ => Value::Null,
            };
            assert_eq!(vote["score"], expected);
        }
        let margin = chosen["score"].as_f64().zip(rejected["score"].as_f64()).map(|(up, down)| up - down);
        assert_eq!(row["margin"].as_f64(), margin);
        assert_eq!(row["right"].as_bool(), margin.map(|margin| margin > 0.0));
    }

    let responses = ["a b c d", "d c b a", "a b d d"];
    let list = json!({"id": "x", "prompt": "repeat these: a b c d", "responses": responses, "task": "chat"});
    fixture.write("lists.jsonl", &list.to_string());
    run(judge("lists.jsonl", &[]));
    let row = &rows_of(&fixture, "out.jsonl")[0];
    assert_eq!(row["comparisons"].as_array().unwrap().len(), 6);
    let mut ranking: Vec<u64> = row["ranking"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect();
    ranking.sort_unstable();
    assert_eq!(ranking, [0, 1, 2]);

    fixture.write("single.jsonl", r#"{"prompt": "p", "response": "r"}"#);
    let single = judge("single.jsonl", &[]);
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    fixture.fail(&single, &["a pairwise judge compares responses", "give pairs"]);
    // Asked to judge in another mode, it says that it was trained in its own.
    let said = run(judge("single.jsonl", &["--set", "mode=pointwise"])).err;
    assert!(said.contains("mode: pairwise there, pointwise here"), "{said}");
    // One file says all of it: for judging, and as the defaults of training.
    fixture.write(
        "whole.toml",
        &fixture.read("demo/model/judge.toml").replace("pairwise\"", "pointwise\"").replace("max = 10.0", "max = 20.0"),
    );
    let said = run(judge("single.jsonl", &["--rubrics", "whole.toml"])).err;
    assert!(said.contains("mode: pairwise there, pointwise here; verdict.max: 10.0 there, 20.0 here"), "{said}");
    let whole = ["--set", "data.rubrics=demo/model/judge.toml", "--print-config"];
    let printed = fixture.succeed(&[&["sft"][..], &whole].concat()).out;
    assert!(printed.contains("mode = \"pairwise\""), "{printed}");
    let printed = fixture.succeed(&[&["sft", "--set", "judge.mode=pointwise"][..], &whole].concat()).out;
    assert!(printed.contains("mode = \"pointwise\""), "{printed}");
    let no_template = judge("demo/held_out_pairs.jsonl", &["--rubrics", "one.toml"]);
    fixture
        .write("one.toml", "template = \"#P\\n{{ prompt }}\\n#R\\n{{ response }}\"\n[tasks.chat]\nrubrics = \"r\"\n");
    let no_template: Vec<&str> = no_template.iter().map(String::as_str).collect();
    fixture.fail(&no_template, &["mode = pairwise needs a template of its own"]);
}
