//! One file per subcommand of `patarm-train`.

pub mod annotate;
pub mod bench;
pub mod data;
pub mod demo;
pub mod device;
pub mod doctor;
mod ending;
mod endpoint;
pub mod eval;
mod fitted;
pub mod generate;
mod held_out;
pub mod interrupt;
pub mod judge;
mod judged_response;
mod judged_rows;
mod judging;
pub mod plan;
pub mod pretrained;
mod profile;
pub mod report;
mod report_files;
pub mod rl;
pub mod rows;
pub mod sft;
mod train_args;

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use serde::de::DeserializeOwned;

use crate::file::counted;
use crate::setting::Rule;

/// Trains, evaluates and serves PaTaRM generative reward models on Qwen3.
#[derive(Debug, Parser)]
#[command(name = "patarm-train", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands. Their help is the doc comment of their arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::DemoArgs),
    Sft(sft::SftArgs),
    Rl(rl::RlArgs),
    Annotate(Box<annotate::AnnotateArgs>),
    Judge(judge::JudgeArgs),
    Eval(Box<eval::EvalArgs>),
    Generate(generate::GenerateArgs),
    Plan(plan::PlanArgs),
    Bench(bench::BenchArgs),
    Data(data::DataArgs),
    Report(report::ReportArgs),
    Doctor(doctor::DoctorArgs),
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Sft(args) => sft::run(&args),
        Command::Rl(args) => rl::run(&args),
        Command::Annotate(args) => annotate::run(*args),
        Command::Judge(args) => judge::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}

/// Reads the value of a flag and holds it to a rule.
fn flag<T: DeserializeOwned + 'static>(rule: Rule) -> impl Fn(&str) -> Result<T, String> + Clone {
    let single = TypeId::of::<T>() == TypeId::of::<f32>();
    move |text| {
        let value: toml::Value = text.parse().unwrap_or_else(|_| toml::Value::String(text.to_string()));
        if single && value.as_float().is_some_and(|x| x != 0.0 && x as f32 == 0.0) {
            return Err(format!("expected {rule}, got {text}, which is 0 as a 32-bit number"));
        }
        rule.check(value, single)?.try_into().map_err(|error: toml::de::Error| error.message().to_string())
    }
}

/// Runs `work` on a pool of `threads` threads (0: all cores), as one of them.
///
/// Being one of them matters: an op called from outside a pool puts its work into a queue and sleeps until it is done, which
/// for the small ops of decoding takes longer than the ops themselves.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = THREADS_A_CORE * cores;
    anyhow::ensure!(
        threads <= most,
        "--threads (run.threads) = {threads}: this machine has {}; expected 0 (all of them) to {most}",
        counted(cores, "core")
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| {
            anyhow::anyhow!("--threads (run.threads): cannot start {}: {error}", counted(threads, "thread"))
        })?
        .install(work)
}

/// More threads than this on a core are a mistake: they only wait for each other.
const THREADS_A_CORE: usize = 16;

/// A flag that the first signal to stop sets, so that work ends at the next safe point; the second ends the program at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    interrupt::defer();
    interrupt::watch()
}
