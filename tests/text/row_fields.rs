//! Fields that change what is learnt, judged or generated: each reader honours them or refuses them by name.

use patarm::data::{DataError, LoadOptions, Loaded, Message, OnBadRow, PromptText, check_judged};
use patarm::data::{load_conversations, load_pairs, load_prompts, load_responses};
use serde_json::{Value, json};

use crate::formats::options;
use crate::rows::file_of;

/// What each reader says of a row that all of them can read: nothing, or its error.
fn readings(more: &Value) -> Vec<(&'static str, Option<String>)> {
    let mut row = json!({"prompt": [{"role": "user", "content": "Q"}], "response": "A", "chosen": "A", "rejected": "B",
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let file = file_of("rows.jsonl", row.to_string().as_bytes());
    let (files, how) = ([file.path()], options(OnBadRow::Refuse));
    fn said<T>(loaded: Result<Loaded<T>, DataError>) -> Option<String> {
        loaded.err().map(|error| error.to_string())
    }
    let judged = |pairs: Loaded<patarm::data::Pair>| {
        pairs.try_map(|pair| check_judged(&pair.arguments).map(|()| pair)).map(|loaded| loaded.rows)
    };
    vec![
        ("sft", said(load_conversations(&files, &how))),
        ("sft of pairs", said(load_pairs(&files, &how))),
        ("rl", load_pairs(&files, &how).and_then(judged).err().map(|error| error.to_string())),
        ("judge", said(load_responses(&files, &how))),
        ("generate", said(load_prompts(&files, &how, false))),
        ("generate --chat", said(load_prompts(&files, &how, true))),
    ]
}

#[test]
fn every_reader_refuses_the_same_fields_by_name() {
    for (name, value) in [
        ("images", json!(["a.png"])),
        ("image", json!("a.png")),
        ("audios", json!([{}])),
        ("video", json!("a.mp4")),
        ("weight", json!(0.5)),
        ("weight", json!(0)),
        ("sample_weight", json!(2)),
        ("train", json!(false)),
        ("mask_history", json!(true)),
        ("train_on_inputs", json!(true)),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!({"name": "f"})),
        ("reasoning_content", json!("because")),
        ("chat_template", json!("{{ x }}")),
        ("add_generation_prompt", json!(true)),
        ("tools", json!("nope")),
        ("documents", json!(["text"])),
        ("enable_thinking", json!("yes")),
        ("chat_template_kwargs", json!({"messages": []})),
        ("system", json!(3)),
    ] {
        for (reader, said) in readings(&json!({name: value})) {
            let said = said.unwrap_or_default();
            assert!(said.contains("rows.jsonl: line 1: ") && said.contains(name), "{reader}, {name}: {said:?}");
        }
    }
    for neutral in [
        json!({"images": [], "image": null, "weight": 1, "train": true, "functions": [], "tools": [], "documents": ""}),
        json!({"chat_template_kwargs": {}, "system": "", "reasoning_content": "", "mask_history": false, "videos": [null]}),
        json!({"chat_template_kwargs": "", "system_prompt": " ", "function_call": null, "loss_weight": 1.0}),
        json!({"source": "x", "margin": 2, "score": 0.5, "reasoning": "of the annotator", "tools": "[]"}),
    ] {
        for (reader, said) in readings(&neutral) {
            assert_eq!(said, None, "{reader}: {neutral}");
        }
    }
}

#[test]
fn thinking_of_a_row_reaches_the_template_and_is_refused_where_a_judge_reads() {
    for row in [json!({"enable_thinking": false}), json!({"chat_template_kwargs": {"enable_thinking": false}})] {
        for (reader, said) in readings(&row) {
            let judges = ["rl", "judge"].contains(&reader);
            assert_eq!(said.is_some_and(|said| said.contains("enable_thinking")), judges, "{reader}");
        }
    }
    let arguments = |row: Value| {
        let file = file_of("rows.jsonl", row.to_string().as_bytes());
        let loaded = load_prompts(&[file.path()], &options(OnBadRow::Refuse), true);
        loaded.map(|mut loaded| loaded.rows.remove(0).arguments).map_err(|error| error.to_string())
    };
    let found = arguments(json!({"prompt": "Q", "enable_thinking": true})).unwrap();
    assert_eq!(Value::Object(found), json!({"enable_thinking": true}));
    let both = json!({"prompt": "Q", "enable_thinking": true, "chat_template_kwargs": {"enable_thinking": false}});
    assert!(arguments(both).unwrap_err().contains("enable_thinking: differs"));
}

#[test]
fn a_plain_prompt_refuses_what_only_a_chat_can_show() {
    let how: LoadOptions = options(OnBadRow::Refuse);
    for (name, value) in [
        ("system", json!("S")),
        ("system_prompt", json!("S")),
        ("tools", json!([{"name": "f"}])),
        ("documents", json!([{"text": "t"}])),
        ("enable_thinking", json!(false)),
        ("chat_template_kwargs", json!({"x": 1})),
    ] {
        let file = file_of("rows.jsonl", json!({"prompt": "Q", name: value}).to_string().as_bytes());
        let error = load_prompts(&[file.path()], &how, false).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}: needs a chat template")) && error.contains("--chat"), "{error}");
        assert!(load_prompts(&[file.path()], &how, true).is_ok(), "{name}");
    }
    let row = json!({"prompt": [{"role": "user", "content": "Q"}], "system": "S"});
    let file = file_of("rows.jsonl", row.to_string().as_bytes());
    let text = load_prompts(&[file.path()], &how, false).unwrap().rows.remove(0).text;
    assert_eq!(text, PromptText::Chat(vec![Message::new("system", "S"), Message::user("Q")]));
}

#[test]
fn an_empty_reasoning_beside_another_is_no_conflict() {
    for turn in [
        json!({"reasoning": "", "reasoning_content": "why"}),
        json!({"reasoning": "why", "reasoning_content": " \n"}),
        json!({"thinking": "", "reasoning": "why", "reasoning_content": "why"}),
    ] {
        let mut answer = json!({"role": "assistant", "content": "A"});
        answer.as_object_mut().unwrap().extend(turn.as_object().unwrap().clone());
        let row = json!({"messages": [{"role": "user", "content": "Q", "reasoning": ""}, answer]});
        let file = file_of("rows.jsonl", row.to_string().as_bytes());
        let rows = load_conversations(&[file.path()], &options(OnBadRow::Refuse)).unwrap().rows;
        assert_eq!(rows[0].messages[1].reasoning.as_deref(), Some("why"), "{turn}");
    }
}
