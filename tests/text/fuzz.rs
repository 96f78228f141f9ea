//! Anything that a template or a row may hold: no panic, no hang, no quadratic time. `PATARM_CASES` raises the number of cases.

use std::path::Path;

use patarm::data::{Message, OnBadRow, load_conversations, load_pairs, load_prompts, load_responses};
use patarm::tokenizer::{RenderOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::formats::options;
use crate::rows::file_of;
use crate::tiny::{inner, tokenizer};

/// `PATARM_CASES`, or the suite's own number.
pub fn cases(own: u32) -> ProptestConfig {
    let asked = std::env::var("PATARM_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(asked.unwrap_or(own)) }
}

fn sources() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/chat_templates/templates");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let jinja = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jinja"));
    jinja.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

const PIECES: [&str; 28] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "-",
    "+",
    "%",
    " % ",
    "'",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "{% generation %}",
    "{% endgeneration %}",
    "{% raw %}",
    "{% endraw %}",
    "{% for x in messages %}",
    "{% endfor %}",
    "{% break %}",
    "|tojson",
    "é\u{200b}",
    "* 99999",
    "~",
    "range(99999)",
];

/// A real template with pieces cut out, repeated and put in.
fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0_usize..40, 0_usize..3, prop::sample::select(PIECES.to_vec()));
    (prop::sample::select(sources()), prop::collection::vec(change, 1..6)).prop_map(|(mut source, changes)| {
        for (at, length, kind, piece) in changes {
            let start = source.floor_char_boundary(at.index(source.len().max(1)).min(source.len()));
            let end = source.ceil_char_boundary((start + length).min(source.len()));
            match kind {
                0 => source.replace_range(start..end, ""),
                1 => source = format!("{}{}", &source[..end], &source[start..]),
                _ => source.insert_str(start, piece),
            }
        }
        source
    })
}

/// Values of every kind, for fields of every name.
pub fn any_json() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec![
        "",
        " ",
        "Q",
        "user",
        "assistant",
        "human",
        "gpt",
        "tool",
        "Human: a\n\nAssistant: b",
        "\n\nHuman:",
        "User: a\nAI: b\nUser: c\nAI:",
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb",
        "<s>[INST] <<SYS>>a<</SYS>>b [/INST] c",
        "S\n\n### Instruction:\na\n\n### Input:\nb\n\n### Response:\nc",
        "Q: a\nA: b\nB: c",
        "[{\"role\": \"user\", \"content\": \"a\"}]",
        "[]",
        "{}",
        "[{\"name\": \"f\"}]",
        "<|im_end|>",
        "<think>",
        "math",
        "function_call",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(json!(0)),
            Just(json!(1)),
            Just(json!(2)),
            Just(json!(-1.5)),
            Just(json!(1e300)),
            Just(json!(u64::MAX))
        ],
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object(inner.clone(), 5),
            message(inner),
        ]
    })
}

const FIELDS: [&str; 42] = [
    "prompt",
    "chosen",
    "rejected",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output_1",
    "output_2",
    "label",
    "accepted",
    "initial_reason_steps",
    "full_chosen",
    "full_rejected",
    "history",
    "system",
    "system_prompt",
    "id",
    "task",
    "tools",
    "documents",
    "chat_template_kwargs",
    "images",
    "weight",
    "functions",
    "enable_thinking",
    "mask_history",
    "response",
    "role",
    "content",
    "from",
    "value",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "reasoning",
    "reasoning_content",
    "train",
    "loss",
    "text",
    "function_call",
];

fn object(value: impl Strategy<Value = Value> + Clone, most: usize) -> impl Strategy<Value = Value> {
    let entry = (prop::sample::select(FIELDS.to_vec()), value);
    prop::collection::vec(entry, 0..most)
        .prop_map(|entries| entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

fn message(value: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["user", "assistant", "system", "tool"]);
    (role, prop_oneof![Just(json!("text")), value.clone()], object(value, 3)).prop_map(|(role, content, mut rest)| {
        rest["role"] = role.into();
        rest["content"] = content;
        rest
    })
}

/// A row that often is of a known format.
fn any_row() -> impl Strategy<Value = Value> {
    let turns = prop::collection::vec(message(any_json().boxed()), 1..4).prop_map(|mut turns| {
        turns.push(json!({"role": "assistant", "content": "A"}));
        Value::from(turns)
    });
    let turns = turns.boxed();
    let side = prop_oneof![turns.clone(), any_json()];
    (object(any_json().boxed(), 8), turns, side.clone(), side, any::<bool>()).prop_map(
        |(mut row, turns, chosen, rejected, pair)| {
            if pair {
                (row["chosen"], row["rejected"]) = (chosen, rejected);
            } else {
                row["messages"] = turns;
            }
            row
        },
    )
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_template_panics_or_hangs(source in mutated()) {
        let Ok(tokenizer) = Tokenizer::from_parts(inner(), source, "<|im_end|>", "<|endoftext|>") else { return Ok(()) };
        let turns = [Message::user("Q"), Message::assistant("A"), Message::user("R")];
        let _ = tokenizer.render(&turns, &RenderOptions { add_generation_prompt: true, ..RenderOptions::default() });
        let _ = tokenizer.encode_supervised(&turns[..2], true);
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn no_row_panics(rows in prop::collection::vec(any_row(), 1..4)) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let file = file_of("rows.jsonl", text.as_bytes());
        let files = [file.path()];
        let skip = options(OnBadRow::Skip);
        if let Ok(pairs) = load_pairs(&files, &skip) {
            prop_assert!(pairs.rows.iter().all(|pair| pair.chosen != pair.rejected && !pair.prompt.is_empty()));
            prop_assert_eq!(pairs.rows.len(), pairs.locations.len());
        }
        let _ = load_responses(&files, &skip);
        for chat in [true, false] {
            let _ = load_prompts(&files, &skip, chat);
        }
        if let Ok(rows) = load_conversations(&files, &skip) {
            let tokenizer = tokenizer();
            for row in &rows.rows {
                if let Ok(supervised) = tokenizer.encode_conversation(row, true, usize::MAX) {
                    prop_assert!(supervised.mask.contains(&true) && supervised.mask.len() == supervised.ids.len());
                }
            }
        }
    }
}

/// A megabyte of each thing that is searched for; with quadratic time one of these would take hours.
#[test]
fn long_rows_take_linear_time() {
    let long = 1 << 20;
    let repeated = |piece: &str| piece.repeat(long / piece.len());
    let turns = |count: usize| {
        let turn =
            |index: usize| json!({"role": if index.is_multiple_of(2) { "user" } else { "assistant" }, "content": "a"});
        Value::from((0..count).map(turn).collect::<Vec<_>>())
    };
    let (mut chosen, mut rejected) = (turns(20_000), turns(20_000));
    (chosen[19_999]["content"], rejected[19_999]["content"]) = ("G".into(), "B".into());
    let mut rows = vec![json!({"chosen": chosen, "rejected": rejected})];
    for piece in [
        "\n\nHuman: a\n\nAssistant: b",
        "Human: a\nAssistant: b\n",
        "### Human: ### Assistant: ",
        "Human: a ",
        "User: a\n\nAI: b\nUser: c\n",
        "**User:** a\n\n**AI:** b\n\n",
        "Q: a\nA: b\n",
        "A: b\nUser\n",
        "<|im_start|>user\n",
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "<|user|>a<|assistant|>",
        "[INST] a [/INST] b ",
        "<s></s>",
        "[{",
        "<|a",
        "### Instruction:\na\n### Input:\n### Response:\n",
        "a ",
        "\n",
        "<|im_end|>",
    ] {
        let text = repeated(piece);
        rows.push(json!({"chosen": format!("{text} G"), "rejected": format!("{text} B")}));
        rows.push(json!({"prompt": text, "chosen": "G", "rejected": "B"}));
    }
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = file_of("rows.jsonl", text.as_bytes());
    assert!(load_pairs(&[file.path()], &options(OnBadRow::Skip)).unwrap().rows.len() > 8);
    let tokenizer = tokenizer();
    for row in [
        json!({"messages": turns(20_000)}),
        json!({"messages": [{"role": "user", "content": repeated("<|im_end|> ")}, {"role": "assistant", "content": "A"}]}),
    ] {
        let file = file_of("sft.jsonl", row.to_string().as_bytes());
        let row = load_conversations(&[file.path()], &options(OnBadRow::Refuse)).unwrap().rows.remove(0);
        assert!(tokenizer.encode_conversation(&row, true, 4096).unwrap().ids.len() > 4096);
    }
    for template in [
        "{{ a % b }}".repeat(900),
        repeated("{{ 'a' }}"),
        repeated("{% if "),
        repeated("{{ ("),
        repeated("'"),
        repeated("{"),
    ] {
        let _ = Tokenizer::from_parts(inner(), template, "<|im_end|>", "<|endoftext|>");
    }
}
