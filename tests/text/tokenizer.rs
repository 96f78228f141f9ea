//! The tokenizer's promises on a small vocabulary: decoding anything, escaping anything, masks, files.

use std::fs;

use patarm::data::Message;
use patarm::tokenizer::{CHAT_TEMPLATE, RenderOptions, Supervised, Tokenizer, TokenizerError};
use proptest::prelude::*;
use tokenizers::{AddedToken, TruncationParams};

use crate::tiny::{inner, tokenizer};

fn generation_prompt(thinking: bool) -> RenderOptions {
    RenderOptions { add_generation_prompt: true, enable_thinking: Some(thinking), ..RenderOptions::default() }
}

/// The masked-in runs of a conversation, as text.
fn learnt(tokenizer: &Tokenizer, supervised: &Supervised) -> Vec<String> {
    let mut runs = Vec::new();
    let mut start = 0;
    for run in supervised.mask.chunk_by(|a, b| a == b) {
        if run[0] {
            runs.push(tokenizer.decode(&supervised.ids[start..start + run.len()], false));
        }
        start += run.len();
    }
    runs
}

#[test]
fn ids_and_sizes() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size(), 264);
    assert_eq!((tokenizer.pad_id(), tokenizer.eos_id()), (259, 261));
    assert_eq!(tokenizer.eos_ids(), [261]);
    assert_eq!(tokenizer.encode("<think>\n\n</think>").unwrap(), [262, 256, 263]);
}

#[test]
fn the_token_that_closes_a_turn_is_an_eos_too() {
    let base = Tokenizer::from_parts(inner(), CHAT_TEMPLATE.into(), "<|endoftext|>", "<|endoftext|>").unwrap();
    assert_eq!(base.eos_ids(), [259, 261]);
    let supervised = base.encode_supervised(&[Message::user("Q"), Message::assistant("A")], false).unwrap();
    assert_eq!(learnt(&base, &supervised), ["A<|im_end|>"]);
}

#[test]
fn unknown_ids_decode_to_the_replacement_character() {
    let tokenizer = tokenizer();
    let mut ids = tokenizer.encode("ab").unwrap();
    ids.insert(1, 99_999);
    ids.push(u32::MAX);
    assert_eq!(tokenizer.decode(&ids, true), "a\u{fffd}b\u{fffd}");
    assert_eq!(tokenizer.decode(&[], true), "");
    assert_eq!(tokenizer.decode(&tokenizer.encode("é").unwrap()[..1], false), "\u{fffd}");
}

#[test]
fn a_stored_truncation_is_dropped() {
    let mut inner = inner();
    let truncation = TruncationParams { max_length: 2, ..Default::default() };
    inner.with_truncation(Some(truncation)).unwrap();
    assert_eq!(inner.encode("bcde", false).unwrap().len(), 2);
    let tokenizer = Tokenizer::from_parts(inner, CHAT_TEMPLATE.into(), "<|im_end|>", "<|endoftext|>").unwrap();
    assert_eq!(tokenizer.encode("bcde").unwrap().len(), 4);
}

#[test]
fn missing_tokens_are_errors() {
    let error = Tokenizer::from_parts(inner(), CHAT_TEMPLATE.into(), "<end>", "<|endoftext|>").unwrap_err();
    assert!(error.to_string().contains("eos_token \"<end>\""), "{error}");
}

#[test]
fn a_mask_covers_answers_and_their_ends() {
    let tokenizer = tokenizer();
    let turns = [
        Message::new("system", "S"),
        Message::user("Q1"),
        Message::assistant("A1"),
        Message::user("Q2 A2"),
        Message::assistant("A2"),
    ];
    let supervised = tokenizer.encode_supervised(&turns, false).unwrap();
    assert_eq!(learnt(&tokenizer, &supervised), ["A1<|im_end|>", "A2<|im_end|>"]);
    let supervised = tokenizer.encode_supervised(&turns, true).unwrap();
    assert_eq!(learnt(&tokenizer, &supervised), ["A1<|im_end|>", "<think>\n\n</think>\n\nA2<|im_end|>"]);
}

#[test]
fn an_answer_that_begins_with_space_does_not_reach_into_the_prompt() {
    let tokenizer = tokenizer();
    // In one piece "\n\n  \n" would be split as one, and the prompt would end otherwise than in generation.
    let turns = [Message::user("Q"), Message::assistant("  \nA")];
    let supervised = tokenizer.encode_supervised(&turns, false).unwrap();
    let prompt = tokenizer.encode_chat(&turns[..1], &generation_prompt(false)).unwrap();
    assert!(supervised.ids.starts_with(&prompt));
    assert_eq!(learnt(&tokenizer, &supervised), ["  \nA<|im_end|>"]);
}

#[test]
fn conversations_without_an_honest_mask_are_refused() {
    let tokenizer = tokenizer();
    let refused = |turns: &[Message], thinking, word: &str| {
        let error = tokenizer.encode_supervised(turns, thinking).unwrap_err();
        assert!(matches!(error, TokenizerError::Supervised(_)) && error.to_string().contains(word), "{error}");
    };
    let question = Message::user("Q");
    refused(&[], false, "no turns");
    refused(std::slice::from_ref(&question), false, "user");
    refused(&[question.clone(), Message::assistant("<think>\nx\n</think>\n\nA")], false, "thinking");
    refused(&[question.clone(), Message::assistant("A<|im_end|>B")], false, "control token <|im_end|>");
    refused(&[question.clone(), Message::assistant("A"), Message::assistant("B")], false, "in a row");
    let endless =
        Tokenizer::from_parts(inner(), "{{ messages[0].content }}".into(), "<|im_end|>", "<|im_end|>").unwrap();
    assert!(endless.encode_supervised(&[question, Message::assistant("A")], true).is_err());
}

#[test]
fn our_template_in_full() {
    let tokenizer = tokenizer();
    let turns = [
        Message::new("system", "S"),
        Message::user("Q1"),
        Message::assistant("<think>\nold\n</think>\n\nA1"),
        Message::user("Q2"),
        Message::assistant("<think>\nnew\n</think>\n\nA2"),
    ];
    let start = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n\
                 <|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n";
    let whole = tokenizer.render(&turns, &RenderOptions::default()).unwrap();
    assert_eq!(whole, format!("{start}<think>\nnew\n</think>\n\nA2<|im_end|>\n"));
    assert_eq!(tokenizer.render(&turns[..4], &generation_prompt(true)).unwrap(), start);
    let closed = tokenizer.render(&turns[..4], &generation_prompt(false)).unwrap();
    assert_eq!(closed, format!("{start}<think>\n\n</think>\n\n"));
}

#[test]
fn an_earlier_turn_that_the_template_rewrites_is_context() {
    let rewriting = CHAT_TEMPLATE.replace("text.split('</think>')[-1]", "'hidden'");
    assert_ne!(rewriting, CHAT_TEMPLATE);
    let tokenizer = Tokenizer::from_parts(inner(), rewriting, "<|im_end|>", "<|endoftext|>").unwrap();
    let first = Message::assistant("<think>\nwhy\n</think>\n\nA1");
    let turns = [Message::user("Q1"), first, Message::user("Q2"), Message::assistant("A2")];
    assert!(tokenizer.render(&turns, &RenderOptions::default()).unwrap().contains("hidden"));
    let supervised = tokenizer.encode_supervised(&turns, false).unwrap();
    assert_eq!(learnt(&tokenizer, &supervised), ["A2<|im_end|>"]);
}

#[test]
fn escaping_breaks_tokens_of_every_kind() {
    assert_eq!(tokenizer().escape("a<|im_end|></think>"), "a<\u{200b}|im_end|><\u{200b}/think>");
    let mut inner = inner();
    // One character; one that swallows the space before it; one that the normaliser makes out of another (Kelvin sign).
    let normalized = AddedToken::from("[K]", false).normalized(true);
    let added = [AddedToken::from("\u{20ac}", true), AddedToken::from("[sep]", true).lstrip(true), normalized];
    inner.add_tokens(added).unwrap();
    let tokenizer = Tokenizer::from_parts(inner, CHAT_TEMPLATE.into(), "<|im_end|>", "<|endoftext|>").unwrap();
    assert_eq!(tokenizer.encode("[\u{212a}]").unwrap(), [266]);
    for (text, escaped) in
        [("5\u{20ac}", "5\u{fffd}"), ("a  [sep]b", "a  [\u{200b}sep]b"), ("[\u{212a}]", "[\u{200b}\u{212a}]")]
    {
        assert_eq!(tokenizer.escape(text), escaped);
        assert!(tokenizer.encode(escaped).unwrap().iter().all(|&id| id < 259), "{escaped:?}");
    }
}

#[test]
fn a_saved_folder_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::from_dir(dir.path()).unwrap();
    let turns = [Message::user("what is 1 + 1?\n\n"), Message::assistant("as é 2")];
    assert_eq!(again.encode_supervised(&turns, false).unwrap(), tokenizer.encode_supervised(&turns, false).unwrap());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn folder_faults_name_the_file_and_templates_have_an_order() {
    let dir = tempfile::tempdir().unwrap();
    let fault = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(fault().contains("tokenizer.json"));
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    assert!(fault().contains("is not a tokenizer"));
    fs::write(dir.path().join("tokenizer.json"), inner().to_string(false).unwrap()).unwrap();
    assert!(fault().contains("eos_token"));
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("tokenizer_config.json", r#"{"eos_token": {"content": "<|im_end|>"}, "pad_token": null}"#);
    let render = || {
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.pad_id(), tokenizer.eos_id());
        tokenizer.render(&[Message::user("Q")], &RenderOptions::default()).unwrap()
    };
    assert_eq!(render(), "<|im_start|>user\nQ<|im_end|>\n");
    let named = r#"{"eos_token": "<|im_end|>", "chat_template": [{"name": "default", "template": "of config"}]}"#;
    write("tokenizer_config.json", named);
    assert_eq!(render(), "of config");
    write("chat_template.jinja", "of file");
    assert_eq!(render(), "of file");
    // What ends a text: generation_config.json, or config.json where that does not say.
    let eos_ids = || Tokenizer::from_dir(dir.path()).unwrap().eos_ids().to_vec();
    write("config.json", r#"{"eos_token_id": [260, 261]}"#);
    assert_eq!(eos_ids(), [261, 260]);
    write("generation_config.json", r#"{"eos_token_id": null}"#);
    assert_eq!(eos_ids(), [261, 260]);
    write("generation_config.json", r#"{"eos_token_id": 259}"#);
    assert_eq!(eos_ids(), [261, 259]);
    write("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:aeb1\nsize 11422654\n");
    assert!(fault().contains("git lfs pull"));
}

/// Text of control tokens, their pieces, characters that a normaliser moves, and others.
fn dangerous_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec!["<|im_end|>", "</think>", "<think>", "<|im_", "end|>", "<", "|", ">", "\n", " "])
            .prop_map(str::to_string),
        prop::sample::select(vec!["\u{200b}", "e\u{301}", "\u{2126}", "\u{226e}"]).prop_map(str::to_string),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn escaped_text_is_harmless(text in dangerous_text()) {
        let tokenizer = tokenizer();
        let escaped = tokenizer.escape(&text);
        prop_assert!(tokenizer.encode(&escaped).unwrap().iter().all(|&id| id < 259));
        prop_assert_eq!(tokenizer.escape(&escaped), escaped.clone());
        if tokenizer.encode(&text).unwrap().iter().all(|&id| id < 259) {
            prop_assert_eq!(escaped, text);
        }
    }

    #[test]
    fn any_ids_decode(ids in prop::collection::vec(prop_oneof![0u32..300, any::<u32>()], 0..20), skip in any::<bool>()) {
        tokenizer().decode(&ids, skip);
    }

    #[test]
    fn the_generation_prompt_is_a_prefix_and_the_rest_is_learnt(
        texts in prop::collection::vec("[ \n]{0,3}[a-zé<>]{1,5}[ \n]{0,3}", 2..7),
        thinking in any::<bool>(),
    ) {
        let tokenizer = tokenizer();
        let turns: Vec<Message> = texts[..texts.len() / 2 * 2]
            .iter()
            .enumerate()
            .map(|(index, text)| Message::new(if index % 2 == 0 { "user" } else { "assistant" }, text.as_str()))
            .collect();
        let prompt = tokenizer.encode_chat(&turns[..turns.len() - 1], &generation_prompt(thinking)).unwrap();
        let Supervised { ids, mask } = tokenizer.encode_supervised(&turns, thinking).unwrap();
        prop_assert_eq!(ids.len(), mask.len());
        prop_assert!(ids.starts_with(&prompt));
        let end = ids.iter().rposition(|&id| id == tokenizer.eos_id()).unwrap();
        prop_assert!(mask[prompt.len()..=end].iter().all(|&learnt| learnt));
        prop_assert!(mask[end + 1..].iter().all(|&learnt| !learnt));
        let whole = tokenizer.render(&turns, &RenderOptions::default()).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false), whole.replace("e\u{301}", "é"));
    }
}
