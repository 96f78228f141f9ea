//! One file per subcommand of `patarm-train`.

pub mod bench;
pub mod demo;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

/// Trains, evaluates and serves PaTaRM generative reward models on Qwen3.
#[derive(Debug, Parser)]
#[command(name = "patarm-train", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// Sizes rayon's pool, once, before any work; 0 takes all cores.
fn use_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| anyhow::anyhow!("cannot start {threads} threads: {error}"))
}

/// A flag that the first Ctrl-C sets, so that work ends at the next safe place; the second ends the program at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping at the next safe place; press Ctrl-C again to stop at once");
    })?;
    Ok(flag)
}
