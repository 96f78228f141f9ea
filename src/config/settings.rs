//! The settings of a run and their defaults.

use serde::{Deserialize, Serialize};

use crate::judge::{JudgeForm, JudgeMode};
use crate::loss::Aggregation;
use crate::loss::grpo::GrpoLoss;
use crate::memory::parse_bytes;
use crate::model::{Qwen3Config, Recompute};
use crate::ops::sample::{Sampling, TEMPERATURE_MAX, TEMPERATURE_MIN};
use crate::ops::score_margin::{AdvantageNorm, ROLLOUTS_MAX};
use crate::optimizer::{AdamWConfig, Decay, Schedule};
use crate::reward::RewardSettings;
use crate::setting::{Finding, Relations, Rule, Severity, count, number, one_of, section};

/// The most steps, and what counts like them.
const STEPS_MAX: i64 = 1_000_000_000;
/// The most rows of one step.
const ROWS_MAX: i64 = 1_000_000;
/// The most tokens of a sequence or a micro-batch.
pub const TOKENS_MAX: i64 = 1 << 24;
/// Tokens of a sequence.
pub const TOKENS: Rule = count(1, TOKENS_MAX);
/// A learning rate above 0.
const RATE: Rule = number(1e-30, 1.0);
/// Completions at the same time.
pub const RUNNING: Rule = count(1, 65_536);
/// Threads. How many a machine takes depends on its cores, and is checked where they are started.
pub const THREADS: Rule = count(0, 1_000_000_000);
/// A seed is kept in a TOML file, whose integers have 63 bits and a sign.
pub const SEED: Rule = count(0, i64::MAX);
/// A share of rows.
pub const SHARE: Rule = number(0.0, 1.0);

section! {
    /// All settings of a run. Each stage reads its own section.
    pub struct Settings {
        /// What every stage shares.
        pub run: RunSettings = RunSettings::default();
        /// The model to start from, and its tokenizer.
        pub model: ModelSettings = ModelSettings::default();
        /// How a run fits into the memory of its device.
        pub memory: MemorySettings = MemorySettings::default();
        /// Training rows, and how they are read.
        pub data: DataSettings = DataSettings::default();
        /// The form of a judgement.
        pub judge: JudgeForm = JudgeForm::default();
        /// Supervised fine-tuning.
        pub sft: SftSettings = SftSettings::default();
        /// GRPO on the Preference-Aware Reward.
        pub rl: RlSettings = RlSettings::default();
        /// The Preference-Aware Reward, the format penalty, advantages, and what counts as a verdict.
        pub reward: RewardSettings = RewardSettings::default();
        /// Evaluation on held-out pairs.
        pub eval: EvalSettings = EvalSettings::default();
    }
}

impl Relations for Settings {
    fn relations(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let RewardSettings { shape, low, high, threshold, constant, margin, .. } = RewardSettings::default();
        let default_reward = RewardSettings { shape, low, high, threshold, constant, margin, ..self.reward };
        if self.judge.mode == JudgeMode::Pairwise && self.reward != default_reward {
            let keys = ["judge.mode", "reward.shape", "reward.low", "reward.high", "reward.constant", "reward.margin"];
            let reason = "in pairwise mode a right preference is the reward, 1, whatever the shape and the margin are";
            found.push(Finding::new(Severity::Noted, &keys, reason));
        }
        if self.rl.aggregation != Aggregation::DrGrpo || self.reward.advantage == AdvantageNorm::None {
            return found;
        }
        let reason = "dr_grpo changes the denominator of the loss alone: advantages are still divided by a standard deviation, \
                      which Dr.GRPO leaves out; set reward.advantage = none for Dr.GRPO";
        found.push(Finding::new(Severity::Noted, &["rl.aggregation", "reward.advantage"], reason));
        found
    }
}

section! {
    /// `[run]`: what every stage shares.
    pub struct RunSettings {
        /// Folder of the run; empty: `runs/` followed by the stage's name.
        pub out: String = String::new() => Rule::Text;
        /// Seed of data order, random weights and sampling.
        pub seed: u64 = 0 => SEED;
        /// Threads; 0: all cores; at most 16 a core. They change speed alone.
        pub threads: usize = 0 => THREADS;
        /// Steps between checkpoints; 0: only at the end.
        pub checkpoint_every: u64 = 100 => count(0, STEPS_MAX);
        /// How many checkpoints to keep; older ones are deleted.
        pub keep_checkpoints: usize = 2 => count(1, ROWS_MAX);
        /// The run stops after this many consecutive steps whose loss or gradient is not finite.
        pub patience: u32 = 5 => count(1, ROWS_MAX);
        /// The type that the trained model's weights are written as: `source` (each as it was read; f32 for random weights),
        /// `f32` or `bf16`.
        pub export_dtype: ExportDtype = ExportDtype::Source => one_of(ExportDtype::NAMES);
        /// Rows of logits that the LM head computes at a time. It changes memory and speed, and on CUDA the order of sums, so a
        /// resume takes it from the run's config.toml on every GPU. 0: chosen at the start, from the device's total memory.
        pub lm_head_chunk_rows: usize = 0 => count(0, TOKENS_MAX);
    }
}

/// The type that weights are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    Source,
    F32,
    Bf16,
}

impl ExportDtype {
    /// As settings write them, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &["source", "f32", "bf16"];

    /// As settings write it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl Relations for RunSettings {}

section! {
    /// `[model]`: the model to start from, and its tokenizer.
    pub struct ModelSettings {
        /// A Hugging Face directory of a Qwen3 model (config.json, safetensors, tokenizer.json).
        pub path: String = String::new() => Rule::Text;
        /// Random weights of a named shape instead of those in `path` (nano, mini, 0.6b … 32b).
        pub init: String = String::new() => Rule::Text;
        /// Directory of the tokenizer; empty: `path`.
        pub tokenizer: String = String::new() => Rule::Text;
        /// The longest sequence, prompt and answer together; at most the model's own limit.
        pub context: usize = 8192 => count(2, TOKENS_MAX);
        /// Whether the model may think before it answers (Qwen3's `enable_thinking`).
        pub thinking: bool = false => Rule::Flag;
    }
}

impl Relations for ModelSettings {
    fn relations(&self) -> Vec<Finding> {
        let refused = |keys: &[&str], reason: String| vec![Finding::new(Severity::Refused, keys, reason)];
        if !self.init.is_empty() && Qwen3Config::named(&self.init).is_none() {
            let names: Vec<_> = Qwen3Config::names().collect();
            return refused(&["init"], format!("not a known shape; known are {}", names.join(", ")));
        }
        if !self.init.is_empty() && !self.path.is_empty() {
            let reason = "random weights of a shape and the weights of a directory exclude each other: leave out one of them \
                          (--init or --model); --tokenizer takes a directory's tokenizer alone";
            return refused(&["init", "path"], reason.into());
        }
        Vec::new()
    }
}

section! {
    /// `[data]`: training rows, and how they are read.
    pub struct DataSettings {
        /// Files of training rows, folders of them, or data sets of the hub (OWNER/NAME:SPLIT).
        pub train: Vec<String> = Vec::new() => Rule::Texts;
        /// The task of rows that have none; `auto`: the one that their source or their prompt points to, or else `chat`.
        pub task: String = "auto".into() => Rule::Name;
        /// TOML file with the judge's prompts and rubrics, or a whole one like a model's judge.toml, whose mode, rubrics,
        /// length, thinking and verdict are the defaults then; empty: the built-in one.
        pub rubrics: String = String::new() => Rule::Text;
        /// Count and skip bad rows instead of stopping at the first one.
        pub skip_bad: bool = false => Rule::Flag;
        /// The fraction of labels to swap at random, for experiments with noise.
        pub flip: f64 = 0.0 => SHARE;
        /// The demo's: the fraction of its teacher's judgements that make its task's systematic error.
        pub teacher_error: f64 = 0.8 => SHARE;
        /// The demo's: the fraction of its teacher's scores that are drawn at random.
        pub score_noise: f64 = 0.1 => SHARE;
    }
}

impl Relations for DataSettings {}

section! {
    /// `[memory]`: how a run fits into the memory of its device. What is `auto`, 0 or empty is chosen at the start from the
    /// memory that the device has in all, written to the run's config.toml and taken from there by a resume. `plan` shows what
    /// it gives.
    pub struct MemorySettings {
        /// The bytes that the run may hold (`20GiB`, `24GB`); empty: what the device has in all.
        pub budget: String = String::new() => Rule::Text;
        /// What the backward pass computes again instead of keeping it: `nothing`, `norms` (and SwiGLU), `attention_inputs`
        /// (these too), whole layers (`block`), or `auto`: the least that fits. It changes no loss, and on the CPU no bit.
        pub recompute: RecomputeChoice = RecomputeChoice::Auto => one_of(RecomputeChoice::NAMES);
        /// Whether rollouts, scoring and training have the same memory, one after the other: `on`, `off`, or `auto`: on a GPU,
        /// and where it does not fit otherwise.
        pub share: Choice = Choice::Auto => one_of(Choice::NAMES);
        /// Tokens whose keys and values the cache of rollouts holds; 0: all that there is room for, but no more than
        /// rl.max_running of the longest sequences need. With a smaller cache completions wait for each other; none changes.
        pub cache_tokens: usize = 0 => count(0, i64::MAX);
        /// Tokens of a forward pass of rollouts, of prompts and completions together; 0: 8192 on a GPU, on the CPU 512 or twice
        /// rl.max_running.
        pub prefill_tokens: usize = 0 => count(0, TOKENS_MAX);
    }
}

impl Relations for MemorySettings {
    fn relations(&self) -> Vec<Finding> {
        match self.budget() {
            Err(reason) => vec![Finding::new(Severity::Refused, &["budget"], reason)],
            Ok(_) => Vec::new(),
        }
    }
}

impl MemorySettings {
    /// `budget` in bytes; `None` where it is empty.
    pub fn budget(&self) -> Result<Option<usize>, String> {
        if self.budget.is_empty() { Ok(None) } else { parse_bytes(&self.budget).map(Some) }
    }
}

/// What the backward pass computes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeChoice {
    Auto,
    Nothing,
    Norms,
    AttentionInputs,
    Block,
}

impl RecomputeChoice {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["auto", "nothing", "norms", "attention_inputs", "block"];

    /// What is asked for; `None`: the least that fits.
    pub fn asked(self) -> Option<Recompute> {
        match self {
            Self::Auto => None,
            Self::Nothing => Some(Recompute::Nothing),
            Self::Norms => Some(Recompute::Norms),
            Self::AttentionInputs => Some(Recompute::AttentionInputs),
            Self::Block => Some(Recompute::Block),
        }
    }
}

impl From<Recompute> for RecomputeChoice {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Nothing => Self::Nothing,
            Recompute::Norms => Self::Norms,
            Recompute::AttentionInputs => Self::AttentionInputs,
            Recompute::Block => Self::Block,
        }
    }
}

/// A lever that can be left to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    Auto,
    On,
    Off,
}

impl Choice {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["auto", "on", "off"];

    /// What is asked for; `None`: what fits.
    pub fn asked(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

impl From<bool> for Choice {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// What supervised fine-tuning learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SftTarget {
    /// Conversations: the assistant's text.
    Messages,
    /// Preference pairs: the chosen response.
    Chosen,
}

impl SftTarget {
    /// Their names in settings.
    pub const NAMES: &[&str] = &["messages", "chosen"];
}

section! {
    /// `[sft]`: supervised fine-tuning.
    pub struct SftSettings {
        /// `messages`: conversations, with a loss on the assistant's text; `chosen`: preference pairs, with a loss on the
        /// chosen response.
        pub target: SftTarget = SftTarget::Messages => one_of(SftTarget::NAMES);
        /// Updates of the whole stage.
        pub steps: u64 = 1000 => count(1, STEPS_MAX);
        /// Conversations of one update.
        pub examples_per_step: usize = 32 => count(1, ROWS_MAX);
        /// Longer examples are dropped and counted.
        pub max_length: usize = 4096 => count(2, TOKENS_MAX);
        /// Tokens of a micro-batch. It changes memory, speed and rounding.
        pub micro_batch_tokens: usize = 8192 => TOKENS;
        /// The peak of the learning rate.
        pub learning_rate: f64 = 1e-5 => RATE;
        /// Steps over which the learning rate rises to its peak.
        pub warmup: u64 = 20 => count(0, STEPS_MAX);
        /// How the learning rate falls after that.
        pub decay: Decay = Decay::Cosine => one_of(Decay::NAMES);
        /// The final learning rate, as a fraction of its peak.
        pub floor: f64 = 0.1 => SHARE;
        /// AdamW, and clipping.
        pub adamw: AdamWConfig = AdamWConfig::default();
    }
}

impl Relations for SftSettings {
    fn relations(&self) -> Vec<Finding> {
        learning(&self.schedule(), &self.adamw)
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

section! {
    /// GRPO on the Preference-Aware Reward.
    pub struct RlSettings {
        /// Rollout batches of the whole stage.
        pub steps: u64 = 300 => count(1, STEPS_MAX);
        /// Pairs of a rollout batch.
        pub pairs_per_step: usize = 32 => count(1, ROWS_MAX);
        /// Judgements of each response (n). One alone has no advantage over the others of its response.
        pub rollouts: usize = 8 => count(2, ROLLOUTS_MAX as i64);
        /// Updates for each rollout batch: its pairs are split into this many parts.
        pub updates_per_step: usize = 1 => count(1, ROWS_MAX);
        /// Temperature of rollouts, and of the log-probabilities that are learned.
        pub temperature: f32 = 1.0 => number(TEMPERATURE_MIN, TEMPERATURE_MAX);
        /// Pairs with a longer prompt on either side are dropped and counted.
        pub max_prompt_tokens: usize = 4096 => TOKENS;
        /// A judgement that is longer is cut, and counts as truncated.
        pub max_new_tokens: usize = 2048 => TOKENS;
        /// The most completions that decode at the same time (fewer for a small model on the CPU). It changes only memory and
        /// speed.
        pub max_running: usize = 128 => RUNNING;
        /// Tokens of a micro-batch. It changes memory, speed and rounding.
        pub micro_batch_tokens: usize = 16_384 => TOKENS;
        /// The peak of the learning rate.
        pub learning_rate: f64 = 1e-6 => RATE;
        /// Steps over which the learning rate rises to its peak.
        pub warmup: u64 = 5 => count(0, STEPS_MAX);
        /// How the learning rate falls after that.
        pub decay: Decay = Decay::Constant => one_of(Decay::NAMES);
        /// The final learning rate, as a fraction of its peak.
        pub floor: f64 = 0.0 => SHARE;
        /// AdamW, and clipping.
        pub adamw: AdamWConfig = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
        /// The loss of a token.
        pub policy: GrpoLoss = GrpoLoss::default();
        /// How the losses of tokens become one. dr_grpo is the denominator of Dr.GRPO alone: its advantages, without a standard
        /// deviation, are reward.advantage = none.
        pub aggregation: Aggregation = Aggregation::TokenMean => one_of(Aggregation::NAMES);
        /// Sample new pairs for groups whose rewards are all equal (dynamic sampling of DAPO), up to this many times; 0: off.
        pub resample: usize = 0 => count(0, 1000);
        /// Judgements written to samples.jsonl each step.
        pub samples_per_step: usize = 4 => count(0, ROWS_MAX);
    }
}

impl Relations for RlSettings {
    fn relations(&self) -> Vec<Finding> {
        let mut found = learning(&self.schedule(), &self.adamw);
        if self.updates_per_step > self.pairs_per_step {
            let reason = "an update takes whole pairs, so there cannot be more updates than pairs in a step";
            found.push(Finding::new(Severity::Refused, &["updates_per_step", "pairs_per_step"], reason));
        }
        // The last token of a judgement is only predicted.
        let longest = self.max_prompt_tokens + self.max_new_tokens - 1;
        if self.micro_batch_tokens < longest {
            let keys = ["micro_batch_tokens", "max_prompt_tokens", "max_new_tokens"];
            let reason = format!(
                "a prompt with one judgement may have {longest} tokens and must fit into a micro-batch: raise the first, or \
                 lower the others"
            );
            found.push(Finding::new(Severity::Refused, &keys, reason));
        }
        found
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

/// What must hold between the learning rate, its schedule and the optimizer of a stage.
fn learning(schedule: &Schedule, adamw: &AdamWConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    if schedule.warmup > schedule.total {
        let reason = "the learning rate never reaches its peak: the warm-up is longer than the stage";
        found.push(Finding::new(Severity::RefusedByHand, &["warmup", "steps"], reason));
    }
    if schedule.peak * f64::from(adamw.weight_decay) >= 1.0 {
        let reason = "their product is the share of a weight that decays in one update, and must be below 1";
        found.push(Finding::new(Severity::Refused, &["adamw.weight_decay", "learning_rate"], reason));
    }
    found
}

section! {
    /// `[eval]`: evaluation on held-out pairs.
    pub struct EvalSettings {
        /// Held-out pairs, at most.
        pub pairs: usize = 400 => count(1, ROWS_MAX);
        /// Steps of `sft` or `rl` between evaluations on held-out pairs; 0: none. The checkpoint of the best one is kept.
        pub every: u64 = 0 => count(0, STEPS_MAX);
        /// Files of held-out pairs.
        pub data: Vec<String> = Vec::new() => Rule::Texts;
        /// Share of the training pairs of `rl` that are held out by their prompts, where there is no `data`.
        pub share: f64 = 0.0 => SHARE;
        /// Sampled judgements of each response, beside a greedy one.
        pub votes: usize = 4 => count(1, 10_000);
        /// Held-out pairs with a longer prompt on either side are left out.
        pub max_prompt_tokens: usize = 4096 => TOKENS;
        /// A judgement that is longer is cut, and counts as truncated.
        pub max_new_tokens: usize = 2048 => TOKENS;
    }
}

impl Relations for EvalSettings {
    fn relations(&self) -> Vec<Finding> {
        let refused = |keys: &[&str], reason: &str| vec![Finding::new(Severity::RefusedByHand, keys, reason)];
        if self.share > 0.0 && !self.data.is_empty() {
            return refused(
                &["share", "data"],
                "held-out pairs are those of the files, or a share of the training pairs: leave out one",
            );
        }
        if self.every == 0 && (self.share > 0.0 || !self.data.is_empty()) {
            let keys: &[&str] = if self.share > 0.0 { &["share", "every"] } else { &["data", "every"] };
            return refused(
                keys,
                "pairs are held out for evaluations, and eval.every = 0 makes none: set it to a number of steps",
            );
        }
        Vec::new()
    }
}
