//! A tiny model and a tiny suite to train it on.

use patarm::config::RlSettings;
use patarm::data::Message;
use patarm::data::synthetic::{self, Suite, SuiteConfig};
use patarm::judge::{Judge, JudgeForm, JudgePair, JudgeSettings, PromptFile, VerdictRules};
use patarm::model::parameters::random_weights;
use patarm::model::{Qwen3, Qwen3Config};
use patarm::ops::Backend;
use patarm::setting::Valid;
use patarm::tokenizer::{CHAT_TEMPLATE, Tokenizer};
use patarm::train::rl::PairSource;
use patarm::train::sft::{Example, ExampleSource};

/// Two layers, grouped queries, a head_dim that is not hidden / heads, odd sizes where they are allowed.
pub fn config(vocab: usize) -> Qwen3Config {
    let mut config = Qwen3Config::named("nano").unwrap();
    config.vocab_size = vocab;
    config.hidden_size = 24;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.head_dim = 32;
    config.intermediate_size = 40;
    config.initializer_range = 0.3;
    config
}

pub fn model<B: Backend>(backend: &B, vocab: usize, seed: u64) -> Qwen3<B> {
    let config = config(vocab);
    let weights = random_weights(&config, seed);
    Qwen3::new(backend, config, &weights, 512).unwrap()
}

/// The synthetic suite with its tokenizer and judge prompt.
pub struct SuiteFixture {
    pub suite: Suite,
    pub judge: Judge,
}

impl SuiteFixture {
    pub fn new() -> Self {
        let inner = synthetic::tokenizer().unwrap();
        let template = CHAT_TEMPLATE.to_string();
        let tokenizer = Tokenizer::from_parts(inner, template, synthetic::EOS_TOKEN, synthetic::PAD_TOKEN).unwrap();
        let prompt = PromptFile::parse(synthetic::RUBRICS).unwrap();
        let judge = Judge::new(
            Valid::new(JudgeSettings::new(prompt, VerdictRules::default(), false, JudgeForm::default())).unwrap(),
            tokenizer,
        )
        .unwrap();
        Self { suite: Suite::new(SuiteConfig::default()), judge }
    }

    pub fn model<B: Backend>(&self, backend: &B) -> Qwen3<B> {
        model(backend, self.judge.tokenizer().vocab_size().next_multiple_of(16), 3)
    }
}

impl ExampleSource for SuiteFixture {
    fn example(&self, cursor: u64) -> Example {
        let row = self.suite.sft(cursor).unwrap();
        let prompt = [Message::user(row.example.prompt.as_str())];
        let mut messages = self.judge.messages(row.example.task.name(), &prompt, &[&row.example.response]).unwrap();
        messages.push(Message::assistant(row.judgement));
        let encoded = self.judge.tokenizer().encode_supervised(&messages, false).unwrap();
        Example { ids: encoded.ids, mask: encoded.mask }
    }
}

impl PairSource for SuiteFixture {
    fn pair(&self, cursor: u64) -> JudgePair {
        self.judge.encode_pair(self.suite.train_pair(cursor)).unwrap()
    }
}

/// Few and short rollouts, several updates a step, everything on.
pub fn rl_settings() -> RlSettings {
    let mut settings = RlSettings {
        pairs_per_step: 3,
        rollouts: 3,
        updates_per_step: 2,
        max_prompt_tokens: 128,
        max_new_tokens: 12,
        max_running: 5,
        micro_batch_tokens: 256,
        learning_rate: 1e-2,
        ..RlSettings::default()
    };
    settings.policy.kl_coefficient = 0.1;
    settings
}
