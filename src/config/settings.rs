//! The settings of a run and their defaults.

use serde::{Deserialize, Serialize};

use crate::loss::Aggregation;
use crate::loss::grpo::GrpoLoss;
use crate::ops::sample::Sampling;
use crate::optimizer::{AdamWConfig, Decay, Schedule};
use crate::reward::RewardSettings;

/// All settings of a run. Each stage reads its own section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub run: RunSettings,
    pub model: ModelSettings,
    pub data: DataSettings,
    pub sft: SftSettings,
    pub rl: RlSettings,
    pub reward: RewardSettings,
    pub eval: EvalSettings,
}

/// `[run]`: what every stage shares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Folder of the run; empty: `runs/` followed by the stage's name.
    pub out: String,
    pub seed: u64,
    /// Threads; 0: all cores.
    pub threads: usize,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// How many checkpoints to keep; older ones are deleted.
    pub keep_checkpoints: usize,
    /// The run stops after this many consecutive steps whose loss or gradient is not finite.
    pub patience: u32,
    /// The type that the trained model's weights are written as: `source` (each as it was read; f32 for random weights), `f32` or
    /// `bf16`.
    pub export_dtype: ExportDtype,
    /// Rows of logits that the LM head computes at a time. It changes memory and speed, and on CUDA the order of sums, so a
    /// resume takes it from the run's config.toml on every GPU. 0: chosen at the start, from the device's total memory.
    pub lm_head_chunk_rows: usize,
}

/// The type that weights are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    Source,
    F32,
    Bf16,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            out: String::new(),
            seed: 0,
            threads: 0,
            checkpoint_every: 100,
            keep_checkpoints: 2,
            patience: 5,
            export_dtype: ExportDtype::Source,
            lm_head_chunk_rows: 0,
        }
    }
}

/// `[model]`: the model to start from, and its tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// A Hugging Face directory of a Qwen3 model (config.json, safetensors, tokenizer.json).
    pub path: String,
    /// Random weights of a named shape instead of those in `path` (nano, mini, 0.6b … 32b).
    pub init: String,
    /// Directory of the tokenizer; empty: `path`.
    pub tokenizer: String,
    /// The longest sequence, prompt and answer together; at most the model's own limit.
    pub context: usize,
    /// Whether the model may think before it answers (Qwen3's `enable_thinking`).
    pub thinking: bool,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { path: String::new(), init: String::new(), tokenizer: String::new(), context: 8192, thinking: false }
    }
}

/// `[data]`: training rows, and how they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// Files of training rows.
    pub train: Vec<String>,
    /// The task of rows that have none.
    pub task: String,
    /// TOML file with the judge's prompt and rubrics; empty: the built-in one.
    pub rubrics: String,
    /// Count and skip bad rows instead of stopping at the first one.
    pub skip_bad: bool,
    /// The fraction of labels to swap at random, for experiments with noise.
    pub flip: f64,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self { train: Vec::new(), task: "chat".into(), rubrics: String::new(), skip_bad: false, flip: 0.0 }
    }
}

/// `[sft]`: supervised fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// `messages`: conversations, with a loss on the assistant's text; `chosen`: preference pairs, with a loss on the chosen
    /// response.
    pub target: String,
    pub steps: u64,
    pub examples_per_step: usize,
    /// Longer examples are dropped and counted.
    pub max_length: usize,
    /// Tokens of a micro-batch. It changes memory, speed and rounding.
    pub micro_batch_tokens: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    pub decay: Decay,
    /// The final learning rate, as a fraction of its peak.
    pub floor: f64,
    pub adamw: AdamWConfig,
}

impl Default for SftSettings {
    fn default() -> Self {
        Self {
            target: "messages".into(),
            steps: 1000,
            examples_per_step: 32,
            max_length: 4096,
            micro_batch_tokens: 8192,
            learning_rate: 1e-5,
            warmup: 20,
            decay: Decay::Cosine,
            floor: 0.1,
            adamw: AdamWConfig::default(),
        }
    }
}

impl SftSettings {
    /// The learning rate of each step of this stage.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            warmup: self.warmup,
            decay: self.decay,
            total: self.steps,
            floor: self.floor,
        }
    }
}

/// GRPO on the Preference-Aware Reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlSettings {
    pub steps: u64,
    /// Pairs of a rollout batch.
    pub pairs_per_step: usize,
    /// Judgements of each response (n).
    pub rollouts: usize,
    /// Updates for each rollout batch: its pairs are split into this many parts.
    pub updates_per_step: usize,
    pub temperature: f32,
    /// Pairs with a longer prompt on either side are dropped and counted.
    pub max_prompt_tokens: usize,
    pub max_new_tokens: usize,
    /// The most completions that decode at the same time (fewer for a small model on the CPU). It changes only memory and speed.
    pub max_running: usize,
    /// Tokens of a micro-batch. It changes memory, speed and rounding.
    pub micro_batch_tokens: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    pub decay: Decay,
    /// The final learning rate, as a fraction of its peak.
    pub floor: f64,
    pub adamw: AdamWConfig,
    pub policy: GrpoLoss,
    pub aggregation: Aggregation,
    /// Sample new pairs for groups whose rewards are all equal (dynamic sampling of DAPO), up to this many times; 0: off.
    pub resample: usize,
    /// Judgements written to samples.jsonl each step.
    pub samples_per_step: usize,
}

impl Default for RlSettings {
    fn default() -> Self {
        Self {
            steps: 300,
            pairs_per_step: 32,
            rollouts: 8,
            updates_per_step: 1,
            temperature: 1.0,
            max_prompt_tokens: 4096,
            max_new_tokens: 2048,
            max_running: 128,
            micro_batch_tokens: 16_384,
            learning_rate: 1e-6,
            warmup: 5,
            decay: Decay::Constant,
            floor: 0.0,
            adamw: AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() },
            policy: GrpoLoss::default(),
            aggregation: Aggregation::TokenMean,
            resample: 0,
            samples_per_step: 4,
        }
    }
}

impl RlSettings {
    /// The learning rate of each step of this stage.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            warmup: self.warmup,
            decay: self.decay,
            total: self.steps,
            floor: self.floor,
        }
    }

    /// Rollouts are sampled at the temperature alone: with a filter they would not be draws from the policy.
    pub fn sampling(&self) -> Sampling {
        Sampling::temperature(self.temperature)
    }
}

/// `[eval]`: evaluation on held-out pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSettings {
    /// Held-out pairs.
    pub pairs: usize,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self { pairs: 400 }
    }
}
