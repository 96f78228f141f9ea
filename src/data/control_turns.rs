//! Conversations that a chat template has already rendered: ChatML, Llama 3, Gemma, `<|user|>` and `[INST]`.

use super::Message;

/// A chat template's tokens.
struct Dialect {
    /// What a turn's header begins with. Where `header_end` is empty, these are whole headers that name their role.
    opens: &'static [&'static str],
    /// What follows the role in the header.
    header_end: &'static str,
    closes: &'static [&'static str],
    /// Whether every turn but the last must be closed.
    closed: bool,
}

const DIALECTS: [Dialect; 5] = [
    Dialect { opens: &["<|im_start|>"], header_end: "\n", closes: &["<|im_end|>"], closed: true },
    Dialect {
        opens: &["<|start_header_id|>"],
        header_end: "<|end_header_id|>",
        closes: &["<|eot_id|>", "<|eom_id|>"],
        closed: true,
    },
    Dialect { opens: &["<start_of_turn>"], header_end: "\n", closes: &["<end_of_turn>"], closed: true },
    Dialect {
        opens: &["<|user|>", "<|assistant|>", "<|system|>"],
        header_end: "",
        closes: &["<|end|>", "<|eot|>"],
        closed: false,
    },
    Dialect { opens: &["<｜User｜>", "<｜Assistant｜>"], header_end: "", closes: &[], closed: false },
];

/// Tokens that begin or end a whole text. They are no part of a turn.
const TEXT_STARTS: [&str; 5] = ["<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"];
const TEXT_ENDS: [&str; 5] = ["</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"];

/// The role that a header names.
fn role_of(name: &str) -> Option<&'static str> {
    match name.trim().to_lowercase().as_str() {
        "system" => Some("system"),
        "user" | "human" => Some("user"),
        "assistant" | "model" | "gpt" => Some("assistant"),
        "tool" | "ipython" => Some("tool"),
        _ => None,
    }
}

/// The turns of a rendered conversation, stripped of white space; `None` if the text does not begin with a header. An error
/// says where the text departs from its template: then it is not known where a turn ends.
pub(super) fn control_turns_of(text: &str) -> Result<Option<Vec<Message>>, String> {
    let mut start = text.len() - text.trim_start().len();
    while let Some(token) = TEXT_STARTS.iter().find(|token| text[start..].starts_with(**token)) {
        start += token.len();
        start += text[start..].len() - text[start..].trim_start().len();
    }
    if text[start..].starts_with("[INST]") {
        return inst_turns(&text[start..]).map(Some);
    }
    let dialect = DIALECTS.iter().find(|d| d.opens.iter().any(|open| text[start..].starts_with(open)));
    dialect.map(|dialect| dialect.turns(&text[start..])).transpose()
}

fn without_text_end(mut text: &str) -> &str {
    while let Some(rest) = TEXT_ENDS.iter().find_map(|token| text.trim_end().strip_suffix(token)) {
        text = rest;
    }
    text
}

/// Where a token is, in the order of the text.
fn positions<'a>(text: &str, tokens: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
    let mut found: Vec<(usize, &str)> =
        tokens.flat_map(|token| text.match_indices(token).map(move |(at, _)| (at, token))).collect();
    found.sort_unstable_by_key(|(at, _)| *at);
    found
}

impl Dialect {
    fn turns(&self, text: &str) -> Result<Vec<Message>, String> {
        let (mut turns, mut open, mut end) = (Vec::new(), None::<(&str, usize)>, 0);
        let text = without_text_end(text);
        let tokens = self.opens.iter().chain(self.closes).chain(&TEXT_ENDS).copied();
        for (at, token) in positions(text, tokens) {
            if self.closed && open.is_some() && TEXT_ENDS.contains(&token) {
                continue;
            }
            if at < end {
                return Err(format!("has {token} inside a turn's header"));
            }
            match (self.opens.contains(&token), open) {
                (true, Some(_)) if self.closed => return Err(format!("has {token} inside a turn")),
                (true, Some((role, from))) => turns.push(Message::new(role, text[from..at].trim())),
                (false, Some((role, from))) => turns.push(Message::new(role, text[from..at].trim())),
                (true, None) | (false, None) if !text[end..at].trim().is_empty() => {
                    return Err(format!("has text between two turns, before a {token}"));
                }
                (false, None) if !TEXT_ENDS.contains(&token) => {
                    return Err(format!("has {token} where no turn is open"));
                }
                _ => {}
            }
            (open, end) = match self.opens.contains(&token) {
                true => {
                    let (role, from) = self.header(text, at, token)?;
                    (Some((role, from)), from)
                }
                false => (None, at + token.len()),
            };
        }
        match open {
            Some((role, from)) => turns.push(Message::new(role, text[from..].trim())),
            None if !text[end..].trim().is_empty() => return Err("has text after its last turn".to_string()),
            None => {}
        }
        Ok(turns)
    }

    /// The role of the header at `at`, and where the turn's text begins.
    fn header(&self, text: &str, at: usize, token: &str) -> Result<(&'static str, usize), String> {
        let rest = at + token.len();
        if self.header_end.is_empty() {
            let name = token.trim_matches(|c: char| !c.is_alphabetic());
            return role_of(name).map(|role| (role, rest)).ok_or_else(|| format!("has {token}, which names no role"));
        }
        // A header may be the end of the text: the turn is to be written.
        let (name, from) = match text[rest..].find(self.header_end) {
            Some(length) => (&text[rest..rest + length], rest + length + self.header_end.len()),
            None => (&text[rest..], text.len()),
        };
        let shown: String = name.trim().chars().take(24).collect();
        let role = role_of(name).ok_or_else(|| {
            format!("has {token}{shown:?}, which names no known role (system, user, assistant, tool)")
        })?;
        Ok((role, from))
    }
}

/// Llama 2 and Mistral: `[INST] <<SYS>> system <</SYS>> user [/INST] assistant </s>`, repeated.
fn inst_turns(text: &str) -> Result<Vec<Message>, String> {
    let (mut turns, mut open, mut end) = (Vec::new(), None::<(&str, usize)>, 0);
    for (at, token) in positions(text, ["[INST]", "[/INST]", "<s>", "</s>"].into_iter()) {
        if matches!((token, open), ("<s>" | "</s>", Some(("user", _)))) {
            continue;
        }
        let said = text[open.map_or(end, |(_, from)| from)..at].trim();
        match (token, open) {
            ("[INST]", Some(("assistant", _))) | ("</s>", Some(("assistant", _))) => {
                turns.push(Message::assistant(said));
            }
            ("[/INST]", Some(("user", _))) => turns.extend(system_and_user(said)?),
            ("[INST]" | "<s>" | "</s>", None) if said.is_empty() => {}
            _ => return Err(format!("has {token} in a place where Llama 2's template writes none")),
        }
        end = at + token.len();
        open = match token {
            "[INST]" => Some(("user", end)),
            "[/INST]" => Some(("assistant", end)),
            _ => None,
        };
    }
    match open {
        Some(("assistant", from)) => turns.push(Message::assistant(text[from..].trim())),
        Some(_) => return Err("has an [INST] that is not closed by [/INST]".to_string()),
        None if !text[end..].trim().is_empty() => return Err("has text after its last turn".to_string()),
        None => {}
    }
    Ok(turns)
}

/// What stands between `[INST]` and `[/INST]`.
fn system_and_user(said: &str) -> Result<Vec<Message>, String> {
    let Some(inner) = said.strip_prefix("<<SYS>>") else { return Ok(vec![Message::user(said)]) };
    let (system, user) = inner.split_once("<</SYS>>").ok_or("has a <<SYS>> that is not closed by <</SYS>>")?;
    Ok(vec![Message::new("system", system.trim()), Message::user(user.trim())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Vec<Message> {
        vec![
            Message::new("system", "S"),
            Message::user("Hi\n\nthere"),
            Message::assistant("Hello!"),
            Message::user("Why?"),
            Message::assistant("So."),
        ]
    }

    #[test]
    fn every_template_gives_the_turns_that_it_was_given() {
        let each = |open: &str, after: &str, close: &str, assistant: &str| -> String {
            let name = |role: &str| if role == "assistant" { assistant.to_string() } else { role.to_string() };
            turns().iter().map(|turn| format!("{open}{}{after}{}{close}", name(&turn.role), turn.content)).collect()
        };
        for text in [
            each("<|im_start|>", "\n", "<|im_end|>\n", "assistant"),
            format!(
                "<|begin_of_text|>{}",
                each("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "assistant")
            ),
            format!("<bos>{}", each("<start_of_turn>", "\n", "<end_of_turn>\n", "model")),
            each("<|", "|>\n", "</s>\n", "assistant"),
            each("<|", "|>\n", "<|end|>\n", "assistant") + "<|endoftext|>",
            each("<|", "|>", "\n", "assistant"),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nHi\n\nthere [/INST] Hello! </s><s>[INST] Why? [/INST] So. </s>".into(),
            "[INST]<<SYS>>S<</SYS>>Hi\n\nthere[/INST]Hello![INST]Why?[/INST]So.".into(),
        ] {
            assert_eq!(control_turns_of(&text), Ok(Some(turns())), "{text:?}");
            let cut = text.rfind("So.").unwrap();
            let open = control_turns_of(&text[..cut]).unwrap().unwrap();
            assert_eq!(open.last().map(|turn| (turn.role.as_str(), turn.content.as_str())), Some(("assistant", "")));
        }
    }

    #[test]
    fn a_text_that_departs_from_its_template_is_an_error() {
        for (text, reason) in [
            ("<|im_start|>user\nHi<|im_end|>\nand<|im_start|>assistant\nHo", "text between two turns"),
            ("<|im_start|>user\nHi<|im_start|>assistant\nHo", "inside a turn"),
            ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nThe <|im_end|> ends.", "after its last turn"),
            ("<|im_start|>oracle\nHi<|im_end|>", "names no known role"),
            ("<|im_start|>", "names no known role"),
            ("<|start_header_id|>user Hi", "names no known role"),
            ("[INST] a [INST] b [/INST] c", "[INST] in a place"),
            ("[INST] a [/INST] b [/INST] c", "[/INST] in a place"),
            ("[INST] a", "not closed"),
            ("[INST] <<SYS>> a [/INST] b", "not closed by <</SYS>>"),
        ] {
            assert!(control_turns_of(text).unwrap_err().contains(reason), "{text:?}: {:?}", control_turns_of(text));
        }
        for text in ["The token <|im_start|> begins a turn.", "", "<s>", "<|im_end|>", "[/INST]"] {
            assert_eq!(control_turns_of(text), Ok(None), "{text:?}");
        }
    }
}
