//! Rows of every format, mutated: whatever becomes of a row, it is a record or a reason, in time that is linear in its length.

use std::collections::BTreeSet;

use patarm::data::{Format, LoadOptions, OnBadRow, Pair, Tasks, load_conversations, load_pairs, load_responses};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::formats::options;
use crate::fuzz::{any_json, cases};
use crate::rows::file_of;

/// A row of every format, in which `text` stands wherever a text may be long.
fn rows(text: &str) -> Vec<(&'static str, Value)> {
    let (user, good, bad) = (json!({"role": "user", "content": text}), "G".to_string() + text, "B".to_string() + text);
    let side = |answer: &str| json!([user, {"role": "assistant", "content": answer}]);
    let shown = format!(
        "[Client Question]\n{text}\n\n[The Start of Chatbot A's Response]\n{good}\n[The End of Chatbot A's Response]\n\n\
         [The Start of Chatbot B's Response]\n{bad}\n[The End of Chatbot B's Response]"
    );
    vec![
        (
            "math-step-dpo",
            json!({"prompt": text, "initial_reason_steps": text, "full_chosen": good, "full_rejected": bad}),
        ),
        ("llmbar", json!({"input": text, "output_1": good, "output_2": bad, "label": 1})),
        ("code-preference", json!({"instruction": "I", "input": text, "accepted": good, "rejected": bad, "ID": 3})),
        (
            "helpsteer2-preference",
            json!({"prompt": text, "response_1": good, "response_2": bad, "preference_strength": -2}),
        ),
        (
            "helpsteer3",
            json!({"domain": "general", "context": [user], "response1": good, "response2": bad, "overall_preference": 1}),
        ),
        ("ppe", json!({"prompt": text, "response_1": good, "response_2": bad, "winner": "model_b"})),
        ("pku-saferlhf", json!({"prompt": text, "response_0": good, "response_1": bad, "safer_response_id": 1})),
        (
            "shp",
            json!({"history": text, "human_ref_A": good, "human_ref_B": bad, "labels": 1, "score_A": 3, "score_B": 1}),
        ),
        (
            "judge-bench",
            json!({"question": text, "response_A": good, "response_B": bad, "label": "A>B", "source": "x"}),
        ),
        (
            "ultrafeedback",
            json!({"instruction": text, "completions": [{"response": good, "overall_score": 8},
                {"response": bad, "overall_score": 2}, {"response": null, "overall_score": 1}]}),
        ),
        ("nectar", json!({"prompt": text, "answers": [{"answer": good, "rank": 1}, {"answer": bad, "rank": 2}]})),
        ("rm-r1", json!({"context_messages": [{"role": "user", "content": shown}], "winner": "model_a"})),
        ("ms-swift", json!({"messages": side(&good), "rejected_response": bad})),
        ("trl-stepwise", json!({"prompt": text, "completions": [good, bad], "labels": [true, false]})),
        ("trl-unpaired", json!({"prompt": text, "completion": good, "label": true})),
        ("helpsteer2", json!({"prompt": text, "response": good, "helpfulness": 4})),
        (
            "response-lists",
            json!({"id": "a", "prompt": text, "chosen": [good, "C"], "rejected": [bad, "R"], "subset": "Ties"}),
        ),
        (
            "sharegpt-preference",
            json!({"conversations": [{"from": "human", "value": text}], "chosen": {"from": "gpt", "value": good},
                "rejected": {"from": "gpt", "value": bad}}),
        ),
        (
            "trl-explicit",
            json!({"prompt": text, "chosen": side(&good), "rejected": side(&bad), "score_chosen": 8, "score_rejected": 3}),
        ),
        ("alpaca-preference", json!({"instruction": text, "input": text, "chosen": good, "rejected": bad})),
        ("trl-implicit", json!({"chosen": side(&good), "rejected": side(&bad), "source": "wildguard"})),
        ("messages", json!({"messages": side(&good), "tools": "[]"})),
        ("sharegpt", json!({"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": good}]})),
        (
            "alpaca",
            json!({"instruction": text, "input": text, "output": good, "history": [[text, good]], "system": text}),
        ),
        ("trl-completion", json!({"prompt": [user], "completion": [{"role": "assistant", "content": good}]})),
        ("prompt-response", json!({"prompt": text, "response": good, "task": "math"})),
    ]
}

/// What may happen to a field of a row.
#[derive(Clone, Debug)]
enum Change {
    Remove,
    /// Its value gets the name of a field of another row.
    Rename(prop::sample::Index),
    Replace(Value),
    /// Its value becomes a list or an object that holds it, so many deep.
    Nest(usize, bool),
    /// A text is repeated, up to some length: the row of a megabyte has a test of its own.
    Repeat(usize),
    /// A list's elements are changed: one is removed, repeated, or replaced.
    Element(prop::sample::Index, Option<Value>),
}

fn change() -> impl Strategy<Value = (prop::sample::Index, Change)> {
    let change = prop_oneof![
        2 => Just(Change::Remove),
        2 => any::<prop::sample::Index>().prop_map(Change::Rename),
        4 => any_json().prop_map(Change::Replace),
        1 => (1_usize..100, any::<bool>()).prop_map(|(depth, list)| Change::Nest(depth, list)),
        1 => (0_usize..2000).prop_map(Change::Repeat),
        2 => (any::<prop::sample::Index>(), prop::option::of(any_json())).prop_map(|(at, value)| Change::Element(at, value)),
    ];
    (any::<prop::sample::Index>(), change)
}

fn changed(row: &mut Map<String, Value>, field: prop::sample::Index, change: Change, names: &[String]) {
    if row.is_empty() {
        return;
    }
    let name = row.keys().nth(field.index(row.len())).unwrap().clone();
    let value = row.remove(&name).unwrap();
    let (name, value) = match change {
        Change::Remove => return,
        Change::Rename(other) => (other.get(names).clone(), value),
        Change::Replace(value) => (name, value),
        Change::Nest(depth, list) => {
            let nest = |inner: Value, _| if list { json!([inner]) } else { json!({"role": inner}) };
            (name, (0..depth).fold(value, nest))
        }
        Change::Repeat(times) => {
            let repeated = |text: &str| text.repeat(times.min(10_000 / text.len().max(1)));
            (name, value.as_str().map_or(Value::Null, |text| repeated(text).into()))
        }
        Change::Element(at, other) => match value {
            Value::Array(mut items) if !items.is_empty() => {
                let index = at.index(items.len());
                match other {
                    Some(other) => items[index] = other,
                    None if index.is_multiple_of(2) => drop(items.remove(index)),
                    None => items.push(items[index].clone()),
                }
                (name, items.into())
            }
            value => (name, value),
        },
    };
    row.insert(name, value);
}

const TEXTS: [&str; 7] = [
    "Q",
    "",
    "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
    "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc",
    "<extra_id_1>",
    "```\n\\frac12",
    "[{\"role\": \"user\", \"content\": \"a\"}]",
];

/// A file's rows: of any formats, changed in up to three places each, with texts that look like turns.
fn mutated() -> impl Strategy<Value = Vec<Value>> {
    let whole: Vec<Value> = TEXTS.iter().flat_map(|text| rows(text)).map(|(_, row)| row).collect();
    let names: BTreeSet<String> = whole.iter().flat_map(|row| row.as_object().unwrap().keys().cloned()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let changes = prop::collection::vec(change(), 0..4);
    let row = (any::<prop::sample::Index>(), changes).prop_map(move |(which, changes)| {
        let mut row = which.get(&whole).as_object().unwrap().clone();
        changes.into_iter().for_each(|(field, change)| changed(&mut row, field, change, &names));
        Value::Object(row)
    });
    prop::collection::vec(row, 1..ROWS_MAX)
}

/// The rows of a file are fewer than this: 32 on average.
const ROWS_MAX: usize = 64;

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn no_mutated_row_panics(rows in mutated(), forced in prop::option::of(any::<prop::sample::Index>())) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let file = file_of("rows.jsonl", text.as_bytes());
        let files = [file.path()];
        let format = forced.map(|index| *index.get(&Format::all().collect::<Vec<_>>()));
        let tasks = Tasks::routed(["chat", "code", "math", "safety"].map(str::to_string));
        let how = LoadOptions { tasks, format, ..options(OnBadRow::Skip) };
        if let Ok(pairs) = load_pairs(&files, &how) {
            prop_assert!(pairs.rows.iter().all(|pair| pair.chosen != pair.rejected && !pair.prompt.is_empty()));
            prop_assert!(pairs.rows.iter().all(|pair| pair.gap.is_none_or(f64::is_finite)));
            // What was read is written, and read again as it was.
            let written = |pairs: &[Pair]| pairs.iter().map(|pair| serde_json::to_string(pair).unwrap() + "\n").collect();
            let first: String = written(&pairs.rows);
            let again = file_of("again.jsonl", first.as_bytes());
            if !pairs.rows.is_empty() {
                let again = load_pairs(&[again.path()], &options(OnBadRow::Refuse));
                prop_assert_eq!(again.map(|again| written(&again.rows)).map_err(|error| error.to_string()), Ok(first));
            }
        }
        let _ = load_responses(&files, &how);
        let _ = load_conversations(&files, &how);
    }
}

#[test]
fn the_rows_that_are_mutated_are_of_every_format() {
    let found: Vec<_> =
        rows("Q").iter().map(|(_, row)| Format::of(row.as_object().unwrap()).map(Format::name)).collect();
    let named: Vec<_> = rows("Q").iter().map(|(name, _)| Some(*name)).collect();
    assert_eq!(found, named);
    assert_eq!(named.len(), Format::all().count());
    for (name, row) in rows("Q") {
        let file = file_of("rows.jsonl", row.to_string().as_bytes());
        let (files, how) = ([file.path()], options(OnBadRow::Refuse));
        let read = [
            load_pairs(&files, &how).is_ok(),
            load_conversations(&files, &how).is_ok(),
            load_responses(&files, &how).is_ok(),
        ];
        // A single response waits for a partner, and a row of steps is none.
        assert_eq!(read.contains(&true), name != "trl-stepwise", "{name}");
    }
}

/// A megabyte in every text of every format, and lists of very many elements; with quadratic time one of these would take hours.
/// Measured once, on a machine busy with other builds: the rows of all formats with 1, 4 and 16 MB in each text took 5.5, 27.5
/// and 141 s, three readings each.
#[test]
fn long_rows_of_every_format_take_linear_time() {
    let many = 100_000;
    let how = |format| LoadOptions { format, tasks: Tasks::routed(["code".to_string()]), ..options(OnBadRow::Skip) };
    let read = |rows: &[Value]| {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let files = [file_of("rows.jsonl", text.as_bytes())];
        let paths = [files[0].path()];
        let pairs = load_pairs(&paths, &how(None)).map_or(0, |loaded| loaded.rows.len());
        let _ = (load_conversations(&paths, &how(None)), load_responses(&paths, &how(None)));
        pairs
    };
    for piece in [
        "a ",
        "<extra_id_1>User\n",
        "[The Start of Chatbot A's Response]\n",
        "\n\nHuman: a\n\nAssistant: b",
        "```\\frac",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        let all: Vec<Value> = rows(&text).into_iter().map(|(_, row)| row).collect();
        assert!(read(&all) > 5, "{piece:?}");
    }
    let texts = |name: &str| (0..many).map(|index| format!("{name}{index}")).collect::<Vec<_>>();
    let rated: Vec<Value> = (0..many).map(|index| json!({"answer": format!("{index}"), "rank": index})).collect();
    let scored: Vec<Value> =
        (0..many).map(|index| json!({"response": format!("{index}"), "overall_score": index})).collect();
    let single = |index: usize| json!({"prompt": "Q", "response": format!("{index}"), "helpfulness": index % 5});
    let labelled = |index: usize| json!({"prompt": "Q", "completion": format!("{index}"), "label": index < 10_000});
    let lists = [
        json!({"prompt": "Q", "chosen": texts("c"), "rejected": texts("r")}),
        json!({"prompt": "Q", "answers": rated}),
        json!({"instruction": "Q", "completions": scored}),
    ];
    assert_eq!(read(&lists), 64 + 8 + 8);
    // Very many rows of one prompt: each meets the one that has waited longest.
    assert_eq!(read(&(0..20_000).map(single).collect::<Vec<_>>()), 10_000);
    assert_eq!(read(&(0..20_000).map(labelled).collect::<Vec<_>>()), 10_000);
}
