//! Every pair format, by rows written by hand, and the rows that must be called bad.

use patarm::data::{DataError, LoadOptions, Message, OnBadRow, Pair, load_conversations, load_pairs, load_responses};
use patarm::data::{Role, pairs_to_conversations};
use serde_json::{Value, json};

use crate::rows::file_of;

pub fn options(on_bad_row: OnBadRow) -> LoadOptions {
    LoadOptions { default_task: "chat".into(), on_bad_row }
}

fn pairs(rows: &[Value]) -> Result<Vec<Pair>, DataError> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = file_of("pairs.jsonl", text.as_bytes());
    load_pairs(&[file.path()], &options(OnBadRow::Refuse)).map(|loaded| loaded.rows)
}

/// The pair of one row as (prompt, chosen, rejected), the prompt as "role: content" lines.
#[track_caller]
fn check(row: Value, prompt: &[(&str, &str)], chosen: &str, rejected: &str) {
    let pair = pairs(&[row]).unwrap().remove(0);
    let turns: Vec<_> = pair.prompt.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(turns, prompt);
    assert_eq!((pair.response(Role::Chosen), pair.response(Role::Rejected)), (chosen, rejected));
}

#[track_caller]
fn refuse(row: Value, reason: &str) {
    let error = pairs(&[row]).unwrap_err();
    assert!(matches!(error, DataError::BadRow { number: 1, unit: "line", .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn trl_in_four_forms() {
    let sky = [("user", "The sky is")];
    check(json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " black."}), &sky, " blue.", " black.");
    check(json!({"chosen": "The sky is blue.", "rejected": "The sky is black."}), &sky, " blue.", " black.");
    let row = json!({"chosen": "Q: is it? \n yes", "rejected": "Q: is it? \n yet"});
    check(row, &[("user", "Q: is it?")], " \n yes", " \n yet");
    let (user, good) = (json!({"role": "user", "content": "Q"}), json!({"role": "assistant", "content": "G"}));
    let (system, bad) = (json!({"role": "system", "content": "S"}), json!({"role": "assistant", "content": "B"}));
    check(json!({"prompt": [user], "chosen": [good], "rejected": [bad]}), &[("user", "Q")], "G", "B");
    let (chosen, rejected) = (json!([system, user, good]), json!([system, user, bad]));
    check(json!({"chosen": chosen, "rejected": rejected}), &[("system", "S"), ("user", "Q")], "G", "B");
    let (chosen, rejected) = (json!([user, good, user, good]), json!([user, good, user, bad]));
    let turns = [("user", "Q"), ("assistant", "G"), ("user", "Q")];
    check(json!({"prompt": "Q", "chosen": chosen, "rejected": rejected}), &turns, "G", "B");
}

#[test]
fn ultrafeedback_and_hh() {
    let side = |text: &str| json!([{"content": "Q", "role": "user"}, {"content": text, "role": "assistant"}]);
    let row = json!({"prompt": "Q", "prompt_id": "x", "chosen": side("G"), "rejected": side("B"), "messages": side("G"),
        "score_chosen": 8.5, "score_rejected": 3.0});
    check(row, &[("user", "Q")], "G", "B");
    let start = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:";
    let turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why?")];
    let row = json!({"chosen": format!("{start} Because."), "rejected": format!("{start} No.")});
    check(row, &turns, "Because.", "No.");
    check(json!({"prompt": start, "chosen": " Because.", "rejected": " No."}), &turns, " Because.", " No.");
}

#[test]
fn llama_factory_in_two_forms() {
    let row = json!({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "G"}, "rejected": {"from": "gpt", "value": "B"}});
    check(row, &[("system", "S"), ("user", "Q")], "G", "B");
    let row = json!({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4", "system": "S",
        "history": [["Hi", "Hello"]]});
    check(row, &[("system", "S"), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add.\n1 2")], "3", "4");
    check(json!({"instruction": "Add.", "input": "", "chosen": "3", "rejected": "4"}), &[("user", "Add.")], "3", "4");
}

#[test]
fn datasets_with_names_of_their_own() {
    let row = json!({"prompt": "Q", "initial_reason_steps": "Step 1: a\nStep 2:", "chosen": " b", "rejected": " c",
        "full_chosen": " b\nStep 3: d", "full_rejected": " c\nStep 3: e", "answer": "d"});
    check(row, &[("user", "Q")], "Step 1: a\nStep 2: b\nStep 3: d", "Step 1: a\nStep 2: c\nStep 3: e");
    let row = json!({"instruction": "You are a coder.", "input": "Q", "accepted": "G", "rejected": "B", "ID": 3});
    check(row, &[("user", "Q")], "G", "B");
    check(json!({"input": "Q", "output_1": "G", "output_2": "B", "label": 1}), &[("user", "Q")], "G", "B");
    check(json!({"input": "Q", "output_1": "B", "output_2": "G", "label": 2}), &[("user", "Q")], "G", "B");
}

#[test]
fn our_own_form_round_trips() {
    let prompt = vec![Message::new("system", "S"), Message::user("Q")];
    let pair = |id, task: &str| Pair {
        id,
        task: task.into(),
        prompt: prompt.clone(),
        chosen: "G".into(),
        rejected: "B".into(),
    };
    let written = [pair(7, "math"), pair(u64::MAX, "code")];
    let rows: Vec<Value> = written.iter().map(|pair| serde_json::to_value(pair).unwrap()).collect();
    assert_eq!(pairs(&rows).unwrap(), written);
}

#[test]
fn useless_pairs_are_bad_rows() {
    let plain =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    refuse(plain("Q", "G", "G"), "equal");
    refuse(plain("Q", " \n", "B"), "chosen: the response is empty");
    refuse(plain("Q", "G", ""), "rejected: the response is empty");
    refuse(plain(" ", "G", "B"), "prompt is empty");
    refuse(json!({"prompt": "Q", "chosen": ["G"], "rejected": ["B"]}), "expected a message object, got text");
    refuse(json!({"prompt": "Q", "chosen": "G"}), "no known pair format");
    refuse(json!({"prompt": "Q", "chosen": "G", "rejected": null}), "rejected: expected a list of messages, got null");
    refuse(json!({"chosen": "Yes", "rejected": "No"}), "share no beginning");
}

#[test]
fn conversations_that_do_not_fit_are_bad_rows() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns = |question: &str, answer: &str| json!([turn("user", question), turn("assistant", answer)]);
    refuse(json!({"chosen": turns("Q", "G"), "rejected": turns("R", "B")}), "different prompts");
    refuse(json!({"prompt": "P", "chosen": turns("Q", "G"), "rejected": turns("Q", "B")}), "does not hold the prompt");
    let open = json!([{"role": "user", "content": "Q"}]);
    refuse(json!({"chosen": open, "rejected": turns("Q", "B")}), "does not end with an assistant turn");
    let odd = json!([{"role": "oracle", "content": "Q"}]);
    refuse(json!({"prompt": odd, "chosen": "G", "rejected": "B"}), "unknown role \"oracle\"");
    refuse(json!({"prompt": turns("Q", "A"), "chosen": "G", "rejected": "B"}), "ends with a turn of assistant");
    refuse(json!({"input": "Q", "output_1": "G", "output_2": "B", "label": 3}), "expected 1 or 2, got 3");
    let steps =
        |full: &str| json!({"prompt": "Q", "initial_reason_steps": "S", "full_chosen": "G", "full_rejected": full});
    refuse(steps(""), "full_rejected: the response is empty");
    refuse(steps("SB"), "repeats initial_reason_steps");
    refuse(json!({"prompt": "Q", "chosen": "G", "rejected": "B", "id": -1}), "id: expected an integer from 0");
    refuse(json!({"prompt": "Q", "chosen": "G", "rejected": "B", "task": 1}), "task: expected a name");
}

#[test]
fn sft_rows_end_with_an_answer() {
    let load = |row: Value| {
        let file = file_of("sft.jsonl", row.to_string().as_bytes());
        load_conversations(&[file.path()], &options(OnBadRow::Refuse)).map(|loaded| loaded.rows)
    };
    let user = json!({"role": "user", "content": [{"type": "text", "text": "Q"}]});
    let answer = json!({"role": "assistant", "content": "A", "reasoning_content": "why"});
    let rows = load(json!({"messages": [user, answer]})).unwrap();
    assert_eq!(rows[0].messages, [Message::user("Q"), Message::assistant("<think>\nwhy\n</think>\n\nA")]);
    assert!(load(json!({"messages": [user]})).is_err());
    assert!(load(json!({"messages": [answer]})).is_err());
    assert!(load(json!({"messages": []})).is_err());
    let pairs = pairs(&[json!({"prompt": "Q", "chosen": "G", "rejected": "B", "id": 5})]).unwrap();
    let conversation = pairs_to_conversations(&pairs).remove(0);
    assert_eq!((conversation.id, conversation.messages), (5, vec![Message::user("Q"), Message::assistant("G")]));
}

#[test]
fn responses_take_text_or_messages() {
    let text = "{\"prompt\": \"Q\", \"response\": \"\", \"task\": \"math\"}\n\
                {\"prompt\": [{\"role\": \"user\", \"content\": \"R\"}], \"response\": \"A\", \"id\": 9}";
    let file = file_of("responses.jsonl", text.as_bytes());
    let rows = load_responses(&[file.path()], &options(OnBadRow::Refuse)).unwrap().rows;
    assert_eq!((rows[0].id, rows[0].task.as_str(), rows[0].response.as_str()), (0, "math", ""));
    assert_eq!((rows[1].id, rows[1].task.as_str(), &rows[1].prompt), (9, "chat", &vec![Message::user("R")]));
}
