//! Every pair format, by rows written by hand, and the rows that must be called bad.

use patarm::data::{
    Conversation, DataError, LoadOptions, Message, OnBadRow, Pair, Role, TaskBy, Tasks, TemplateArguments,
};
use patarm::data::{load_conversations, load_pairs, load_responses};
use serde_json::{Value, json};

use crate::rows::file_of;

pub fn options(on_bad_row: OnBadRow) -> LoadOptions {
    LoadOptions { tasks: Tasks::always("chat"), on_bad_row, format: None }
}

pub fn pairs(rows: &[Value]) -> Result<Vec<Pair>, DataError> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = file_of("pairs.jsonl", text.as_bytes());
    load_pairs(&[file.path()], &options(OnBadRow::Refuse)).map(|loaded| loaded.rows)
}

/// The pair of one row as (prompt, chosen, rejected), the prompt as "role: content" lines.
#[track_caller]
pub fn check(row: Value, prompt: &[(&str, &str)], chosen: &str, rejected: &str) {
    let pair = pairs(&[row]).unwrap().remove(0);
    let turns: Vec<_> = pair.prompt.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
    assert_eq!(turns, prompt);
    assert_eq!((pair.response(Role::Chosen), pair.response(Role::Rejected)), (chosen, rejected));
}

#[track_caller]
pub fn refuse(row: Value, reason: &str) {
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
    let arguments: TemplateArguments = json!({"tools": [{"name": "f", "a": null}]}).as_object().unwrap().clone();
    let pair = |id: Value, task: &str| Pair {
        id: id.into(),
        task: task.into(),
        task_by: TaskBy::Own,
        prompt: prompt.clone(),
        chosen: "G".into(),
        rejected: "B".into(),
        source: Some("x".into()),
        gap: Some(1.5),
        arguments: arguments.clone(),
    };
    let written = [pair(7.into(), "math"), pair(u64::MAX.into(), "code"), pair("x/1".into(), "chat")];
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
    refuse(json!({"prompt": "Q", "chosen": [7], "rejected": [["B"]]}), "expected a message object, got a number");
    refuse(json!({"prompt": "Q", "chosen": "G"}), "no known pair format");
    refuse(json!({"prompt": "Q", "chosen": "G", "rejected": null}), "no known pair format");
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
    let reasoned = Message { reasoning: Some("why".into()), ..Message::assistant("A") };
    assert_eq!(rows[0].messages, [Message::user("Q"), reasoned.clone()]);
    assert_eq!(reasoned.text(), "<think>\nwhy\n</think>\n\nA");
    assert!(load(json!({"messages": [user]})).is_err());
    assert!(load(json!({"messages": [answer]})).is_err());
    assert!(load(json!({"messages": []})).is_err());
    let pairs = pairs(&[json!({"prompt": "Q", "chosen": "G", "rejected": "B", "id": 5})]).unwrap();
    let conversation = Conversation::from(pairs[0].clone());
    assert_eq!(conversation.id, 5.into());
    assert_eq!(conversation.messages, [Message::user("Q"), Message::assistant("G")]);
}

#[test]
fn responses_take_text_or_messages() {
    let text = "{\"prompt\": \"Q\", \"response\": \"\", \"task\": \"math\"}\n\
                {\"prompt\": [{\"role\": \"user\", \"content\": \"R\"}], \"response\": \"A\", \"id\": 9}";
    let file = file_of("responses.jsonl", text.as_bytes());
    let rows = load_responses(&[file.path()], &options(OnBadRow::Refuse)).unwrap().rows;
    assert_eq!((rows[0].id.key(), rows[0].task.as_str(), rows[0].response.as_str()), (0, "math", ""));
    assert_eq!((rows[1].id.key(), rows[1].task.as_str(), &rows[1].prompt), (9, "chat", &vec![Message::user("R")]));
}

/// Rows of each format with a null in every field that the format can do without, and in fields of other formats.
#[test]
fn a_null_column_counts_as_absent() {
    let rows = [
        json!({"chosen": "Sky is blue.", "rejected": "Sky is black."}),
        json!({"prompt": "Q", "chosen": "G", "rejected": "B"}),
        json!({"instruction": "Q", "chosen": "G", "rejected": "B"}),
        json!({"input": "Q", "accepted": "G", "rejected": "B"}),
        json!({"input": "Q", "output_1": "G", "output_2": "B", "label": 1}),
        json!({"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "G"},
            "rejected": {"from": "gpt", "value": "B"}}),
        json!({"prompt": "Q", "initial_reason_steps": "S:", "full_chosen": "G", "full_rejected": "B"}),
        json!({"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "G"}],
            "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}]}),
    ];
    let columns = "prompt chosen rejected instruction input output_1 output_2 label conversations initial_reason_steps \
        full_chosen full_rejected accepted history system system_prompt id task tools documents chat_template_kwargs \
        images weight functions messages response";
    for row in rows {
        let mut nulls = row.clone();
        for name in columns.split_whitespace().filter(|name| row.get(*name).is_none()) {
            nulls[name] = Value::Null;
        }
        assert_eq!(pairs(&[nulls]).unwrap(), pairs(std::slice::from_ref(&row)).unwrap(), "{row}");
    }
    let fields =
        ["name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "weight", "train", "from", "value"];
    let mut turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
    for turn in turns.as_array_mut().unwrap() {
        fields.iter().for_each(|name| turn[*name] = Value::Null);
    }
    let rows = conversations(&json!({"messages": turns, "id": null, "tools": null})).unwrap();
    assert_eq!(rows[0].messages, [Message::user("Q"), Message::assistant("A")]);
}

pub fn conversations(row: &Value) -> Result<Vec<Conversation>, DataError> {
    let file = file_of("sft.jsonl", row.to_string().as_bytes());
    load_conversations(&[file.path()], &options(OnBadRow::Refuse)).map(|loaded| loaded.rows)
}

#[track_caller]
pub fn refuse_conversation(row: &Value, reason: &str) {
    let error = conversations(row).unwrap_err();
    assert!(matches!(error, DataError::BadRow { number: 1, unit: "line", .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn fields_that_change_what_is_learnt_are_honoured_or_refused_by_name() {
    let with = |turn: Value| {
        let mut answer = json!({"role": "assistant", "content": "A"});
        answer.as_object_mut().unwrap().extend(turn.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "Q"}, answer, {"role": "user", "content": "R"},
            {"role": "assistant", "content": "B"}], "source": "x", "score": 3})
    };
    let answer = |turn: Value| conversations(&with(turn)).unwrap()[0].messages[1].clone();
    for turn in [json!({"weight": 0}), json!({"weight": 0.0}), json!({"train": false}), json!({"loss": false})] {
        assert!(!answer(turn).learnt);
    }
    for turn in [json!({"weight": 1}), json!({"train": true}), json!({"loss": 1.0}), json!({})] {
        assert!(answer(turn).learnt);
    }
    for name in ["reasoning_content", "reasoning", "thinking"] {
        assert_eq!(answer(json!({name: "why"})).reasoning.as_deref(), Some("why"));
    }
    assert_eq!(answer(json!({"reasoning": "why", "reasoning_content": "why"})).reasoning.as_deref(), Some("why"));
    assert_eq!(answer(json!({"name": "Bo", "tool_plan": "p"})).fields["tool_plan"], "p");
    let kept = answer(json!({"weight": 0, "z": 1, "a": 2, "b": 3, "reasoning": "why"})).fields;
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["z", "a", "b"], "in the order of the row");
    refuse_conversation(
        &with(json!({"weight": 0.5})),
        "messages[1].weight: expected 0 (not learnt) or 1 (learnt), got 0.5",
    );
    refuse_conversation(&with(json!({"weight": 1, "train": false})), "say opposite things");
    refuse_conversation(&with(json!({"train_detail": []})), "train_detail");
    refuse_conversation(
        &with(json!({"reasoning": "a", "reasoning_content": "b"})),
        "reasoning_content and reasoning differ",
    );
    refuse_conversation(&with(json!({"reasoning": 3})), "messages[1].reasoning: expected text, got a number");
    refuse_conversation(&with(json!({"role": "user", "train": true})), "only turns of the assistant are learnt");
    let mut row = with(json!({"weight": 0}));
    row["messages"][3]["weight"] = 0.into();
    refuse_conversation(&row, "nothing would be learnt");
    for (name, value) in [("images", json!(["a.png"])), ("weight", json!(0.5)), ("functions", json!([{"name": "f"}]))] {
        let mut row = with(json!({}));
        row[name] = value;
        refuse_conversation(&row, name);
    }
}

#[test]
fn tools_and_template_variables_come_with_the_row() {
    let tool = json!({"type": "function", "function": {"name": "find", "description": null, "b": 1, "a": 2}});
    let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
    let arguments = |row: Value| conversations(&row).unwrap()[0].arguments.clone();
    for tools in [json!([tool]), json!(json!([tool]).to_string())] {
        let found = arguments(json!({"messages": turns, "tools": tools, "chat_template_kwargs": {"x": 1, "y": null}}));
        assert_eq!(Value::Object(found.clone()), json!({"x": 1, "tools": [tool]}));
        // The order of keys is what the model reads.
        assert!(found["tools"].to_string().ends_with(r#""b":1,"a":2}}]"#), "{found:?}");
    }
    assert_eq!(arguments(json!({"messages": turns, "tools": ""}))["tools"], json!([]));
    assert_eq!(arguments(json!({"messages": turns, "chat_template_kwargs": "{\"k\": 2}"}))["k"], 2);
    for (row, reason) in [
        (json!({"tools": "nope"}), "tools: is text that is no JSON"),
        (json!({"tools": ["find"]}), "tools: expected a list of objects, got text in it"),
        (json!({"tools": {"a": 1}}), "tools: expected a list, got an object"),
        (json!({"documents": 3}), "documents: expected a list, got a number"),
        (json!({"chat_template_kwargs": [1]}), "chat_template_kwargs: expected an object, got a list"),
        (json!({"chat_template_kwargs": {"add_generation_prompt": true}}), "add_generation_prompt: cannot be chosen"),
        (json!({"chat_template_kwargs": {"tools": []}, "tools": [tool]}), "tools: differs"),
    ] {
        let mut full = row.clone();
        full["messages"] = turns.clone();
        refuse_conversation(&full, reason);
        let mut pair = row;
        pair["chosen"] = turns.clone();
        pair["rejected"] = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}]);
        refuse(pair, reason);
    }
}

#[test]
fn tool_calls_in_their_spellings() {
    let row = |call: Value| {
        json!({"messages": [{"role": "user", "content": "Q"}, call, {"role": "tool", "content": "4", "tool_call_id": "c"},
            {"role": "assistant", "content": "A"}]})
    };
    let function = json!({"name": "add", "arguments": {"b": 2, "a": [2]}});
    let expected = json!({"type": "function", "function": function});
    for call in [
        json!({"role": "assistant", "content": null, "tool_calls": [expected]}),
        json!({"role": "assistant", "tool_calls": json!([expected]).to_string()}),
        json!({"role": "assistant", "content": null, "function_call": function}),
        json!({"from": "function_call", "value": function.to_string()}),
    ] {
        let turns = conversations(&row(call)).unwrap().remove(0).messages;
        assert_eq!(turns[1].tool_calls, std::slice::from_ref(&expected));
        assert_eq!((turns[1].content.as_str(), turns[1].role.as_str()), ("", "assistant"));
        assert_eq!(turns[2].fields["tool_call_id"], "c");
    }
    for (call, reason) in [
        (json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}), "tool_calls[0]"),
        (json!({"role": "assistant", "tool_calls": [7]}), "tool_calls[0]"),
        (json!({"role": "user", "content": "x", "tool_calls": [expected]}), "only an assistant calls tools"),
        (json!({"from": "function_call", "value": "add(2)"}), "expected a call as JSON text"),
        (json!({"role": "assistant"}), "messages[1].content: is missing"),
    ] {
        refuse_conversation(&row(call), reason);
    }
    let answer = |text: &str| json!({"role": "assistant", "content": text, "tool_calls": [expected]});
    let side = |text: &str| json!([{"role": "user", "content": "Q"}, answer(text)]);
    let pair = pairs(&[json!({"chosen": side("G"), "rejected": side("B")})]).unwrap().remove(0);
    assert!(pair.chosen.starts_with("G\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 2"), "{}", pair.chosen);
}

#[test]
fn a_system_beside_the_messages_is_the_first_turn_in_every_format() {
    let turns = [("system", "S"), ("user", "Q")];
    for name in ["system", "system_prompt"] {
        for row in [
            json!({"prompt": "Q", "chosen": "G", "rejected": "B"}),
            json!({"input": "Q", "accepted": "G", "rejected": "B"}),
            json!({"instruction": "Q", "chosen": "G", "rejected": "B"}),
            json!({"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "chosen": "G",
                "rejected": "B"}),
        ] {
            let mut row = row;
            row[name] = "S".into();
            check(row, &turns, "G", "B");
        }
    }
    let both = json!({"prompt": [{"role": "system", "content": "T"}, {"role": "user", "content": "Q"}], "system": "S",
        "chosen": "G", "rejected": "B"});
    refuse(both, "system: differs from the system turn");
    let row =
        json!({"system": "S", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    assert_eq!(conversations(&row).unwrap()[0].messages[0], Message::new("system", "S"));
    refuse(json!({"prompt": "Q", "chosen": "G", "rejected": "B", "system": 3}), "system: expected text, got a number");
    refuse(
        json!({"instruction": "Q", "input": [1], "chosen": "G", "rejected": "B"}),
        "input: expected text, got a list",
    );
    refuse(
        json!({"instruction": "Q", "history": "x", "chosen": "G", "rejected": "B"}),
        "history: is text that is no JSON",
    );
}

#[test]
fn transcripts_are_not_torn() {
    let turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why?")];
    for start in [
        "Human: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:",
        "Human: Hi\nAssistant: Hello!\nHuman: Why?\nAssistant:",
    ] {
        let side = |text: &str| format!("{start} It is {text}");
        check(json!({"chosen": side("so."), "rejected": side("not.")}), &turns, "It is so.", "It is not.");
        check(json!({"prompt": start, "chosen": " G", "rejected": " B"}), &turns, " G", " B");
        check(
            json!({"prompt": start, "chosen": side("so."), "rejected": side("not.")}),
            &turns,
            "It is so.",
            "It is not.",
        );
    }
    let inline = |text: &str| format!("Human: Hi Assistant: It is {text}");
    refuse(json!({"chosen": inline("so."), "rejected": inline("not.")}), "in the middle of a line");
    let text = "The Human: a study. It says";
    check(json!({"chosen": format!("{text} a"), "rejected": format!("{text} b")}), &[("user", text)], " a", " b");
}
