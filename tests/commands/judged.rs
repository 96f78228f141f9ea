//! `judge` on pairs and on lists of responses.

use serde_json::{Value, json};

use crate::common::cli::CliFixture;

const JUDGE: [&str; 9] =
    ["judge", "--model", "model", "--rubrics", "rubrics.toml", "--max-new-tokens", "6", "--max-prompt-tokens", "200"];

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn pairs_are_judged_on_both_sides_and_their_ids_come_back_as_they_came() {
    let fixture = CliFixture::new();
    let mut pairs: Vec<Value> = rows(&fixture.read("test_pairs.jsonl"));
    pairs[0]["id"] = "a/1".into();
    let spelled: String = pairs.iter().map(|pair| format!("{pair}\n")).collect::<String>().replacen(
        "\"id\":4294967297,",
        "\"id\":1.50,",
        1,
    );
    fixture.write("pairs.jsonl", &spelled);
    let judge = [&JUDGE[..], &["--input", "pairs.jsonl", "--votes", "2"]].concat();
    let outcome = fixture.succeed(&judge);
    let judged = rows(&outcome.out);
    assert_eq!(judged.len(), 4);
    assert!(outcome.out.starts_with("{\"id\":\"a/1\",") && outcome.out.contains("\n{\"id\":1.50,"), "{}", outcome.out);
    for row in &judged {
        // Random weights write no verdict: that is no score, no margin, and neither right nor wrong.
        assert_eq!(
            (&row["right"], &row["margin"], &row["chosen"]["score"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        let votes = |side: &str| row[side]["votes"].as_array().unwrap().len();
        assert_eq!((votes("chosen"), votes("rejected")), (2, 2), "{row}");
        assert!(row.get("votes").is_none() && row["task"].is_string(), "{row}");
    }
    let said = "8 responses, 0 with a score; 0 of 16 votes had a verdict";
    assert!(outcome.err.contains(said) && outcome.err.contains("4 without both scores"), "{}", outcome.err);

    // One row at a time or all: the same; and after a kill too.
    fixture.succeed(&[&judge[..], &["--output", "whole.jsonl", "--max-running", "1"]].concat());
    assert_eq!(fixture.read("whole.jsonl"), outcome.out);
    fixture.succeed(&[&judge[..], &["--output", "part.jsonl"]].concat());
    let kept: String = outcome.out.lines().take(2).map(|line| format!("{line}\n")).collect();
    fixture.write("part.jsonl", &kept);
    let resumed = fixture.succeed(&[&judge[..], &["--output", "part.jsonl", "--resume"]].concat());
    assert_eq!(fixture.read("part.jsonl"), outcome.out);
    assert!(resumed.err.contains(said), "{}", resumed.err);
}

#[test]
fn lists_of_responses_are_ranked_and_what_is_no_list_is_named() {
    let fixture = CliFixture::new();
    let row = |responses: Value| {
        format!("{}\n", json!({"id": "q", "prompt": "repeat these", "task": "chat", "responses": responses}))
    };
    fixture.write("lists.jsonl", &row(json!(["a", "b", ""])));
    let judge = |file: &'static str| [&JUDGE[..], &["--input", file]].concat();
    let judged = rows(&fixture.succeed(&judge("lists.jsonl")).out);
    assert_eq!((&judged[0]["id"], &judged[0]["ranking"]), (&json!("q"), &json!([0, 1, 2])));
    assert_eq!(judged[0]["responses"].as_array().unwrap().len(), 3);
    fixture.write("lists.jsonl", &(row(json!(["a"])).replace("\"q\"", "\"p\"") + &row(json!("a"))));
    fixture.fail(&judge("lists.jsonl"), &["lists.jsonl", "line 2", "responses"]);
    fixture.write("lists.jsonl", &row(json!([])));
    fixture.fail(&judge("lists.jsonl"), &["line 1", "responses: is empty"]);
    // A response whose prompt is too long has no votes, and the row says which.
    fixture.write("lists.jsonl", &row(json!(["a", "b ".repeat(400)])));
    let judged = rows(&fixture.succeed(&judge("lists.jsonl")).out);
    assert!(judged[0]["skipped"].as_str().unwrap().starts_with("the prompt of response 2 has "), "{}", judged[0]);
    assert_eq!(judged[0]["responses"][1]["votes"], json!([]));
}
