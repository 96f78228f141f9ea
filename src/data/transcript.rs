//! Transcripts: whole conversations in one text, whose turns are marked by labels at the beginnings of lines (`Human:`,
//! `### Response:`), by `### Human:` and `### Assistant:` anywhere (guanaco), or by a chat template's control tokens.

use super::Message;
use super::control_turns::control_turns_of;
use super::labels::{Dress, Label, Speaker, inline_label, labels_of, spoken_line};

/// How the turns of the two sides begin in guanaco, where they need no line of their own.
const HASHES: [(&str, &str); 2] = [("user", "### Human:"), ("assistant", "### Assistant:")];

/// What a text is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A prompt: text as it is, unless it is a transcript beyond doubt. Nothing is torn if it is taken whole.
    Prompt,
    /// A whole conversation, of which the last turn is the response: what is marked as one must be read as one.
    Conversation,
}

/// Where a turn begins, its role, and where its text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    at: usize,
    role: &'static str,
    text: usize,
}

/// The turns of a transcript, stripped of white space; `None` if the text is not one. A text is one if it begins with a marker
/// of the human's side (after white space, or a turn of the system), and a marker of the other side follows, dressed like
/// the first; or if it begins with hh-rlhf's `\n\nHuman:`. An error says why the turns of a transcript cannot be told.
pub(super) fn transcript_of(text: &str, read_for: Text) -> Result<Option<Vec<Message>>, String> {
    match control_turns_of(text) {
        Ok(None) => {}
        // Control tokens in a prompt do no harm as text: they are escaped.
        Err(_) if read_for == Text::Prompt => return Ok(None),
        found => return found,
    }
    if text.trim_start().starts_with(HASHES[0].1) {
        let starts = anywhere(text);
        if starts.iter().any(|start| start.role == "assistant") {
            return check_answers(text, &starts).map(|()| Some(turns(text, &starts)));
        }
    }
    labelled(text, read_for)
}

fn anywhere(text: &str) -> Vec<Start> {
    let mut starts: Vec<Start> = Vec::new();
    for (role, marker) in HASHES {
        starts.extend(text.match_indices(marker).map(|(at, _)| Start { at, role, text: at + marker.len() }));
    }
    starts.sort_by_key(|start| start.at);
    starts
}

/// A transcript with labels at the beginnings of lines.
fn labelled(text: &str, read_for: Text) -> Result<Option<Vec<Message>>, String> {
    let mut labels = labels_of(text);
    labels.retain(|label| label.speaker != Speaker::Unknown || label.name == "b");
    let begins_with_label = |label: &&Label| text[..label.at].trim().is_empty();
    let first = match labels.first().filter(begins_with_label) {
        Some(first) => first.clone(),
        // Alpaca's prompt: a preamble, which is the system's, before the first heading.
        None => match labels.iter().find(|label| is_heading_of_instruction(label)) {
            Some(first) if read_for == Text::Conversation => first.clone(),
            _ => return Ok(None),
        },
    };
    labels.retain(|label| label.dress == first.dress && label.at >= first.at);
    let Some(user) = labels.iter().find(|label| matches!(label.speaker, Speaker::User { .. })) else { return Ok(None) };
    let strong = user.speaker == Speaker::User { strong: true };
    if matches!(first.speaker, Speaker::Assistant { .. })
        || (read_for == Text::Prompt && !strong && !is_heading_of_instruction(user))
    {
        return Ok(None);
    }
    let Some(assistant) = assistant_of(text, user, &labels)? else {
        // hh-rlhf's first turn alone.
        let alone = text.starts_with("\n\nHuman:");
        if !alone
            && strong
            && let Some(label) = inline_label(text)
        {
            let begins = user.shown(text);
            return Err(format!(
                "begins with {begins} but has {label} in the middle of a line; put it on a line of its own"
            ));
        }
        return Ok(alone.then(|| turns(text, &[start_of(user)])));
    };
    let said = |label: &&Label| label.name == user.name || label.name == assistant;
    let all: Vec<Start> = labels.iter().filter(said).map(start_of).collect();
    let spaced: Vec<Start> = labels.iter().filter(said).filter(|label| label.after_blank).map(start_of).collect();
    let mut starts = chosen_reading(text, spaced, all)?;
    match first.speaker {
        Speaker::System => starts.insert(0, start_of(&first)),
        _ if first.at > 0 => starts.insert(0, Start { at: 0, role: "system", text: 0 }),
        _ => {}
    }
    let mut turns = turns(text, &starts);
    turns.retain(|turn| turn.role != "system" || !turn.content.is_empty());
    if user.name == "instruction" {
        turns.iter_mut().filter(|turn| turn.role == "user").for_each(|turn| join_input(turn, user.dress));
    }
    Ok(Some(turns))
}

fn is_heading_of_instruction(label: &Label) -> bool {
    label.name == "instruction" && matches!(label.dress, Dress::Hash(_))
}

fn start_of(label: &Label) -> Start {
    let role = match label.speaker {
        Speaker::System => "system",
        Speaker::Assistant { .. } => "assistant",
        _ => "user",
    };
    Start { at: label.at, role, text: label.text }
}

/// The name under which the other side speaks: `assistant` if anybody is called that, or else the one name that there is.
fn assistant_of(text: &str, user: &Label, labels: &[Label]) -> Result<Option<String>, String> {
    let short = ["q", "question"].contains(&user.name.as_str());
    let names = |strong: bool| -> Vec<&Label> {
        let mut found: Vec<&Label> = Vec::new();
        for label in labels.iter().filter(|label| label.at > user.at) {
            let speaks = label.speaker == Speaker::Assistant { strong } && (label.name != "a" || short);
            if speaks && found.iter().all(|other| other.name != label.name) {
                found.push(label);
            }
        }
        found
    };
    let (strong, weak) = (names(true), names(false));
    let strong = strong.iter().find(|label| label.name == "assistant").map_or(strong.clone(), |label| vec![*label]);
    let candidates = if strong.is_empty() { weak } else { strong };
    let choices = labels.iter().find(|label| label.name == "b");
    match &candidates[..] {
        [] => Ok(None),
        [one] if one.name == "a" && choices.is_some() => {
            Err("has lines that begin with A: and B:, which may be answers or choices".to_string())
        }
        [one] => Ok(Some(one.name.clone())),
        several => {
            let names: Vec<&str> = several.iter().map(|label| label.shown(text)).collect();
            Err(format!("has several labels that may begin an answer: {}", names.join(", ")))
        }
    }
}

/// The labels that begin turns: those after a blank line, as in hh-rlhf, or all. If both readings are whole conversations, or
/// neither is, the turns cannot be told.
fn chosen_reading(text: &str, spaced: Vec<Start>, all: Vec<Start>) -> Result<Vec<Start>, String> {
    let answered = spaced.iter().any(|start| start.role == "assistant");
    if spaced == all || !answered {
        return check_answers(text, &all).map(|()| all);
    }
    match (alternates(&spaced), alternates(&all)) {
        (true, false) => Ok(spaced),
        (false, true) => Ok(all),
        _ => {
            let other = all.iter().enumerate().find(|(index, start)| spaced.get(*index) != Some(start));
            let marked = other.map_or("", |(_, start)| text[start.at..start.text].trim());
            Err(format!("has {marked} at lines with and without a blank line before them"))
        }
    }
}

fn alternates(starts: &[Start]) -> bool {
    starts.iter().enumerate().all(|(index, start)| start.role == ["user", "assistant"][index % 2])
}

/// Of two answers in a row, the second may be a part of the first.
fn check_answers(text: &str, starts: &[Start]) -> Result<(), String> {
    let twice = starts.windows(2).find(|pair| pair[0].role == "assistant" && pair[1].role == "assistant");
    twice.map_or(Ok(()), |pair| {
        let marker = text[pair[1].at..pair[1].text].trim();
        Err(format!("has {marker} twice in a row, so where the last answer begins is not known"))
    })
}

/// Alpaca's `### Input:` after an instruction belongs to the same turn.
fn join_input(turn: &mut Message, dress: Dress) {
    let labels = labels_of(&turn.content);
    let Some(input) = labels.iter().find(|label| label.name == "input" && label.dress == dress) else { return };
    let (instruction, input) = (turn.content[..input.at].trim(), turn.content[input.text..].trim());
    turn.content = if input.is_empty() { instruction.to_string() } else { format!("{instruction}\n{input}") };
}

fn turns(text: &str, starts: &[Start]) -> Vec<Message> {
    let ends = starts.iter().skip(1).map(|start| start.at).chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| Message::new(start.role, text[start.text..end].trim())).collect()
}

/// What in the common beginning of two whole texts marks turns, so that its end may lie in the middle of an answer.
pub(super) fn mark_of_turns(common: &str) -> Option<String> {
    let labels = labels_of(common);
    let first = labels.first().filter(|label| common[..label.at].trim().is_empty());
    let known = |label: &&Label| match label.speaker {
        Speaker::Assistant { .. } | Speaker::User { strong: true } => true,
        Speaker::System => first.is_some_and(|first| first.at == label.at),
        _ => false,
    };
    if let Some(label) = labels.iter().find(known) {
        return Some(label.shown(common).to_string());
    }
    // Names of other people: `Customer: … Agent: …`.
    if let Some(first) = first.filter(|first| first.dress == Dress::Plain)
        && let Some(other) = labels.iter().find(|label| label.dress == Dress::Plain && label.name != first.name)
    {
        return Some(format!("{} and {}", first.shown(common), other.shown(common)));
    }
    // A list of messages in Python's spelling, or in a JSON that is broken.
    let role = ["'role'", "\"role\"", "'from'", "\"from\""].into_iter().find(|key| common.contains(key));
    if let Some(key) = role.filter(|_| common.trim_start().starts_with(['[', '{'])) {
        return Some(key.to_string());
    }
    inline_label(common).map(|label| label.trim_end().to_string()).or_else(|| tag_of(common)).or_else(|| {
        let start: String = spoken_line(common)?.trim().chars().take(24).collect();
        Some(format!("lines like {start:?}"))
    })
}

/// A control token of any chat template, or a role's tag.
fn tag_of(text: &str) -> Option<String> {
    const TAGS: [&str; 20] = [
        "[INST]",
        "[/INST]",
        "<start_of_turn>",
        "<end_of_turn>",
        "</s>",
        "=\"user\"",
        "='user'",
        "=\"human\"",
        "='human'",
        "=\"assistant\"",
        "='assistant'",
        "role: user",
        "role: assistant",
        "<user>",
        "<human>",
        "<assistant>",
        "<bot>",
        "<ai>",
        "<question>",
        "<answer>",
    ];
    let small = text.to_ascii_lowercase();
    let tag = TAGS.iter().find(|tag| small.contains(&tag.to_ascii_lowercase()));
    tag.map(|tag| tag.to_string()).or_else(|| {
        ["<|", "<｜"].iter().find_map(|open| {
            text.match_indices(open).find_map(|(at, _)| {
                let rest = &text[at..];
                let length = rest.char_indices().skip(2).take(40).find(|(_, c)| *c == '>' || c.is_whitespace())?.0;
                let token = &rest[..length];
                (rest[length..].starts_with('>') && token.ends_with(['|', '｜'])).then(|| format!("{token}>"))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<(String, String)>> {
        let turns = transcript_of(text, Text::Conversation).unwrap();
        turns.map(|turns| turns.into_iter().map(|turn| (turn.role, turn.content)).collect())
    }

    fn turn(role: &str, text: &str) -> (String, String) {
        (role.to_string(), text.to_string())
    }

    #[test]
    fn every_spelling_gives_the_same_turns() {
        let expected =
            vec![turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", "Why?"), turn("assistant", "So.")];
        let labels = |user: &str, assistant: &str, gap: &str| {
            format!("{user} Hi{gap}{assistant} Hello!{gap}{user} Why?{gap}{assistant} So.")
        };
        let mut texts: Vec<String> = [
            "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: So.",
            "Human: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: So.\n",
            " \nHuman:Hi\r\n\r\nAssistant:Hello!\r\n\r\nHuman: Why?\r\n\r\nAssistant: So.",
            "### Human: Hi### Assistant: Hello!### Human: Why?### Assistant: So.",
            "Human: Hi\nassistant: Hello!\nHUMAN: Why?\nAssistant: So.",
            "## Human\nHi\n## Assistant\nHello!\n## Human\nWhy?\n## Assistant\nSo.",
        ]
        .map(str::to_string)
        .to_vec();
        for (user, assistant) in [
            ("Human:", "Assistant:"),
            ("User:", "Assistant:"),
            ("User:", "AI:"),
            ("HUMAN:", "ASSISTANT:"),
            ("human:", "bot:"),
            ("user:", "gpt:"),
            ("**Human:**", "**Assistant:**"),
            ("**User**:", "**AI**:"),
            ("### Instruction:", "### Response:"),
            ("### Human:", "### AI:"),
            ("## User:", "## ChatGPT:"),
            ("Question:", "Answer:"),
            ("Q:", "A:"),
            ("[User]", "[Assistant]"),
            ("[Human]:", "[AI]:"),
            ("<human>:", "<bot>:"),
            ("Instruction:", "Output:"),
            ("Prompt:", "Completion:"),
            ("用户：", "助手："),
        ] {
            texts.extend([labels(user, assistant, "\n"), labels(user, assistant, "\n\n")]);
        }
        for text in texts {
            assert_eq!(parsed(&text).as_ref(), Some(&expected), "{text:?}");
        }
    }

    #[test]
    fn a_system_turn_and_alpacas_preamble_and_input_have_their_place() {
        let expected = [turn("system", "Be brief."), turn("user", "Add.\n1 2"), turn("assistant", "3")];
        for text in [
            "System: Be brief.\n\nUser: Add.\n1 2\n\nAssistant: 3",
            "**System:** Be brief.\n**User:** Add.\n1 2\n**AI:** 3",
            "Be brief.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3",
            "### System:\nBe brief.\n\n### User:\nAdd.\n1 2\n\n### Assistant:\n3",
        ] {
            assert_eq!(parsed(text).as_deref(), Some(&expected[..]), "{text:?}");
        }
        let empty = "### Instruction:\nAdd.\n\n### Input:\n\n\n### Response:\n3";
        assert_eq!(parsed(empty).unwrap(), [turn("user", "Add."), turn("assistant", "3")]);
    }

    #[test]
    fn markers_inside_a_turn_are_text() {
        let text = "Human: Continue.\nHuman: what?\n\nAssistant: One.\nAssistant: is a word. Human: too";
        let expected =
            [turn("user", "Continue.\nHuman: what?"), turn("assistant", "One.\nAssistant: is a word. Human: too")];
        assert_eq!(parsed(text).unwrap(), expected);
        let text = "Human: 2+2?\n\nAssistant: So:\nAnswer: 4\n## Assistant\nAI: x";
        assert_eq!(parsed(text).unwrap()[1], turn("assistant", "So:\nAnswer: 4\n## Assistant\nAI: x"));
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_an_error() {
        for (text, reason) in [
            ("Human: Hi Assistant: Hello", "in the middle of a line"),
            ("USER: Hi ASSISTANT: Hello</s>USER: x ASSISTANT: y", "in the middle of a line"),
            ("User: a\n\nAI: b\nUser: c\nAI: d", "with and without a blank line"),
            ("User: a\nAI: b\nAI: c", "AI: twice in a row"),
            ("Human: a\n\nAssistant: b\n\nAssistant: c", "Assistant: twice in a row"),
            ("### Human: a### Assistant: b### Assistant: c", "twice in a row"),
            ("User: a\nAI: b\nBot: c", "AI:, Bot:"),
            ("Question: which?\nAnswer: b\nSolution: c", "Answer:, Solution:"),
            ("Q: which?\nA: one\nB: two", "choices"),
            ("<|im_start|>user\nHi<|im_end|>\nx", "after its last turn"),
        ] {
            let error = transcript_of(text, Text::Conversation).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn other_texts_are_no_transcripts() {
        let plain =
            ["The Human: a study\n\nAssistant: none", "Human beings\n\nAssistant: x", "Human: a species", "", "\n\n"];
        for text in plain {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(parsed("\n\nHuman: Q").unwrap(), [turn("user", "Q")]);
        // A prompt is taken whole where only its words look like a transcript.
        for text in [
            "Question: 2+2?\nAnswer:",
            "Q: which?\nA: one\nB: two",
            "<|im_start|> begins a turn",
            "Below is a task.\n\n### Instruction:\nAdd.\n\n### Response:\n",
            "Write a dialogue.\n\nUser: a\n\nAssistant: b",
        ] {
            assert_eq!(transcript_of(text, Text::Prompt), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn marks_in_a_common_beginning_are_named() {
        for (text, mark) in [
            ("What is it?\nAssistant: It is", "Assistant:"),
            ("Hi\n**Answer:** It is", "**Answer:**"),
            ("Human: It is", "Human:"),
            ("Customer: hi\nAgent: It is", "Customer: and Agent:"),
            ("A chat. USER: hi ASSISTANT: It is", "ASSISTANT:"),
            ("Hi<|end_of_turn|>GPT4 Correct Assistant: It is", "<|end_of_turn|>"),
            ("<user>Hi</user><assistant>It is", "<user>"),
            ("x [/INST] It is", "[/INST]"),
            ("User> Hi\nAI> It is", "lines like \"AI> It is\""),
            ("You\n\nUser\nHi\n\nAssistant\nIt is", "lines like \"Assistant\""),
            ("<turn role=\"user\">Hi</turn>\n<turn role=\"assistant\">It is", "=\"user\""),
            ("- role: user\n  content: Hi\n- role: assistant\n  content: It is", "role: user"),
            ("Dr. Smith: Hi\nPatient: It is", "Dr. Smith: and Patient:"),
        ] {
            assert_eq!(mark_of_turns(text).as_deref(), Some(mark), "{text:?}");
        }
        for text in
            ["Q: is it?", "The Human: a study. It says", "a < b | c > d", "# Plan\n\n## Steps\n", "Note: x\nNote: y"]
        {
            assert_eq!(mark_of_turns(text), None, "{text:?}");
        }
    }
}
