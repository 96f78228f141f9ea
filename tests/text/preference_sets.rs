//! Rows of public preference sets and benchmarks, written by hand in their schemas: the pairs that they give, and the rows
//! that give none.

use patarm::data::{Format, LoadOptions, Loaded, OnBadRow, Pair, load_pairs, load_responses};
use serde_json::{Value, json};

use crate::formats::{check, options, pairs, refuse};
use crate::rows::file_of;

/// (id, chosen, rejected, gap) of every pair.
fn sides(pairs: &[Pair]) -> Vec<(String, &str, &str, Option<f64>)> {
    pairs.iter().map(|pair| (pair.id.to_string(), pair.chosen.as_str(), pair.rejected.as_str(), pair.gap)).collect()
}

fn named(format: &str, rows: &[Value]) -> Vec<Pair> {
    for row in rows {
        assert_eq!(Format::of(row.as_object().unwrap()).map(Format::name), Some(format), "{row}");
    }
    pairs(rows).unwrap()
}

fn skip(rows: &[Value]) -> Loaded<Pair> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    load_pairs(&[file_of("pairs.jsonl", text.as_bytes()).path()], &options(OnBadRow::Skip)).unwrap()
}

fn with(mut row: Value, name: &str, value: Value) -> Value {
    row[name] = value;
    row
}

fn without(mut row: Value, name: &str) -> Value {
    row.as_object_mut().unwrap().remove(name).unwrap();
    row
}

#[test]
fn helpsteer2_preferences_go_by_their_sign() {
    let row = |strength: Value| {
        json!({"split": "train", "prompt": "Q", "response_1": "one", "response_2": "two",
            "preference_strength": strength, "preference_statement": "@Response 2 is better", "preference_elaboration": "e",
            "three_most_similar_preferences": [], "all_preferences_unprocessed": []})
    };
    let found = named("helpsteer2-preference", &[row(json!(2)), row(json!(-1)), row(json!(3.0))]);
    let expected = [("two", "one", Some(2.0)), ("one", "two", Some(1.0)), ("two", "one", Some(3.0))];
    let found = sides(&found);
    assert_eq!(found.iter().map(|(_, chosen, rejected, gap)| (*chosen, *rejected, *gap)).collect::<Vec<_>>(), expected);
    refuse(row(json!(0)), "preference_strength: is 0, a tie");
    refuse(row(json!(-100)), "preference_strength: expected a number from -3 to 3, got -100");
    refuse(row(json!("2")), "preference_strength: expected a number from -3 to 3, got \"2\"");
    refuse(with(row(json!(1)), "response_2", json!(["two"])), "response_2: expected text, got a list");
    let turns = "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nWhy?\n";
    let expected = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why?")];
    check(with(row(json!(1)), "prompt", turns.into()), &expected, "two", "one");
    for (prompt, reason) in [
        ("Hi\n<extra_id_1>Oracle\nx", "begins no turn"),
        ("Hi\n<extra_id_1>", "begins no turn"),
        ("Hi\n<extra_id_1>User\nx", "has a turn of user after"),
        ("<extra_id_1>Assistant\nx", "has a turn of assistant after"),
        ("Hi\n<extra_id_1>Assistant\nx", "ends with a turn of assistant"),
    ] {
        refuse(with(row(json!(1)), "prompt", prompt.into()), reason);
    }
    check(with(row(json!(1)), "prompt", "<extra_id_1>User\nQ".into()), &[("user", "Q")], "two", "one");
}

#[test]
fn helpsteer3_has_messages_before_two_responses() {
    let context = json!([{"role": "user", "content": "Hi"}, {"content": "Hello!", "role": "assistant"},
        {"role": "user", "content": "Why?"}]);
    let row = |preference: i64| {
        json!({"domain": "stem", "language": "english", "context": context, "response1": "one", "response2": "two",
            "overall_preference": preference,
            "individual_preference": [{"score": preference, "reasoning": "r", "feedback1": "f", "feedback2": "g"}]})
    };
    let expected = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why?")];
    check(row(-3), &expected, "one", "two");
    check(row(1), &expected, "two", "one");
    let found = named("helpsteer3", &[row(-3)]);
    assert_eq!((found[0].gap, found[0].source.as_deref()), (Some(3.0), Some("stem")));
    refuse(row(0), "overall_preference: is 0, a tie");
    refuse(with(row(1), "overall_preference", true.into()), "expected a number from -3 to 3, got true");
    refuse(with(row(1), "context", 7.into()), "context: expected a list of messages, got a number");
    refuse(with(row(1), "response1", "two".into()), "chosen and rejected are equal");
}

#[test]
fn helpsteer2_ratings_of_one_prompt_are_a_pair() {
    let row = |prompt: &str, response: &str, helpfulness: Value| {
        json!({"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": 4, "coherence": 4,
            "complexity": 2, "verbosity": 1})
    };
    let rows = [
        row("Q", "good", json!(4)),
        row("Q", "bad", json!(1)),
        row("R", "bad", json!(2)),
        row("R", "good", json!(3.5)),
    ];
    let found = named("helpsteer2", &rows);
    // A pair is called by the row that completes it.
    assert_eq!(sides(&found), [("1".into(), "good", "bad", Some(3.0)), ("3".into(), "good", "bad", Some(1.5))]);
    assert_eq!(found[1].prompt[0].content, "R");
    let tied = [row("Q", "a", json!(3)), row("Q", "b", json!(3)), row("Q", "c", json!(1)), row("Q", "d", json!(2))];
    let loaded = skip(&tied);
    assert_eq!(sides(&loaded.rows), [("3".into(), "d", "c", Some(1.0))]);
    assert_eq!(loaded.skipped.count, 1);
    let reason = &loaded.skipped.reasons[0];
    assert!(
        reason.contains("line 2: is rated 3 like the other response") && reason.contains("(line 1), a tie"),
        "{reason}"
    );
    // A row between them, or a bad one, does no harm; what is left over is named by its own line.
    let rows = [
        row("Q", "good", json!(4)),
        row("R", "alone", json!(2)),
        row("Q", "worse", json!("4")),
        row("Q", "bad", json!(0)),
        row("S", "alone", json!(0)),
    ];
    let loaded = skip(&rows);
    assert_eq!(sides(&loaded.rows), [("3".into(), "good", "bad", Some(4.0))]);
    let said: Vec<&str> = loaded.skipped.reasons.iter().map(String::as_str).collect();
    assert_eq!(loaded.skipped.count, 3);
    assert!(said[0].contains("line 3: helpfulness: expected a number, got \"4\""), "{said:?}");
    assert!(said[1].contains("line 2: holds one rated response") && said[2].contains("line 5: holds one"), "{said:?}");
    refuse(row("Q", "alone", json!(2)), "holds one rated response");
    refuse(row(" ", "x", json!(2)), "the prompt is empty");
    refuse(with(row("Q", "x", json!(2)), "response", json!([])), "response: expected text, got a list");
    // The tools and the system turn are part of what a response answers.
    let tools = |name: &str, row: Value| with(row, "tools", json!([{"name": name}]));
    let rows =
        [tools("f", row("Q", "a", json!(1))), tools("g", row("Q", "b", json!(2))), tools("f", row("Q", "c", json!(3)))];
    assert_eq!(sides(&skip(&rows).rows), [("2".into(), "c", "a", Some(2.0))]);
}

#[test]
fn unpaired_rows_meet_a_row_with_the_other_label() {
    let row = |prompt: &str, completion: &str, label: bool| json!({"prompt": prompt, "completion": completion, "label": label});
    let rows = [
        row("Q", "g1", true),
        row("Q", "g2", true),
        row("R", "b", false),
        row("Q", "b1", false),
        json!({"prompt": [{"role": "user", "content": "R"}], "completion": [{"role": "assistant", "content": "g"}],
            "label": true}),
        row("Q", "b2", false),
    ];
    let found = named("trl-unpaired", &rows);
    assert_eq!(
        sides(&found),
        [("3".into(), "g1", "b1", None), ("4".into(), "g", "b", None), ("5".into(), "g2", "b2", None)]
    );
    let loaded = skip(&[row("Q", "g", true), row("Q", "b", false), row("Q", "c", false), row("Q", "same", true)]);
    assert_eq!(sides(&loaded.rows), [("1".into(), "g", "b", None), ("3".into(), "same", "c", None)]);
    refuse(row("Q", "b", false), "labelled false, and no row is left with one labelled true");
    refuse(row("Q", "b", true), "labelled true, and no row is left with one labelled false");
    refuse(with(row("Q", "b", true), "label", 1.into()), "label: expected true or false, got 1");
    refuse(with(row("Q", "b", true), "completion", 1.into()), "completion: expected a list of messages");
    let stepwise = json!({"prompt": "Q", "completions": ["a", "b"], "labels": [true, false]});
    refuse(stepwise.clone(), "is TRL's stepwise supervision: labels says which steps");
    assert_eq!(Format::of(stepwise.as_object().unwrap()), Some(Format::Stepwise));
}

#[test]
fn ultrafeedback_pairs_its_best_response_with_each_lower_one() {
    let completion = |response: &str, score: Value| {
        json!({"model": "m", "principle": "honesty", "custom_system_prompt": "s", "response": response,
            "annotations": {"honesty": {"Rating": "3", "Rationale": "r"}}, "overall_score": score, "critique": "c",
            "fine-grained_score": 4.5})
    };
    let row = |completions: Vec<Value>| {
        json!({"source": "evol_instruct", "instruction": "Q", "models": ["a", "b"], "completions": completions,
            "correct_answers": ["None"], "incorrect_answers": ["None"], "id": "u"})
    };
    let full = row(vec![
        completion("low", json!(3.0)),
        completion("best", json!(8.5)),
        completion("mid", json!(7)),
        completion("also", json!(8.5)),
    ]);
    let found = named("ultrafeedback", std::slice::from_ref(&full));
    assert_eq!(sides(&found), [("u/0".into(), "best", "low", Some(5.5)), ("u/1".into(), "best", "mid", Some(1.5))]);
    assert_eq!(found[0].source.as_deref(), Some("evol_instruct"));
    // A row that gives one pair keeps its own name; what has no score, no text or the same text is left out.
    let one = row(vec![
        completion("best", json!(8)),
        completion("best", json!(2)),
        completion("?", json!("N/A")),
        completion(" ", json!(1)),
        completion("low", json!(4)),
        json!({"response": null, "overall_score": 2}),
    ]);
    assert_eq!(sides(&pairs(&[one]).unwrap()), [("u".into(), "best", "low", Some(4.0))]);
    let many = row((0..40).map(|rank| completion(&format!("r{rank}"), json!(40 - rank))).collect());
    assert_eq!(pairs(&[many]).unwrap().len(), 8);
    refuse(row(vec![completion("a", json!(3)), completion("b", json!(3))]), "completions: no response is rated lower");
    refuse(row(vec![completion("a", Value::Null)]), "completions: no response has both a text and a rating");
    refuse(row(vec![json!("text")]), "completions[0]: expected an object, got text");
    refuse(
        row(vec![completion("a", json!(3)), json!({"response": 3})]),
        "completions[1].response: expected text, got a number",
    );
}

#[test]
fn nectar_pairs_ranks() {
    let answer = |text: &str, rank: f64| json!({"answer": text, "model": "m", "rank": rank});
    let row = |answers: Value| {
        json!({"prompt": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: ", "answers": answers, "turns": 2,
            "num_responses": 7, "source": ["sharegpt", "lmsys"], "good_natured": true})
    };
    let found = named("nectar", &[row(json!([answer("third", 3.0), answer("first", 1.0), answer("second", 2.0)]))]);
    assert_eq!(
        sides(&found),
        [("0/0".into(), "first", "third", Some(2.0)), ("0/1".into(), "first", "second", Some(1.0))]
    );
    assert_eq!(found[0].prompt.len(), 3);
    assert_eq!(found[0].source.as_deref(), Some("sharegpt"));
    let text = json!([answer("third", 3.0), answer("first", 1.0)]).to_string();
    assert_eq!(sides(&pairs(&[row(text.into())]).unwrap()), [("0".into(), "first", "third", Some(2.0))]);
    refuse(row(json!([answer("a", 1.0)])), "answers: no response is rated lower than the best one, a tie of 1");
    refuse(row(json!({"answer": ["a"]})), "answers: expected a list, got an object");
}

#[test]
fn pku_saferlhf_chooses_the_safer_response() {
    let row = json!({"prompt": "Q", "response_0": "zero", "response_1": "one", "prompt_source": "s", "response_0_source": "m",
        "is_response_0_safe": true, "is_response_1_safe": false, "better_response_id": 1, "safer_response_id": 0});
    check(row.clone(), &[("user", "Q")], "zero", "one");
    check(without(row.clone(), "safer_response_id"), &[("user", "Q")], "one", "zero");
    assert_eq!(named("pku-saferlhf", std::slice::from_ref(&row))[0].gap, None);
    for (value, shown) in [(json!(2), "2"), (json!(-1), "-1"), (json!(0.5), "0.5"), (json!("0"), "\"0\"")] {
        refuse(
            with(row.clone(), "safer_response_id", value),
            &format!("safer_response_id: expected 0 or 1, got {shown}"),
        );
    }
    refuse(without(without(row, "safer_response_id"), "better_response_id"), "no known pair format");
}

#[test]
fn shp_goes_by_votes() {
    let row = |labels: Value| {
        json!({"post_id": "p", "domain": "askacademia_train", "upvote_ratio": 0.9, "history": "Q", "human_ref_A": "a",
            "human_ref_B": "b", "labels": labels, "score_A": 52, "score_B": 54, "seconds_difference": 1.0, "score_ratio": 1.04})
    };
    check(row(json!(0)), &[("user", "Q")], "b", "a");
    check(row(json!(1)), &[("user", "Q")], "a", "b");
    let found = named("shp", &[row(json!(0)), without(row(json!(1)), "score_A")]);
    assert_eq!((found[0].gap, found[1].gap), (Some(2.0), None));
    assert_eq!(found[0].source.as_deref(), Some("askacademia_train"));
    refuse(row(json!(2)), "labels: expected 1 or 0, got 2");
    refuse(row(Value::Null), "no known pair format");
    refuse(with(row(json!(1)), "history", json!([])), "history: expected text, got a list");
}

#[test]
fn judge_bench_and_ppe_name_the_winner() {
    let row = |label: &str| {
        json!({"pair_id": "p", "original_id": null, "source": "mmlu-pro-law", "question": "Q", "response_model": "m",
            "response_A": "a", "response_B": "b", "label": label})
    };
    check(row("A>B"), &[("user", "Q")], "a", "b");
    check(row("B>A"), &[("user", "Q")], "b", "a");
    assert_eq!(named("judge-bench", &[row("A>B")])[0].source.as_deref(), Some("mmlu-pro-law"));
    refuse(row("A=B"), "label: is \"A=B\", a tie");
    refuse(row("A"), "label: expected \"A>B\" or \"B>A\", got \"A\"");
    let row = |winner: Value| {
        json!({"question_id": "q", "model_a": "m", "model_b": "n", "winner": winner, "language": "English", "prompt": "Q",
            "response_1": "a", "response_2": "b", "is_code": false, "hard_prompt": true,
            "conv_metadata": {"turns": 1}, "category_tag": {"math_v0.1": {"math": false}}})
    };
    check(row("model_a".into()), &[("user", "Q")], "a", "b");
    check(row("model_b".into()), &[("user", "Q")], "b", "a");
    assert_eq!(named("ppe", &[row("model_a".into())]).len(), 1);
    refuse(row("tie".into()), "winner: is \"tie\", a tie");
    refuse(row("tie (bothbad)".into()), "winner: is \"tie (bothbad)\", a tie");
    refuse(
        row("x".repeat(99).into()),
        &format!("winner: expected \"model_a\" or \"model_b\", got \"{}\"…", "x".repeat(40)),
    );
    refuse(row(1.into()), "winner: expected \"model_a\" or \"model_b\", got 1");
}

#[test]
fn lists_of_responses_give_every_pair() {
    let row = json!({"id": "tied:0", "prompt": "Q", "chosen": ["red", "blue"], "rejected": ["brick"], "num_correct": 2,
        "num_incorrect": 1, "total_completions": 3, "models": ["m", "m", "m"], "subset": "Ties", "additional_metadata": null});
    let found = named("response-lists", std::slice::from_ref(&row));
    let all = [("tied:0/0".into(), "red", "brick", None), ("tied:0/1".into(), "blue", "brick", None)];
    assert_eq!(sides(&found), all);
    assert_eq!(found[1].source.as_deref(), Some("Ties"));
    let rm = json!({"id": 31, "prompt": "Q", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"],
        "domain": "safety-refuse"});
    let found = named("response-lists", &[rm]);
    let told: Vec<String> =
        sides(&found).iter().map(|(id, chosen, rejected, _)| format!("{id} {chosen} {rejected}")).collect();
    assert_eq!(
        told,
        [
            "31/0 c0 r0",
            "31/1 c1 r1",
            "31/2 c2 r2",
            "31/3 c0 r1",
            "31/4 c1 r2",
            "31/5 c2 r0",
            "31/6 c0 r2",
            "31/7 c1 r0",
            "31/8 c2 r1"
        ]
    );
    let texts = |name: &str, count: usize| (0..count).map(|index| format!("{name}{index}")).collect::<Vec<_>>();
    let many = json!({"prompt": "Q", "chosen": texts("c", 9), "rejected": texts("r", 900)});
    let found = pairs(&[many]).unwrap();
    assert_eq!(found.len(), 64);
    let mut responses: Vec<&str> = found.iter().map(|pair| pair.chosen.as_str()).collect();
    responses.sort_unstable();
    responses.dedup();
    assert_eq!(responses.len(), 9);
    refuse(with(row.clone(), "chosen", json!(["red", 3])), "chosen[1]: expected text, got a number");
    refuse(with(row.clone(), "rejected", json!(["brick", " "])), "rejected[1]: the response is empty");
    refuse(with(row.clone(), "rejected", json!(["brick", "red"])), "chosen and rejected are equal");
    refuse(with(row, "rejected", json!([])), "rejected: has no responses");
}

#[test]
fn pairs_that_would_fill_the_memory_are_refused() {
    let texts = |name: &str| (0..8).map(|index| format!("{name}{index}")).collect::<Vec<_>>();
    let row = json!({"prompt": "Q".repeat(5 << 20), "chosen": texts("c"), "rejected": texts("r")});
    refuse(row, "its pairs, each with the whole prompt, would take more than 268435456 bytes");
}

#[test]
fn names_of_parts_are_unique() {
    let row = |id: &str| json!({"id": id, "prompt": "Q", "chosen": ["a", "b"], "rejected": ["c"]});
    let plain = |id: &str| json!({"id": id, "prompt": "Q", "chosen": "a", "rejected": "c"});
    let loaded = skip(&[row("x"), plain("x/1"), row("y"), row("x"), plain("x/2")]);
    let names: Vec<String> = loaded.rows.iter().map(|pair| pair.id.to_string()).collect();
    assert_eq!(names, ["x/0", "x/1", "y/0", "y/1", "x/2"]);
    let reasons = loaded.skipped.reasons.join("\n");
    assert!(
        reasons.contains("line 2: id \"x/1\" was used") && reasons.contains("line 4: id \"x\" was used"),
        "{reasons}"
    );
    let found = pairs(&[plain("x/1"), without(row("x"), "id")]).unwrap();
    assert_eq!(found.iter().map(|pair| pair.id.to_string()).collect::<Vec<_>>(), ["x/1", "1/0", "1/1"]);
    assert_ne!(found[1].id.key(), found[2].id.key());
}

#[test]
fn rm_r1_rows_are_read_from_the_prompt_of_their_judge() {
    let shown = |question: &str, a: &str, b: &str| {
        format!(
            "[Client Question]\n{question}\n\n[The Start of Chatbot A's Response]\n{a}\n[The End of Chatbot A's Response]\n\n\
             [The Start of Chatbot B's Response]\n{b}\n[The End of Chatbot B's Response]"
        )
    };
    let row = |text: &str, winner: &str| {
        json!({"context_messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": text}],
            "winner": winner})
    };
    let text = shown("Q\n\nmore", "a\n\n", "b");
    check(row(&text, "model_a"), &[("user", "Q\n\nmore")], "a\n\n", "b");
    check(row(&text, "model_b"), &[("user", "Q\n\nmore")], "b", "a\n\n");
    let other = text.replace("Chatbot", "Assistant").replace("Client", "User");
    check(row(&other, "model_a"), &[("user", "Q\n\nmore")], "a\n\n", "b");
    assert_eq!(named("rm-r1", &[row(&text, "model_a")]).len(), 1);
    refuse(row(&text, "A"), "winner: expected \"model_a\" or \"model_b\", got \"A\"");
    refuse(row(&shown("Q", &shown("x", "y", "z"), "b"), "model_a"), "has more than once the mark");
    refuse(row(&text.replace("[The Start of Chatbot A's Response]", ""), "model_a"), "does not have the mark");
    refuse(row(&format!("{text} Now judge."), "model_a"), "not in their order");
    refuse(row("Which is better?", "model_a"), "the responses are not in this row");
    let whole = "[The Start of the Conversation between Chatbot A and the Client]\nUser: Q\nChatbot A: x\n[The End…";
    refuse(row(whole, "model_a"), "shows two whole conversations in one text");
    let system_only = json!({"context_messages": [{"role": "system", "content": "J"}], "winner": "model_a"});
    refuse(system_only, "context_messages: has no turn of the user");
}

#[test]
fn ms_swift_replaces_the_last_turn() {
    let turns = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "G"}]);
    let row = json!({"messages": turns, "rejected_response": "B"});
    check(row.clone(), &[("system", "S"), ("user", "Q")], "G", "B");
    assert_eq!(named("ms-swift", std::slice::from_ref(&row)).len(), 1);
    let mut rejected = turns.clone();
    rejected[2]["content"] = "B".into();
    check(json!({"messages": turns, "rejected_messages": rejected}), &[("system", "S"), ("user", "Q")], "G", "B");
    rejected[1]["content"] = "R".into();
    refuse(json!({"messages": turns, "rejected_messages": rejected}), "different prompts");
    refuse(json!({"messages": turns, "rejected_response": ["B"]}), "rejected_response: expected text, got a list");
    refuse(json!({"messages": [], "rejected_response": "B"}), "no known pair format");
    let open = json!({"messages": [{"role": "user", "content": "Q"}], "rejected_response": "B"});
    refuse(open, "chosen: does not end with an assistant turn");
}

#[test]
fn sources_and_gaps_come_from_the_row_and_round_trip() {
    let row = json!({"prompt": "Q", "chosen": "G", "rejected": "B"});
    let said = |more: Value| {
        let mut row = row.clone();
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pair = pairs(&[row]).unwrap().remove(0);
        let again = pairs(&[serde_json::to_value(&pair).unwrap()]).unwrap().remove(0);
        assert_eq!((&again.source, again.gap), (&pair.source, pair.gap));
        (pair.source, pair.gap)
    };
    assert_eq!(said(json!({})), (None, None));
    let written = serde_json::to_string(&pairs(std::slice::from_ref(&row)).unwrap()[0]).unwrap();
    assert!(!written.contains("source") && !written.contains("gap"), "{written}");
    assert_eq!(said(json!({"score_chosen": 8.5, "score_rejected": 3})), (None, Some(5.5)));
    assert_eq!(said(json!({"score_chosen": 3, "score_rejected": 8})), (None, Some(-5.0)));
    assert_eq!(said(json!({"margin": 2, "chosen_score": 9, "rejected_score": 1})), (None, Some(2.0)));
    for unknown in [
        json!({"gap": "2"}),
        json!({"gap": null}),
        json!({"score_chosen": 8}),
        json!({"score_chosen": "8", "score_rejected": 3}),
        json!({"score_chosen": 1.7e308, "score_rejected": -1.7e308}),
    ] {
        assert_eq!(said(unknown), (None, None));
    }
    assert_eq!(said(json!({"subset": "hep-go", "domain": "x"})).0.as_deref(), Some("hep-go"));
    assert_eq!(said(json!({"source": 3, "dataset": "d"})).0.as_deref(), Some("d"));
    assert_eq!(said(json!({"source": "a document of many words ".repeat(9), "domain": "x"})).0.as_deref(), Some("x"));
    assert_eq!(said(json!({"source": ["", "b"]})).0.as_deref(), Some("b"));
}

#[test]
fn a_forced_format_says_what_it_expected() {
    let rows = json!({"prompt": "Q", "chosen": "G", "rejected": "B",
        "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]});
    let file = file_of("rows.jsonl", rows.to_string().as_bytes());
    let load = |name: &str| {
        let how = LoadOptions { format: Some(name.parse().unwrap()), ..options(OnBadRow::Refuse) };
        load_pairs(&[file.path()], &how).map(|loaded| loaded.rows[0].chosen.clone()).map_err(|error| error.to_string())
    };
    assert_eq!(load("trl-explicit").unwrap(), "G");
    assert_eq!(load("nectar").unwrap(), "x");
    for (name, reason) in [
        (
            "shp",
            "line 1: is no row of format shp: expected history, human_ref_A, human_ref_B, labels; found prompt, chosen",
        ),
        ("pku-saferlhf", "expected prompt, response_0, response_1, and safer_response_id or better_response_id; found"),
        ("ms-swift", "expected messages, and rejected_response or rejected_messages; found"),
        ("messages", "line 1: rows of format messages hold no pair"),
    ] {
        let said = load(name).unwrap_err();
        assert!(said.contains(reason), "{name}: {said}");
    }
    let how = LoadOptions { format: Some(Format::PromptResponse), ..options(OnBadRow::Refuse) };
    let said = load_responses(&[file.path()], &how).unwrap_err().to_string();
    assert!(said.contains("is no row of format prompt-response: expected prompt, response; found"), "{said}");
    let said = "nectars".parse::<Format>().unwrap_err();
    assert!(said.contains("no format is called \"nectars\"; known are math-step-dpo, llmbar,"), "{said}");
    for format in Format::all() {
        assert_eq!(format.name().parse(), Ok(format));
    }
    // What is found in a row that holds something else is named.
    let sft = json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    refuse(
        sft,
        "no known pair format; expected at least \"chosen\" and \"rejected\", found messages (format messages, which holds no \
         pair)",
    );
}

/// Files of columns hold null, `[]` or an empty text where a row of another format has nothing.
#[test]
fn formats_are_told_apart_in_one_file_of_columns() {
    let rows = [
        json!({"prompt": "Q", "chosen": "G", "rejected": "B"}),
        json!({"prompt": "Q", "response_0": "G", "response_1": "B", "safer_response_id": 0}),
        json!({"context": [{"role": "user", "content": "Q"}], "response1": "G", "response2": "B", "overall_preference": -1}),
        json!({"prompt": "Q", "answers": [{"rank": 1, "answer": "G"}, {"rank": 2, "answer": "B"}]}),
        json!({"instruction": "Q",
            "completions": [{"overall_score": 9, "response": "G"}, {"overall_score": 2, "response": "B"}]}),
        json!({"prompt": "Q", "response_1": "G", "response_2": "B", "winner": "model_a"}),
        json!({"prompt": "Q", "response_1": "G", "response_2": "B", "preference_strength": -2.0}),
        json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "G"}], "rejected_response": "B"}),
        json!({"question": "Q", "response_A": "G", "response_B": "B", "label": "A>B"}),
        json!({"history": "Q", "human_ref_A": "G", "human_ref_B": "B", "labels": 1.0}),
    ];
    let columns: std::collections::BTreeSet<String> =
        rows.iter().flat_map(|row| row.as_object().unwrap().keys().cloned()).collect();
    let lists = ["answers", "completions", "context", "messages"];
    for row in &rows {
        let mut full = row.clone();
        for name in &columns {
            if row.get(name).is_none() {
                full[name] = if lists.contains(&name.as_str()) { json!([]) } else { Value::Null };
            }
        }
        assert_eq!(Format::of(full.as_object().unwrap()), Format::of(row.as_object().unwrap()), "{row}");
        let pair = pairs(&[full]).unwrap().remove(0);
        assert_eq!(
            (pair.prompt[0].content.as_str(), pair.chosen.as_str(), pair.rejected.as_str()),
            ("Q", "G", "B"),
            "{row}"
        );
    }
}
