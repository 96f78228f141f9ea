//! config.json of a Qwen3 checkpoint: what we read, what we refuse, what we write.

pub(super) mod keys;
mod rope;

use serde_json::{Map, Value, json};

use super::rope::{POSITIONS_MAX, Rope, RopeScaling};
use keys::{Keys, short};
use rope::read_rope;

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
    pub rope: Rope,
    pub rms_norm_eps: f32,
    pub initializer_range: f32,
}

/// More layers or parameters are a mistake, and no memory holds them.
const LAYERS_MAX: usize = 1 << 12;
const PARAMETERS_MAX: u128 = 1 << 40;

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
            rope: Rope::new(1e6),
            rms_norm_eps: 1e-6,
            initializer_range: 0.02,
        })
    }

    /// Names that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|(name, ..)| *name)
    }

    /// The model that a config.json describes, with the defaults of transformers' Qwen3Config; what this code does not compute
    /// is refused by name. `notes` gets what is read as transformers reads it and may surprise.
    pub fn from_json(json: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Self, String> {
        let keys = Keys::new(json, "");
        refuse_what_is_not_computed(keys)?;
        for (key, several) in [("bos_token_id", false), ("pad_token_id", false), ("eos_token_id", true)] {
            keys.check_token_ids(key, several)?;
        }
        let count = |key: &str, otherwise: usize| Ok::<_, String>(keys.count(key)?.unwrap_or(otherwise));
        let single = |key: &str, otherwise: f64| Ok::<_, String>(keys.number(key)?.unwrap_or(otherwise) as f32);
        let num_attention_heads = count("num_attention_heads", 32)?;
        let as_many_as_queries = json.get("num_key_value_heads").is_some_and(Value::is_null);
        let max_position_embeddings = count("max_position_embeddings", 32_768)?;
        check_size("max_position_embeddings", max_position_embeddings)?;
        let config = Self {
            vocab_size: count("vocab_size", 151_936)?,
            hidden_size: count("hidden_size", 4096)?,
            num_hidden_layers: count("num_hidden_layers", 32)?,
            num_attention_heads,
            num_key_value_heads: match as_many_as_queries {
                true => num_attention_heads,
                false => count("num_key_value_heads", 32)?,
            },
            head_dim: count("head_dim", 128)?,
            intermediate_size: count("intermediate_size", 22_016)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            max_position_embeddings,
            rope: read_rope(keys, max_position_embeddings, notes)?,
            rms_norm_eps: single("rms_norm_eps", 1e-6)?,
            initializer_range: single("initializer_range", 0.02)?,
        };
        config.validate()?;
        if let Some(dropout) = keys.number_or_null("attention_dropout")?.filter(|dropout| *dropout != 0.0) {
            notes.push(format!("`attention_dropout` is {dropout}: training here drops nothing"));
        }
        Ok(config)
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
            check_size(key, n)?;
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(16) || self.head_dim > 1 << 12 {
            return Err(format!("`head_dim` must be a multiple of 16 up to {}, got {}", 1 << 12, self.head_dim));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (q, kv) = (self.num_attention_heads, self.num_key_value_heads);
            return Err(format!(
                "`num_attention_heads` ({q}) must be a multiple of `num_key_value_heads` ({kv}; 32 where config.json gives none)"
            ));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(format!("`rms_norm_eps` must be a positive number of f32, got {}", self.rms_norm_eps));
        }
        if !(self.initializer_range >= 0.0 && self.initializer_range.is_finite()) {
            return Err(format!("`initializer_range` must not be negative, got {}", self.initializer_range));
        }
        if self.rope.frequencies(self.head_dim).iter().any(|frequency| !frequency.is_finite()) {
            return Err("the numbers of RoPE give frequencies that are not finite".into());
        }
        let parameters = self.parameters();
        if self.num_hidden_layers > LAYERS_MAX || parameters > PARAMETERS_MAX {
            return Err(format!(
                "`vocab_size` {} × `hidden_size` {} and `num_hidden_layers` {} with `intermediate_size` {} are {parameters} \
                 parameters, {:.0} GB in f32: more than {LAYERS_MAX} layers or {PARAMETERS_MAX} parameters are no model",
                self.vocab_size,
                self.hidden_size,
                self.num_hidden_layers,
                self.intermediate_size,
                parameters as f64 * 4e-9,
            ));
        }
        Ok(())
    }

    /// Weights of all layers, the embedding and the LM head; cannot overflow for any sizes that [`from_json`](Self::from_json)
    /// takes.
    pub fn parameters(&self) -> u128 {
        let [vocab, hidden, layers, intermediate, head_dim, q, kv] = [
            self.vocab_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.intermediate_size,
            self.head_dim,
            self.q_dim(),
            self.kv_dim(),
        ]
        .map(|n| n as u128);
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        let layer = hidden * (2 * q + 2 * kv + 3 * intermediate + 2) + 2 * head_dim;
        embeddings * vocab * hidden + layers * layer + hidden
    }

    /// The longest text: `max_position_embeddings`, or what the scaling of RoPE makes of it.
    pub fn context(&self) -> usize {
        self.rope.context(self.max_position_embeddings)
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
            "rope_scaling": rope_to_json(&self.rope),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope.theta,
            // Through text, so that 1e-6 is written as 1e-6.
            "rms_norm_eps": self.rms_norm_eps.to_string().parse::<f64>().unwrap_or(1e-6),
            "initializer_range": self.initializer_range.to_string().parse::<f64>().unwrap_or(0.02),
            "torch_dtype": "float32",
            "eos_token_id": null,
            "pad_token_id": null,
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

/// Sizes of which products cannot overflow, and positions that f32 counts.
fn check_size(key: &str, n: usize) -> Result<(), String> {
    if (1..=POSITIONS_MAX).contains(&n) {
        return Ok(());
    }
    Err(format!("`{key}` must be between 1 and {POSITIONS_MAX}, got {n}"))
}

/// An error for another model than a dense Qwen3 that writes, and for what transformers would compute in another way.
fn refuse_what_is_not_computed(keys: Keys<'_>) -> Result<(), String> {
    match keys.text("model_type")? {
        Some("qwen3") => {}
        Some(other) => {
            return Err(format!("`model_type` is {}, and only \"qwen3\" is supported", short(&other.into())));
        }
        None => return Err("`model_type` is missing; expected \"qwen3\"".into()),
    }
    let architectures = keys.texts("architectures")?.unwrap_or_default();
    if !architectures.is_empty() && !architectures.iter().any(|name| ["Qwen3ForCausalLM", "Qwen3Model"].contains(name))
    {
        return Err(format!(
            "`architectures` is {}, and only Qwen3ForCausalLM is supported: a model with another head does not write text",
            short(&architectures.into())
        ));
    }
    if keys.has("quantization_config") {
        let method = &keys.map["quantization_config"]["quant_method"];
        return Err(format!(
            "`quantization_config` (quant_method {}): quantized weights are not supported; take the model in bf16",
            short(method)
        ));
    }
    match keys.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(format!("`hidden_act` is {}, and only \"silu\" is supported", short(&other.into()))),
    }
    if keys.flag("attention_bias")? == Some(true) {
        return Err(
            "`attention_bias` is true: projections with a bias are not supported, and no released Qwen3 has them"
                .into(),
        );
    }
    if keys.flag("use_sliding_window")? == Some(true) {
        return Err(
            "`use_sliding_window` is true: sliding windows are not supported, and every layer would see all tokens"
                .into(),
        );
    }
    let layers = keys.texts("layer_types")?.unwrap_or_default();
    if let Some(other) = layers.iter().find(|kind| **kind != "full_attention") {
        return Err(format!("`layer_types` names {}, and only full_attention is supported", short(&(*other).into())));
    }
    let expected = keys.count("num_hidden_layers")?.unwrap_or(32);
    if keys.has("layer_types") && layers.len() != expected {
        return Err(format!("`layer_types` has {} entries for `num_hidden_layers` = {expected}", layers.len()));
    }
    Ok(())
}

/// `rope_scaling` of config.json.
fn rope_to_json(rope: &Rope) -> Value {
    match &rope.scaling {
        RopeScaling::Default => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Yarn(yarn) => json!({
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_context,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "attention_factor": yarn.attention_factor,
            "truncate": yarn.truncate,
        }),
        RopeScaling::Llama3(llama3) => json!({
            "rope_type": "llama3",
            "factor": llama3.factor,
            "original_max_position_embeddings": llama3.original_context,
            "low_freq_factor": llama3.low_freq_factor,
            "high_freq_factor": llama3.high_freq_factor,
        }),
    }
}

#[cfg(test)]
mod tests;
