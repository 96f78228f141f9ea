//! The demo's suite: the synthetic suite with its tokenizer and judge prompt, as a source of examples and pairs.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};

use crate::checkpoint::Progress;
use crate::commands::pretrained::{self, TokenizerFiles, Trained};
use crate::config::{ExportDtype, Settings};
use crate::data::synthetic::{self, SftComparison, SftExample, Suite, SuiteConfig};
use crate::data::{Message, Pair};
use crate::eval::{PairQuestions, PairResults, evaluate_pairs};
use crate::judge::{Judge, JudgeMode, JudgePair, JudgeSampling, JudgeSettings, PromptFile};
use crate::log::StageBar;
use crate::model::parameters::random_weights;
use crate::model::{Description, Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::{Purpose, Stream};
use crate::rollout::{Engine, EngineLimits};
use crate::setting::Valid;
use crate::tokenizer::{CHAT_TEMPLATE, Tokenizer};
use crate::train::rl::{PairSource, RlContext, RlPlan, RlTrainer};
use crate::train::run::{CheckpointPolicy, Outcome, train};
use crate::train::run_folder::RunFolder;
use crate::train::sft::{Example, ExampleSource, SftTrainer};
use crate::train::{Guard, Learner, Scorer};

/// The suite and the judge that reads it.
pub struct DemoSuite {
    suite: Suite,
    pub judge: Judge,
}

impl DemoSuite {
    /// `way`: how an earlier demo's judge judges; `None`: with the suite's rubrics.
    pub fn new(settings: &Valid<Settings>, way: Option<Valid<JudgeSettings>>) -> anyhow::Result<Self> {
        let inner = synthetic::tokenizer().map_err(|e| anyhow::anyhow!("the demo's tokenizer cannot be made: {e}"))?;
        let suite = Suite::new(SuiteConfig {
            seed: settings.run.seed,
            teacher_error: settings.data.teacher_error,
            score_noise: settings.data.score_noise,
            flip: settings.data.flip,
            teacher_rubrics: settings.judge.rubrics.generates(),
            leave_out: None,
        });
        let template = CHAT_TEMPLATE.to_string();
        let tokenizer = Tokenizer::from_parts(inner, template, synthetic::EOS_TOKEN, synthetic::PAD_TOKEN)?;
        let own = PromptFile::parse(synthetic::RUBRICS)?;
        let own = JudgeSettings::new(own, settings.reward.verdict, false, settings.judge);
        Ok(Self { suite, judge: Judge::new(way.map_or_else(|| Valid::new(own), Ok)?, tokenizer)? })
    }

    /// An error if the settings have no room for what the suite writes, as its first examples and pairs show.
    pub fn check(&self, settings: &Settings) -> anyhow::Result<()> {
        const LOOKED_AT: u64 = 64;
        let example = (0..LOOKED_AT).map(|i| self.example(i).ids.len()).max().unwrap_or(0);
        let prompts = |i| self.pair(i).prompts.iter().map(Vec::len).max().unwrap_or(0);
        let prompt = (0..LOOKED_AT).map(prompts).max().unwrap_or(0);
        for (name, tokens, needed) in [
            ("sft.micro_batch_tokens", settings.sft.micro_batch_tokens, example),
            ("rl.max_prompt_tokens", settings.rl.max_prompt_tokens, prompt),
            ("model.context", settings.model.context, settings.rl.max_prompt_tokens + settings.rl.max_new_tokens),
        ] {
            ensure!(tokens >= needed, "{name} = {tokens}: the demo needs {needed} or more");
        }
        Ok(())
    }

    /// The demo's shape with the tokenizer's vocabulary, and random weights.
    pub fn model(&self, settings: &Settings) -> anyhow::Result<(Qwen3Config, Vec<f32>)> {
        let mut config = Qwen3Config::named(&settings.model.init)
            .with_context(|| format!("model.init: no shape is called {}", settings.model.init))?;
        config.vocab_size = self.judge.tokenizer().vocab_size().next_multiple_of(32);
        config.max_position_embeddings = 1024;
        config.initializer_range = 0.06;
        pretrained::check_memory(&config).with_context(|| format!("model.init = {}", settings.model.init))?;
        let weights = random_weights(&config, settings.run.seed);
        Ok((config, weights))
    }

    /// Writes a judge of this suite as a directory that transformers loads.
    pub fn export<B: Backend>(&self, folder: &Path, model: &Qwen3<B>) -> anyhow::Result<()> {
        let tokenizer = self.judge.tokenizer();
        let description = Description::with_tokens(&model.config, tokenizer.eos_id(), tokenizer.pad_id());
        let trained = Trained {
            model,
            description: &description,
            dtype: ExportDtype::Source,
            tokenizer,
            tokenizer_files: &TokenizerFiles::default(),
            judge: self.judge.settings(),
        };
        pretrained::export(folder, &trained)
    }

    /// An engine whose cache fits the prompts and completions of the RL settings.
    pub fn engine<B: Backend>(&self, model: &Qwen3<B>, settings: &Settings) -> anyhow::Result<Engine<B>> {
        let s = &settings.rl;
        let limits = EngineLimits::for_lengths(s.max_prompt_tokens, s.max_new_tokens, s.max_running);
        Ok(Engine::new(model, limits)?)
    }

    fn judge_pair(&self, pair: Pair) -> JudgePair {
        self.judge.encode_pair(pair).expect("the suite's tasks have rubrics, and its text can be encoded")
    }

    /// How judgements are drawn in evaluations, `votes` a side.
    pub fn judge_sampling(&self, settings: &Settings, votes: usize) -> JudgeSampling {
        JudgeSampling {
            sampling: Sampling::temperature(1.0),
            votes,
            max_new_tokens: settings.rl.max_new_tokens,
            stream: Stream::new(settings.run.seed).fold(Purpose::Evaluation as u64),
        }
    }

    /// Held-out pairs.
    pub fn test_pairs(&self, count: usize) -> Vec<JudgePair> {
        (0..count as u64).map(|i| self.judge_pair(self.suite.test_pair(i))).collect()
    }

    /// Writes the held-out pairs as a file for `eval`.
    pub fn write_test_pairs(&self, path: &Path, count: usize) -> anyhow::Result<()> {
        synthetic::write_test_pairs(&self.suite, path, count as u64).with_context(|| path.display().to_string())
    }

    /// Training pairs with their right labels, on which a temperature is chosen.
    fn tuning_pairs(&self, count: usize) -> Vec<JudgePair> {
        (0..count as u64).map(|i| self.judge_pair(self.suite.true_pair(i))).collect()
    }

    /// Judges held-out pairs, with `votes` sampled judgements and a greedy one a side, and as many at the best temperature on
    /// `tuning` training pairs (0: it is not looked for).
    pub fn evaluate<B: Backend>(
        &self,
        model: &Qwen3<B>,
        settings: &Settings,
        votes: usize,
        tuning: usize,
        stop: &AtomicBool,
    ) -> anyhow::Result<PairResults> {
        let (pairs, tuning) = (self.test_pairs(settings.eval.pairs), self.tuning_pairs(tuning));
        let sampling = self.judge_sampling(settings, votes);
        let questions = PairQuestions { pairs: &pairs, tuning: &tuning, sampling };
        let (mut bar, mut done) = (StageBar::new("eval", questions.judgements(), 0), 0);
        let mut engine = self.engine(model, settings)?;
        let results = evaluate_pairs(&self.judge, &mut engine, model, &questions, Some(stop), |ended| {
            done += ended as u64;
            bar.update(done, &[]);
        })?;
        bar.finish();
        Ok(results)
    }

    /// The SFT stage, without checkpoints.
    pub fn run_sft<B: Backend>(
        &self,
        learner: &mut Learner<B>,
        settings: &Valid<Settings>,
        folder: &mut RunFolder,
        guard: &mut Guard,
        stop: &AtomicBool,
    ) -> anyhow::Result<Outcome> {
        let mut trainer = SftTrainer { learner, source: self, settings: settings.part(|s| &s.sft), guard };
        train(&mut trainer, folder, &mut Progress::default(), CheckpointPolicy::NONE, None, stop)
    }

    /// The RL stage, without checkpoints.
    pub fn run_rl<B: Backend>(
        &self,
        learner: &mut Learner<B>,
        reference: &Qwen3<B>,
        settings: &Valid<Settings>,
        folder: &mut RunFolder,
        guard: &mut Guard,
        stop: &AtomicBool,
    ) -> anyhow::Result<Outcome> {
        let plan = RlPlan {
            settings: settings.part(|s| &s.rl),
            reward: settings.part(|s| &s.reward),
            judge: &self.judge,
            seed: settings.run.seed,
            share: false,
            stop: Some(stop),
        };
        let mut engine = self.engine(&learner.model, settings)?;
        let mut scorer = Scorer::new(&learner.model, learner.capacity())?;
        let context = RlContext {
            learner,
            reference: (settings.rl.policy.kl_coefficient > 0.0).then_some(reference),
            engine: &mut engine,
            scorer: &mut scorer,
            guard,
        };
        let mut trainer = RlTrainer { context, source: self, plan };
        train(&mut trainer, folder, &mut Progress::default(), CheckpointPolicy::NONE, None, stop)
    }
}

impl ExampleSource for DemoSuite {
    fn example(&self, cursor: u64) -> Example {
        let grades = "the suite grades its own responses";
        let (task, prompt, responses, judgement) = match self.judge.settings().mode {
            JudgeMode::Pointwise => {
                let SftExample { example, judgement, .. } = self.suite.sft(cursor).expect(grades);
                (example.task, example.prompt, vec![example.response], judgement)
            }
            JudgeMode::Pairwise => {
                let SftComparison { task, prompt, responses, judgement, .. } =
                    self.suite.sft_comparison(cursor).expect(grades);
                (task, prompt, responses.to_vec(), judgement)
            }
        };
        let responses: Vec<&str> = responses.iter().map(String::as_str).collect();
        let mut messages = self
            .judge
            .messages(task.name(), &[Message::user(prompt)], &responses)
            .expect("the suite's tasks have rubrics");
        messages.push(Message::assistant(judgement));
        let supervised =
            self.judge.tokenizer().encode_supervised(&messages, false).expect("the suite's text can be encoded");
        Example { ids: supervised.ids, mask: supervised.mask }
    }
}

impl PairSource for DemoSuite {
    fn pair(&self, cursor: u64) -> JudgePair {
        self.judge_pair(self.suite.train_pair(cursor))
    }
}
