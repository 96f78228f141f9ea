//! Which tokens of a conversation are learnt: the assistant's words and the token that closes them.
//!
//! The mask is found by rendering, not by knowing the template. For the last turn, the text rendered up to it with a
//! generation prompt must be the beginning of the whole rendering; what follows, up to and including the token that
//! ends a turn, is learnt. So headers, the empty think block that a non-thinking generation prompt already contains,
//! and the newline after the end token are not. The prompt and the rest are encoded apart, because that is how the
//! model meets them when it generates: a token never reaches across the place where its own words begin.
//!
//! An earlier assistant turn is learnt too where it can be located beyond doubt: the rendering up to it, with a plain
//! generation prompt, is a beginning of the whole, the text from there to the next end token is what the message says
//! (all of it, or its end: Qwen3 drops the reasoning of earlier turns), and every token of it lies wholly inside. An
//! earlier turn that does not pass is context.

use super::{RenderOptions, Tokenizer, TokenizerError, encode_error};
use crate::data::Message;

/// A conversation as ids, with the ids that carry loss. Both have the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    pub ids: Vec<u32>,
    /// True where the token is to be predicted (from the tokens before it).
    pub mask: Vec<bool>,
}

impl Tokenizer {
    /// Ids and loss mask of a conversation that ends with an assistant turn. `thinking` says which generation prompt
    /// the answer is learnt for. `encode_chat(all but the last, generation prompt, thinking)` is a prefix of the ids,
    /// and of the rest exactly the ids up to and including the end of turn are masked in.
    ///
    /// An error: no assistant turn at the end; an assistant text that holds an end token (see [`Tokenizer::escape`]);
    /// reasoning in the last turn when `thinking` is false; a template that never closes turns.
    pub fn encode_supervised(&self, messages: &[Message], thinking: bool) -> Result<Supervised, TokenizerError> {
        let end = self.turn_end.as_deref().ok_or_else(|| {
            fault(
                "the chat template does not close an assistant turn with a token of its own; nothing would teach the \
                 model to stop. Use another template"
                    .to_string(),
            )
        })?;
        let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            let role = messages.last().map_or("nothing at all", |message| message.role.as_str());
            return Err(fault(format!("expected a conversation that ends with an assistant turn, got {role}")));
        };
        for (index, message) in messages.iter().enumerate() {
            if message.role == "assistant" && message.content.contains(end) {
                return Err(fault(format!("message {index} contains {end}, so its end is ambiguous; escape its text")));
            }
        }
        let options = RenderOptions { add_generation_prompt: true, enable_thinking: Some(thinking) };
        let prompt = self.render(before, &options)?;
        let whole = self.render(messages, &RenderOptions { add_generation_prompt: false, ..options })?;
        let answer = whole.strip_prefix(prompt.as_str()).ok_or_else(|| self.no_prefix(last, thinking))?;
        let length = answer.rfind(end).ok_or_else(|| fault(format!("the last turn is not closed by {end}")))?;
        let (learnt, tail) = answer.split_at(length + end.len());

        let (mut ids, mut mask) = self.encode_marked(&prompt, &self.earlier_turns(before, &prompt, end))?;
        for (text, carries_loss) in [(learnt, true), (tail, false)] {
            ids.extend(self.encode(text)?);
            mask.resize(ids.len(), carries_loss);
        }
        Ok(Supervised { ids, mask })
    }

    /// Byte ranges in `prompt` of the assistant turns before the last, end token included.
    fn earlier_turns(&self, before: &[Message], prompt: &str, end: &str) -> Vec<(usize, usize)> {
        let options = RenderOptions { add_generation_prompt: true, enable_thinking: None };
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for (index, message) in before.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            // A template that cannot render the beginning alone leaves the turn as context.
            let Ok(head) = self.render(&before[..index], &options) else { continue };
            let Some(rest) = prompt.strip_prefix(head.as_str()) else { continue };
            let Some(length) = rest.find(end) else { continue };
            let words = rest[..length].trim();
            if !words.is_empty() && message.content.trim_end().ends_with(words) {
                spans.push((head.len(), head.len() + length + end.len()));
            }
        }
        spans
    }

    /// Ids of `text`, and for each whether it lies wholly inside one of `spans`.
    fn encode_marked(&self, text: &str, spans: &[(usize, usize)]) -> Result<(Vec<u32>, Vec<bool>), TokenizerError> {
        let encoding = self.inner.encode(text, false).map_err(|error| encode_error(text, &error))?;
        let inside = |&(start, end): &(usize, usize)| spans.iter().any(|&(from, to)| from <= start && end <= to);
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(inside).collect()))
    }

    fn no_prefix(&self, last: &Message, thinking: bool) -> TokenizerError {
        if !thinking && last.content.contains("</think>") {
            return fault(
                "the last turn contains reasoning (</think>), but thinking is off, where the prompt already closes an \
                 empty think block; turn thinking on or drop the reasoning"
                    .to_string(),
            );
        }
        fault(
            "the rendering of the prompt is not the beginning of the rendering of the whole conversation (two assistant \
             turns in a row, or a template that rewrites earlier turns); nothing says where the answer begins"
                .to_string(),
        )
    }
}

fn fault(reason: String) -> TokenizerError {
    TokenizerError::Supervised(reason)
}
