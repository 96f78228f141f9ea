//! The chat templates of a tokenizer: usually one; some models have another for tools.

use serde_json::{Value, json};

use super::TokenizerError;
use super::template::ChatTemplate;

/// The name of the template for chats.
pub(super) const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Templates by name. One that cannot be compiled is kept with its error, which comes where it is used: plain text needs no
/// template.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates {
    named: Vec<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    name: String,
    source: String,
    compiled: Result<ChatTemplate, String>,
}

impl Templates {
    /// The template for chats alone.
    pub fn one(source: String) -> Self {
        let mut templates = Self::default();
        templates.insert(DEFAULT, source);
        templates
    }

    /// Adds a template, or replaces the one of this name.
    pub fn insert(&mut self, name: &str, source: String) {
        let compiled = ChatTemplate::new(&source).map_err(|error| match error {
            TokenizerError::Template(reason) => reason,
            other => other.to_string(),
        });
        self.named.retain(|template| template.name != name);
        self.named.push(Named { name: name.to_string(), source, compiled });
    }

    /// Whether there is no template.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The template for a conversation, as transformers chooses it.
    pub fn choose(&self, with_tools: bool) -> Result<&ChatTemplate, TokenizerError> {
        let find = |name: &str| self.named.iter().find(|template| template.name == name);
        let tool_use = if with_tools { find(TOOL_USE) } else { None };
        let found = tool_use.or_else(|| find(DEFAULT)).ok_or_else(|| {
            let names: Vec<&str> = self.named.iter().map(|template| template.name.as_str()).collect();
            let found = if names.is_empty() { "none".to_string() } else { format!("only {}", names.join(", ")) };
            TokenizerError::Template(format!(
                "a chat needs a template named {DEFAULT}, but the tokenizer has {found}; add chat_template.jinja to its folder"
            ))
        })?;
        found.compiled.as_ref().map_err(|reason| TokenizerError::Template(reason.clone()))
    }

    /// Names and sources.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|template| (template.name.as_str(), template.source.as_str()))
    }

    /// `chat_template` as tokenizer_config.json has it: a text, or a list where there are several or none is the default.
    pub fn to_config(&self) -> Value {
        match &self.named[..] {
            [only] if only.name == DEFAULT => only.source.as_str().into(),
            several => several.iter().map(|t| json!({"name": t.name, "template": t.source})).collect(),
        }
    }
}
