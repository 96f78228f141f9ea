//! `data`: looks at files of rows, checks them, and makes others of them.

mod content;
mod convert;
mod histogram;
mod input;
mod inspect;
mod mix;
mod overlap;
mod reasons;
mod record;
mod validate;

use clap::{Args, Subcommand};

/// Look at data files, check them, turn them into pairs of our own form, and mix them.
///
/// Files are JSON lines, a JSON array (either also by gzip or zstd) or Parquet, whatever they are called; a folder stands for
/// the files in it. Rows may have any format that training reads. All four commands read row by row: a file may be larger than
/// memory.
///
///   patarm-train data inspect train.parquet
///   patarm-train data validate train.parquet test.jsonl.gz
///   patarm-train data convert train.parquet --output pairs.jsonl
///   patarm-train data mix a.jsonl b.parquet --take b.parquet=0.5 --output train.jsonl
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    Inspect(inspect::InspectArgs),
    Validate(validate::ValidateArgs),
    Convert(convert::ConvertArgs),
    Mix(mix::MixArgs),
}

/// Runs the command that was asked for.
pub fn run(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Inspect(args) => inspect::run(args),
        DataCommand::Validate(args) => validate::run(args),
        DataCommand::Convert(args) => convert::run(args),
        DataCommand::Mix(args) => mix::run(args),
    }
}
