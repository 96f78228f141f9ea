//! A byte-level tokenizer of a few hundred tokens, made in memory, with Qwen3's normaliser, splitting and control tokens.

use patarm::tokenizer::{CHAT_TEMPLATE, Tokenizer};
use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Added tokens in the order of their ids; the last two are not special, as in Qwen3.
const ADDED: [&str; 5] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];

pub const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer itself: 256 bytes, merges that make "\n\n" and "\n\n\n" single tokens, and the control tokens.
pub fn inner() -> tokenizers::Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut vocab = Map::new();
    for token in alphabet.iter().map(char::to_string).chain(["ĊĊ".into(), "ĊĊĊ".into(), "as".into()]) {
        let id = vocab.len();
        vocab.insert(token, id.into());
    }
    let added: Vec<Value> = ADDED
        .iter()
        .enumerate()
        .map(|(index, token)| {
            json!({"id": vocab.len() + index, "content": token, "special": index < 3, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false}, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["Ċ", "Ċ"], ["ĊĊ", "Ċ"], ["a", "s"]]}
    });
    tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap()
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_parts(inner(), CHAT_TEMPLATE.to_string(), "<|im_end|>", "<|endoftext|>").unwrap()
}
