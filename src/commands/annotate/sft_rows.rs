//! The rows for `sft`: what the judge was asked, and a judgement as the answer.

use std::collections::HashSet;

use serde::Serialize;

use super::{Annotated, AskedPair};
use crate::data::{Message, Role};
use crate::file::{RowError, WholeFile};

/// A row of `messages`.
#[derive(Serialize)]
struct SftRow<'a> {
    /// Pair, side and vote.
    id: String,
    task: &'a str,
    messages: Vec<Message>,
}

/// Writes the judgements that are learnt, in the order of the pairs, the chosen side first. The file is there when all of it is.
pub fn write(annotated: &Annotated, file: &str) -> Result<(), RowError> {
    let mut out = WholeFile::create(file, &[])?;
    let mut used = HashSet::new();
    for (position, (pair, outcome)) in annotated.pairs.iter().zip(&annotated.outcomes).enumerate() {
        for (role, learnt) in Role::BOTH.into_iter().zip(&outcome.learnt) {
            for (vote, text) in learnt {
                let mut messages = pair.prompts[role.index()].clone();
                messages.push(answer(text, annotated.thinking));
                let id = name(pair, role, *vote, position, &mut used);
                let row = SftRow { id, task: &pair.task, messages };
                out.put(&(serde_json::to_string(&row).expect("texts are JSON") + "\n"))?;
            }
        }
    }
    out.finish()
}

/// `7/chosen/0`, after the file where there are several. Ids that differ only as JSON (7 and "7") get the pair's position too:
/// `sft` wants every id once.
fn name(pair: &AskedPair, role: Role, vote: usize, position: usize, used: &mut HashSet<String>) -> String {
    let file = pair.file.as_ref().map_or(String::new(), |file| format!("{file}:"));
    let side = if role == Role::Chosen { "chosen" } else { "rejected" };
    let mut name = format!("{file}{}/{side}/{vote}", pair.id);
    while !used.insert(name.clone()) {
        name = format!("{position}:{name}");
    }
    name
}

/// A judgement as the assistant's turn. Its thoughts are the turn's reasoning if the judge is to think, and else left out.
fn answer(text: &str, thinking: bool) -> Message {
    let (thoughts, answer) = split(text.trim());
    let reasoning = thoughts.map(str::trim).filter(|thoughts| thinking && !thoughts.is_empty());
    Message { reasoning: reasoning.map(str::to_string), ..Message::assistant(answer) }
}

/// What a judgement has before anything that it may quote.
const SECTIONS: [&str; 3] = ["<rubrics>", "<eval>", "<answer>"];

/// Thoughts before an answer, and the answer. Where the chat template has opened the thoughts, the text only closes them.
fn split(text: &str) -> (Option<&str>, &str) {
    let (opened, rest) = text.strip_prefix("<think>").map_or((false, text), |rest| (true, rest));
    match rest.split_once("</think>") {
        Some((thoughts, answer)) if opened || !SECTIONS.iter().any(|tag| thoughts.contains(tag)) => {
            (Some(thoughts), answer.trim_start())
        }
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowId;

    #[test]
    fn thoughts_are_reasoning_or_left_out() {
        let of = |text: &str, thinking| {
            let Message { role, content, reasoning, .. } = answer(text, thinking);
            assert_eq!(role, "assistant");
            (content, reasoning)
        };
        const ANSWER: &str = "<rubrics>\nr\n</rubrics>\n<eval>e</eval>\n<answer>8</answer>";
        let plain = (ANSWER.to_string(), None);
        let thought = (ANSWER.to_string(), Some("is it an <answer>?".to_string()));
        let with_thoughts = format!("\n<think>\nis it an <answer>?\n</think>\n\n{ANSWER}\n");
        assert_eq!(of(&with_thoughts, false), plain);
        assert_eq!(of(&with_thoughts, true), thought);
        assert_eq!(of(&format!("why?</think>{ANSWER}"), true), (ANSWER.to_string(), Some("why?".into())));
        for thinking in [true, false] {
            assert_eq!(of(ANSWER, thinking), plain);
            assert_eq!(of(&format!("<think>\n\n</think>\n\n{ANSWER}"), thinking), plain);
            let about = ANSWER.replace("e<", "it writes </think><");
            assert_eq!(of(&about, thinking), (about.clone(), None), "not at the start");
        }
    }

    #[test]
    fn every_row_has_an_id_of_its_own() {
        let pair = |id: serde_json::Value, file: Option<&str>| AskedPair {
            id: RowId::from(id),
            file: file.map(str::to_string),
            task: String::new(),
            source: None,
            prompts: Default::default(),
        };
        let mut used = HashSet::new();
        let mut name = |pair: AskedPair, position| super::name(&pair, Role::Chosen, 2, position, &mut used);
        assert_eq!(name(pair(7.into(), None), 0), "7/chosen/2");
        assert_eq!(name(pair("7".into(), None), 1), "1:7/chosen/2");
        assert_eq!(name(pair("a/b".into(), Some("x.jsonl")), 2), "x.jsonl:a/b/chosen/2");
        assert_eq!(name(pair("a/b".into(), Some("y.jsonl")), 3), "y.jsonl:a/b/chosen/2");
    }
}
