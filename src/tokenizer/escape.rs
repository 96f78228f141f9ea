//! Escapes text from outside, so that it cannot close or open a turn, or end a think block.

use serde_json::{Map, Value};

use super::{Tokenizer, UNKNOWN};
use crate::data::Message;

/// A zero-width space: it splits a control token, readers do not see it, and NFC keeps it.
const BREAK: char = '\u{200b}';

/// Rounds in which control tokens are split. Later rounds remove them, which always terminates.
const BREAK_ROUNDS: usize = 4;

impl Tokenizer {
    /// Changes `text` so that its encoding contains no added token (special or not): each one gets a zero-width space after its
    /// first character. Text without added tokens is not changed, and neither is text that was escaped before.
    ///
    /// Escape whole texts: two halves of a control token that are joined after escaping would form one again.
    pub fn escape(&self, text: &str) -> String {
        let mut text = text.to_string();
        for round in 0.. {
            let spans = self.added_spans(&text);
            if spans.is_empty() {
                break;
            }
            text = rewrite(&text, &spans, round < BREAK_ROUNDS);
        }
        text
    }

    /// [`Self::escape`] of every text in a value, field names included.
    pub(super) fn escape_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.escape(text).into(),
            Value::Array(items) => items.iter().map(|item| self.escape_json(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (self.escape(name), self.escape_json(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// [`Self::escape`] of all fields of an object; their names are ours.
    pub(super) fn escape_fields(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        fields.iter().map(|(name, value)| (name.clone(), self.escape_json(value))).collect()
    }

    /// [`Self::escape`] of all that a turn says.
    pub(super) fn escape_message(&self, turn: &Message) -> Message {
        Message {
            content: self.escape(&turn.content),
            reasoning: turn.reasoning.as_deref().map(|text| self.escape(text)),
            tool_calls: turn.tool_calls.iter().map(|call| self.escape_json(call)).collect(),
            fields: self.escape_fields(&turn.fields),
            ..turn.clone()
        }
    }

    /// A special token in `text` (`<|im_end|>`; not a tag of thinking, even where it is called special), if there is one.
    pub(super) fn special_token_in(&self, text: &str) -> Option<String> {
        let encoding = self.inner.encode_fast(text, false).ok()?;
        let special = encoding.get_ids().iter().filter(|id| self.special.contains(id));
        special
            .filter_map(|id| self.inner.id_to_token(*id))
            .find(|token| !["<think>", "</think>"].contains(&token.as_str()))
    }

    /// Byte ranges of the added tokens in the encoding of `text`: in order, not empty, on character boundaries. They come from
    /// the encoder and not from a text search, because a normaliser may produce a control token.
    fn added_spans(&self, text: &str) -> Vec<(usize, usize)> {
        // Text that cannot be encoded is harmless: encoding it later is an error.
        let Ok(encoding) = self.inner.encode(text, false) else { return Vec::new() };
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for (id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if !self.added.contains(id) {
                continue;
            }
            let start = text.floor_char_boundary(start.min(text.len().saturating_sub(1)));
            let end = text.ceil_char_boundary(end.clamp(start + 1, text.len()));
            if spans.last().is_none_or(|&(_, last)| last <= start) {
                spans.push((start, end));
            }
        }
        spans
    }
}

/// `text` with every span split after its first character that is not white space (a token may include white space around it),
/// or with the spans removed.
fn rewrite(text: &str, spans: &[(usize, usize)], breaking: bool) -> String {
    let mut out = String::with_capacity(text.len() + 3 * spans.len());
    let mut done = 0;
    for &(start, end) in spans {
        out.push_str(&text[done..start]);
        if breaking {
            out.push_str(&broken(&text[start..end]));
        }
        done = end;
    }
    out.push_str(&text[done..]);
    out
}

fn broken(token: &str) -> String {
    let body = token.trim();
    let lead = token.len() - token.trim_start().len();
    let mut chars = body.chars();
    match (chars.next(), chars.as_str()) {
        (Some(first), rest) if !rest.is_empty() => {
            let tail = &token[lead + body.len()..];
            format!("{}{first}{BREAK}{rest}{tail}", &token[..lead])
        }
        // A single character or only white space cannot be split.
        _ => UNKNOWN.to_string(),
    }
}
