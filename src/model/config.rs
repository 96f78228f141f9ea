//! config.json of a Qwen3 checkpoint: what we read, what we refuse, what we write.

use std::path::Path;

use serde_json::{Value, json};

/// The shape of a dense Qwen3 model. Names are those of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Qwen3Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
    pub rms_norm_eps: f32,
    pub initializer_range: f32,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

/// A config.json that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct ConfigError {
    pub file: String,
    pub reason: String,
}

/// Shapes known by name: vocab, hidden, layers, query heads, kv heads, head_dim, intermediate, tied.
const SHAPES: [(&str, [usize; 7], bool); 8] = [
    ("nano", [512, 128, 4, 4, 2, 32, 384], true),
    ("mini", [8192, 512, 8, 8, 4, 64, 1536], true),
    ("0.6b", [151_936, 1024, 28, 16, 8, 128, 3072], true),
    ("1.7b", [151_936, 2048, 28, 16, 8, 128, 6144], true),
    ("4b", [151_936, 2560, 36, 32, 8, 128, 9728], true),
    ("8b", [151_936, 4096, 36, 32, 8, 128, 12_288], false),
    ("14b", [151_936, 5120, 40, 40, 8, 128, 17_408], false),
    ("32b", [151_936, 5120, 64, 64, 8, 128, 25_600], false),
];

impl Qwen3Config {
    /// A shape by name (`nano`, `mini`, `0.6b` … `32b`).
    pub fn named(name: &str) -> Option<Self> {
        let (_, [vocab, hidden, layers, heads, kv, head_dim, inter], tied) =
            *SHAPES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))?;
        Some(Self {
            vocab_size: vocab,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            intermediate_size: inter,
            tie_word_embeddings: tied,
            max_position_embeddings: 40_960,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            initializer_range: 0.02,
            eos_token_id: None,
            pad_token_id: None,
        })
    }

    /// Names that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|(name, ..)| *name)
    }

    /// Reads config.json; refuses what this code does not compute.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError { file: path.display().to_string(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| error(format!("is not JSON: {e}")))?;
        let config = Self::from_json(&value).map_err(error)?;
        config.validate().map_err(error)?;
        Ok(config)
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let count = |key: &str| {
            value[key]
                .as_u64()
                .map(|n| n as usize)
                .ok_or_else(|| format!("`{key}` must be a whole number, got {}", value[key]))
        };
        let expect = |key: &str, wanted: &[Value]| {
            if value[key].is_null() || wanted.contains(&value[key]) {
                Ok(())
            } else {
                Err(format!("`{key}` is {}, and only {wanted:?} is supported", value[key]))
            }
        };
        expect("model_type", &[json!("qwen3")])?;
        expect("hidden_act", &[json!("silu")])?;
        expect("attention_bias", &[json!(false)])?;
        expect("use_sliding_window", &[json!(false)])?;
        // transformers 5 moved rope_theta and rope_scaling into rope_parameters.
        let rope =
            if value["rope_parameters"].is_object() { &value["rope_parameters"] } else { &value["rope_scaling"] };
        let rope_type = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
        if rope_type != "default" {
            return Err(format!(
                "rope type `{rope_type}` is not supported; remove rope_scaling to use the native context"
            ));
        }
        let heads = count("num_attention_heads")?;
        let hidden = count("hidden_size")?;
        let token = |key: &str| match &value[key] {
            Value::Array(ids) => ids.first().and_then(Value::as_u64),
            id => id.as_u64(),
        };
        Ok(Self {
            vocab_size: count("vocab_size")?,
            hidden_size: hidden,
            num_hidden_layers: count("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: if value["num_key_value_heads"].is_null() {
                heads
            } else {
                count("num_key_value_heads")?
            },
            head_dim: if value["head_dim"].is_null() { hidden / heads.max(1) } else { count("head_dim")? },
            intermediate_size: count("intermediate_size")?,
            tie_word_embeddings: value["tie_word_embeddings"].as_bool().unwrap_or(false),
            max_position_embeddings: value["max_position_embeddings"].as_u64().unwrap_or(32_768) as usize,
            rope_theta: value["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(1e6),
            rms_norm_eps: value["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
            initializer_range: value["initializer_range"].as_f64().unwrap_or(0.02) as f32,
            eos_token_id: token("eos_token_id").map(|id| id as u32),
            pad_token_id: token("pad_token_id").map(|id| id as u32),
        })
    }

    fn validate(&self) -> Result<(), String> {
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if n == 0 || n > 1 << 24 {
                return Err(format!("`{key}` must be between 1 and {}, got {n}", 1 << 24));
            }
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(16) || self.head_dim > 1 << 12 {
            return Err(format!("`head_dim` must be a multiple of 16, got {}", self.head_dim));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (q, kv) = (self.num_attention_heads, self.num_key_value_heads);
            return Err(format!("`num_attention_heads` ({q}) must be a multiple of `num_key_value_heads` ({kv})"));
        }
        Ok(())
    }

    /// The same as config.json, as transformers reads it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "use_sliding_window": false,
            "use_cache": true,
            "rope_scaling": null,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            // Through text, so that 1e-6 is written as 1e-6.
            "rms_norm_eps": self.rms_norm_eps.to_string().parse::<f64>().unwrap_or(1e-6),
            "initializer_range": self.initializer_range.to_string().parse::<f64>().unwrap_or(0.02),
            "torch_dtype": "float32",
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "bos_token_id": null,
        })
    }

    /// Columns of the query projection.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Columns of the key projection, and of the value projection.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Columns of the fused query, key and value projection.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_shape_survives_a_round_trip_through_json() {
        for name in Qwen3Config::names() {
            let config = Qwen3Config::named(name).unwrap();
            config.validate().unwrap();
            assert_eq!(Qwen3Config::from_json(&config.to_json()).unwrap(), config, "{name}");
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let good = Qwen3Config::named("nano").unwrap().to_json();
        for (key, bad) in [
            ("model_type", json!("llama")),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({"rope_type": "yarn"})),
            ("hidden_size", json!("many")),
        ] {
            let mut value = good.clone();
            value[key] = bad;
            let reason = Qwen3Config::from_json(&value).unwrap_err();
            assert!(reason.contains(key.trim_end_matches("_scaling")), "{key}: {reason}");
        }
        let mut odd = Qwen3Config::named("nano").unwrap();
        odd.head_dim = 24;
        assert!(odd.validate().unwrap_err().contains("head_dim"));
    }
}
