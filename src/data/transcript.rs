//! Transcripts: whole conversations in one text, with `Human:` and `Assistant:` at the beginnings of lines (hh-rlhf) or
//! `### Human:` and `### Assistant:` anywhere (guanaco).

use super::Message;

/// How the turns of the two sides begin.
const NAMES: [[&str; 2]; 2] = [["Human:", "Assistant:"], ["User:", "Assistant:"]];
const HASHES: [&str; 2] = ["### Human:", "### Assistant:"];
const ROLES: [&str; 2] = ["user", "assistant"];

/// Where a turn begins, its role, and where its text begins.
struct Start {
    at: usize,
    role: &'static str,
    text: usize,
}

/// The turns of a transcript, stripped of white space; `None` if the text is not one. A text is one if it begins with the
/// marker of the human's side (after white space at most) and the other side's marker follows, or if it begins with
/// hh-rlhf's `\n\nHuman:`. It is an error if the answer's marker only comes in the middle of lines: where the answer begins
/// is then a guess.
pub(super) fn transcript_of(text: &str) -> Result<Option<Vec<Message>>, String> {
    let body = text.trim_start();
    if body.starts_with(HASHES[0]) {
        let starts = anywhere(text, HASHES);
        return Ok(starts.iter().any(|start| start.role == "assistant").then(|| turns(text, &starts)));
    }
    let Some(names) = NAMES.into_iter().find(|names| body.starts_with(names[0])) else { return Ok(None) };
    // Markers after a blank line, as in hh-rlhf; where no answer has one, markers at any line's beginning.
    for blank_before in [true, false] {
        let starts = at_lines(text, names, blank_before);
        if starts.iter().any(|start| start.role == "assistant") {
            return Ok(Some(turns(text, &starts)));
        }
    }
    if text.starts_with("\n\nHuman:") {
        return Ok(Some(turns(text, &at_lines(text, names, true))));
    }
    if body.contains(&format!(" {}", names[1])) {
        let [human, assistant] = names;
        return Err(format!(
            "begins with {human} but has {assistant} in the middle of a line; put it on a line of its own"
        ));
    }
    Ok(None)
}

fn anywhere(text: &str, markers: [&str; 2]) -> Vec<Start> {
    let mut starts: Vec<Start> = Vec::new();
    for (role, marker) in ROLES.into_iter().zip(markers) {
        starts.extend(text.match_indices(marker).map(|(at, _)| Start { at, role, text: at + marker.len() }));
    }
    starts.sort_by_key(|start| start.at);
    starts
}

/// Lines that begin with a marker. The first line of the text always counts as after a blank one.
fn at_lines(text: &str, markers: [&str; 2], blank_before: bool) -> Vec<Start> {
    let (mut starts, mut at, mut after_blank) = (Vec::new(), 0, true);
    for line in text.split_inclusive('\n') {
        for (role, marker) in ROLES.into_iter().zip(markers) {
            if line.starts_with(marker) && (after_blank || !blank_before) {
                starts.push(Start { at, role, text: at + marker.len() });
            }
        }
        after_blank = line.trim().is_empty();
        at += line.len();
    }
    starts
}

fn turns(text: &str, starts: &[Start]) -> Vec<Message> {
    let ends = starts.iter().skip(1).map(|start| start.at).chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| Message::new(start.role, text[start.text..end].trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<(String, String)>> {
        let turns = transcript_of(text).unwrap();
        turns.map(|turns| turns.into_iter().map(|turn| (turn.role, turn.content)).collect())
    }

    fn turn(role: &str, text: &str) -> (String, String) {
        (role.to_string(), text.to_string())
    }

    #[test]
    fn every_spelling_gives_the_same_turns() {
        let expected =
            vec![turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", "Why?"), turn("assistant", "So.")];
        for text in [
            "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: So.",
            "Human: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: So.\n",
            "Human: Hi\nAssistant: Hello!\nHuman: Why?\nAssistant: So.",
            " \nHuman:Hi\r\n\r\nAssistant:Hello!\r\n\r\nHuman: Why?\r\n\r\nAssistant: So.",
            "User: Hi\n\nAssistant: Hello!\n\nUser: Why?\n\nAssistant: So.",
            "### Human: Hi### Assistant: Hello!### Human: Why?### Assistant: So.",
        ] {
            assert_eq!(parsed(text).as_ref(), Some(&expected), "{text:?}");
        }
    }

    #[test]
    fn markers_inside_a_turn_are_text() {
        let text = "Human: Continue.\nHuman: what?\n\nAssistant: One.\nAssistant: is a word. Human: too";
        let expected =
            [turn("user", "Continue.\nHuman: what?"), turn("assistant", "One.\nAssistant: is a word. Human: too")];
        assert_eq!(parsed(text).unwrap(), expected);
    }

    #[test]
    fn other_texts_are_no_transcripts() {
        let plain =
            ["The Human: a study\n\nAssistant: none", "Human beings\n\nAssistant: x", "Human: a species", "", "\n\n"];
        for text in plain {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(parsed("\n\nHuman: Q").unwrap(), [turn("user", "Q")]);
        assert!(transcript_of("Human: Hi Assistant: Hello").unwrap_err().contains("in the middle of a line"));
    }
}
