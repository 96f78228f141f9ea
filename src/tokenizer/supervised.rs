//! The loss mask of a conversation: which tokens are learnt, namely the assistant's text and the token that closes it.
//!
//! The mask comes from renderings, so it works for any template. For the last turn, the rendering of the turns before it with a
//! generation prompt must be a prefix of the whole rendering. The rest is learnt, up to and including the token that ends the
//! turn. So headers, the newline after the end token, and the empty think block of a non-thinking generation prompt are not
//! learnt. Prompt and answer are encoded separately, as in generation: no token crosses the start of the answer.
//!
//! An earlier assistant turn is learnt too if its position is certain. The rendering up to it, with a plain generation prompt,
//! must be a prefix of the whole; the text from there to the next end token must be the message (or its end, because Qwen3
//! drops the reasoning of earlier turns); and no token may cross either border. Otherwise the turn is only context.

use super::{RenderOptions, Tokenizer, TokenizerError, encode_error};
use crate::data::{Conversation, Message};

/// The ids of a conversation and its loss mask, of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    pub ids: Vec<u32>,
    /// True where the token has a loss: it is predicted from the tokens before it.
    pub mask: Vec<bool>,
}

impl Tokenizer {
    /// [`Self::encode_supervised`] of a row: everything but the assistant's turns is text from outside and is escaped.
    pub fn encode_conversation(&self, row: &Conversation, thinking: bool) -> Result<Supervised, TokenizerError> {
        let escaped = |turn: &Message| Message { content: self.escape(&turn.content), ..turn.clone() };
        let turn = |turn: &Message| if turn.role == "assistant" { turn.clone() } else { escaped(turn) };
        let messages: Vec<Message> = row.messages.iter().map(turn).collect();
        self.encode_supervised(&messages, thinking)
    }

    /// Ids and loss mask of a conversation that ends with an assistant turn. `thinking` selects the generation prompt that the
    /// answer is learnt for. `encode_chat(all but the last, generation prompt, thinking)` is a prefix of the ids; of the ids
    /// after it, exactly those up to and including the end of the turn have a loss.
    ///
    /// # Errors
    /// The last turn is not the assistant's; an assistant text contains an end token (see [`Tokenizer::escape`]); the last turn
    /// contains reasoning although `thinking` is false; or the template never closes turns.
    pub fn encode_supervised(&self, messages: &[Message], thinking: bool) -> Result<Supervised, TokenizerError> {
        let end = self.turn_end.as_deref().ok_or_else(|| {
            fault(
                "the chat template does not close assistant turns with a token, so the model would not learn to stop; use \
                 another template"
                    .to_string(),
            )
        })?;
        let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            let role = messages.last().map_or("no turns", |message| message.role.as_str());
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
            // If the template cannot render these turns alone, the turn is only context.
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

    /// Ids of `text`, and for each whether its bytes lie wholly inside one of `spans`.
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
            "the rendering of the prompt is not a prefix of the rendering of the whole conversation (two assistant turns in \
             a row, or a template that rewrites earlier turns), so the start of the answer is unknown"
                .to_string(),
        )
    }
}

fn fault(reason: String) -> TokenizerError {
    TokenizerError::Supervised(reason)
}
