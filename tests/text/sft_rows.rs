//! Conversations and responses in the schemas of other trainers.

use patarm::data::{Format, Message, OnBadRow, Response, load_responses};
use serde_json::{Value, json};

use crate::formats::{conversations, options, refuse_conversation};
use crate::rows::file_of;

#[track_caller]
fn check(format: &str, row: Value, turns: &[(&str, &str)]) {
    assert_eq!(Format::of(row.as_object().unwrap()).map(Format::name), Some(format));
    let found = conversations(&row).unwrap().remove(0).messages;
    let found: Vec<_> = found.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(found, turns);
}

fn response(row: &Value) -> Result<Response, String> {
    let file = file_of("responses.jsonl", row.to_string().as_bytes());
    let loaded = load_responses(&[file.path()], &options(OnBadRow::Refuse));
    loaded.map(|mut loaded| loaded.rows.remove(0)).map_err(|error| error.to_string())
}

#[test]
fn sharegpt_and_alpaca() {
    let turns = [("system", "S"), ("user", "Q"), ("assistant", "A")];
    let row = json!({"conversations": [{"from": "human", "value": "Q"}, {"value": "A", "from": "gpt"}], "system": "S",
        "tools": "[]"});
    check("sharegpt", row, &turns);
    let tool = json!({"conversations": [{"from": "human", "value": "Q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        {"from": "observation", "value": "4"}, {"from": "gpt", "value": "A"}]});
    check("sharegpt", tool, &[("user", "Q"), ("assistant", ""), ("tool", "4"), ("assistant", "A")]);
    refuse_conversation(
        &json!({"conversations": [{"from": "human", "value": "Q"}]}),
        "conversations: does not end with an assistant turn",
    );
    refuse_conversation(&json!({"conversations": [{"from": "gpt", "value": "A"}]}), "the prompt is empty");
    let row =
        json!({"instruction": "Add.", "input": "1 2", "output": "3", "system": "S", "history": [["Hi", "Hello"]]});
    check(
        "alpaca",
        row,
        &[("system", "S"), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add.\n1 2"), ("assistant", "3")],
    );
    check("alpaca", json!({"instruction": "Q", "input": "", "output": "A", "history": null}), &turns[1..]);
    refuse_conversation(&json!({"instruction": "Q", "output": " "}), "output: the last turn is empty");
    refuse_conversation(&json!({"instruction": "Q", "output": 3}), "output: expected text, got a number");
    refuse_conversation(
        &json!({"instruction": "Q"}),
        "no known conversation format; expected messages, conversations,",
    );
}

#[test]
fn completions_as_text_or_messages() {
    let (user, answer) = (json!({"role": "user", "content": "Q"}), json!({"role": "assistant", "content": "A"}));
    check(
        "trl-completion",
        json!({"prompt": "The sky is", "completion": " blue."}),
        &[("user", "The sky is"), ("assistant", " blue.")],
    );
    check("trl-completion", json!({"prompt": [user], "completion": [answer]}), &[("user", "Q"), ("assistant", "A")]);
    // Only the completion is learnt, as in TRL.
    let row = json!({"prompt": [user, answer, user], "completion": [answer]});
    let turns = conversations(&row).unwrap().remove(0).messages;
    assert_eq!(turns.iter().map(|turn| turn.learnt).collect::<Vec<_>>(), [true, false, true, true]);
    let judged = response(&row).unwrap();
    assert_eq!((judged.prompt.len(), judged.response.as_str()), (3, "A"));
    let call = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
    let row = json!({"prompt": "Q", "completion": [call, {"role": "tool", "content": "4"}, answer], "id": 7});
    let judged = response(&row).unwrap();
    assert_eq!((judged.prompt.len(), judged.response.as_str(), judged.id.key()), (3, "A", 7));
    assert_eq!(judged.prompt[2], Message::new("tool", "4"));
    refuse_conversation(&json!({"prompt": "Q", "completion": ""}), "completion: the last turn is empty");
    refuse_conversation(
        &json!({"prompt": "Q", "completion": [user]}),
        "completion: does not end with an assistant turn",
    );
    assert!(response(&json!({"prompt": "Q", "completion": [user]})).unwrap_err().contains("completion: does not end"));
    assert!(
        response(&json!({"prompt": "Q"}))
            .unwrap_err()
            .contains("no known response format; expected prompt and response")
    );
}

#[test]
fn answers_that_are_marked_as_bad_are_judged_but_not_learnt() {
    let row = |label: bool| json!({"prompt": "Q", "completion": "A", "label": label});
    check("trl-unpaired", row(true), &[("user", "Q"), ("assistant", "A")]);
    refuse_conversation(&row(false), "label: is false: the answer is marked as one that is not to be learnt");
    assert_eq!(response(&row(false)).unwrap().response, "A");
    let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
    refuse_conversation(&json!({"messages": turns, "kto_tag": false}), "kto_tag: is false");
    assert!(conversations(&json!({"messages": turns, "kto_tag": true, "label": 0})).is_ok());
    let rated = json!({"prompt": "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nWhy?", "response": "A", "helpfulness": 2});
    assert_eq!(response(&rated).unwrap().prompt.len(), 3);
    refuse_conversation(&rated, "no known conversation format");
}

#[test]
fn a_row_of_many_columns_is_read_for_what_is_asked() {
    let side = |text: &str| json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": text}]);
    let row = json!({"prompt": "Q", "prompt_id": "x", "chosen": side("G"), "rejected": side("B"), "messages": side("G"),
        "score_chosen": 8, "score_rejected": 3});
    assert_eq!(Format::of(row.as_object().unwrap()), Some(Format::TrlExplicit));
    assert_eq!(conversations(&row).unwrap()[0].messages[1].content, "G");
    assert!(response(&row).unwrap_err().contains("(format trl-explicit, which holds no response)"));
}
