//! Pairs of two whole texts: what marks their turns is read, or the row is refused; no answer is torn.

use patarm::data::{DataError, Message, OnBadRow, Pair, PromptText, load_pairs, load_prompts, load_responses};
use serde_json::{Value, json};

use crate::formats::options;
use crate::rows::file_of;

fn pair(row: &Value) -> Result<Pair, DataError> {
    let file = file_of("pairs.jsonl", row.to_string().as_bytes());
    load_pairs(&[file.path()], &options(OnBadRow::Refuse)).map(|mut loaded| loaded.rows.remove(0))
}

/// (system?, turns of user and assistant, answer) as one text.
type Rendered = fn(Option<&str>, &[(&str, &str)], &str) -> String;

fn lines(system: &str, user: &str, assistant: &str, gap: &str, turns: (Option<&str>, &[(&str, &str)], &str)) -> String {
    let (first, rounds, answer) = turns;
    let mut text = first.map_or(String::new(), |words| format!("{system} {words}{gap}"));
    for (index, (question, reply)) in rounds.iter().enumerate() {
        let reply = if index + 1 == rounds.len() { answer } else { reply };
        text += &format!("{user} {question}{gap}{assistant} {reply}{gap}");
    }
    text.trim_end().to_string()
}

fn wrapped(open: &str, after: &str, close: &str, turns: (Option<&str>, &[(&str, &str)], &str)) -> String {
    let (first, rounds, answer) = turns;
    let turn = |role: &str, words: &str| format!("{open}{role}{after}{words}{close}");
    let mut text = first.map_or(String::new(), |words| turn("system", words));
    for (index, (question, reply)) in rounds.iter().enumerate() {
        let reply = if index + 1 == rounds.len() { answer } else { reply };
        text += &(turn("user", question) + &turn("assistant", reply));
    }
    text
}

const RENDERINGS: [Rendered; 16] = [
    |s, t, a| lines("System:", "User:", "AI:", "\n\n", (s, t, a)),
    |s, t, a| lines("System:", "User:", "Assistant:", "\n", (s, t, a)),
    |s, t, a| lines("SYSTEM:", "HUMAN:", "ASSISTANT:", "\n", (s, t, a)),
    |s, t, a| lines("system:", "human:", "assistant:", "\n\n", (s, t, a)),
    |s, t, a| lines("**System:**", "**Human:**", "**Assistant:**", "\n\n", (s, t, a)),
    |s, t, a| lines("## System\n", "## Human\n", "## Assistant\n", "\n\n", (s, t, a)),
    |s, t, a| lines("### System:", "### Instruction:\n", "### Response:\n", "\n\n", (s, t, a)),
    |s, t, a| lines("System:", "Question:", "Answer:", "\n", (s, t, a)),
    |s, t, a| lines("System:", "Q:", "A:", "\n\n", (s, t, a)),
    |s, t, a| lines("<system>:", "<human>:", "<bot>:", "\n", (s, t, a)),
    |s, t, a| wrapped("<|im_start|>", "\n", "<|im_end|>\n", (s, t, a)),
    |s, t, a| wrapped("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", (s, t, a)),
    |s, t, a| format!("<bos>{}", wrapped("<start_of_turn>", "\n", "<end_of_turn>\n", (s, t, a))),
    |s, t, a| wrapped("<|", "|>\n", "</s>\n", (s, t, a)),
    |s, t, a| {
        let mut system = s.map_or(String::new(), |words| format!("<<SYS>>\n{words}\n<</SYS>>\n\n"));
        let mut text = String::new();
        for (index, (question, reply)) in t.iter().enumerate() {
            let reply = if index + 1 == t.len() { a } else { reply };
            text += &format!("<s>[INST] {}{question} [/INST] {reply} </s>", std::mem::take(&mut system));
        }
        text
    },
    |s, t, a| {
        let turn = |role: &str, words: &str| json!({"role": role, "content": words});
        let mut turns: Vec<Value> = s.iter().map(|words| turn("system", words)).collect();
        for (index, (question, reply)) in t.iter().enumerate() {
            let reply = if index + 1 == t.len() { a } else { reply };
            turns.extend([turn("user", question), turn("assistant", reply)]);
        }
        Value::from(turns).to_string()
    },
];

#[test]
fn marked_texts_are_the_conversations_that_they_show() {
    let rounds = [("Is it so?\nSay it.", "Yes,\nit is."), ("Why do you say that?", "")];
    let answers = ["I say it because it is\n- true\n\nand: so.", "I say it because it is\n- false."];
    for (number, render) in RENDERINGS.iter().enumerate() {
        for system in [None, Some("Be brief.")] {
            for rounds in [&rounds[..], &rounds[1..]] {
                let mut prompt: Vec<Message> = system.into_iter().map(|words| Message::new("system", words)).collect();
                for (index, (question, reply)) in rounds.iter().enumerate() {
                    prompt.push(Message::user(*question));
                    if index + 1 < rounds.len() {
                        prompt.push(Message::assistant(*reply));
                    }
                }
                let [chosen, rejected] = answers.map(|answer| render(system, rounds, answer));
                for row in [
                    json!({"chosen": chosen, "rejected": rejected}),
                    json!({"prompt": "", "chosen": chosen, "rejected": rejected}),
                ] {
                    let found = pair(&row).unwrap_or_else(|error| panic!("{number}: {error}\n{chosen}"));
                    assert_eq!(found.prompt, prompt, "{number}: {chosen}");
                    assert_eq!([found.chosen.as_str(), &found.rejected], answers, "{number}: {chosen}");
                }
            }
        }
    }
}

#[test]
fn texts_whose_turns_cannot_be_told_are_refused_with_a_remedy() {
    for (start, mark) in [
        ("User: Hi AI: It is", "in the middle of a line"),
        ("USER: Hi ASSISTANT: It is", "in the middle of a line"),
        ("A chat between a user and an assistant. USER: Hi ASSISTANT: It is", "ASSISTANT:"),
        ("Answer well.\n\nHuman: Hi\n\nAssistant: It is", "Human:"),
        ("What is it?\nAnswer: It is", "Answer:"),
        ("Customer: Hi\nAgent: It is", "Customer: and Agent:"),
        ("User: Hi\nJarvis: It is", "User:"),
        ("GPT4 Correct User: Hi<|end_of_turn|>GPT4 Correct Assistant: It is", "Assistant:"),
        ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>It is", "<|START_OF_TURN_TOKEN|>"),
        ("<user>Hi</user>\n<assistant>It is", "<user>"),
        ("<|im_start|>user\nHi<|im_end|>\nand\n<|im_start|>assistant\nIt is", "text between two turns"),
        ("<|im_start|>oracle\nHi<|im_end|>\n<|im_start|>assistant\nIt is", "names no known role"),
        ("[INST] Hi [INST] [/INST] It is", "[INST]"),
        ("[{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'It is", "'role'"),
        ("User: Hi\nAI: Yes\nAI: It is", "twice in a row"),
        ("User: a\n\nAI: b\nUser: c\nAI: It is", "without a blank line"),
        ("Question: which?\nA: one\nB: two\nSolution: b\nAnswer: It is", "several labels"),
    ] {
        let row = json!({"chosen": format!("{start} so."), "rejected": format!("{start} not.")});
        let error = pair(&row).unwrap_err().to_string();
        assert!(error.contains("pairs.jsonl: line 1: ") && error.contains(mark), "{start:?}: {error}");
        assert!(error.contains("; give the turns as messages"), "{start:?}: {error}");
        // The same text as a prompt is taken whole, or refused too; its responses are never torn.
        if let Ok(found) = pair(&json!({"prompt": start, "chosen": " so.", "rejected": " not."})) {
            assert_eq!((found.chosen.as_str(), found.rejected.as_str()), (" so.", " not."));
        }
    }
}

#[test]
fn plain_texts_keep_their_common_beginning_as_prompt() {
    for (start, prompt) in [
        ("The sky is", "The sky is"),
        ("# Plan\n\n## Steps\n\n1. Look", "# Plan\n\n## Steps\n\n1. Look"),
        ("Note: x is 3. Then", "Note: x is 3. Then"),
        ("See https://a.b at 12:30 and say", "See https://a.b at 12:30 and say"),
        ("if a < b || c > d {", "if a < b || c > d {"),
    ] {
        let found = pair(&json!({"chosen": format!("{start} so."), "rejected": format!("{start} not.")})).unwrap();
        assert_eq!((found.prompt, found.chosen.as_str()), (vec![Message::user(prompt)], " so."));
    }
}

#[test]
fn a_response_beside_its_prompt_is_an_answer_whatever_it_looks_like() {
    for text in ["User: a AI: b", "Human: a\n\nAssistant: b", "<|im_start|>x", "[INST] a", "Q: a\nA: b\nB: c"] {
        let found = pair(&json!({"prompt": "Write one.", "chosen": text, "rejected": "no"})).unwrap();
        assert_eq!((found.prompt, found.chosen.as_str()), (vec![Message::user("Write one.")], text));
    }
}

#[test]
fn an_empty_prompt_beside_whole_conversations_counts_as_absent() {
    let side = |answer: &str| json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]);
    for (name, empty) in
        [("prompt", json!("")), ("prompt", json!([])), ("prompt", json!(" ")), ("conversations", json!([]))]
    {
        let found = pair(&json!({name: empty, "chosen": side("G"), "rejected": side("B")})).unwrap();
        assert_eq!((found.prompt, found.chosen.as_str()), (vec![Message::user("Q")], "G"));
        let error = pair(&json!({name: empty, "chosen": "G", "rejected": "B"})).unwrap_err().to_string();
        assert!(
            error.contains("prompt is empty") || error.contains("no messages") || error.contains("share no beginning"),
            "{error}"
        );
    }
    let found = pair(&json!({"prompt": "", "instruction": "Q", "chosen": "G", "rejected": "B"})).unwrap();
    assert_eq!(found.prompt, [Message::user("Q")]);
}

#[test]
fn every_command_reads_a_prompt_in_the_same_way() {
    let skip = options(OnBadRow::Refuse);
    for prompt in [
        "Q",
        "User: Hi\nAI: Hello!\nUser: Why?\nAI:",
        "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:",
        "System: S\n\nUser: Hi\n\nAssistant:",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "### Instruction:\nHi\n\n### Response:\n",
        "<s>[INST] Hi [/INST]",
        "Question: 2+2?\nAnswer:",
        "[{\"role\": \"user\", \"content\": \"Hi\"}]",
    ] {
        let row = json!({"prompt": prompt, "response": "A", "chosen": "A", "rejected": "B", "system": "S"});
        let file = file_of("rows.jsonl", row.to_string().as_bytes());
        let judged = load_responses(&[file.path()], &skip).unwrap().rows.remove(0).prompt;
        assert_eq!(judged[0], Message::new("system", "S"), "{prompt:?}");
        assert_eq!(load_pairs(&[file.path()], &skip).unwrap().rows[0].prompt, judged, "{prompt:?}");
        let generated = load_prompts(&[file.path()], &skip, true).unwrap().rows.remove(0).text;
        assert_eq!(generated, PromptText::Chat(judged), "{prompt:?}");
        let plain = file_of("plain.jsonl", json!({"prompt": prompt}).to_string().as_bytes());
        let taken = load_prompts(&[plain.path()], &skip, false).unwrap().rows.remove(0).text;
        assert_eq!(taken, PromptText::Plain(prompt.to_string()), "as it is");
    }
}
