//! What a model directory says beside its weights: an export writes it back, and changes only what training changed.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Qwen3Config;
use super::config::keys::Keys;
use super::directory::{DirectoryError, error, read_object};
use crate::tensor::DType;

pub(super) const GENERATION: &str = "generation_config.json";

/// config.json and generation_config.json with all their keys, and the types of the tensors.
#[derive(Clone, Debug)]
pub struct Description {
    pub config: Map<String, Value>,
    pub generation: Map<String, Value>,
    /// The type of each parameter in the files, in the order of the table; empty: f32.
    types: Vec<DType>,
}

impl Description {
    /// Of a model that no directory describes, written as f32.
    pub fn new(config: &Qwen3Config) -> Self {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let generation = json!({ "do_sample": true, "temperature": 1.0, "eos_token_id": null, "pad_token_id": null });
        Self { config: object(config.to_json()), generation: object(generation), types: Vec::new() }
    }

    /// The same, with the tokens of its tokenizer.
    pub fn with_tokens(config: &Qwen3Config, eos: u32, pad: u32) -> Self {
        let mut description = Self::new(config);
        for object in [&mut description.config, &mut description.generation] {
            object.insert("eos_token_id".into(), eos.into());
            object.insert("pad_token_id".into(), pad.into());
        }
        description
    }

    /// Of a directory whose config.json is `config`. Without a generation_config.json, its token ids are those of config.json, as
    /// in transformers.
    pub(super) fn read(
        directory: &Path,
        config: Map<String, Value>,
        types: Vec<DType>,
    ) -> Result<Self, DirectoryError> {
        let file = directory.join(GENERATION);
        let generation = match read_object(&file)? {
            Some(generation) => generation,
            None => {
                let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
                let kept = ids.iter().filter_map(|key| Some((key.to_string(), config.get(*key)?.clone())));
                kept.filter(|(_, id)| !id.is_null()).collect()
            }
        };
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let ids = Keys::new(&generation, "").check_token_ids(key, key == "eos_token_id");
            ids.map_err(|reason| error(&file, reason))?;
        }
        Ok(Self { config, generation, types })
    }

    /// The type that parameter `index` of the table is written as, unless another is asked for. f64 is read, not written.
    pub(super) fn dtype(&self, index: usize) -> DType {
        match self.types.get(index) {
            Some(DType::F64) | None => DType::F32,
            Some(dtype) => *dtype,
        }
    }

    /// The ids that end a text: those of generation_config.json, or of config.json where that names none.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = |object| ids_of(object).iter().filter_map(id).collect::<Vec<u32>>();
        Some(ids(&self.generation)).filter(|ids| !ids.is_empty()).unwrap_or_else(|| ids(&self.config))
    }

    /// Names every id of `stop` in generation_config.json: a judge ends its text where it was trained to end it. What is there
    /// keeps its place and, where nothing is added, its form.
    pub fn add_stop_tokens(&mut self, stop: &[u32]) {
        let before = ids_of(&self.generation);
        let mut ids = before.clone();
        ids.extend(stop.iter().map(|id| Value::from(*id)).filter(|id| !before.contains(id)));
        if ids.len() > before.len() {
            let ids = if ids.len() == 1 { ids.remove(0) } else { ids.into() };
            self.generation.insert("eos_token_id".into(), ids);
        }
    }

    /// config.json of an export: all weights of this model, as `dtype` where that was asked for.
    pub(super) fn exported_config(&self, dtype: Option<DType>) -> Map<String, Value> {
        let mut config = self.config.clone();
        // An export has a head, also where the directory held a model without one.
        let with_head = Value::from("Qwen3ForCausalLM");
        let names = config.get("architectures").and_then(Value::as_array);
        if !names.is_some_and(|names| names.contains(&with_head)) {
            config.insert("architectures".into(), json!([with_head]));
        }
        let dtype = dtype.or_else(|| self.types.contains(&DType::F64).then_some(DType::F32));
        if let Some(dtype) = dtype {
            let name = match dtype {
                DType::F16 => "float16",
                DType::Bf16 => "bfloat16",
                _ => "float32",
            };
            // transformers 5 says `dtype`.
            let keys: Vec<&str> =
                ["torch_dtype", "dtype"].into_iter().filter(|key| config.contains_key(*key)).collect();
            for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
                config.insert(key.into(), name.into());
            }
        }
        config
    }
}

/// `eos_token_id`: one id or a list.
fn ids_of(object: &Map<String, Value>) -> Vec<Value> {
    match object.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(id) => vec![id.clone()],
    }
}
