//! `demo`: the main job from nothing, on this machine — synthetic data, a tokenizer, a tiny Qwen3 with random weights,
//! SFT on a noisy teacher's judgements, RL with the Preference-Aware Reward, and evaluation on held-out pairs.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::model_dir;
use crate::config::{Settings, resolve};
use crate::data::judge::JudgePrompt;
use crate::data::synthetic::{self, Suite, SuiteConfig};
use crate::data::{Message, Role};
use crate::eval::{PairReport, evaluate_pairs};
use crate::log::{Environment, Progress as Bar, headline};
use crate::model::parameters::random_weights;
use crate::model::{Qwen3, Qwen3Config};
use crate::ops::Cpu;
use crate::ops::sample::Sampling;
use crate::optimizer::Decay;
use crate::random::Stream;
use crate::rollout::{Engine, EngineLimits};
use crate::tokenizer::{CHAT_TEMPLATE, RenderOptions, Tokenizer};
use crate::train::judgements::{JudgePair, JudgePlan};
use crate::train::rl::{PairSource, RlMachines, RlPlan};
use crate::train::run_folder::RunFolder;
use crate::train::sft::{Example, ExampleSource, Progress, SftPlan};
use crate::train::stages::{Ending, Saving, run_rl, run_sft};
use crate::train::{Guard, Learner, Scorer};

/// Watch a judge learn, from random weights, on this machine.
///
/// Makes a synthetic preference suite (four tasks whose answers a program grades), trains a tiny Qwen3 first on a noisy
/// teacher's judgements (SFT), then on preference pairs alone (GRPO with the Preference-Aware Reward), evaluates it on
/// held-out pairs after each stage, and writes a report to open in a browser.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of data, weights and sampling: the same seed gives the same numbers.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the run.
    #[arg(long, default_value = "runs/demo")]
    pub out: PathBuf,
    /// Threads; 0: all cores. Changes speed alone.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Few steps: to see that everything works, not to learn.
    #[arg(long)]
    pub quick: bool,
    /// Share of RL pairs whose labels are swapped at random; at 0.5 they carry nothing.
    #[arg(long, default_value_t = 0.0)]
    pub flip: f64,
    /// Share of the teacher's scores that are drawn at random.
    #[arg(long, default_value_t = 0.3)]
    pub score_noise: f64,
    /// Overrides a setting, for example `--set rl.steps=100`; config.toml in the run's folder lists them all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// The demo's own defaults.
fn settings(args: &DemoArgs) -> anyhow::Result<Settings> {
    let mut s = Settings::default();
    s.run.seed = args.seed;
    s.run.threads = args.threads;
    s.run.out = args.out.display().to_string();
    s.run.checkpoint_every = 0;
    s.model.init = "nano".into();
    s.model.context = 256;
    s.data.flip = args.flip;
    s.sft.steps = 250;
    s.sft.examples_per_step = 32;
    s.sft.learning_rate = 2e-3;
    s.sft.warmup = 50;
    s.sft.micro_batch_tokens = 4096;
    s.rl.steps = 160;
    s.rl.pairs_per_step = 32;
    s.rl.rollouts = 8;
    s.rl.learning_rate = 1.2e-4;
    s.rl.decay = Decay::Linear;
    s.rl.policy.kl_coefficient = 0.03;
    s.rl.max_prompt_tokens = 96;
    s.rl.max_new_tokens = 96;
    s.rl.max_running = 256;
    s.rl.micro_batch_tokens = 4096;
    s.eval.pairs = 320;
    if args.quick {
        (s.sft.steps, s.rl.steps, s.rl.pairs_per_step, s.eval.pairs) = (12, 2, 8, 16);
    }
    Ok(resolve(&s, None, std::env::vars(), &args.set)?)
}

pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let settings = settings(args)?;
    let stop = super::stop_flag()?;
    super::on_threads(settings.run.threads, || learn(args, &settings, &stop))
}

fn learn(args: &DemoArgs, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let world = World::new(args, settings)?;
    prepare_folder(&args.out)?;
    let mut run = RunFolder::create(&args.out, settings)?;

    let (config, weights) = world.model(settings)?;
    let model = Qwen3::new(&Cpu, config, &weights, settings.model.context)?;
    let mut stages = Stages::new();
    stages.add("untrained", world.evaluate(&model, settings, stop)?);

    let mut learner = Learner::new(model, settings.sft.adamw, settings.sft.micro_batch_tokens)?;
    let plan = SftPlan {
        steps: settings.sft.steps,
        examples_per_step: settings.sft.examples_per_step,
        schedule: settings.sft.schedule(),
    };
    let mut guard = Guard::new(args.out.clone(), settings.run.patience);
    let saving = Saving { every: None, keep: 1, seed: args.seed };
    let mut progress = Progress::default();
    if run_sft(&mut learner, &world, &plan, &mut run, &mut guard, &mut progress, saving, stop)? == Ending::Stopped {
        return stopped(&args.out);
    }
    stages.add("sft", world.evaluate(&learner.model, settings, stop)?);

    let reference = learner.model.duplicate()?;
    let policy = learner.model;
    let mut learner = Learner::new(policy, settings.rl.adamw, settings.rl.micro_batch_tokens)?;
    if world.reinforce(&mut learner, &reference, settings, &mut run, &mut guard, stop)? == Ending::Stopped {
        return stopped(&args.out);
    }
    stages.add("rl", world.evaluate(&learner.model, settings, stop)?);

    let folder = args.out.join("model");
    model_dir::export(&folder, &learner.model, &world.tokenizer)?;
    let summary = Summary {
        wall_s: start.elapsed().as_secs_f64(),
        seed: args.seed,
        flip: args.flip,
        score_noise: args.score_noise,
        stages: stages.0,
        environment: serde_json::to_value(Environment::detect())?,
    };
    let report = run.finish(&summary)?;
    print_results(&summary, &report, &folder)
}

/// A demo's folder may hold an earlier demo, which the new one replaces; anything else is left alone.
fn prepare_folder(out: &Path) -> anyhow::Result<()> {
    if !out.join("metrics.jsonl").exists() {
        return Ok(());
    }
    for name in ["metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "config.toml", "environment.json"] {
        let file = out.join(name);
        if file.exists() {
            std::fs::remove_file(&file).with_context(|| format!("{}: cannot be replaced", file.display()))?;
        }
    }
    Ok(())
}

fn stopped(out: &Path) -> anyhow::Result<()> {
    anyhow::bail!("stopped; what was measured so far is in {}", out.display())
}

/// The stages' reports, by name.
struct Stages(serde_json::Map<String, serde_json::Value>);

impl Stages {
    fn new() -> Self {
        Self(serde_json::Map::new())
    }

    fn add(&mut self, name: &str, report: PairReport) {
        self.0.insert(name.into(), json!(report));
    }
}

/// summary.json
#[derive(Serialize)]
struct Summary {
    wall_s: f64,
    seed: u64,
    flip: f64,
    score_noise: f64,
    stages: serde_json::Map<String, serde_json::Value>,
    environment: serde_json::Value,
}

fn print_results(summary: &Summary, report: &Path, model: &Path) -> anyhow::Result<()> {
    let record = match serde_json::to_value(summary)? {
        serde_json::Value::Object(record) => record,
        other => anyhow::bail!("a summary is an object, got {other}"),
    };
    println!("{}", headline::text_table(&record));
    println!("{:.0} s. The trained judge: {}. The report: {}", summary.wall_s, model.display(), report.display());
    Ok(())
}

/// The synthetic world: suite, tokenizer, judge prompt.
struct World {
    suite: Suite,
    tokenizer: Tokenizer,
    judge: JudgePrompt,
}

impl World {
    fn new(args: &DemoArgs, settings: &Settings) -> anyhow::Result<Self> {
        let inner = synthetic::tokenizer().map_err(|e| anyhow::anyhow!("the demo's tokenizer cannot be made: {e}"))?;
        let suite = Suite::new(SuiteConfig {
            seed: args.seed,
            score_noise: args.score_noise,
            flip: settings.data.flip,
            leave_out: None,
        });
        Ok(Self {
            suite,
            tokenizer: Tokenizer::from_parts(
                inner,
                CHAT_TEMPLATE.to_string(),
                synthetic::EOS_TOKEN,
                synthetic::PAD_TOKEN,
            )?,
            judge: JudgePrompt::parse(synthetic::RUBRICS)?,
        })
    }

    /// The demo's shape with the tokenizer's vocabulary, and random weights.
    fn model(&self, settings: &Settings) -> anyhow::Result<(Qwen3Config, Vec<f32>)> {
        let mut config = Qwen3Config::named(&settings.model.init)
            .with_context(|| format!("model.init: no shape is called {}", settings.model.init))?;
        config.vocab_size = self.tokenizer.vocab_size().next_multiple_of(32);
        config.max_position_embeddings = 1024;
        config.eos_token_id = Some(self.tokenizer.eos_id());
        config.pad_token_id = Some(self.tokenizer.pad_id());
        config.initializer_range = 0.06;
        let weights = random_weights(&config, settings.run.seed);
        Ok((config, weights))
    }

    fn engine(&self, model: &Qwen3<Cpu>, settings: &Settings) -> anyhow::Result<Engine<Cpu>> {
        let s = &settings.rl;
        let limits = EngineLimits::for_lengths(s.max_prompt_tokens, s.max_new_tokens, s.max_running);
        Ok(Engine::new(model, limits)?)
    }

    fn judge_pair(&self, pair: crate::data::Pair) -> JudgePair {
        let prompt = |role: Role| {
            let messages = self
                .judge
                .messages(&pair.task, &pair.prompt, pair.response(role))
                .expect("the suite's tasks have rubrics");
            let options = RenderOptions { add_generation_prompt: true, enable_thinking: Some(false) };
            self.tokenizer.encode_chat(&messages, &options).expect("the suite's text can be encoded")
        };
        let prompts = Role::BOTH.map(prompt);
        JudgePair { pair, prompts }
    }

    fn evaluate(&self, model: &Qwen3<Cpu>, settings: &Settings, stop: &AtomicBool) -> anyhow::Result<PairReport> {
        let pairs: Vec<_> = (0..settings.eval.pairs as u64).map(|i| self.judge_pair(self.suite.test_pair(i))).collect();
        let plan = JudgePlan {
            tokenizer: &self.tokenizer,
            rules: &settings.reward.verdict,
            sampling: Sampling::temperature(1.0),
            votes: crate::eval::pairs::VOTES,
            max_new_tokens: settings.rl.max_new_tokens,
            stream: Stream::new(settings.run.seed).fold(u64::MAX),
        };
        let total = 2 * pairs.len() as u64 * (plan.votes as u64 + 1);
        let (mut bar, mut done) = (Bar::new("eval", total, 0), 0);
        let mut engine = self.engine(model, settings)?;
        let report = evaluate_pairs(&mut engine, model, &plan, &pairs, Some(stop), |ended| {
            done += ended as u64;
            bar.update(done, &[]);
        })?;
        bar.finish();
        Ok(report)
    }

    fn reinforce(
        &self,
        learner: &mut Learner<Cpu>,
        reference: &Qwen3<Cpu>,
        settings: &Settings,
        run: &mut RunFolder,
        guard: &mut Guard,
        stop: &AtomicBool,
    ) -> anyhow::Result<Ending> {
        let plan = RlPlan {
            settings: &settings.rl,
            reward: &settings.reward,
            rules: &settings.reward.verdict,
            tokenizer: &self.tokenizer,
            schedule: settings.rl.schedule(),
            seed: settings.run.seed,
            stop: Some(stop),
        };
        let mut engine = self.engine(&learner.model, settings)?;
        let mut scorer = Scorer::new(&learner.model, learner.capacity())?;
        let mut machines = RlMachines {
            learner,
            reference: (settings.rl.policy.kl_coefficient > 0.0).then_some(reference),
            engine: &mut engine,
            scorer: &mut scorer,
            guard,
        };
        let saving = Saving { every: None, keep: 1, seed: settings.run.seed };
        run_rl(&mut machines, self, &plan, run, &mut Progress::default(), saving, stop)
    }
}

impl ExampleSource for World {
    fn example(&self, cursor: u64) -> Example {
        let lesson = self.suite.sft(cursor).expect("the suite grades its own responses");
        let task = lesson.example.task.name();
        let prompt = [Message::user(lesson.example.prompt.as_str())];
        let mut messages =
            self.judge.messages(task, &prompt, &lesson.example.response).expect("the suite's tasks have rubrics");
        messages.push(Message::assistant(lesson.judgement));
        let supervised = self.tokenizer.encode_supervised(&messages, false).expect("the suite's text can be encoded");
        Example { ids: supervised.ids, mask: supervised.mask }
    }
}

impl PairSource for World {
    fn pair(&self, cursor: u64) -> JudgePair {
        self.judge_pair(self.suite.train_pair(cursor))
    }
}
