//! A tokenizer's folder: tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
//! additional_chat_templates/, generation_config.json.

use std::path::Path;

use serde_json::{Map, Value};

use super::templates::{DEFAULT, Templates};
use super::{CHAT_TEMPLATE, Inner, Parts, Tokenizer, TokenizerError};
use crate::file::write_atomically;
use crate::tensor::safetensors::{LFS_POINTER, is_lfs_pointer};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const MORE_TEMPLATES: &str = "additional_chat_templates";
const GENERATION: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";

impl Tokenizer {
    /// Reads a model's folder. It must contain tokenizer.json, and an `eos_token` in tokenizer_config.json (or in the older
    /// special_tokens_map.json). Templates in files take precedence over those in tokenizer_config.json. If there are none,
    /// our template is used, provided that the vocabulary has its control tokens; without any, chats cannot be rendered.
    /// Without a `pad_token`, the eos token pads.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join(TOKENIZER);
        let bytes = std::fs::read(&path).map_err(|error| TokenizerError::Io { path: path.clone(), error })?;
        if is_lfs_pointer(&bytes) {
            return Err(TokenizerError::File { path, reason: LFS_POINTER.into() });
        }
        let inner = Inner::from_bytes(&bytes)
            .map_err(|error| TokenizerError::File { path, reason: format!("is not a tokenizer: {error}") })?;
        let config = read_object(&dir.join(CONFIG))?.unwrap_or_default();
        let special_tokens = special_tokens(&config, &read_object(&dir.join(SPECIAL))?.unwrap_or_default());
        let named = |name: &str| special_tokens.get(name).and_then(Value::as_str).map(str::to_string);
        let eos_token = named("eos_token").ok_or_else(|| TokenizerError::File {
            path: dir.join(CONFIG),
            reason: "expected eos_token, a string or {\"content\": string}; add it".to_string(),
        })?;
        let pad_token = named("pad_token").unwrap_or_else(|| eos_token.clone());
        let mut templates = templates_of_files(dir)?;
        if templates.is_empty() {
            templates = templates_of_config(&config)
                .map_err(|reason| TokenizerError::File { path: dir.join(CONFIG), reason })?;
        }
        if templates.is_empty() && ["<|im_start|>", "<|im_end|>"].iter().all(|token| inner.token_to_id(token).is_some())
        {
            templates = Templates::one(CHAT_TEMPLATE.to_string());
        }
        // Where generation_config.json does not say what ends a text, the model's config.json does.
        let mut more_eos_ids = Vec::new();
        for file in [GENERATION, MODEL_CONFIG] {
            if more_eos_ids.is_empty() {
                more_eos_ids = eos_ids_of(&read_object(&dir.join(file))?.unwrap_or_default());
            }
        }
        Parts { inner, templates, special_tokens, more_eos_ids, config }.assemble(&eos_token, &pad_token)
    }

    /// Writes tokenizer.json, tokenizer_config.json and the chat templates so that transformers' AutoTokenizer and
    /// [`Self::from_dir`] read the same tokenizer. It keeps the class and all other settings that were loaded, creates the
    /// folder if necessary, and writes each file atomically.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        std::fs::create_dir_all(dir).map_err(|error| TokenizerError::Io { path: dir.into(), error })?;
        let json = self.inner.to_string(true).map_err(|error| TokenizerError::Tokens(error.to_string()))?;
        write_file(dir, TOKENIZER, &json)?;
        let config = serde_json::to_string_pretty(&self.saved_config())
            .map_err(|error| TokenizerError::Tokens(error.to_string()))?;
        write_file(dir, CONFIG, &(config + "\n"))?;
        for (name, source) in self.templates.sources() {
            if name == DEFAULT {
                write_file(dir, TEMPLATE, source)?;
            } else {
                let folder = dir.join(MORE_TEMPLATES);
                std::fs::create_dir_all(&folder).map_err(|error| TokenizerError::Io { path: folder.clone(), error })?;
                write_file(&folder, &format!("{name}.jinja"), source)?;
            }
        }
        Ok(())
    }

    /// The loaded configuration, or a small one. It includes the templates, for readers that do not know the template files.
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
        if !self.templates.is_empty() {
            config.insert("chat_template".to_string(), self.templates.to_config());
        }
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

/// The tokens that the configuration names (`bos_token`, `image_token`, …), then those that only the older file names. A token
/// is a string or an object with `content`; null means the same as no setting. Templates do not see tokens without a name
/// (`additional_special_tokens`), as in transformers 5.
fn special_tokens(config: &Map<String, Value>, older: &Map<String, Value>) -> Map<String, Value> {
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string);
    let named = ["extra_special_tokens", "model_specific_special_tokens"];
    let more = named.into_iter().filter_map(|name| config.get(name)?.as_object()).flatten();
    let mut tokens = Map::new();
    for (name, value) in config.iter().chain(older).filter(|(name, _)| name.ends_with("_token")).chain(more) {
        if let Some(token) = text(value) {
            tokens.entry(name.clone()).or_insert(token.into());
        }
    }
    tokens
}

/// chat_template.jinja, and NAME.jinja in additional_chat_templates/.
fn templates_of_files(dir: &Path) -> Result<Templates, TokenizerError> {
    let mut templates = Templates::default();
    if let Some(source) = read_text(&dir.join(TEMPLATE))? {
        templates.insert(DEFAULT, source);
    }
    let Ok(entries) = std::fs::read_dir(dir.join(MORE_TEMPLATES)) else { return Ok(templates) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jinja")) {
        if let (Some(name), Some(source)) = (path.file_stem().and_then(|name| name.to_str()), read_text(path)?) {
            templates.insert(name, source);
        }
    }
    Ok(templates)
}

/// `chat_template`: a text, or named templates as an object or as a list of objects, in which the one for chats is named
/// `default`. Null means the same as no setting; anything else is refused, for ours would stand in its place.
fn templates_of_config(config: &Map<String, Value>) -> Result<Templates, String> {
    const EXPECTED: &str = "expected a template, or templates by name";
    let mut templates = Templates::default();
    match config.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => templates = Templates::one(source.clone()),
        Some(Value::Object(named)) => {
            for (name, source) in named {
                insert_named(&mut templates, &format!("chat_template.{name}"), Some(name), Some(source))?;
            }
        }
        Some(Value::Array(entries)) => {
            for (index, entry) in entries.iter().enumerate() {
                let key = format!("chat_template[{index}]");
                let name = entry.get("name").and_then(Value::as_str);
                insert_named(&mut templates, &key, name, entry.get("template"))?;
            }
        }
        Some(other) => return Err(format!("chat_template: {EXPECTED}, got {}", shown(other))),
    }
    if templates.is_empty() && config.get("chat_template").is_some_and(|value| !value.is_null()) {
        return Err(format!("chat_template: {EXPECTED}, got none"));
    }
    Ok(templates)
}

/// Adds a template by its name, which becomes a file's name when the tokenizer is saved.
fn insert_named(
    templates: &mut Templates,
    key: &str,
    name: Option<&str>,
    source: Option<&Value>,
) -> Result<(), String> {
    let name = name.ok_or_else(|| format!("{key}: expected an object with the texts name and template"))?;
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(format!("{key}: expected a name that can be a file's, got {name:?}"));
    }
    match source {
        Some(Value::String(source)) => templates.insert(name, source.clone()),
        Some(other) => return Err(format!("{key}: expected the text of a template, got {}", shown(other))),
        None => return Err(format!("{key}: expected an object with the texts name and template")),
    }
    Ok(())
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).collect::<String>() + "…" } else { text }
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
