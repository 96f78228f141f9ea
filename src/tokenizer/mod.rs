//! tokenizer.json, the model's own chat template, and the loss mask of assistant turns.
//!
//! All text is encoded by [`Tokenizer::encode`]. It recognises control tokens in the text and adds none, so the model reads
//! exactly what the chat template wrote. Text from outside goes through [`Tokenizer::escape`] first.

mod cost;
mod error;
mod escape;
mod files;
mod format;
mod jinja;
mod literal;
mod methods;
mod objects;
mod operators;
mod python;
mod shown;
mod supervised;
mod template;
mod templates;
mod text;

use std::collections::BTreeSet;

use tokenizers::Tokenizer as Inner;

pub use error::TokenizerError;
pub use jinja::check_tags;
pub use supervised::Supervised;
pub use template::{CHAT_TEMPLATE, RenderOptions};

use crate::data::{Message, TemplateArguments};
use templates::Templates;

/// What an unknown id decodes to.
const UNKNOWN: char = '\u{fffd}';

/// A tokenizer with its chat template. All methods take `&self` and give the same result on any thread.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    templates: Templates,
    eos_token: String,
    pad_token: String,
    /// What templates see under `bos_token`, `eos_token`, …: text by name.
    special_tokens: serde_json::Map<String, serde_json::Value>,
    eos_ids: Vec<u32>,
    pad_id: u32,
    /// The token that closes an assistant turn in this template (`<|im_end|>`): usually the eos, but not in Qwen3's base models.
    turn_end: Option<String>,
    vocab_size: usize,
    /// Ids of the added tokens, special or not. `escape` keeps them out of text from outside.
    added: BTreeSet<u32>,
    /// Those of them that are special: no text of a turn may contain them.
    special: BTreeSet<u32>,
    /// tokenizer_config.json as it was read, so that `save` keeps the class and all settings that we do not know.
    config: serde_json::Map<String, serde_json::Value>,
}

impl Tokenizer {
    /// Creates a tokenizer from its parts, for example with [`CHAT_TEMPLATE`]. It is an error if the template does not parse, or
    /// if `eos_token` or `pad_token` is not in the vocabulary.
    pub fn from_parts(
        inner: Inner,
        chat_template: String,
        eos_token: &str,
        pad_token: &str,
    ) -> Result<Self, TokenizerError> {
        let templates = Templates::one(chat_template);
        templates.choose(false)?;
        let named = [("eos_token", eos_token), ("pad_token", pad_token)];
        let special_tokens = named.into_iter().map(|(name, token)| (name.to_string(), token.into())).collect();
        Parts { inner, templates, special_tokens, more_eos_ids: Vec::new(), config: serde_json::Map::new() }
            .assemble(eos_token, pad_token)
    }

    /// Token ids of `text`. Control tokens in the text are recognised; none are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| encode_error(text, &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of any ids: an unknown id becomes U+FFFD, and so do bytes that are not UTF-8.
    /// `skip_special` leaves out special tokens (`<|im_end|>`, but not `</think>`, which Qwen3 does not call special).
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut text = String::new();
        for run in ids.chunk_by(|&a, &b| self.is_token(a) == self.is_token(b)) {
            if self.is_token(run[0]) {
                // If the decoder fails, the ids are not text.
                text.push_str(&self.inner.decode(run, skip_special).unwrap_or_else(|_| UNKNOWN.to_string()));
            } else {
                text.extend(run.iter().map(|_| UNKNOWN));
            }
        }
        text
    }

    fn is_token(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// The highest id plus one. A model's embedding has at least as many rows (Qwen3: 151,669 ids, 151,936 rows).
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The tokenizer's own end token.
    pub fn eos_id(&self) -> u32 {
        self.eos_ids[0]
    }

    /// Every id that ends a generation: [`Self::eos_id`] first, then the token that closes a turn in the chat
    /// template, then those of generation_config.json.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Adds ids that end a generation, those of a model in another directory.
    pub fn add_eos_ids(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.eos_ids.contains(id) {
                self.eos_ids.push(*id);
            }
        }
    }

    /// The padding token, for a model's config.json.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Renders a conversation with the model's own template.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TokenizerError> {
        self.render_with(messages, &TemplateArguments::new(), options)
    }

    /// [`Self::render`] with what a row gives its template besides the messages.
    pub fn render_with(
        &self,
        messages: &[Message],
        arguments: &TemplateArguments,
        options: &RenderOptions,
    ) -> Result<String, TokenizerError> {
        let template = self.templates.choose(arguments.contains_key("tools"))?;
        template.render(messages, arguments, options, &self.special_tokens)
    }

    /// [`Self::encode`] of a rendering in which nothing is ours: every turn is escaped, and so is what the row gives the
    /// template. A turn that is to be continued is what the model is taken to have said: it may hold tags of thinking, but a
    /// special token in it is an error, as is a tool, a document or a turn that the template leaves out.
    pub fn encode_outside(
        &self,
        messages: &[Message],
        arguments: &TemplateArguments,
        options: &RenderOptions,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut escaped: Vec<Message> = messages.iter().map(|turn| self.escape_message(turn)).collect();
        if let (true, Some(last), Some(turn)) = (options.continue_final_message, messages.last(), escaped.last_mut()) {
            if let Some(token) = self.special_token_in(&last.content) {
                return Err(TokenizerError::Template(format!(
                    "continue_final_message: the last message contains the control token {token}; remove it from the text"
                )));
            }
            turn.content.clone_from(&last.content);
        }
        let arguments = self.escape_fields(arguments);
        let text = self.render_with(&escaped, &arguments, options)?;
        self.check_shown(&escaped, &arguments, options)?.map_err(TokenizerError::Template)?;
        self.encode(&text)
    }

    /// [`Self::encode`] of [`Self::render`].
    pub fn encode_chat(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.render(messages, options)?)
    }
}

impl Tokenizer {
    /// The added token that the template writes after an assistant's text. It is found in the rendering of an example turn.
    fn find_turn_end(&self) -> Option<String> {
        let words = "patarm";
        let turns = [Message::user("question"), Message::assistant(words)];
        let text = self.render(&turns, &RenderOptions::default()).ok()?;
        let after = &text[text.rfind(words)? + words.len()..];
        let closing =
            |id: &u32| self.inner.id_to_token(*id).filter(|token| !token.is_empty() && after.starts_with(token));
        // The eos token is tried first, then the longest added token, because one added token may begin with another.
        if after.starts_with(&self.eos_token) && !self.eos_token.is_empty() {
            return Some(self.eos_token.clone());
        }
        self.added.iter().filter_map(closing).max_by_key(String::len)
    }
}

/// What a tokenizer is made of, besides its end and padding tokens.
struct Parts {
    inner: Inner,
    templates: Templates,
    special_tokens: serde_json::Map<String, serde_json::Value>,
    more_eos_ids: Vec<u32>,
    config: serde_json::Map<String, serde_json::Value>,
}

impl Parts {
    fn assemble(self, eos_token: &str, pad_token: &str) -> Result<Tokenizer, TokenizerError> {
        let Self { mut inner, templates, special_tokens, more_eos_ids, config } = self;
        // Callers limit lengths; a truncation stored in tokenizer.json would silently cut conversations.
        inner.with_truncation(None).map_err(|error| TokenizerError::Tokens(error.to_string()))?;
        inner.with_padding(None);
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let id_of = |name: &str, token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                TokenizerError::Tokens(format!("{name} {token:?} is not one of its tokens; add it to tokenizer.json"))
            })
        };
        let eos_ids = vec![id_of("eos_token", eos_token)?];
        let pad_id = id_of("pad_token", pad_token)?;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let added: BTreeSet<u32> = added.keys().copied().collect();
        let (eos_token, pad_token) = (eos_token.to_string(), pad_token.to_string());
        let mut tokenizer = Tokenizer {
            inner,
            templates,
            eos_token,
            pad_token,
            special_tokens,
            eos_ids,
            pad_id,
            turn_end: None,
            vocab_size,
            added,
            special,
            config,
        };
        tokenizer.turn_end = tokenizer.find_turn_end();
        let turn_end_id = tokenizer.turn_end.as_deref().and_then(|token| tokenizer.inner.token_to_id(token));
        tokenizer.add_eos_ids(turn_end_id.as_slice());
        tokenizer.add_eos_ids(&more_eos_ids);
        Ok(tokenizer)
    }
}

/// Leaves out the vocabulary, which would fill a terminal.
impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mut fields = formatter.debug_struct("Tokenizer");
        fields.field("vocab_size", &self.vocab_size).field("eos_ids", &self.eos_ids).finish_non_exhaustive()
    }
}

fn encode_error(text: &str, error: &tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode { bytes: text.len(), reason: error.to_string() }
}
