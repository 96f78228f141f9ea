//! A tokenizer's folder: tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.

use std::path::Path;

use serde_json::{Map, Value};

use super::{CHAT_TEMPLATE, Inner, Tokenizer, TokenizerError};
use crate::file::write_atomically;
use crate::tensor::safetensors::{LFS_POINTER, is_lfs_pointer};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";

impl Tokenizer {
    /// Reads a model's folder. It must contain tokenizer.json, and tokenizer_config.json with an `eos_token`. A
    /// chat_template.jinja takes precedence over the template in tokenizer_config.json. If there is neither, our template is
    /// used, provided that the vocabulary has its control tokens. Without a `pad_token`, the eos token pads.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join(TOKENIZER);
        let bytes = std::fs::read(&path).map_err(|error| TokenizerError::Io { path: path.clone(), error })?;
        if is_lfs_pointer(&bytes) {
            return Err(TokenizerError::File { path, reason: LFS_POINTER.into() });
        }
        let inner = Inner::from_bytes(&bytes)
            .map_err(|error| TokenizerError::File { path, reason: format!("is not a tokenizer: {error}") })?;
        let config = read_object(&dir.join(CONFIG))?.unwrap_or_default();
        let eos_token = token_text(&config, "eos_token").ok_or_else(|| TokenizerError::File {
            path: dir.join(CONFIG),
            reason: "expected eos_token, a string or {\"content\": string}; add it".to_string(),
        })?;
        let pad_token = token_text(&config, "pad_token").unwrap_or_else(|| eos_token.clone());
        let template = match read_text(&dir.join(TEMPLATE))? {
            Some(text) => text,
            None => {
                template_of_config(&config).or_else(|| our_template(&inner)).ok_or_else(|| TokenizerError::File {
                    path: dir.join(TEMPLATE),
                    reason: "there is no chat template, neither here nor in tokenizer_config.json, and the vocabulary \
                             lacks <|im_start|> and <|im_end|>; add a template"
                        .to_string(),
                })?
            }
        };
        // Where generation_config.json does not say what ends a text, the model's config.json does.
        let mut more_eos_ids = Vec::new();
        for file in [GENERATION, MODEL_CONFIG] {
            if more_eos_ids.is_empty() {
                more_eos_ids = eos_ids_of(&read_object(&dir.join(file))?.unwrap_or_default());
            }
        }
        Self::assemble(inner, template, &eos_token, &pad_token, &more_eos_ids, config)
    }

    /// Writes tokenizer.json, tokenizer_config.json and chat_template.jinja so that transformers' AutoTokenizer and
    /// [`Self::from_dir`] read the same tokenizer. It keeps the class and all other settings that were loaded, creates the
    /// folder if necessary, and writes each file atomically.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        std::fs::create_dir_all(dir).map_err(|error| TokenizerError::Io { path: dir.into(), error })?;
        let json = self.inner.to_string(true).map_err(|error| TokenizerError::Tokens(error.to_string()))?;
        write_file(dir, TOKENIZER, &json)?;
        let config = serde_json::to_string_pretty(&self.saved_config())
            .map_err(|error| TokenizerError::Tokens(error.to_string()))?;
        write_file(dir, CONFIG, &(config + "\n"))?;
        write_file(dir, TEMPLATE, &self.template.source)
    }

    /// The loaded configuration, or a small one. It includes the template, for readers that do not know the template file.
    fn saved_config(&self) -> Map<String, Value> {
        let mut config = self.config.clone();
        let class = || Value::from("PreTrainedTokenizerFast");
        config.entry("tokenizer_class").or_insert_with(class);
        config.entry("clean_up_tokenization_spaces").or_insert(Value::from(false));
        config.entry("eos_token").or_insert_with(|| self.eos_token.as_str().into());
        let pad = config.entry("pad_token").or_insert(Value::Null);
        if pad.is_null() {
            *pad = self.pad_token.as_str().into();
        }
        config.insert("chat_template".to_string(), self.template.source.as_str().into());
        config
    }
}

/// The file's text; `None` if the file does not exist.
fn read_text(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TokenizerError::Io { path: path.into(), error }),
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| TokenizerError::File { path: path.into(), reason: format!("is not a JSON object: {error}") })
}

/// A token setting is a string or an object with `content`; null means the same as no setting.
fn token_text(config: &Map<String, Value>, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// `chat_template` is a string, or a list of named templates, in which the one for chats is named `default`.
fn template_of_config(config: &Map<String, Value>) -> Option<String> {
    let value = config.get("chat_template")?;
    let named = || {
        let is_default = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
        value.as_array()?.iter().find(is_default)?.get("template")?.as_str()
    };
    value.as_str().or_else(named).map(str::to_string)
}

fn our_template(inner: &Inner) -> Option<String> {
    let has = |token: &str| inner.token_to_id(token).is_some();
    (has("<|im_start|>") && has("<|im_end|>")).then(|| CHAT_TEMPLATE.to_string())
}

/// `eos_token_id` of generation_config.json or config.json: one id or a list.
fn eos_ids_of(generation: &Map<String, Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match generation.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn write_file(dir: &Path, name: &str, text: &str) -> Result<(), TokenizerError> {
    write_atomically(&dir.join(name), text.as_bytes())
        .map_err(|error| TokenizerError::Io { path: dir.join(name), error })
}
