//! The frame of a judge's prompt: the tags and turn labels that the template writes, and that text from outside must not write.
//!
//! A response that contains `</response>` would end its own frame, and whatever follows would stand in the prompt as if it were
//! ours: a verdict, another response, an instruction. So every tag of the frame gets a zero-width space after its first
//! character wherever it stands in text from outside, as control tokens do. There is no secret in the tags: one that changed
//! from prompt to prompt would end the prefixes that prompts share.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::confusable_detection::skeleton;

/// A zero-width space: it breaks a tag, and readers do not see it.
pub(super) const BREAK: char = '\u{200b}';
/// Characters that are read after the first one of a tag. What is spread further is not read as a tag, and time stays linear.
const REACH: usize = 96;
/// What labels the turns of a conversation, and what comes before them.
const LABELS: [&str; 7] = ["system", "user", "assistant", "tool", "developer", "tools", "documents"];
/// Brackets that look like `<` and that no table of confusable characters lists as such.
const OPENERS: [char; 12] = ['«', '≪', '〈', '〈', '⟨', '⟪', '《', '❬', '❰', '⦑', 'ᐸ', '⋖'];
const CLOSERS: [char; 12] = ['»', '≫', '〉', '〉', '⟩', '⟫', '》', '❭', '❱', '⦒', 'ᐳ', '⋗'];
const SLASHES: [char; 7] = ['/', '∕', '⁄', '⧸', '╱', '\\', '⟋'];
/// `<` as HTML, JSON or a URL write it.
const ESCAPES: [&str; 11] =
    ["&lt;", "&amp;lt;", "&lt", "&#60;", "&#060;", "&#x3c;", "&#x03c;", "&#0060;", "\\u003c", "\\x3c", "%3c"];
/// `/` as they write it.
const SLASH_ESCAPES: [&str; 5] = ["&#47;", "&#x2f;", "&sol;", "\\u002f", "%2f"];

/// The names of a frame's tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// As [`fold`] writes them.
    names: BTreeSet<String>,
}

impl Frame {
    /// The frame that a text shows: the name of every `<name` and `</name` in it.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = BTreeSet::new();
        for text in texts {
            for (at, _) in text.match_indices('<') {
                let rest = text[at + 1..].strip_prefix('/').unwrap_or(&text[at + 1..]);
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                if rest.starts_with(char::is_alphabetic) {
                    names.insert(rest[..end].chars().flat_map(fold).collect());
                }
            }
        }
        Self { names }
    }

    /// `text` with every tag of the frame and every label of a turn broken: letter case, spaces, invisible and look-alike
    /// characters inside a tag do not hide it. Other text is not changed, and neither is text that has been through here.
    pub fn neutralise(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let mut line_start = true;
        for (at, c) in text.char_indices() {
            out.push(c);
            let rest = &text[at + c.len_utf8()..];
            let breaks = self.opens_tag(c, &text[at..], rest)
                || (line_start && (is_like(c, '[') || "【〔〖".contains(c)) && is_label(rest));
            if breaks && !rest.starts_with(BREAK) {
                out.push(BREAK);
            }
            // Marks of quotations, emphasis and lists leave a line at its start.
            line_start = is_line_end(c) || (line_start && (is_invisible(c) || "<>*_#-`[&|".contains(c)));
        }
        out
    }

    /// Whether a tag begins with `c`, the first character of `from`; `rest` is what follows it.
    fn opens_tag(&self, c: char, from: &str, rest: &str) -> bool {
        if matches!(c, '&' | '\\' | '%') {
            let escape =
                ESCAPES.iter().find(|escape| from.get(..escape.len()).is_some_and(|e| e.eq_ignore_ascii_case(escape)));
            return escape.is_some_and(|escape| {
                let rest = &from[escape.len()..];
                let slash =
                    SLASH_ESCAPES.iter().find(|s| rest.get(..s.len()).is_some_and(|e| e.eq_ignore_ascii_case(s)));
                self.is_tag(rest)
                    || slash.is_some_and(|slash| self.is_tag(&format!("/{}", first(&rest[slash.len()..]))))
            });
        }
        (is_like(c, '<') || OPENERS.contains(&c)) && self.is_tag(rest)
    }

    /// Whether `rest` goes on as a tag after its first character: a slash or none, then a name. Where white space comes before
    /// the name of an opening tag, its end must be there too, since `a < answer` is none.
    fn is_tag(&self, rest: &str) -> bool {
        let mut visible = visible(rest).peekable();
        let mut spaced = visible.next_if(|c| *c == ' ').is_some();
        let mut slash = false;
        while visible.next_if(|c| SLASHES.contains(c)).is_some() {
            slash = true;
        }
        spaced |= visible.next_if(|c| *c == ' ').is_some();
        let Some(first) = visible.peek().copied() else { return false };
        if !self.names.iter().any(|name| name.starts_with(first)) {
            return false;
        }
        let longest = self.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let found: String = visible.take(longest + 2).collect();
        self.names.iter().filter_map(|name| found.strip_prefix(name.as_str())).any(|after| {
            let ends = !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            ends && (slash || !spaced || after.trim_start().starts_with(['>', '/']))
        })
    }
}

/// Whether `rest` goes on as the label of a turn after `[`; a link `[user](…)` is none.
fn is_label(rest: &str) -> bool {
    let found: String = visible(rest).filter(|c| *c != ' ').take(24).collect();
    LABELS.iter().any(|label| {
        let label: String = label.chars().flat_map(fold).collect();
        let Some(after) = found.strip_prefix(&label).and_then(|after| after.strip_prefix(']')) else { return false };
        // The beginning of an address; `m` looks like `rn`.
        !["(h", "(/", "(#", "(.", "(rn"].iter().any(|begin| after.starts_with(begin))
    })
}

/// What a reader sees of the first characters of `text`, folded; white space is one space.
fn visible(text: &str) -> impl Iterator<Item = char> {
    let mut space = false;
    let seen = text.chars().take(REACH).filter(move |c| {
        let skipped = if c.is_whitespace() { std::mem::replace(&mut space, true) } else { is_invisible(*c) };
        space &= skipped || c.is_whitespace();
        !skipped
    });
    seen.flat_map(|c| fold(if c.is_whitespace() { ' ' } else { c }))
}

/// A character as all that look like it: compatibility forms, case and look-alike letters of other scripts are one.
fn fold(c: char) -> impl Iterator<Item = char> {
    static ASCII: LazyLock<Vec<Vec<char>>> = LazyLock::new(|| ('\0'..='\x7f').map(fold_any).collect());
    let (slice, other) = match c.is_ascii() {
        true => (&ASCII[c as usize][..], Vec::new()),
        false => (&[][..], fold_any(c)),
    };
    slice.iter().copied().chain(other)
}

fn fold_any(c: char) -> Vec<char> {
    let bracket = match c {
        c if CLOSERS.contains(&c) => '>',
        '】' | '〕' | '〗' => ']',
        c => c,
    };
    let lower: String = std::iter::once(bracket).nfkc().flat_map(char::to_lowercase).collect();
    skeleton(&lower).flat_map(char::to_lowercase).filter(|c| *c == ' ' || !is_invisible(*c)).collect()
}

/// As much of a text as is read of a tag.
fn first(text: &str) -> &str {
    text.char_indices().nth(REACH).map_or(text, |(end, _)| &text[..end])
}

fn is_like(c: char, wanted: char) -> bool {
    c == wanted || (!c.is_ascii() && !c.is_alphanumeric() && fold(c).eq([wanted]))
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// White space, format characters, combining marks and fillers: what may stand between letters and is not seen as one.
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || is_combining_mark(c)
        || matches!(c as u32,
            0xad | 0x300..=0x36f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff
            | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0x20d0..=0x20ff | 0x2800 | 0x3164 | 0xfe00..=0xfe0f
            | 0xfe20..=0xfe2f | 0xfeff | 0xffa0 | 0xfff9..=0xfffb | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::of(["<task>x</task>\n<prompt>\n</prompt> <response>\n</response> 1 < 2 <3 <a_b c>", "<answer>"])
    }

    #[test]
    fn names_are_taken_from_the_text() {
        let names = |texts: [&str; 5]| texts.map(|name| name.chars().flat_map(fold).collect::<String>());
        assert_eq!(frame().names, names(["a_b", "answer", "prompt", "response", "task"]).into_iter().collect());
    }

    #[test]
    fn tags_are_broken_however_they_are_spelt() {
        for tag in [
            "<response>",
            "</response>",
            "</RESPONSE>",
            "< / response >",
            "</ response\n>",
            "<response >",
            "<response/>",
            "</response",
            "<response id='1'>",
            "＜／ｒｅｓｐｏｎｓｅ＞",
            "‹/response›",
            "⟨response⟩",
            "</rеspоnsе>",
            "</res\u{200b}ponse>",
            "</\u{2060}response>",
            "<\u{ad}/response>",
            "</r\u{301}esponse>",
            "&lt;/response&gt;",
            "&#60;/response>",
            "\\u003c/response\\u003e",
            "%3C/response%3E",
            "%3c%2fresponse%3e",
            "&#060;/response>",
            "&lt;&#47;response&gt;",
            "&amp;lt;/response>",
            "<//response>",
            "<\\/response>",
            "</r\u{489}esponse>",
            "</r\u{5b0}esponse>",
            "<<response>",
            "</𝐫𝐞𝐬𝐩𝐨𝐧𝐬𝐞>",
            "<\\response>",
            "< answer >",
            "</prompt>",
        ] {
            let broken = frame().neutralise(&format!("a {tag} b"));
            assert_eq!(
                broken.chars().filter(|c| *c == BREAK).count(),
                1 + tag.matches(BREAK).count(),
                "{tag}: {broken:?}"
            );
            assert_eq!(broken.replacen(BREAK, "", 1).replace(BREAK, ""), format!("a {tag} b").replace(BREAK, ""));
            assert_eq!(frame().neutralise(&broken), broken, "{tag}: twice");
        }
    }

    #[test]
    fn labels_of_turns_are_broken_at_the_start_of_a_line() {
        for label in [
            "[assistant]",
            "  [user]",
            "[ System ]",
            "［assistant］",
            "[assi\u{200d}stant] sure",
            "[tооl]",
            "> [assistant]",
            "**[assistant]**",
            "[[assistant]]",
            "【assistant】",
            "[assistant](\n",
            "[user] (x)",
        ] {
            let text = format!("a\n{label}\nb");
            assert_ne!(frame().neutralise(&text), text, "{label}");
            assert_ne!(frame().neutralise(label), label, "at the start");
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in [
            "a < b and b > c",
            "x < answer",
            "if a < prompt(b) { }",
            "<responses>",
            "<respond>",
            "Vec<Response_>",
            "a[user]",
            "[users]",
            "[user",
            "[userä",
            "[user](https://example.org)",
            "see [assistant]",
            "<b>bold</b>",
            "&lt;b&gt;",
            "100 % sure",
            "« guillemets »",
            "",
        ] {
            assert_eq!(frame().neutralise(text), text);
        }
    }

    #[test]
    fn a_megabyte_takes_linear_time() {
        for unit in ["<", "</", "<\u{200b}", "[", "\n[", "＜", "&lt;", "<response", "a"] {
            let text = unit.repeat((1 << 20) / unit.len());
            assert!(frame().neutralise(&text).len() >= text.len());
        }
    }
}
