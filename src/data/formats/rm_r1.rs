//! RM-R1's training rows: a judge's prompt that shows a question with two responses, and the winner.

use super::super::Message;
use super::super::fields::{Object, field};
use super::super::turns::messages_of;
use super::Sides;
use super::two_responses::Better;

/// What the judge and the one who asks are called.
const NAMES: [(&str, &str); 2] = [("Client", "Chatbot"), ("User", "Assistant")];

/// The question and the responses stand in the last user turn, between marks. A text that holds a mark more than once, and one
/// that shows two whole conversations, is refused: where its parts end cannot be told.
pub(super) fn rm_r1(row: &Object) -> Result<Sides, String> {
    let better = Better::by_word(row, "winner", ["model_a", "model_b"], &["tie"])?;
    let turns = messages_of(field(row, "context_messages")?, "context_messages")?;
    let shown = turns.iter().rev().find(|turn| turn.role == "user");
    let shown = shown.ok_or("context_messages: has no turn of the user")?.content.as_str();
    let (question, a, b) = NAMES
        .iter()
        .find_map(|(asker, judge)| shown.strip_prefix(&format!("[{asker} Question]\n")).map(|rest| parts(rest, judge)))
        .unwrap_or_else(|| Err(reason_without_question(shown)))?;
    Ok(better.sides(vec![Message::user(question)], a, b, None))
}

fn parts<'a>(text: &'a str, judge: &str) -> Result<(&'a str, &'a str, &'a str), String> {
    let marks = [
        format!("\n\n[The Start of {judge} A's Response]\n"),
        format!("\n[The End of {judge} A's Response]\n\n[The Start of {judge} B's Response]\n"),
        format!("\n[The End of {judge} B's Response]"),
    ];
    for mark in &marks {
        let count = text.matches(mark.as_str()).take(2).count();
        if count != 1 {
            let how = if count == 0 { "does not have" } else { "has more than once" };
            return Err(format!("context_messages: the last turn of the user {how} the mark {:?}", mark.trim()));
        }
    }
    let unordered = || "context_messages: the marks of the responses are not in their order".to_string();
    let (question, rest) = text.split_once(marks[0].as_str()).ok_or_else(unordered)?;
    let (a, rest) = rest.split_once(marks[1].as_str()).ok_or_else(unordered)?;
    let (b, end) = rest.split_once(marks[2].as_str()).ok_or_else(unordered)?;
    if end.trim().is_empty() { Ok((question, a, b)) } else { Err(unordered()) }
}

fn reason_without_question(shown: &str) -> String {
    if shown.starts_with("[The Start of the Conversation") {
        "context_messages: shows two whole conversations in one text, whose turns cannot be told; take the row from the set \
         that it was made of"
            .to_string()
    } else {
        "context_messages: expected a turn of the user that begins with [Client Question] and shows both responses; the \
         responses are not in this row"
            .to_string()
    }
}
