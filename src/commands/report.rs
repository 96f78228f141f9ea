//! `report`: writes a run's page anew.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use crate::report::write_report;

/// Write a run's report.html anew, from its metrics, samples and summary.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder of the run.
    pub run: PathBuf,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    ensure!(args.run.is_dir(), "{}: there is no such folder", args.run.display());
    println!("{}", write_report(&args.run)?.display());
    Ok(())
}
