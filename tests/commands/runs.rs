//! Runs of every command from end to end, on a tiny model.

use std::io::Read;

use serde_json::Value;

use crate::common::cli::{CliFixture, shared_data};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Metrics without what a clock measured.
pub fn timeless(text: &str) -> Vec<Value> {
    let mut rows = lines(text);
    for row in &mut rows {
        let clock = |key: &String| ["_ms", "_s", "_per_s", "_bytes"].iter().any(|end| key.ends_with(end));
        row.as_object_mut().unwrap().retain(|key, _| !clock(key));
    }
    rows
}

/// A small run of `rl`. Random weights write no verdict, so all groups are dead: weight decay moves the weights in the first
/// step, and the KL to where they were in the second.
pub const RL: &[&str] = &[
    "rl",
    "--model",
    "model",
    "--data",
    "train_pairs.jsonl",
    "--rubrics",
    "rubrics.toml",
    "--set",
    "rl.pairs_per_step=2",
    "--set",
    "rl.rollouts=2",
    "--set",
    "rl.max_prompt_tokens=200",
    "--set",
    "rl.max_new_tokens=8",
    "--set",
    "rl.micro_batch_tokens=1024",
    "--set",
    "rl.max_running=8",
    "--set",
    "rl.learning_rate=1e-3",
    "--set",
    "rl.adamw.weight_decay=0.1",
];

#[test]
fn generate_prints_ids_text_and_log_probabilities() {
    let fixture = CliFixture::new();
    let args = ["generate", "--model", "model", "--prompt", "repeat these", "--max-new-tokens", "5", "--json"];
    let greedy = fixture.succeed(&args).out;
    let line = &lines(&greedy)[0];
    let count = line["token_ids"].as_array().unwrap().len();
    assert!((1..=5).contains(&count) && line["logprobs"].as_array().unwrap().len() == count, "{line}");
    assert!(line["logprobs"].as_array().unwrap().iter().all(|p| p.as_f64().unwrap() <= 0.0));
    assert!(["length", "stop"].contains(&line["finish_reason"].as_str().unwrap()));
    assert_eq!(greedy, fixture.succeed(&args).out);
    let sampled = [&args[..], &["--temperature", "1", "--samples", "3", "--chat", "--logits", "logits.json"]].concat();
    assert_eq!(lines(&fixture.succeed(&sampled).out).len(), 3);
    let logits: Value = serde_json::from_str(&fixture.read("logits.json")).unwrap();
    assert_eq!(logits["ids"].as_array().unwrap().len(), logits["logits"].as_array().unwrap().len());
}

#[test]
fn judge_gives_every_response_a_row_and_failures_no_number() {
    let fixture = CliFixture::new();
    fixture.write(
        "rows.jsonl",
        "{\"prompt\": \"p\", \"response\": \"r <|im_end|>\"}\n{\"prompt\": \"q\", \"response\": \"s\"}\n",
    );
    fixture.succeed(&[
        "judge",
        "--model",
        "model",
        "--input",
        "rows.jsonl",
        "--output",
        "out.jsonl",
        "--votes",
        "3",
        "--max-new-tokens",
        "6",
        "--texts",
    ]);
    let rows = lines(&fixture.read("out.jsonl"));
    assert_eq!(rows.len(), 2);
    for row in rows {
        // Random weights write no judgement: every vote fails, and the score is null, not 0.
        assert!(row["score"].is_null() && row["valid"] == 0, "{row}");
        let votes = row["votes"].as_array().unwrap();
        assert_eq!(votes.len(), 3);
        assert!(votes.iter().all(|vote| vote["score"].is_null() && vote["verdict"] != "score"));
    }
}

/// A judge that writes one judgement, and what it was trained with: its own prompt, and scores up to 5. Answers with the
/// judgement's score.
fn strict_judge(fixture: &CliFixture) -> f64 {
    let score = |row: &Value| -> f64 {
        let (_, answer) = row["messages"][1]["content"].as_str().unwrap().rsplit_once("<answer>").unwrap();
        answer.trim_end_matches("</answer>").trim().parse().unwrap()
    };
    let rows = lines(&fixture.read("sft.jsonl"));
    let row = rows.iter().find(|row| (6.0..10.0).contains(&score(row))).unwrap();
    let (prompt, response) = row["messages"][0]["content"].as_str().unwrap().split_once('\n').unwrap();
    let mut own = row.clone();
    own["messages"][0]["content"] = format!("{prompt}\n### R\n{response}").into();
    fixture.write("one.jsonl", &own.to_string());
    let template = "template = \"{{ prompt }}\\n### R\\n{{ response }}\"\ntasks.chat.rubrics = \"short\"\n";
    fixture.write("own.toml", template);
    let steps = ["--set", "sft.steps=80", "--set", "sft.examples_per_step=1", "--set", "sft.learning_rate=1e-2"];
    let way = ["--set", "reward.verdict.max=5", "--set", "data.rubrics=own.toml"];
    fixture
        .succeed(&[&["sft", "--model", "model", "--data", "one.jsonl", "--out", "strict"][..], &steps, &way].concat());
    fixture.write("rows.jsonl", &serde_json::json!({ "prompt": prompt, "response": response }).to_string());
    score(row)
}

#[test]
fn a_trained_judge_is_read_as_it_was_trained_without_a_flag() {
    let fixture = CliFixture::new();
    let score = strict_judge(&fixture);
    let judge = ["judge", "--model", "strict/model", "--input", "rows.jsonl", "--temperature", "0"];
    // The built-in prompt would not fit.
    let judge = [&judge[..], &["--max-prompt-tokens", "80", "--max-new-tokens", "100"]].concat();
    let outcome = fixture.succeed(&judge);
    let row = &lines(&outcome.out)[0];
    assert_eq!((&row["votes"][0]["verdict"], &row["score"]), (&"out_of_range".into(), &Value::Null), "{row}");
    assert!(!outcome.err.contains("note:"), "{}", outcome.err);

    let outcome = fixture.succeed(&[&judge[..], &["--set", "verdict.max=10", "--thinking=false"]].concat());
    assert_eq!(lines(&outcome.out)[0]["score"], score, "{}", outcome.out);
    assert!(outcome.err.contains("verdict.max: 5.0 there, 10.0 here"), "{}", outcome.err);
    fixture.fail(&[&judge[..], &["--set", "verdict.maximum=10"]].concat(), &["verdict.maximum", "did you mean `max`"]);
    fixture.fail(&[&judge[..], &["--set", "verdict.max=0"]].concat(), &["min < max"]);

    // A directory that carries nothing is judged with what is built in, and that is said.
    std::fs::remove_file(fixture.path("strict/model/judge.toml")).unwrap();
    let outcome = fixture.succeed(&judge);
    assert!(outcome.err.contains("has no judge.toml"), "{}", outcome.err);
    assert!(lines(&outcome.out)[0]["skipped"].as_str().unwrap().contains("more than 80"), "{}", outcome.out);
}

#[test]
fn a_judge_that_is_trained_on_keeps_its_way_of_judging() {
    let fixture = CliFixture::new();
    strict_judge(&fixture);
    let rl = ["rl", "--model", "strict/model", "--data", "train_pairs.jsonl", "--set", "rl.steps=2"];
    let chat: String = fixture
        .read("train_pairs.jsonl")
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["task"] = "chat".into();
            format!("{row}\n")
        })
        .collect();
    fixture.write("train_pairs.jsonl", &chat);
    let small = &RL[RL.iter().position(|word| *word == "--set").unwrap()..];
    let carried = fixture.succeed(&[&rl[..], small, &["--out", "on"]].concat());
    assert!(!carried.err.contains("judge in another way"), "{}", carried.err);
    assert_eq!(fixture.read("on/model/judge.toml"), fixture.read("strict/model/judge.toml"));
    assert!(fixture.read("on/config.toml").contains("max = 5.0"));
    let other = ["--out", "other", "--rubrics", "rubrics.toml", "--set", "reward.verdict.max=9"];
    let other = fixture.succeed(&[&rl[..], small, &other].concat());
    for part in ["verdict.max: 5.0 there, 9.0 here", "prompt.template differs"] {
        assert!(other.err.contains(part), "{part}: {}", other.err);
    }
    assert!(fixture.read("other/model/judge.toml").contains("max = 9.0"));
}

#[test]
fn sft_leaves_a_model_and_a_resumed_run_is_the_run() {
    let fixture = CliFixture::new();
    let args = |out, steps| {
        [
            "sft",
            "--model",
            "model",
            "--data",
            "sft.jsonl",
            "--out",
            out,
            "--set",
            steps,
            "--set",
            "run.checkpoint_every=3",
        ]
    };
    // The rate is constant: the two runs differ in their number of steps until the second is resumed.
    let constant = ["--set", "sft.decay=constant", "--set", "sft.learning_rate=1e-3"];
    fixture.succeed(&[&args("whole", "sft.steps=6")[..], &constant].concat());
    fixture.succeed(&[&args("parts", "sft.steps=3")[..], &constant].concat());
    fixture.succeed(&[&args("parts", "sft.steps=6")[..], &constant, &["--resume"]].concat());
    assert_eq!(timeless(&fixture.read("whole/metrics.jsonl")), timeless(&fixture.read("parts/metrics.jsonl")));
    let model = |run: &str| std::fs::read(fixture.path(&format!("{run}/model/model.safetensors"))).unwrap();
    assert_eq!(model("whole"), model("parts"));
    fixture.succeed(&["generate", "--model", "whole/model", "--prompt", "a", "--max-new-tokens", "1"]);
    fixture.fail(&args("whole", "sft.steps=6"), &["holds a run already", "--resume"]);
    let page = fixture.succeed(&["report", "whole"]).out;
    assert!(std::fs::read_to_string(page.trim().replace("whole", fixture.path("whole").to_str().unwrap())).is_ok());
}

#[test]
fn rl_measures_a_mismatch_of_zero_and_a_resumed_run_is_the_run() {
    let fixture = CliFixture::new();
    let run = |out, steps, more: &[&str]| {
        fixture.succeed(&[RL, &["--out", out, "--set", steps], more].concat());
    };
    run("whole", "rl.steps=4", &[]);
    run("parts", "rl.steps=2", &["--threads", "1"]);
    run("parts", "rl.steps=4", &["--resume"]);
    let whole = timeless(&fixture.read("whole/metrics.jsonl"));
    assert_eq!(whole.len(), 4);
    assert!(whole.iter().all(|line| line["mismatch_max"] == 0.0), "{whole:?}");
    assert_eq!(whole, timeless(&fixture.read("parts/metrics.jsonl")));
}

#[test]
fn public_pairs_and_the_real_tokenizer_train_a_small_random_model() {
    let Some(data) = shared_data() else { return };
    let fixture = CliFixture::new();
    let packed = std::fs::File::open(data.join("qwen3_tokenizer/tokenizer.json.gz")).unwrap();
    let mut tokenizer = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut tokenizer).unwrap();
    std::fs::create_dir(fixture.path("qwen")).unwrap();
    fixture.write("qwen/tokenizer.json", &tokenizer);
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(data.join("qwen3_tokenizer").join(name), fixture.path("qwen").join(name)).unwrap();
    }
    for (index, file) in ["gsm8k/derived_math_pairs.jsonl", "llamafactory_dpo/dpo_en_demo.json"].iter().enumerate() {
        let file = data.join(file);
        let file = file.to_str().unwrap();
        let (sft, rl) = (format!("sft{index}"), format!("rl{index}"));
        let source = ["--data", file, "--init", "nano", "--tokenizer", "qwen"];
        let chosen =
            ["sft", "--target", "chosen", "--out", &sft, "--set", "sft.steps=2", "--set", "sft.examples_per_step=2"];
        let short = ["--set", "sft.max_length=512", "--set", "sft.micro_batch_tokens=512"];
        fixture.succeed(&[&chosen[..], &source, &short].concat());
        let judge =
            ["rl", "--out", &rl, "--set", "rl.steps=2", "--set", "rl.pairs_per_step=2", "--set", "rl.rollouts=2"];
        let small = [
            "--set",
            "rl.max_prompt_tokens=1024",
            "--set",
            "rl.max_new_tokens=4",
            "--set",
            "rl.micro_batch_tokens=2048",
            "--set",
            "rl.max_running=4",
            "--set",
            "rl.learning_rate=1e-3",
            "--set",
            "rl.adamw.weight_decay=0.1",
        ];
        fixture.succeed(&[&judge[..], &source, &small].concat());
        let metrics = lines(&fixture.read(&format!("{rl}/metrics.jsonl")));
        assert!(metrics.len() == 2 && metrics.iter().all(|line| line["mismatch_max"] == 0.0), "{metrics:?}");
    }
}
