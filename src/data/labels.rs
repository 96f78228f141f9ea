//! Labels of speakers at the beginnings of lines: `Human:`, `**User:**`, `## Assistant`, `### Response:`, `[AI]`, `<bot>:`.

/// How a label is set off from the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dress {
    /// `User:`
    Plain,
    /// `## User`, with the number of signs.
    Hash(usize),
    /// `**User:**`
    Bold,
    /// `[User]`
    Square,
    /// `<user>:`
    Angle,
}

/// Who speaks under a label. A weak one is a word that heads other things than turns too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    System,
    User { strong: bool },
    Assistant { strong: bool },
    Unknown,
}

/// A line that begins with a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// Where the line begins.
    pub at: usize,
    /// Where the text after the label begins.
    pub text: usize,
    pub dress: Dress,
    /// In small letters.
    pub name: String,
    pub speaker: Speaker,
    /// Whether the line before is blank, or there is none.
    pub after_blank: bool,
}

impl Label {
    /// As a message shows it.
    pub fn shown<'a>(&self, text: &'a str) -> &'a str {
        text[self.at..self.text].trim()
    }
}

/// The longest label, in bytes.
const NAME_MAX: usize = 32;

fn speaker(name: &str) -> Speaker {
    match name {
        "system" | "系统" => Speaker::System,
        "human" | "user" | "用户" => Speaker::User { strong: true },
        "question" | "q" | "instruction" | "prompt" | "query" | "problem" | "input" | "request" | "问" => {
            Speaker::User { strong: false }
        }
        "assistant" | "ai" | "ai assistant" | "bot" | "chatbot" | "gpt" | "chatgpt" | "model" | "助手" => {
            Speaker::Assistant { strong: true }
        }
        "answer" | "a" | "response" | "output" | "completion" | "solution" | "reply" | "答" => {
            Speaker::Assistant { strong: false }
        }
        _ => Speaker::Unknown,
    }
}

/// All labels of a text. The first line that is not blank counts as after a blank one.
pub(super) fn labels_of(text: &str) -> Vec<Label> {
    let (mut labels, mut at, mut after_blank) = (Vec::new(), 0, true);
    for line in text.split_inclusive('\n') {
        labels.extend(label_of(line, at, after_blank));
        after_blank = line.trim().is_empty();
        at += line.len();
    }
    labels
}

fn label_of(line: &str, at: usize, after_blank: bool) -> Option<Label> {
    let body = line.trim_start();
    let (dress, inner) = match body.as_bytes().first()? {
        b'#' => {
            let signs = body.bytes().take_while(|byte| *byte == b'#').count();
            (Dress::Hash(signs), body[signs..].trim_start_matches([' ', '*']))
        }
        b'*' => (Dress::Bold, body.strip_prefix("**")?),
        b'_' => (Dress::Bold, body.strip_prefix("__")?),
        b'[' => (Dress::Square, &body[1..]),
        b'<' => (Dress::Angle, &body[1..]),
        _ => (Dress::Plain, body),
    };
    let name_end =
        inner.char_indices().find(|(at, c)| *at > NAME_MAX || !is_of_name(*c)).map_or(inner.len(), |(at, _)| at);
    let (name, rest) = inner.split_at(name_end);
    let name = name.trim_end().to_lowercase();
    let speaker = speaker(&name);
    if name.is_empty() || name.split(' ').count() > 3 || !name.starts_with(char::is_alphabetic) {
        return None;
    }
    let text = after_label(dress, rest)?;
    // `https://…`, `note:this`: an unknown word is a label only if it stands apart from what follows.
    let apart = text.is_empty() || text.starts_with(char::is_whitespace);
    if speaker == Speaker::Unknown && !apart {
        return None;
    }
    Some(Label { at, text: at + line.len() - text.len(), dress, name, speaker, after_blank })
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || [' ', '-', '\'', '.'].contains(&c)
}

/// What follows a label of this dress, if it is one.
fn after_label(dress: Dress, rest: &str) -> Option<&str> {
    let colon = |text: &'_ str| -> Option<usize> {
        let trimmed = text.trim_start_matches(' ');
        let colon = trimmed.chars().next().filter(|c| *c == ':' || *c == '：')?;
        Some(text.len() - trimmed.len() + colon.len_utf8())
    };
    let heading = |text: &'_ str| text.trim().is_empty();
    match dress {
        Dress::Plain => colon(rest).map(|end| &rest[end..]),
        Dress::Angle => rest.strip_prefix('>').and_then(|rest| colon(rest).map(|end| &rest[end..])),
        Dress::Square => {
            let rest = rest.strip_prefix(']')?;
            Some(&rest[colon(rest).unwrap_or(0)..])
        }
        Dress::Bold => {
            let inside = colon(rest).unwrap_or(0);
            let rest = rest[inside..].strip_prefix("**").or_else(|| rest[inside..].strip_prefix("__"))?;
            match colon(rest) {
                Some(end) if inside == 0 => Some(&rest[end..]),
                _ => (inside > 0 || heading(rest)).then_some(rest),
            }
        }
        Dress::Hash(_) => {
            let inside = colon(rest).unwrap_or(0);
            let rest = rest[inside..].trim_start_matches('*');
            match colon(rest) {
                Some(end) if inside == 0 => Some(&rest[end..]),
                _ => (inside > 0 || heading(rest)).then_some(rest),
            }
        }
    }
}

/// The line of an assistant after a line of a user, whatever sets their names off from the text: `User> …`, `Assistant`.
pub(super) fn spoken_line(text: &str) -> Option<&str> {
    let strong = |line: &str, wanted: Speaker| {
        let body = line.trim_start_matches(|c: char| !c.is_alphanumeric());
        let word = body.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let rest = body[word.len()..].trim_start_matches(' ');
        speaker(&word.to_lowercase()) == wanted
            && !rest.starts_with(|c: char| c.is_alphanumeric() || c == ',' || c == '\'')
    };
    let mut lines = text.lines().skip_while(|line| !strong(line, Speaker::User { strong: true }));
    lines.find(|line| strong(line, Speaker::Assistant { strong: true }))
}

/// A strong assistant's label in the middle of a line, after a user's: `USER: hi ASSISTANT: hello`.
pub(super) fn inline_label(text: &str) -> Option<&'static str> {
    const USERS: [&str; 8] = ["Human:", "User:", "HUMAN:", "USER:", "human:", "user:", "HUMAN ", "USER "];
    const ASSISTANTS: [&str; 9] =
        ["Assistant:", "ASSISTANT:", "ASSISTANT ", "assistant:", "AI:", "Bot:", "BOT:", "ChatGPT:", "GPT:"];
    let first = USERS.iter().filter_map(|label| text.find(label)).min()?;
    ASSISTANTS.into_iter().find(|label| {
        text[first..].match_indices(label).any(|(at, _)| !text[..first + at].ends_with(|c: char| c.is_alphanumeric()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(line: &str) -> Option<(Dress, String, &str)> {
        let found = labels_of(line);
        found.into_iter().next().map(|label| (label.dress, label.name, &line[label.text..]))
    }

    #[test]
    fn a_label_is_found_in_any_dress() {
        for (line, dress, name, text) in [
            ("Human: Hi", Dress::Plain, "human", " Hi"),
            ("  HUMAN:Hi", Dress::Plain, "human", "Hi"),
            ("User : Hi", Dress::Plain, "user", " Hi"),
            ("用户：你好", Dress::Plain, "用户", "你好"),
            ("AI Assistant: x", Dress::Plain, "ai assistant", " x"),
            ("Customer 2: x", Dress::Plain, "customer 2", " x"),
            ("### Response:\n", Dress::Hash(3), "response", "\n"),
            ("## Human\n", Dress::Hash(2), "human", "\n"),
            ("###Human:Hi", Dress::Hash(3), "human", "Hi"),
            ("### **User**: x", Dress::Hash(3), "user", " x"),
            ("**Human:** Hi", Dress::Bold, "human", " Hi"),
            ("**Human**: Hi", Dress::Bold, "human", " Hi"),
            ("__Human__\n", Dress::Bold, "human", "\n"),
            ("[User] Hi", Dress::Square, "user", " Hi"),
            ("[User]: Hi", Dress::Square, "user", " Hi"),
            ("<human>: Hi", Dress::Angle, "human", " Hi"),
        ] {
            assert_eq!(label(line), Some((dress, name.to_string(), text)), "{line:?}");
        }
        for line in [
            "Humans are: x",
            "https://a.b",
            "12:30",
            "a b c d: x",
            "**Human** beings",
            "## Human beings: so\n",
            "<b>x",
            "",
            "Note:x",
        ] {
            let found = label(line).filter(|(_, name, _)| speaker(name) != Speaker::Unknown);
            assert_eq!(found, None, "{line:?}");
        }
    }
}
