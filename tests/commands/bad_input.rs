//! Bad input gets one clear message and a failing exit code.

use patarm::model::directory;
use patarm::model::parameters::random_weights;
use patarm::tensor::DType;

use crate::common::cli::{CliFixture, config, tokenizer};

const SFT: &[&str] = &["sft", "--model", "model", "--data", "sft.jsonl", "--out", "run", "--set", "sft.steps=2"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

#[test]
fn settings_that_do_not_exist_are_refused_with_the_nearest_name() {
    let fixture = CliFixture::new();
    fixture.fail(&with(SFT, &["--set", "sft.stepps=3"]), &["sft.stepps", "did you mean `steps`"]);
    fixture.write("config.toml", "[rl]\nrollout = 3\n");
    fixture.fail(&with(SFT, &["--config", "config.toml"]), &["config.toml", "rl.rollout", "`rollouts`"]);
    assert!(!fixture.path("run").exists(), "nothing is begun");
}

#[test]
fn models_that_cannot_be_used_are_named() {
    let fixture = CliFixture::new();
    let judge = ["judge", "--input", "sft.jsonl", "--model"];
    fixture.fail(&with(&judge, &["nowhere"]), &["sft.jsonl", "response"]);
    fixture.fail(&["generate", "--prompt", "x", "--model", "nowhere"], &["nowhere", "no such model directory"]);

    let file = fixture.path("model/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    fixture.fail(SFT, &["model.safetensors", "cut short"]);
    std::fs::write(&file, &bytes).unwrap();

    let mut other = config(tokenizer().vocab_size().next_multiple_of(16));
    other.intermediate_size = 64;
    std::fs::write(fixture.path("model/config.json"), other.to_json().to_string()).unwrap();
    fixture.fail(SFT, &["gate_proj", "expected [64, 32]", "got [48, 32]"]);

    let small = config(64);
    directory::save(&fixture.path("model"), &small, &random_weights(&small, 1), DType::F32).unwrap();
    fixture.fail(SFT, &["tokenizer has", "only 64 rows"]);

    std::fs::remove_file(fixture.path("model/tokenizer.json")).unwrap();
    fixture.fail(SFT, &["tokenizer.json"]);
}

#[test]
fn bad_rows_are_named_by_file_and_line_or_skipped_and_counted() {
    let fixture = CliFixture::new();
    let good = fixture.read("sft.jsonl");
    fixture.write("bad.jsonl", &format!("{}{{\"messages\": 3}}\n{{not json\n", good));
    let data = |file| ["sft", "--model", "model", "--data", file, "--out", "run", "--set", "sft.steps=1"];
    fixture.fail(&data("bad.jsonl"), &["bad.jsonl", "21"]);
    fixture.write("empty.jsonl", "");
    fixture.fail(&data("empty.jsonl"), &["empty.jsonl"]);
    fixture.fail(&data("missing.jsonl"), &["missing.jsonl"]);
    let outcome = fixture.succeed(&with(&data("bad.jsonl"), &["--skip-bad"]));
    assert!(outcome.err.contains("skipped: 2 bad rows"), "{}", outcome.err);
    let summary: serde_json::Value = serde_json::from_str(&fixture.read("run/summary.json")).unwrap();
    assert_eq!((summary["skipped_rows"].as_u64(), summary["examples"].as_u64()), (Some(2), Some(20)));
    fixture.fail(&["sft", "--model", "model"], &["no training rows", "--data"]);
}

#[test]
fn rows_that_the_tokenizer_or_the_template_refuses_are_bad_rows_too() {
    let fixture = CliFixture::new();
    let good = fixture.read("sft.jsonl");
    let turns = |answer: &str| format!(r#"{{"messages": [{{"role": "user", "content": "a"}}, {answer}]}}"#);
    let control = turns(r#"{"role": "assistant", "content": "a<|im_end|>b"}"#);
    let tools = turns(r#"{"role": "assistant", "content": "b"}], "tools": [{"name": "find"}"#);
    fixture.write("bad.jsonl", &format!("{good}{control}\n{tools}\n"));
    let data = |file| ["sft", "--model", "model", "--data", file, "--out", "run", "--set", "sft.steps=1"];
    fixture.fail(&data("bad.jsonl"), &["bad.jsonl: line 21", "control token <|im_end|>"]);
    let outcome = fixture.succeed(&with(&data("bad.jsonl"), &["--skip-bad"]));
    for words in ["skipped: 2 bad rows", "bad.jsonl: line 22: loss mask: the row has tools"] {
        assert!(outcome.err.contains(words), "{}", outcome.err);
    }
    let summary: serde_json::Value = serde_json::from_str(&fixture.read("run/summary.json")).unwrap();
    assert_eq!((summary["skipped_rows"].as_u64(), summary["examples"].as_u64()), (Some(2), Some(20)));

    let row = |task: &str| format!(r#"{{"prompt": "a", "chosen": "b", "rejected": "c", "task": "{task}"}}"#);
    let pairs: String = (0..8).map(|_| row("chat") + "\n").collect();
    fixture.write("pairs.jsonl", &format!("{pairs}{}\n", row("chta")));
    let rl = ["rl", "--model", "model", "--data", "pairs.jsonl", "--out", "rl"];
    fixture.fail(&rl, &["pairs.jsonl: line 9", "unknown task `chta`: did you mean `chat`?"]);
}

#[test]
fn ids_come_back_as_they_came_and_misspelt_tasks_do_not_pass_as_chat() {
    let fixture = CliFixture::new();
    let row = |more: &str| format!("{{\"prompt\": \"a\", \"response\": \"b\"{more}}}\n");
    let ids = ["\"train/0001\"", "7", "null", "-3", "\"7\""];
    let rows: String = ids.iter().map(|id| row(&format!(", \"id\": {id}"))).collect();
    fixture.write("a.jsonl", &rows);
    fixture.write("b.jsonl", &row(", \"id\": 7, \"task\": \"poetry\""));
    let judge = ["judge", "--model", "model", "--max-new-tokens", "2", "--input"];
    let outcome = fixture.succeed(&with(&judge, &["a.jsonl", "b.jsonl"]));
    let rows: Vec<serde_json::Value> = outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<String> = rows.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(found, ["\"train/0001\"", "7", "2", "-3", "\"7\"", "7"]);
    assert_eq!((&rows[1]["file"], &rows[5]["file"]), (&"a.jsonl".into(), &"b.jsonl".into()));
    assert!(
        outcome.err.contains("the task named has no rubrics: 1 row: ") && outcome.err.contains("poetry (1)"),
        "{}",
        outcome.err
    );

    fixture.write("c.jsonl", &format!("{}{}", row(", \"id\": \"x\""), row(", \"id\": \"x\"")));
    fixture.fail(&with(&judge, &["c.jsonl"]), &["c.jsonl: line 2", "id \"x\" was used before"]);
    fixture.write("d.jsonl", &format!("{}{}", row(""), row(", \"task\": \"maths\"")));
    fixture.fail(&with(&judge, &["d.jsonl"]), &["d.jsonl: line 2", "unknown task `maths`: did you mean `math`?"]);
    let outcome = fixture.succeed(&with(&judge, &["d.jsonl", "--skip-bad"]));
    assert_eq!(outcome.out.lines().count(), 1, "{}", outcome.err);
}

#[test]
fn plain_text_needs_no_chat_template() {
    let fixture = CliFixture::new();
    fixture.write("model/chat_template.jinja", "{% if %}");
    let generate = ["generate", "--model", "model", "--max-new-tokens", "2", "--prompt", "a"];
    fixture.succeed(&generate);
    fixture.fail(&with(&generate, &["--chat"]), &["chat template", "syntax error"]);
    // A template on which minijinja panics is an error of one message.
    fixture.write("model/chat_template.jinja", "{% for m in messages %}{{ loop.cycle() }}{% endfor %}");
    fixture.fail(&with(&generate, &["--chat"]), &["chat template: it cannot be run"]);
}

#[test]
fn rows_over_the_limit_are_kept_out_and_counted() {
    let fixture = CliFixture::new();
    fixture.fail(&with(SFT, &["--set", "sft.max_length=5"]), &["no row has at most 5 tokens"]);
    let rl = ["rl", "--model", "model", "--data", "train_pairs.jsonl", "--out", "run"];
    let limits = ["--set", "rl.max_prompt_tokens=16", "--set", "rl.max_new_tokens=8"];
    fixture.fail(&with(&rl, &limits), &["kept out: 12 rows of more than 16 tokens", "0 usable pairs"]);
    fixture.write("long.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    let judge = ["judge", "--model", "model", "--input", "long.jsonl", "--max-new-tokens", "4"];
    let outcome = fixture.succeed(&with(&judge, &["--max-prompt-tokens", "4"]));
    let row: serde_json::Value = serde_json::from_str(outcome.out.trim()).unwrap();
    assert!(row["score"].is_null() && row["skipped"].as_str().unwrap().contains("more than 4"), "{row}");
}

#[test]
fn a_loss_that_is_not_a_number_is_skipped_dumped_and_in_the_end_stops() {
    let fixture = CliFixture::new();
    let config = config(tokenizer().vocab_size().next_multiple_of(16));
    let mut weights = random_weights(&config, 1);
    weights[0..2000].fill(f32::NAN);
    directory::save(&fixture.path("model"), &config, &weights, DType::F32).unwrap();
    let args = with(SFT, &["--set", "sft.steps=9", "--set", "run.patience=3"]);
    fixture.fail(&args, &["3 steps in a row", "not a number"]);
    for step in 1..=3 {
        assert!(fixture.read(&format!("run/skipped-step-{step}.json")).contains("NaN"));
    }
    assert!(!fixture.path("run/skipped-step-4.json").exists());
}
