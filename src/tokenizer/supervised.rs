//! The loss mask of a conversation: which tokens are learnt, namely the assistant's text and the token that closes it.
//!
//! The mask comes from renderings, so it works for any template. For the last turn, the rendering of the turns before it with a
//! generation prompt must be a prefix of the whole rendering. The rest is learnt, up to and including the token that ends the
//! turn. So headers, the newline after the end token, and the empty think block of a non-thinking generation prompt are not
//! learnt. Prompt and answer are encoded separately, as in generation: no token crosses the start of the answer.
//!
//! An earlier assistant turn is learnt too if its position is certain. The rendering up to it, with a plain generation prompt,
//! must be a prefix of the whole, or a rendering with other words in its place must be the same around them; the text from
//! there to the next end token must be the message (its reasoning, its content and its tool calls, or without the reasoning,
//! which Qwen3 drops in earlier turns); and no token may cross either border. Otherwise the turn is only context, as are turns
//! that the row says not to learn.

use serde_json::Value;

use super::{RenderOptions, Tokenizer, TokenizerError, encode_error};
use crate::data::{Conversation, Message, TemplateArguments};

/// The ids of a conversation and its loss mask, of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    pub ids: Vec<u32>,
    /// True where the token has a loss: it is predicted from the tokens before it.
    pub mask: Vec<bool>,
}

impl Tokenizer {
    /// Ids and loss mask of a row. All but the assistant's turns is text from outside and is escaped. Turns of the assistant may
    /// contain think tags and other tokens that are not special (`<tool_call>`). Of a row of more than `limit` tokens, which the
    /// caller leaves out, no earlier turn is looked for: that takes a rendering each.
    ///
    /// # Errors
    /// Those of [`Self::encode_supervised`].
    pub fn encode_conversation(
        &self,
        row: &Conversation,
        thinking: bool,
        limit: usize,
    ) -> Result<Supervised, TokenizerError> {
        // A template that knows no reasoning shows it as part of the content.
        let apart = self.templates.choose(row.arguments.contains_key("tools"))?.reads_reasoning;
        let answer = |turn: &Message| match apart {
            true => turn.clone(),
            false => Message { content: turn.reasoned(), reasoning: None, ..turn.clone() },
        };
        let turn = |turn: &Message| if turn.role == "assistant" { answer(turn) } else { self.escape_message(turn) };
        let messages: Vec<Message> = row.messages.iter().map(turn).collect();
        self.supervise(&messages, &self.escape_fields(&row.arguments), thinking, limit)
    }

    /// Ids and loss mask of a conversation that ends with an assistant turn. `thinking` selects the generation prompt that the
    /// answer is learnt for. `encode_chat(all but the last, generation prompt, thinking)` is a prefix of the ids; of the ids
    /// after it, exactly those up to and including the end of the turn have a loss.
    ///
    /// # Errors
    /// The last turn is not the assistant's; an assistant text contains a special token (see [`Tokenizer::escape`]); the last
    /// turn contains reasoning although `thinking` is false; or the template never closes turns, or leaves out reasoning, tools
    /// or tool calls that the conversation has.
    pub fn encode_supervised(&self, messages: &[Message], thinking: bool) -> Result<Supervised, TokenizerError> {
        self.supervise(messages, &TemplateArguments::new(), thinking, usize::MAX)
    }

    fn supervise(
        &self,
        messages: &[Message],
        arguments: &TemplateArguments,
        thinking: bool,
        limit: usize,
    ) -> Result<Supervised, TokenizerError> {
        let Some((last, before)) = messages.split_last().filter(|(last, _)| last.role == "assistant") else {
            let role = messages.last().map_or("no turns", |message| message.role.as_str());
            return Err(fault(format!("expected a conversation that ends with an assistant turn, got {role}")));
        };
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            if let Some(token) = self.special_token_in(&message.text()) {
                return Err(fault(format!(
                    "message {index} contains the control token {token}, so its end is ambiguous; remove it from the text"
                )));
            }
        }
        let options =
            RenderOptions { add_generation_prompt: true, enable_thinking: Some(thinking), ..RenderOptions::default() };
        let prompt = self.render_with(before, arguments, &options)?;
        let end = self.turn_end.as_deref().ok_or_else(|| {
            fault(
                "the chat template does not close assistant turns with a token, so the model would not learn to stop; use \
                 another template"
                    .to_string(),
            )
        })?;
        let whole =
            self.render_with(messages, arguments, &RenderOptions { add_generation_prompt: false, ..options })?;
        let answer = whole.strip_prefix(prompt.as_str()).ok_or_else(|| no_prefix(last, arguments, thinking))?;
        let length = answer.rfind(end).ok_or_else(|| fault(format!("the last turn is not closed by {end}")))?;
        let (learnt, tail) = answer.split_at(length + end.len());
        self.check_shown(messages, arguments, &options)?.map_err(fault)?;

        let encoding = self.inner.encode(prompt.as_str(), false).map_err(|error| encode_error(&prompt, &error))?;
        let fits = encoding.len() <= limit;
        let spans = if fits { self.earlier_turns(before, arguments, &prompt, end) } else { Vec::new() };
        let (mut ids, mut mask) = (encoding.get_ids().to_vec(), inside(encoding.get_offsets(), &spans));
        for (text, carries_loss) in [(learnt, last.learnt), (tail, false)] {
            ids.extend(self.encode(text)?);
            mask.resize(ids.len(), carries_loss);
        }
        if fits && !mask.contains(&true) {
            return Err(fault(
                "no token is learnt: the turns to be learnt are not where they can be found".to_string(),
            ));
        }
        Ok(Supervised { ids, mask })
    }

    /// Byte ranges in `prompt` of the assistant turns before the last, end token included.
    fn earlier_turns(
        &self,
        before: &[Message],
        arguments: &TemplateArguments,
        prompt: &str,
        end: &str,
    ) -> Vec<(usize, usize)> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for (index, message) in before.iter().enumerate().filter(|(_, m)| m.role == "assistant" && m.learnt) {
            // If the template cannot render these turns alone, or renders them otherwise there, they are looked for in the whole.
            let head = self.render_with(&before[..index], arguments, &options).ok();
            let start = head.filter(|head| prompt.starts_with(head.as_str())).map(|head| head.len());
            let Some(start) = start.or_else(|| self.start_of(index, before, arguments, prompt)) else { continue };
            let Some(length) = prompt[start..].find(end) else { continue };
            if is_turn(prompt[start..start + length].trim(), message) {
                spans.push((start, start + length + end.len()));
            }
        }
        spans
    }

    /// Where the content of a turn begins in `prompt`: where a rendering with other words in its place begins to differ. All
    /// around the words must be the same.
    fn start_of(&self, index: usize, before: &[Message], arguments: &TemplateArguments, prompt: &str) -> Option<usize> {
        const WORDS: &str = "patarm-words";
        let mut turns = before.to_vec();
        turns[index].content = WORDS.to_string();
        for add_generation_prompt in [true, false] {
            let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
            let Ok(text) = self.render_with(&turns, arguments, &options) else { continue };
            let Some((head, tail)) = text.split_once(WORDS).filter(|(_, tail)| !tail.contains(WORDS)) else { continue };
            let around = prompt.len() >= head.len() + tail.len() && prompt[head.len()..].contains(tail);
            if prompt.starts_with(head) && around {
                return Some(head.len());
            }
        }
        None
    }
}

/// For each token, whether its bytes lie wholly inside one of `spans`, which are in order, as are the tokens.
fn inside(tokens: &[(usize, usize)], spans: &[(usize, usize)]) -> Vec<bool> {
    let mut spans = spans.iter().peekable();
    let mut holds = |&(start, end): &(usize, usize)| {
        while spans.next_if(|(_, to)| *to <= start && *to < end).is_some() {}
        spans.peek().is_some_and(|(from, to)| *from <= start && end <= *to)
    };
    tokens.iter().map(&mut holds).collect()
}

/// Whether `words` are what the message says and nothing else: its content, after its reasoning or without it, and then the
/// calls of its tools, which templates write in their own ways.
fn is_turn(words: &str, message: &Message) -> bool {
    let content = message.content.trim();
    let said = if message.tool_calls.is_empty() {
        words
    } else {
        let answer = content.rsplit("</think>").next().unwrap_or(content).trim();
        let Some(at) = words.find(answer) else { return false };
        let (said, calls) = words.split_at(at + answer.len());
        if !message.tool_calls.iter().all(|call| calls.contains(name_of(call))) {
            return false;
        }
        said
    };
    let reasoned = message.reasoned();
    let plain = said.trim();
    (!words.is_empty() && (content.ends_with(plain) || reasoned.trim().ends_with(plain)))
        || without_white_space(plain) == without_white_space(&reasoned)
}

fn without_white_space(text: &str) -> String {
    text.split_whitespace().collect()
}

fn name_of(tool: &Value) -> &str {
    tool.get("function").unwrap_or(tool).get("name").and_then(Value::as_str).unwrap_or_default()
}

fn no_prefix(last: &Message, arguments: &TemplateArguments, thinking: bool) -> TokenizerError {
    let thinking = arguments.get("enable_thinking").and_then(Value::as_bool).unwrap_or(thinking);
    if !thinking && last.reasoned().contains("</think>") {
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

fn fault(reason: String) -> TokenizerError {
    TokenizerError::Supervised(reason)
}
