//! `demo --from RUN`: is a device right? Takes the judges of an earlier demo, and holds the device to the CPU: the same
//! rollouts must earn the same rewards with nearly the same log-probabilities, the judge must be as accurate, and
//! training must go on from it.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::suite::DemoSuite;
use super::{DemoArgs, MODEL, SFT_MODEL};
use crate::checkpoint::Progress;
use crate::commands::device::DeviceChoice;
use crate::commands::interrupt;
use crate::commands::pretrained::{self, Pretrained};
use crate::commands::report::CONTENTS;
use crate::config::Settings;
use crate::file::console;
use crate::judge::{JudgePair, JudgeSettings, Judged};
use crate::log::{TextTable, read_records};
use crate::model::Qwen3;
use crate::ops::{Backend, Cpu};
use crate::setting::{Valid, overlay, resolve};
use crate::train::prefix_tree::{self, Sequence};
use crate::train::rl::{PairSource, reward};
use crate::train::run::Outcome;
use crate::train::run_folder::{Claim, Intent, RunFolder, RunRecord};
use crate::train::{Guard, Learner, Scorer};

/// Pairs whose accuracy is compared.
const PAIRS: usize = 32;
/// Pairs whose rollouts both backends read, and judgements of each side.
const SHARED_PAIRS: usize = 4;
const SHARED_ROLLOUTS: usize = 4;
/// How far log-probabilities of a bf16 backend may be from the CPU's f32, in nats: a token's, and their mean. The logits of
/// a tiny model reach 20 or so; bf16 keeps eight bits of the numbers that they are sums of.
const LOGPROB_MAX: f64 = 0.5;
const LOGPROB_MEAN: f64 = 0.02;
/// How far the loss of an SFT step may be from the CPU's, mean over the steps, in nats a token.
const LOSS_GAP: f64 = 0.01;

/// The name of a comparison in run.toml.
pub const COMMAND: &str = "compare";

/// One comparison.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    cpu: String,
    device: String,
    expected: String,
    holds: bool,
}

/// summary.json
#[derive(Serialize)]
struct Summary {
    device: String,
    checks: Vec<Check>,
    /// None: this run ends in checks.
    stages: serde_json::Map<String, serde_json::Value>,
}

/// Runs the checks against the demo in the folder `from` and reports them. An error if one of them fails.
pub fn run<B: Backend>(
    backend: &B,
    device: DeviceChoice,
    from: &Path,
    claim: Claim,
    settings: &Valid<Settings>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let suite = DemoSuite::new(settings, JudgeSettings::read(&from.join(MODEL))?)?;
    let (judge, taught) = (from.join(MODEL), from.join(SFT_MODEL));
    // Refused before an earlier comparison is replaced.
    drop((load(&Cpu, &judge, settings)?, load(&Cpu, &taught, settings)?));
    interrupt::defer();
    let begin = |claim: Claim, device: DeviceChoice| {
        claim.begin(&RunRecord::new(COMMAND, device.kind(), Vec::new()), settings, Progress::default())
    };
    let mut run = begin(claim, device)?;
    let mut cpu_run = begin(Claim::new(&run.path().join("cpu"), COMMAND, Intent::Replace)?, DeviceChoice::Cpu)?;
    let mut checks = vec![accuracy(backend, &suite, settings, &judge, stop)?];
    checks.extend(rollouts(backend, &suite, settings, &taught, stop)?);
    checks.extend(training(backend, &suite, settings, &taught, [&mut run, &mut cpu_run], stop)?);
    backend.wait()?;
    let summary = Summary { device: backend.name(), checks, stages: serde_json::Map::new() };
    let mut table = TextTable::new(["check", "CPU", &summary.device, "expected", ""]);
    for check in &summary.checks {
        let verdict = if check.holds { "holds" } else { "FAILS" };
        table.row([check.name, &check.cpu, &check.device, &check.expected, verdict]);
    }
    run.finish(&summary, &CONTENTS)?;
    console::print_line(&table)?;
    let failed: Vec<&str> = summary.checks.iter().filter(|check| !check.holds).map(|check| check.name).collect();
    ensure!(failed.is_empty(), "{} is not right: {}", summary.device, failed.join(", "));
    Ok(())
}

/// The earlier run's settings with few and small steps.
pub fn settings(args: &DemoArgs, from: &Path) -> anyhow::Result<Valid<Settings>> {
    let file = from.join("config.toml");
    ensure!(file.is_file(), "--from {}: there is no config.toml: it is not the folder of a demo", from.display());
    if let Some(record) = RunRecord::read(from)? {
        let its = &record.command;
        ensure!(its == super::COMMAND, "--from {}: is the folder of `{its}`, not of a demo", from.display());
    }
    let mut s = overlay(&Settings::default(), Some(&file), std::iter::empty(), &[])?.settings;
    s.run.out = from.join("compare").display().to_string();
    // Not that run's: each backend chooses what suits it.
    s.run.lm_head_chunk_rows = 0;
    (s.sft.steps, s.sft.examples_per_step, s.sft.warmup, s.sft.micro_batch_tokens) = (20, 4, 5, 1024);
    s.sft.learning_rate = 2e-4;
    (s.rl.steps, s.rl.pairs_per_step, s.rl.rollouts, s.rl.micro_batch_tokens) = (3, 2, 4, 1024);
    s.rl.max_running = 64;
    s.eval.pairs = PAIRS;
    Ok(resolve(&s, None, std::env::vars_os(), &args.assignments()?)?)
}

fn load<B: Backend>(backend: &B, folder: &Path, settings: &Settings) -> anyhow::Result<Qwen3<B>> {
    let Pretrained { config, weights, .. } = pretrained::load(folder)
        .with_context(|| format!("{}: a demo of this version leaves its judges there", folder.display()))?;
    weights.model(&config, |weights| Qwen3::new(backend, config.clone(), weights, settings.model.context))
}

/// One sampled judgement a side, strictly higher: the share of right pairs must agree within two standard errors.
fn accuracy<B: Backend>(
    backend: &B,
    suite: &DemoSuite,
    settings: &Settings,
    judge: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<Check> {
    let cpu = suite.evaluate(&load(&Cpu, judge, settings)?, settings, 1, 0, stop)?.report.accuracy;
    let device = suite.evaluate(&load(backend, judge, settings)?, settings, 1, 0, stop)?.report.accuracy;
    let pairs = settings.eval.pairs as f64;
    // Of a share between the two, at least as if one pair were wrong: at 0 and 1 the formula knows no error at all.
    let share = (0.5 * (cpu + device)).clamp(1.0 / pairs, 1.0 - 1.0 / pairs);
    let error = (share * (1.0 - share) / pairs).sqrt();
    Ok(Check {
        name: "accuracy of the judge",
        cpu: format!("{cpu:.3}"),
        device: format!("{device:.3}"),
        expected: format!("within {:.3}", 2.0 * error),
        holds: (cpu - device).abs() <= 2.0 * error,
    })
}

/// The CPU's rollouts, read by both: rewards by the one op, log-probabilities by a scoring pass.
fn rollouts<B: Backend>(
    backend: &B,
    suite: &DemoSuite,
    settings: &Valid<Settings>,
    judge: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<[Check; 3]> {
    let (cpu_model, model) = (load(&Cpu, judge, settings)?, load(backend, judge, settings)?);
    let pairs: Vec<JudgePair> = (0..SHARED_PAIRS as u64).map(|cursor| suite.pair(cursor)).collect();
    let how = suite.judge_sampling(settings, SHARED_ROLLOUTS);
    let mut engine = suite.engine(&cpu_model, settings)?;
    let judged = suite.judge.judge_pairs(&mut engine, &cpu_model, &how, &pairs, Some(stop), |_| {})?;
    let mode = suite.judge.settings().mode;
    let (rewards, capacity) = (&settings.part(|s| &s.reward), settings.rl.micro_batch_tokens);
    let here = reward(&Cpu, rewards, mode, SHARED_ROLLOUTS, &pairs, &judged)?;
    let there = reward(backend, rewards, mode, SHARED_ROLLOUTS, &pairs, &judged)?;
    let means = |rewards: &crate::reward::Rewards| {
        let all = &rewards.judgements;
        format!("{:.4}", all.iter().map(|r| f64::from(r.reward)).sum::<f64>() / all.len().max(1) as f64)
    };
    let (here_logprobs, there_logprobs) =
        (score(&cpu_model, capacity, &pairs, &judged)?, score(&model, capacity, &pairs, &judged)?);
    ensure!(here_logprobs.len() == there_logprobs.len() && !here_logprobs.is_empty(), "no token was scored");
    let gaps = || here_logprobs.iter().zip(&there_logprobs).map(|(a, b)| f64::from((a - b).abs()));
    let tokens = here_logprobs.len() as f64;
    // What is not a number must not pass: comparisons with it are false.
    let (largest, mean) =
        (gaps().fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a }), gaps().sum::<f64>() / tokens);
    let logprob = |logprobs: &[f32]| {
        format!("{:.4}", logprobs.iter().map(|l| f64::from(*l)).sum::<f64>() / logprobs.len() as f64)
    };
    let check = |name, gap: f64, limit: f64| Check {
        name,
        cpu: logprob(&here_logprobs),
        device: logprob(&there_logprobs),
        expected: format!("{gap:.4}, at most {limit}"),
        holds: gap <= limit,
    };
    Ok([
        Check {
            name: "rewards of the same rollouts",
            cpu: means(&here),
            device: means(&there),
            expected: "equal".into(),
            holds: here == there,
        },
        check("log-probabilities, largest gap", largest, LOGPROB_MAX),
        check("log-probabilities, mean gap", mean, LOGPROB_MEAN),
    ])
}

/// Log-probabilities of all tokens of all judgements, in the order of pairs, roles and rollouts.
fn score<B: Backend>(
    model: &Qwen3<B>,
    capacity: usize,
    pairs: &[JudgePair],
    judged: &[[Vec<Judged>; 2]],
) -> anyhow::Result<Vec<f32>> {
    let mut sequences = Vec::new();
    for (tree, (pair, sides)) in pairs.iter().zip(judged).enumerate() {
        for (prompt, side) in pair.prompts.iter().zip(sides) {
            sequences.extend(side.iter().map(|j| Sequence { tree, prompt, completion: &j.completion.tokens }));
        }
    }
    let mut scorer = Scorer::new(model, capacity)?;
    Ok(prefix_tree::score(&mut scorer, model, &sequences, capacity, 1.0)?.concat())
}

/// SFT steps from the taught judge, which must lose as much as on the CPU, and RL steps from there. The folders are those of the
/// device's steps and of the CPU's.
fn training<B: Backend>(
    backend: &B,
    suite: &DemoSuite,
    settings: &Valid<Settings>,
    judge: &Path,
    [run, cpu_run]: [&mut RunFolder; 2],
    stop: &AtomicBool,
) -> anyhow::Result<[Check; 2]> {
    let mut guard = Guard::new(run.path().to_path_buf(), settings.run.patience);
    let mut cpu =
        Learner::new(load(&Cpu, judge, settings)?, settings.part(|s| &s.sft.adamw), settings.sft.micro_batch_tokens)?;
    if suite.run_sft(&mut cpu, settings, cpu_run, &mut guard, stop)? == Outcome::Stopped {
        bail!("stopped");
    }
    let mut learner = Learner::new(
        load(backend, judge, settings)?,
        settings.part(|s| &s.sft.adamw),
        settings.sft.micro_batch_tokens,
    )?;
    if suite.run_sft(&mut learner, settings, run, &mut guard, stop)? == Outcome::Stopped {
        bail!("stopped");
    }
    let reference = learner.model.frozen()?;
    let mut learner = Learner::new(learner.model, settings.part(|s| &s.rl.adamw), settings.rl.micro_batch_tokens)?;
    if suite.run_rl(&mut learner, &reference, settings, run, &mut guard, stop)? == Outcome::Stopped {
        bail!("stopped");
    }
    let losses = column(run.path(), "sft", "loss")?;
    let cpu_losses = column(cpu_run.path(), "sft", "loss")?;
    let (rl_losses, mismatch) = (column(run.path(), "rl", "loss")?, column(run.path(), "rl", "mismatch_max")?);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let largest = |values: &[f64]| values.iter().copied().fold(f64::NAN, f64::max);
    let gaps: Vec<f64> = losses.iter().zip(&cpu_losses).map(|(a, b)| (a - b).abs()).collect();
    // What is not a number makes the mean one that is not, and comparisons false.
    let (gap, steps) = (mean(&gaps), settings.sft.steps as usize);
    let reinforced = rl_losses.len() as u64 == settings.rl.steps && rl_losses.iter().all(|loss| loss.is_finite());
    Ok([
        Check {
            name: "loss of the same SFT steps, mean",
            cpu: format!("{:.4}", mean(&cpu_losses)),
            device: format!("{:.4}", mean(&losses)),
            expected: format!("{gap:.4} a step, at most {LOSS_GAP}"),
            holds: gaps.len() == steps && losses.len() == steps && gap <= LOSS_GAP,
        },
        Check {
            name: "RL steps from there: mismatch_max",
            cpu: "0".into(),
            device: format!("{:.4}", largest(&mismatch)),
            expected: format!("at most {LOGPROB_MAX}, losses are numbers"),
            holds: reinforced && largest(&mismatch) <= LOGPROB_MAX,
        },
    ])
}

/// A column of a run's metrics.
fn column(run: &Path, stage: &str, key: &str) -> anyhow::Result<Vec<f64>> {
    let (lines, _) = read_records(&run.join("metrics.jsonl"))?;
    let of_stage = lines.iter().filter(|line| line.get("stage").is_some_and(|s| s == stage));
    Ok(of_stage.map(|line| line.get(key).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN)).collect())
}
