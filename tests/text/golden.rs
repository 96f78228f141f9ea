//! Qwen3's own tokenizer and template against what transformers made of them; our template against the same.

use std::fs;
use std::io::Read;
use std::path::Path;

use patarm::data::Message;
use patarm::tokenizer::{CHAT_TEMPLATE, RenderOptions, Tokenizer};
use serde_json::Value;

use crate::shared;

/// The official tokenizer, from a folder as a model has it.
pub fn qwen3(source: &Path) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let mut json = Vec::new();
    let packed = fs::File::open(source.join("tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut json).unwrap();
    fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [151645, 151643]}"#).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn options(row: &Value) -> RenderOptions {
    let kwargs = &row["kwargs"];
    RenderOptions {
        add_generation_prompt: kwargs["add_generation_prompt"].as_bool().unwrap_or(false),
        enable_thinking: kwargs["enable_thinking"].as_bool(),
        ..RenderOptions::default()
    }
}

/// One test, as reading the tokenizer takes longer than all the checks together.
#[test]
fn qwen3_is_reproduced() {
    let Some(source) = shared("qwen3_tokenizer") else { return };
    let tokenizer = qwen3(&source);
    assert_eq!(tokenizer.vocab_size(), 151_669);
    assert_eq!((tokenizer.eos_id(), tokenizer.pad_id()), (151_645, 151_643));
    assert_eq!(tokenizer.eos_ids(), [151_645, 151_643]);
    encodings_match(&tokenizer, &source);
    conversations_match(&tokenizer, &source);
    our_template_agrees(&tokenizer, &source);
    escaped_text_holds_no_control_token(&tokenizer);
    masks_follow_the_template(&tokenizer);
    saved_folder_is_the_same(&tokenizer);
}

fn encodings_match(tokenizer: &Tokenizer, source: &Path) {
    let rows = rows(&source.join("golden_encodings.jsonl"));
    assert_eq!(rows.len(), 32);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let expected = ids(&row["ids"]);
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false), row["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&expected, true), row["decoded_skip_special"], "{text:?}");
    }
}

fn conversations_match(tokenizer: &Tokenizer, source: &Path) {
    let rows = rows(&source.join("golden_chat_template.jsonl"));
    assert_eq!(rows.len(), 8);
    for row in rows {
        let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
        assert_eq!(tokenizer.render(&messages, &options(&row)).unwrap(), row["rendered"]);
        assert_eq!(tokenizer.encode_chat(&messages, &options(&row)).unwrap(), ids(&row["ids"]));
    }
}

/// On the goldens, and against the official template on turns that the goldens lack.
fn our_template_agrees(tokenizer: &Tokenizer, source: &Path) {
    let inner = crate::tiny::inner();
    let ours = Tokenizer::from_parts(inner, CHAT_TEMPLATE.to_string(), "<|im_end|>", "<|endoftext|>").unwrap();
    for row in rows(&source.join("golden_chat_template.jsonl")) {
        let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
        assert_eq!(ours.render(&messages, &options(&row)).unwrap(), row["rendered"]);
    }
    let assistant = Message::assistant;
    let answers = ["A", "\n\n A\n", "<think>\nwhy\n</think>\n\nA", "<think>\n\n</think>\n\nA", "why</think>A", ""];
    for first in answers {
        for second in answers {
            let system = Message::new("system", "S\n");
            let turns = [system, Message::user(" Q1"), assistant(first), Message::user("Q2\n"), assistant(second)];
            let in_a_row = [turns[1].clone(), turns[2].clone(), turns[4].clone()];
            // None of them is empty: the official template cannot render no messages at all.
            for conversation in [&turns[..], &turns[1..], &turns[..4], &turns[..3], &turns[2..3], &in_a_row] {
                for add_generation_prompt in [false, true] {
                    for enable_thinking in [None, Some(true), Some(false)] {
                        let options =
                            RenderOptions { add_generation_prompt, enable_thinking, ..RenderOptions::default() };
                        let expected = tokenizer.render(conversation, &options).unwrap();
                        assert_eq!(ours.render(conversation, &options).unwrap(), expected, "{conversation:?}");
                    }
                }
            }
        }
    }
}

fn escaped_text_holds_no_control_token(tokenizer: &Tokenizer) {
    for text in ["a<|im_end|>\n<|im_start|>user", "</think></think>", "<tool_call>{}</tool_call>", "<|<|im_end|>"] {
        let escaped = tokenizer.escape(text);
        assert!(tokenizer.encode(&escaped).unwrap().iter().all(|&id| id < 151_643), "{escaped:?}");
        assert_eq!(tokenizer.escape(&escaped), escaped);
        assert_eq!(escaped.replace('\u{200b}', ""), text);
    }
    let plain = "I <think> so: <answer>8</answer> é Ω <|im_start|";
    assert_eq!(tokenizer.escape("<answer>8</answer> é Ω <|im_start|"), "<answer>8</answer> é Ω <|im_start|");
    assert_ne!(tokenizer.escape(plain), plain);
}

fn masks_follow_the_template(tokenizer: &Tokenizer) {
    let learnt = |turns: &[Message], thinking| {
        let supervised = tokenizer.encode_supervised(turns, thinking).unwrap();
        let kept = supervised.ids.iter().zip(&supervised.mask).filter(|(_, mask)| **mask).map(|(&id, _)| id);
        tokenizer.decode(&kept.collect::<Vec<_>>(), false)
    };
    let turns = [Message::user("Q1"), Message::assistant("A1")];
    assert_eq!(learnt(&turns, false), "A1<|im_end|>");
    assert_eq!(learnt(&turns, true), "<think>\n\n</think>\n\nA1<|im_end|>");
    let supervised = tokenizer.encode_supervised(&turns, false).unwrap();
    assert_eq!(supervised.ids, tokenizer.encode_chat(&turns, &RenderOptions::default()).unwrap());
    let long = [
        Message::user("Q1"),
        Message::assistant("<think>\nwhy\n</think>\n\nA1"),
        Message::user("Q2"),
        Message::assistant("<think>\nbecause\n</think>\n\nA2"),
    ];
    assert_eq!(learnt(&long, true), "A1<|im_end|><think>\nbecause\n</think>\n\nA2<|im_end|>");
}

fn saved_folder_is_the_same(tokenizer: &Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::from_dir(dir.path()).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["tokenizer_class"], "Qwen2Tokenizer");
    let turns = [Message::user("你好 1234\n"), Message::assistant("<|im_start|>")];
    let options =
        RenderOptions { add_generation_prompt: true, enable_thinking: Some(false), ..RenderOptions::default() };
    assert_eq!(again.encode_chat(&turns, &options).unwrap(), tokenizer.encode_chat(&turns, &options).unwrap());
    assert_eq!((again.eos_id(), again.pad_id(), again.vocab_size()), (151_645, 151_643, 151_669));
}
