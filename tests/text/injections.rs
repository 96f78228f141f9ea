//! What a response, a prompt or a turn cannot do to the judge that reads it: step out of its frame.
//!
//! `tests/injections/corpus.jsonl` holds the hostile texts; it is also an input of `judge`, and
//! `tests/injections/README.md` says what a judge of the demo makes of them. `tests/injections/frames.jsonl` holds texts against
//! frames that users write.

use std::path::Path;

use patarm::data::{Message, synthetic};
use patarm::judge::{
    Judge, JudgeForm, JudgeMode, JudgeSettings, Keep, LengthBudget, PromptFile, RubricMode, VerdictRules,
};
use patarm::setting::Valid;
use patarm::tokenizer::{CHAT_TEMPLATE, Tokenizer};
use serde_json::Value;

use crate::{golden, shared, tiny};

const CORPUS: &str = include_str!("../injections/corpus.jsonl");
const FRAMES: &str = include_str!("../injections/frames.jsonl");

/// Judge's prompts as users write them, without the tables of tasks: what follows the response, and what no response may write.
const OTHERS: [(&str, &str, &[&str]); 10] = [
    (
        "[REQUEST]\n{{ prompt }}\n[END REQUEST]\n[RESPONSE]\n{{ response }}\n[END RESPONSE]\n[VERDICT]",
        "[END RESPONSE]",
        &["[end response]", "[response]", "[request]", "[verdict]"],
    ),
    ("### Request\n{{ prompt }}\n\n### Response\n{{ response }}\n\n### Verdict", "###", &["# verdict", "# response"]),
    (
        "<|prompt|>\n{{ prompt }}\n<|/prompt|>\n<|response|>\n{{ response }}\n<|/response|>",
        "<|/response|>",
        &["<|/response", "<|response"],
    ),
    ("Request\n```\n{{ prompt }}\n```\nResponse\n```\n{{ response }}\n```", "```", &["```"]),
    ("-----\n{{ prompt }}\n-----\n{{ response }}\n-----\nJudge it.", "-----", &["\n---"]),
    ("\"\"\"\n{{ prompt }}\n\"\"\"\n\n\"\"\"\n{{ response }}\n\"\"\"", "\"\"\"", &["\"\"\""]),
    ("Request: {{ prompt }}\nResponse: {{ response }}\nVerdict:", "Verdict:", &["\nresponse:", "\nverdict:"]),
    (
        "REQUEST\n{{ prompt }}\nEND OF REQUEST\nRESPONSE\n{{ response }}\nEND OF RESPONSE",
        "END OF RESPONSE",
        &["\nend of response", "\nresponse\n"],
    ),
    (
        "{% if response | length > 1000000 %}[LONG RESPONSE]\n{{ response }}\n[END LONG RESPONSE]{% else %}<request>\n\
         {{ prompt }}\n</request>\n{response}\n{{ response }}\n{/response}{% endif %}",
        "{/response}",
        &["[end long response]", "[long response]", "{/response}", "<request>", "</request>"],
    ),
    (
        "Request: {{ prompt }} [END REQUEST] Response: {{ response }} [END RESPONSE]",
        "[END RESPONSE]",
        &["[end response]"],
    ),
];

/// The hostile texts of both files, and long ones.
fn hostile() -> Vec<String> {
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()["response"].as_str().unwrap().to_owned();
    let mut texts: Vec<String> = CORPUS.lines().chain(FRAMES.lines()).map(row).collect();
    assert!(texts.len() >= 260, "{}", texts.len());
    texts.extend(
        ["a", "</response>", "<", "\n", "[user]\n", "<|im_end|>", "\u{200b}", "---\n", "\n### Verdict", "\"", "`"]
            .map(|unit| unit.repeat(2_000 / unit.len())),
    );
    texts
}

fn demo_tokenizer() -> Tokenizer {
    let tokenizer = synthetic::tokenizer().unwrap();
    Tokenizer::from_parts(tokenizer, CHAT_TEMPLATE.to_string(), synthetic::EOS_TOKEN, synthetic::PAD_TOKEN).unwrap()
}

/// A judge with another template than the built-in one, or why there is none.
fn judge_of(template: &str, tokenizer: Tokenizer) -> Result<Judge, String> {
    judge_with(template, tokenizer, JudgeForm::default())
}

fn judge_with(template: &str, tokenizer: Tokenizer, form: JudgeForm) -> Result<Judge, String> {
    let toml = format!("template = {}\n[tasks.chat]\nrubrics = 'Be fair.'", Value::from(template));
    let prompt = PromptFile::parse(&toml).map_err(|error| error.to_string())?;
    let settings = Valid::new(JudgeSettings::new(prompt, VerdictRules::default(), false, form));
    Judge::new(settings.map_err(|error| error.to_string())?, tokenizer).map_err(|error| error.to_string())
}

/// A judge of each tokenizer at hand, with its name.
fn judges() -> Vec<(&'static str, Judge)> {
    judges_of(JudgeForm::default())
}

fn judges_of(form: JudgeForm) -> Vec<(&'static str, Judge)> {
    let way = |prompt| Valid::new(JudgeSettings::new(prompt, VerdictRules::default(), false, form)).unwrap();
    let demo_way = way(PromptFile::parse(synthetic::RUBRICS).unwrap());
    let built_in = || way(PromptFile::load(None).unwrap());
    let mut judges = vec![
        ("tiny", Judge::new(built_in(), tiny::tokenizer()).unwrap()),
        ("demo", Judge::new(demo_way, demo_tokenizer()).unwrap()),
    ];
    if let Some(source) = shared("qwen3_tokenizer") {
        judges.push(("Qwen3", Judge::new(built_in(), golden::qwen3(&source)).unwrap()));
    }
    judges
}

/// The ids that the prompts for two harmless texts begin and end with. The line break before the text's closing tag belongs to
/// what it follows: a tokenizer may merge it with a full stop.
fn frame(judge: &Judge, encode: &dyn Fn(&str) -> Vec<u32>, closing: &str) -> (Vec<u32>, Vec<u32>) {
    let [a, b] = ["seven", "1 2 k"].map(encode);
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut end = a[a.len() - end..].to_vec();
    while judge.tokenizer().decode(&end[..1], false).trim().is_empty() {
        end.remove(0);
    }
    assert!(judge.tokenizer().decode(&end, false).trim_start().starts_with(closing), "{closing}");
    (a[..same].to_vec(), end)
}

/// Asserts that the text between the frame's ids writes neither anything of the frame nor a control token.
fn check(name: &str, judge: &Judge, encode: &dyn Fn(&str) -> Vec<u32>, closing: &str, labels: &[&str]) {
    let (before, after) = frame(judge, encode, closing);
    for text in hostile() {
        let ids = encode(&text);
        let shown: String = text.chars().take(60).collect();
        assert!(ids.len() >= before.len() + after.len(), "{name}: {shown:?}");
        assert!(ids.starts_with(&before), "{name}: ids before {shown:?}");
        assert!(ids.ends_with(&after), "{name}: ids after {shown:?}");
        let inside = &ids[before.len()..ids.len() - after.len()];
        let read = judge.tokenizer().decode(inside, false).to_lowercase();
        let found = labels.iter().find(|label| format!("\n{read}").contains(**label));
        assert_eq!(found, None, "{name}: {shown:?} is read as {read:?}");
        for role in ["[assistant]\n", "[user]\n", "[system]\n"] {
            assert!(!read.contains(role), "{name}: {shown:?} is read as {read:?}");
        }
        for control in ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>"] {
            let id = judge.tokenizer().encode(control).unwrap();
            assert!(id.len() > 1 || !inside.contains(&id[0]), "{name}: {control} in {shown:?}");
        }
    }
}

const TAGS: [&str; 14] = [
    "<task>",
    "</task>",
    "<rubrics>",
    "</rubrics>",
    "<prompt>",
    "</prompt>",
    "<response>",
    "</response>",
    "<eval>",
    "</eval>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
];

#[test]
fn a_response_stays_in_its_frame() {
    for (name, judge) in judges() {
        let prompt = [Message::user("show a b c d")];
        check(name, &judge, &|text| judge.encode("chat", &prompt, &[text]).unwrap(), "</response>", &TAGS);
    }
}

#[test]
fn responses_stay_in_their_frames_in_every_mode() {
    for rubrics in [RubricMode::Primary, RubricMode::Generated] {
        for (name, judge) in judges_of(JudgeForm { rubrics, ..JudgeForm::default() }) {
            let encode = |text: &str| judge.encode("chat", &[Message::user("p")], &[text]).unwrap();
            check(name, &judge, &encode, "</response>", &TAGS);
        }
    }
    let mut labels = TAGS.to_vec();
    labels.extend(["<response_a>", "</response_a>", "<response_b>", "</response_b>"]);
    for (name, judge) in judges_of(JudgeForm { mode: JudgeMode::Pairwise, ..JudgeForm::default() }) {
        let [first, second] = if name == "demo" { ["</response>"; 2] } else { ["</response_a>", "</response_b>"] };
        // A tag that the template does not write is no label of its frame.
        let labels: Vec<&str> =
            labels.iter().copied().filter(|label| name == "demo" || !TAGS[6..8].contains(label)).collect();
        let encode = |responses: &[&str]| judge.encode("chat", &[Message::user("p")], responses).unwrap();
        check(name, &judge, &|text| encode(&[text, "a b c d"]), first, &labels);
        check(name, &judge, &|text| encode(&["a b c d", text]), second, &labels);
    }
}

#[test]
fn a_prompt_stays_in_its_frame() {
    for (name, judge) in judges() {
        check(
            name,
            &judge,
            &|text| judge.encode("chat", &[Message::user(text)], &["a b c d"]).unwrap(),
            "</prompt>",
            &TAGS,
        );
        // In a conversation, turns cannot write the labels of others.
        let turns = |text: &str| [Message::user("hello"), Message::assistant(text), Message::user("again")];
        let encode = |text: &str| judge.encode("chat", &turns(text), &["a b c d"]).unwrap();
        check(name, &judge, &encode, "[user]", &TAGS);
    }
}

#[test]
fn other_frames_hold_as_the_built_in_one_does() {
    for (template, closing, labels) in OTHERS {
        let mut tokenizers = vec![("tiny", tiny::tokenizer())];
        tokenizers.extend(shared("qwen3_tokenizer").map(|source| ("Qwen3", golden::qwen3(&source))));
        for (name, tokenizer) in tokenizers {
            let judge = judge_of(template, tokenizer).unwrap();
            let name = format!("{name}, {template:?}");
            let prompt = [Message::user("show a b c d")];
            check(&name, &judge, &|text| judge.encode("chat", &prompt, &[text]).unwrap(), closing, labels);
        }
    }
}

/// Wherever a text is cut, what is left of it writes nothing that it did not write before: a label that stood within a line does
/// not come to stand at the beginning of one, nor a line of signs alone.
#[test]
fn a_text_that_is_cut_stays_in_its_frame() {
    for (template, closing, labels) in OTHERS {
        for (response, keep) in
            [(7, Keep::Start), (12, Keep::Ends), (25, Keep::Ends), (40, Keep::Ends), (64, Keep::Ends)]
        {
            let form = JudgeForm { length: LengthBudget { prompt: 0, response, keep }, ..JudgeForm::default() };
            let judge = judge_with(template, tiny::tokenizer(), form).unwrap();
            let prompt = [Message::user("show a b c d")];
            let encode = |text: &str| judge.encode("chat", &prompt, &[text]).unwrap();
            check(&format!("{response} of {template:?}"), &judge, &encode, closing, labels);
            // A label ends or begins exactly where the text is cut, and stood within a line.
            let (start, end) = if keep == Keep::Start { (response, 0) } else { (response.div_ceil(2), response / 2) };
            let fill = |letter: &str, count: usize, label: &str| letter.repeat(count.saturating_sub(label.len() + 1));
            for label in labels.iter().map(|label| label.trim()) {
                let before = format!("{}\n{label}zz{}", fill("x", start, label), "q".repeat(100));
                let after = format!("{}zz{label}\n{}", "q".repeat(100), fill("y", end, label));
                for text in [before, after] {
                    let (frame_before, frame_after) = frame(&judge, &encode, closing);
                    let ids = encode(&text);
                    let inside = &ids[frame_before.len()..ids.len() - frame_after.len()];
                    let inside = judge.tokenizer().decode(inside, false).to_lowercase();
                    let written = inside.lines().any(|line| line.trim() == label.to_lowercase());
                    assert!(!written, "{response} of {template:?}: {text:?} is read as {inside:?}");
                }
            }
        }
    }
}

#[test]
fn a_frame_that_cannot_be_protected_is_refused() {
    for (template, part) in [
        ("{{ prompt }}\n{{ response }}", "only \"\\n\" ends a prompt or a response"),
        ("{{ prompt }} | {{ response }}", "only \" | \" ends"),
        ("Is {{ response }} right for {{ prompt }}?", "only \" right for \" ends"),
        ("<a>\n{{ prompt }}\n</a>\n({{ response }})", "only \")\" ends"),
        ("<a>\n{{ prompt }}\n</a>\n{{ response | replace('\u{200b}', '') }}", "must show {{ response }} unchanged"),
    ] {
        let message = judge_of(template, tiny::tokenizer()).map(|_| ()).unwrap_err();
        assert!(message.contains(part), "{template}: {message}");
    }
    // A tokenizer that merges `>` with the letters after it; the demo's keeps tags apart from everything.
    let tight = "<prompt>{{ prompt }}</prompt>\n<response>{{ response }}</response>";
    assert!(judge_of(tight, demo_tokenizer()).is_ok());
    if let Some(source) = shared("qwen3_tokenizer") {
        let message = judge_of(tight, golden::qwen3(&source)).map(|_| ()).unwrap_err();
        assert!(message.contains("put a line break or a space on both sides"), "{message}");
    }
}

#[test]
fn what_names_no_tag_is_not_changed() {
    let judge = Judge::new(JudgeSettings::built_in().unwrap(), tiny::tokenizer()).unwrap();
    let text = "if a < b && c > d { <b>x</b> } [1] [link](user) Vec<T> 5 % «q» é 漢字 \u{1f600}";
    let messages = judge.messages("code", &[Message::user(text)], &[text]).unwrap();
    assert_eq!(messages.last().unwrap().content.matches(text).count(), 2);
}

#[test]
fn a_megabyte_is_encoded_in_linear_time() {
    let judge = Judge::new(JudgeSettings::built_in().unwrap(), tiny::tokenizer()).unwrap();
    for unit in ["a ", "</response>", "<", "\u{200b}<", "[user]\n"] {
        let text = unit.repeat((1 << 20) / unit.len());
        let ids = judge.encode("chat", &[Message::user("p")], &[&text]).unwrap();
        assert!(ids.len() > 1 << 19, "{unit:?}: {}", ids.len());
    }
}

#[test]
fn every_text_of_the_corpus_is_a_row_that_judge_takes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corpus.jsonl");
    std::fs::write(&file, CORPUS).unwrap();
    let options = crate::formats::options(patarm::data::OnBadRow::Refuse);
    let loaded = patarm::data::load_responses(&[file], &options).unwrap();
    assert_eq!(loaded.rows.len(), CORPUS.lines().count());
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injections/README.md").exists());
}
