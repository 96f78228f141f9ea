//! The files of a report beside its table on the terminal: all numbers as JSON, and a page with plots.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::file::write_atomically;

/// Where they go.
#[derive(Clone, Debug, Args)]
pub struct ReportFiles {
    /// Writes the table as JSON too, with all digits.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes the table with plots as an HTML page too.
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
}

impl ReportFiles {
    /// The files that are asked for, each after its flag.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("--json", &self.json), ("--page", &self.page)];
        files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_deref()?)))
    }

    /// Writes them.
    pub fn write(&self, json: &impl Serialize, page: impl FnOnce() -> String) -> anyhow::Result<()> {
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(json).expect("numbers are JSON") + "\n";
            write_atomically(file, text.as_bytes()).with_context(|| format!("--json {}", file.display()))?;
        }
        if let Some(file) = &self.page {
            write_atomically(file, page().as_bytes()).with_context(|| format!("--page {}", file.display()))?;
        }
        Ok(())
    }
}
