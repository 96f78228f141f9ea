//! Every CUDA op at the sizes of Qwen3-0.6B and 8B, in one table: time, GB/s and TFLOP/s by the contract's `cost()`, and how that
//! compares with this device's copy and matmul speed, with the op's floor, and with `benches/predictions.toml`.
//!
//! `cargo bench --bench kernels`, or `-- --emulated --tokens 64` to check that it runs. Arguments rotate over four L2 caches, and
//! outputs are poisoned: a row whose op leaves one unwritten is an error, and the exit code says so.

// Without CUDA only the names of the rows are of use.
#![cfg_attr(not(has_cuda), allow(dead_code))]

#[cfg(has_cuda)]
mod buffers;
#[cfg(has_cuda)]
mod measure;
#[cfg(has_cuda)]
mod ops_attention;
#[cfg(has_cuda)]
mod ops_elementwise;
#[cfg(has_cuda)]
mod ops_matmul;
#[cfg(has_cuda)]
mod ops_update;
#[cfg(has_cuda)]
mod predictions;
#[cfg(has_cuda)]
mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use patarm::model::Qwen3Config;
use patarm::ops::linear::LinearSizes;

/// Measures every CUDA op of this build.
#[derive(Debug, Parser)]
pub struct Options {
    /// Run on the emulator, with tiny sizes: counts, not speed.
    #[arg(long)]
    emulated: bool,
    /// Tokens of a training batch [default: 8192; 64 on the emulator].
    #[arg(long)]
    tokens: Option<usize>,
    /// 0.6b, 8b, tiny, or all of the first two [default: all; tiny on the emulator].
    #[arg(long)]
    shape: Option<String>,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Also write one JSON line for each kernel to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print the names of all rows and exit.
    #[arg(long)]
    list: bool,
    /// Added by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The sizes of a model and of its inputs.
#[derive(Debug)]
pub struct Shape {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    /// Tokens of a training batch.
    tokens: usize,
    /// Tokens of a packed sequence.
    length: usize,
    /// Tokens of a shared prompt, and of one of its rollouts.
    prompt: usize,
    own: usize,
}

/// Rollouts that share a prompt.
pub const ROLLOUTS: usize = 8;

impl Shape {
    fn named(name: &'static str, tokens: usize) -> Self {
        let (length, prompt, own) = (tokens.min(1024), 1500, 300);
        let Some(config) = Qwen3Config::named(name) else {
            // For the emulator: the same code paths, every size as small as they allow.
            let (prompt, own) = ((3 * tokens / 8).max(1), (tokens / 8).max(1));
            let (q_heads, kv_heads, head_dim) = (4, 2, 32);
            let (hidden, intermediate, vocab) = (64, 128, 1000);
            #[rustfmt::skip]
            return Self {
                name, hidden, intermediate, q_heads, kv_heads, head_dim, vocab, tokens, length, prompt, own,
            };
        };
        Self {
            name,
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            q_heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            tokens,
            length,
            prompt,
            own,
        }
    }

    fn q_dim(&self) -> usize {
        self.q_heads * self.head_dim
    }

    fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The matrices of a layer.
    fn matrices(&self) -> [(&'static str, LinearSizes); 4] {
        let sizes = |out_features, in_features| LinearSizes { out_features, in_features };
        [
            ("qkv", sizes(self.q_dim() + 2 * self.kv_dim(), self.hidden)),
            ("o", sizes(self.hidden, self.q_dim())),
            ("gate_up", sizes(2 * self.intermediate, self.hidden)),
            ("down", sizes(self.hidden, self.intermediate)),
        ]
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        rows::NAMES.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let names: &[&str] = match options.shape.as_deref() {
        None if options.emulated => &["tiny"],
        None | Some("all") => &["0.6b", "8b"],
        Some("0.6b") => &["0.6b"],
        Some("8b") => &["8b"],
        Some("tiny") => &["tiny"],
        Some(other) => {
            eprintln!("--shape {other}: neither 0.6b, 8b, all nor tiny");
            return ExitCode::FAILURE;
        }
    };
    let tokens = options.tokens.unwrap_or(if options.emulated { 64 } else { 8192 });
    let shapes: Vec<Shape> = names.iter().map(|name| Shape::named(name, tokens)).collect();
    run(options, &shapes)
}

#[cfg(not(has_cuda))]
fn run(_: Options, _: &[Shape]) -> ExitCode {
    println!("this build has no CUDA kernels: run tools/install-nvcc, or set CUDA_HOME");
    ExitCode::SUCCESS
}

#[cfg(has_cuda)]
fn run(options: Options, shapes: &[Shape]) -> ExitCode {
    use patarm::cuda::{Cuda, Emulation};

    let emulation = if options.emulated {
        cuda_emulator::load().expect("the emulator's libraries are next to the benches");
        Emulation::Allowed
    } else {
        Emulation::Refused
    };
    let device = match Cuda::open(0, emulation) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}\n(--emulated runs the benches on the emulator: counts, not speed)");
            return ExitCode::FAILURE;
        }
    };
    match measure_all(device, options, shapes) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(has_cuda)]
fn measure_all(device: patarm::cuda::Cuda, options: Options, shapes: &[Shape]) -> Result<bool, String> {
    let predictions = predictions::Predictions::load()?;
    let file = options.json.clone();
    let report = report::Report::new(predictions, file.as_deref()).map_err(|error| format!("--json: {error}"))?;
    let bench = measure::Bench::new(device, options, report).map_err(|error| error.to_string())?;
    for shape in shapes {
        let (elementwise, matmul) = (ops_elementwise::ROWS, ops_matmul::ROWS);
        let rows = elementwise.into_iter().chain(matmul).chain(ops_attention::ROWS).chain(ops_update::ROWS);
        rows.for_each(|row| bench.attempt(row, shape));
    }
    Ok(bench.finish())
}
