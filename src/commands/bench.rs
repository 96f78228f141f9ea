//! `bench`: tokens per second of training, decoding and whole RL steps, on random weights.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::device::{DeviceArgs, DeviceChoice, with_backend};
use super::profile::{self, ProfileReport};
use super::{flag, pretrained};
use crate::config::{RUNNING, THREADS, TOKENS, TOKENS_MAX};
use crate::file::{console, counted};
use crate::log::environment::peak_rss_bytes;
use crate::loss::grpo::{GrpoLoss, KlEstimator};
use crate::model::parameters::uniform_weights;
use crate::model::{Batch, Qwen3, Qwen3Config};
use crate::ops::Backend;
use crate::ops::sample::Sampling;
use crate::random::{Stream, bench_seeds};
use crate::rollout::{Completion, Engine, EngineLimits, PromptGroup, SampleRequest};
use crate::setting::{Valid, count};
use crate::train::prefix_tree::{Sequence, pack};
use crate::train::trajectory::{Inputs, Rows};
use crate::train::{Learner, Loss, Scorer, Targets, TokenObjective};

/// Measure training, decoding or a whole RL step on this machine.
///
/// Weights and tokens are random, so speed is measured and nothing else. Prints the median of several runs: tokens per
/// second, GFLOP/s, the share of the machine's own measured GEMM peak, and peak memory.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure: one optimizer step, generation, or rollouts + reference + update.
    pub what: What,
    /// A named shape (nano, mini, 0.6b … 32b) or a Hugging Face directory.
    #[arg(long, default_value = "nano")]
    pub shape: String,
    /// Sequences of a training step, or of a decoding batch.
    #[arg(long, default_value_t = 16, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub batch: usize,
    /// Tokens of a training sequence.
    #[arg(long, default_value_t = 256, allow_negative_numbers = true, value_parser = flag::<usize>(count(2, TOKENS_MAX)))]
    pub length: usize,
    /// Tokens of a prompt (decode, rl).
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub prompt: usize,
    /// Sequences of a decoding batch that share each prompt, as the rollouts of an RL step do.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub batch_shared: usize,
    /// New tokens of a completion (decode, rl).
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub new: usize,
    /// Prompts of an RL step.
    #[arg(long, default_value_t = 8, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub prompts: usize,
    /// Completions of each prompt in an RL step.
    #[arg(long, default_value_t = 8, allow_negative_numbers = true, value_parser = flag::<usize>(count(1, 4096)))]
    pub generations: usize,
    /// Completions that decode at the same time, at most (decode, rl).
    #[arg(long, default_value_t = 128, allow_negative_numbers = true, value_parser = flag::<usize>(RUNNING))]
    pub max_running: usize,
    /// Tokens of a micro-batch (train, rl).
    #[arg(long, default_value_t = 4096, allow_negative_numbers = true, value_parser = flag::<usize>(TOKENS))]
    pub micro_batch_tokens: usize,
    /// Threads; 0: all cores.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = flag::<usize>(THREADS))]
    pub threads: usize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Timed runs, after one that is not; the median counts.
    #[arg(long, default_value_t = 5, allow_negative_numbers = true, value_parser = flag::<usize>(count(1, 100_000)))]
    pub runs: usize,
    /// After the timed runs, say where the device time of one more goes: a table of phases and ops (CUDA devices).
    #[arg(long)]
    pub profile: bool,
    /// Print one JSON line instead of words.
    #[arg(long)]
    pub json: bool,
}

/// What `bench` times: a training step without rollouts, decoding alone, or a whole RL step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Train,
    Decode,
    Rl,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    what: What,
    shape: String,
    device: String,
    parameters: usize,
    threads: usize,
    /// Trained tokens (train), or new tokens (decode, rl; for rl over the whole step).
    tokens: usize,
    tokens_per_s: f64,
    run_ms: f64,
    /// Of a decode step (decode): a run's time beyond that of a run with one new token, by new tokens beyond the first.
    step_ms: Option<f64>,
    /// From the start of the command until the model is on its device.
    load_s: f64,
    /// Of the matrix matmuls, attention left out.
    gflop_per_s: f64,
    gemm_peak_gflop_per_s: f64,
    percent_of_gemm_peak: f64,
    peak_rss_bytes: Option<u64>,
    #[serde(flatten)]
    profile: Option<ProfileReport>,
}

/// Measures on random weights and prints a report; refuses sizes that are zero.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    super::on_threads(args.threads, || with_backend!(args.device.device, backend => measure(backend, args)))
}

/// The most tokens of one timed run, which are kept in memory: 1 GB of ids.
const TOKENS_OF_A_RUN: usize = 1 << 28;

fn measure<B: Backend>(backend: &B, args: &BenchArgs) -> anyhow::Result<()> {
    let sequences = args.prompts * args.generations;
    for (names, tokens) in [
        ("--batch × --length", args.batch * args.length),
        ("--batch × (--prompt + --new)", args.batch * (args.prompt + args.new)),
        ("--prompts × --generations × (--prompt + --new)", sequences * (args.prompt + args.new)),
    ] {
        if tokens > TOKENS_OF_A_RUN {
            bail!("{names} = {tokens}: a run may have {TOKENS_OF_A_RUN} tokens, lower one of them");
        }
    }
    if args.profile && args.device.device == DeviceChoice::Cpu {
        bail!(
            "--profile measures a CUDA device (--device cuda or emulated); on the CPU, a profiler such as perf shows more"
        );
    }
    if !args.batch.is_multiple_of(args.batch_shared) {
        bail!("--batch {} must be a multiple of --batch-shared {}", args.batch, args.batch_shared);
    }
    let start = Instant::now();
    let (config, weights) = shape(&args.shape)?;
    let context = (args.prompt + args.new).max(args.length);
    let model = Qwen3::new(backend, config, &weights, context)?;
    // 33 GB for 8b.
    drop(weights);
    backend.wait()?;
    let load_s = start.elapsed().as_secs_f64();
    let parameters = model.table.parameter_count();
    let Measured { tokens, matmuls, timed: Timed { seconds, profile }, step_ms } = match args.what {
        What::Train => train(args, model)?,
        What::Decode => decode(args, &model)?,
        What::Rl => rl(args, model)?,
    };
    // Read before the peak is measured, so that it is of the work alone.
    let peak_rss_bytes = peak_rss_bytes();
    let gflop_per_s = 2e-9 * parameters as f64 * matmuls / seconds;
    let peak = backend.matmul_gflops()?;
    let report = Report {
        what: args.what,
        shape: args.shape.clone(),
        device: backend.name(),
        parameters,
        threads: rayon::current_num_threads(),
        tokens,
        tokens_per_s: tokens as f64 / seconds,
        run_ms: 1e3 * seconds,
        step_ms,
        load_s,
        gflop_per_s,
        gemm_peak_gflop_per_s: peak,
        percent_of_gemm_peak: 100.0 * gflop_per_s / peak,
        peak_rss_bytes,
        profile,
    };
    print(&report, args.json)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(console::print_line(serde_json::to_string(report)?)?);
    }
    let words = format!(
        "{:?} {} ({:.1} M parameters, {}, {}): {:.0} tokens/s, {:.1} ms a run{}, {:.0} GFLOP/s = {:.0} % of the \
         {:.0} GFLOP/s that matmuls alone reach here, peak memory {}",
        report.what,
        report.shape,
        report.parameters as f64 / 1e6,
        report.device,
        counted(report.threads, "thread"),
        report.tokens_per_s,
        report.run_ms,
        report.step_ms.map_or(String::new(), |step| format!(" and {step:.2} ms a decode step")),
        report.gflop_per_s,
        report.percent_of_gemm_peak,
        report.gemm_peak_gflop_per_s,
        report.peak_rss_bytes.map_or("unknown".into(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6)),
    );
    let table = report.profile.as_ref().map(|profile| format!("\n{}", profile.table())).unwrap_or_default();
    Ok(console::print(&format!("{words}\n{table}"))?)
}

/// A named shape with random weights, or a model directory.
fn shape(name: &str) -> anyhow::Result<(Qwen3Config, Vec<f32>)> {
    if let Some(config) = Qwen3Config::named(name) {
        pretrained::check_memory(&config).with_context(|| format!("--shape {name}"))?;
        let weights = uniform_weights(&config, 0);
        return Ok((config, weights));
    }
    let path = Path::new(name);
    if !path.is_dir() {
        let names: Vec<_> = Qwen3Config::names().collect();
        bail!("--shape {name}: neither a directory nor one of {}", names.join(", "));
    }
    let opened = pretrained::open(path).with_context(|| format!("--shape {name}"))?;
    let weights = opened.weights(|_| {})?;
    Ok((opened.config, weights))
}

/// Timed runs of the prompts alone, whose time is no decode step's.
const FIRST_TOKEN_RUNS: usize = 3;

/// Median seconds of the runs, and with `--profile` where the time of one more went.
struct Timed {
    seconds: f64,
    profile: Option<ProfileReport>,
}

/// Times `--runs` calls after one that is not timed, and profiles one more when asked to.
fn time<B: Backend>(
    args: &BenchArgs,
    backend: &B,
    mut run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Timed> {
    let seconds = median(args.runs, &mut run)?;
    let profile = if args.profile { profile::measure(backend, seconds, run)? } else { None };
    Ok(Timed { seconds, profile })
}

/// Median seconds of `runs` calls after one that is not timed.
fn median(runs: usize, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn random_ids(vocab: usize, stream: Stream, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| stream.below(i, vocab) as u32).collect()
}

/// What the runs of one kind tell.
struct Measured {
    tokens: usize,
    /// Matmuls of all parameters with one token.
    matmuls: f64,
    timed: Timed,
    /// Of decoding: milliseconds a decode step.
    step_ms: Option<f64>,
}

fn train<B: Backend>(args: &BenchArgs, model: Qwen3<B>) -> anyhow::Result<Measured> {
    let vocab = model.config.vocab_size;
    let sequences: Vec<Vec<u32>> = (0..args.batch as u64)
        .map(|i| random_ids(vocab, Stream::new(bench_seeds::TRAIN).fold(i), args.length))
        .collect();
    let per_batch = (args.micro_batch_tokens / args.length).max(1);
    let backend = model.backend.clone();
    let mut learner = Learner::new(model, Valid::default(), per_batch.min(args.batch) * args.length)?;
    let tokens = args.batch * args.length;
    let timed = time(args, &backend, || {
        for part in sequences.chunks(per_batch) {
            let (mut batch, mut targets) = (Batch::default(), Targets::default());
            for ids in part {
                let first = batch.tokens();
                batch.push_sequence(ids);
                ids[1..].iter().enumerate().for_each(|(position, id)| targets.push(first + position, *id));
            }
            let weights = vec![1.0 / tokens as f32; targets.rows.len()];
            let objective = TokenObjective::cross_entropy(&targets, &weights);
            learner.accumulate(&mut batch, &objective)?;
        }
        learner.update_if(true, 1e-4)?;
        Ok(backend.wait()?)
    })?;
    Ok(Measured { tokens, matmuls: 3.0 * tokens as f64, timed, step_ms: None })
}

fn groups(
    args: &BenchArgs,
    (prompts, members): (usize, usize),
    new: usize,
    vocab: usize,
    run: u64,
) -> Vec<PromptGroup> {
    let group = |i: u64| {
        let stream = Stream::new(bench_seeds::ROLLOUTS).fold(i);
        let sample =
            |m: usize| SampleRequest { sampling: Sampling::temperature(1.0), stream: stream.fold(run).fold(m as u64) };
        PromptGroup {
            prompt: random_ids(vocab, stream, args.prompt),
            samples: (0..members).map(sample).collect(),
            stop: Vec::new(),
            max_new_tokens: new,
        }
    };
    (0..prompts as u64).map(group).collect()
}

fn decode<B: Backend>(args: &BenchArgs, model: &Qwen3<B>) -> anyhow::Result<Measured> {
    let vocab = model.config.vocab_size;
    let mut engine =
        Engine::new(model, EngineLimits::for_lengths(args.prompt, args.new, args.batch.min(args.max_running)))?;
    let prompts = args.batch / args.batch_shared;
    let mut run = 0;
    let mut generate = |new: usize| -> anyhow::Result<()> {
        run += 1;
        engine.generate(model, &groups(args, (prompts, args.batch_shared), new, vocab, run), None, |_| {})?;
        Ok(())
    };
    let timed = time(args, &model.backend, || generate(args.new))?;
    // The prompts and the first tokens are no decode step.
    let step_ms = match args.new {
        1 => None,
        new => Some(1e3 * (timed.seconds - median(FIRST_TOKEN_RUNS, || generate(1))?) / (new - 1) as f64),
    };
    let tokens = args.batch * args.new;
    Ok(Measured { tokens, matmuls: (tokens + prompts * args.prompt) as f64, timed, step_ms })
}

fn rl<B: Backend>(args: &BenchArgs, model: Qwen3<B>) -> anyhow::Result<Measured> {
    let vocab = model.config.vocab_size;
    let backend = model.backend.clone();
    let reference = model.frozen()?;
    let sequences = args.prompts * args.generations;
    let one_group = args.prompt + args.generations * args.new;
    let capacity = args.micro_batch_tokens.max(one_group);
    let mut engine =
        Engine::new(&model, EngineLimits::for_lengths(args.prompt, args.new, sequences.min(args.max_running)))?;
    let mut scorer = Scorer::new(&model, capacity)?;
    let mut learner = Learner::new(model, Valid::default(), capacity)?;
    let policy = GrpoLoss { clip_low: 0.2, clip_high: 0.2, kl: KlEstimator::K3, kl_coefficient: 0.001 };
    let tokens = sequences * args.new;
    let mut run = 0;
    let timed = time(args, &backend, || {
        run += 1;
        let requests = groups(args, (args.prompts, args.generations), args.new, vocab, run);
        let completions = engine.generate(&learner.model, &requests, None, |_| {})?;
        // A reward without meaning: it only has to differ between the members of a group.
        let reward = |c: &Completion| f64::from(c.tokens.iter().sum::<u32>() % 7);
        let (mut sequences, mut advantages) = (Vec::new(), Vec::new());
        for (tree, (request, members)) in requests.iter().zip(&completions).enumerate() {
            let mean = members.iter().map(reward).sum::<f64>() / members.len() as f64;
            advantages.extend(members.iter().map(|c| (reward(c) - mean) as f32));
            sequences.extend(members.iter().map(|c| Sequence { tree, prompt: &request.prompt, completion: &c.tokens }));
        }
        let drawn: Vec<&Completion> = completions.iter().flatten().collect();
        for mut micro in pack(&sequences, capacity)? {
            let reference_logprob = scorer.score(&reference, &micro.batch, &micro.targets, 1.0)?.get()?.logprob;
            let rows = Rows::gather(&micro, |sequence| {
                let (weight, advantage) = (1.0 / tokens as f32, advantages[sequence]);
                let drawn = drawn[sequence].logprobs.as_slice();
                // One update a step, and the reference's are by row already, below.
                Inputs { weight, advantage, rollout: drawn, old: None, reference: None }
            });
            let loss = Loss::Grpo {
                loss: policy,
                old_logprob: None,
                reference_logprob: Some(&reference_logprob),
                advantages: &rows.advantages,
            };
            let objective =
                TokenObjective { targets: &micro.targets, row_weights: &rows.weight, temperature: 1.0, loss: &loss };
            learner.accumulate(&mut micro.batch, &objective)?;
        }
        learner.update_if(true, 1e-6)?;
        Ok(backend.wait()?)
    })?;
    let prompt_tokens = args.prompts * args.prompt;
    // Prompts and completions pass through the rollout, the reference, and three times through the update.
    Ok(Measured { tokens, matmuls: 5.0 * (tokens + prompt_tokens) as f64, timed, step_ms: None })
}
