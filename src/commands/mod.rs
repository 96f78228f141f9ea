//! One file per subcommand of `patarm-train`.

pub mod bench;

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
    Bench(bench::BenchArgs),
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
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
