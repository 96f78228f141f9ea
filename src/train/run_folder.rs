//! The folder of a run: `runs/<name>/` with its configuration, metrics, samples, checkpoints, summary and report.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::learner::Learner;
use crate::checkpoint::{self, Progress};
use crate::config::Settings;
use crate::file::{say, write_atomically};
use crate::log::{Environment, MetricsWriter};
use crate::ops::Backend;
use crate::report::{Contents, write_report};
use crate::setting::Valid;

/// Where a run leaves its files.
pub struct RunFolder {
    path: PathBuf,
    pub metrics: MetricsWriter,
    pub samples: MetricsWriter,
}

impl RunFolder {
    /// Starts a run in a folder that holds none yet, and saves its configuration.
    pub fn create(path: &Path, config: &impl Serialize) -> anyhow::Result<Self> {
        if path.join("metrics.jsonl").exists() {
            bail!("{}: holds a run already; name another folder with --out, or add --resume", path.display());
        }
        std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let config = toml::to_string(config).context("the configuration cannot be written as TOML")?;
        write_atomically(&path.join("config.toml"), config.as_bytes())?;
        Environment::detect().write(path)?;
        Ok(Self {
            metrics: MetricsWriter::create(path.join("metrics.jsonl"))?,
            samples: MetricsWriter::create(path.join("samples.jsonl"))?,
            path: path.to_path_buf(),
        })
    }

    /// Goes on with a run whose `stage` stands at `step`: later lines are cut off.
    pub fn resume(path: &Path, stage: &str, step: u64) -> anyhow::Result<Self> {
        Ok(Self {
            metrics: MetricsWriter::resume(path.join("metrics.jsonl"), stage, step)?,
            samples: MetricsWriter::resume(path.join("samples.jsonl"), stage, step)?,
            path: path.to_path_buf(),
        })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that holds this run's `step-N` folders.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Writes summary.json, then the report of `contents`; returns the report's path.
    pub fn finish(&self, summary: &impl Serialize, contents: &Contents) -> anyhow::Result<PathBuf> {
        let text = serde_json::to_vec_pretty(summary)?;
        write_atomically(&self.path.join("summary.json"), &text)?;
        Ok(write_report(&self.path, contents)?)
    }
}

/// Starts a run's folder, or goes on from its latest checkpoint.
pub fn open_run<B: Backend>(
    out: &Path,
    stage: &str,
    settings: &Valid<Settings>,
    resume: bool,
    learner: &mut Learner<B>,
) -> anyhow::Result<(RunFolder, Progress)> {
    if !resume {
        return Ok((RunFolder::create(out, settings)?, Progress::default()));
    }
    let root = out.join("checkpoints");
    let folder =
        checkpoint::latest(&root).with_context(|| format!("{}: holds no checkpoint to resume from", root.display()))?;
    let state = checkpoint::load(&folder, &learner.model.backend.clone(), &mut learner.arenas_mut())?;
    learner.restored(state.updates)?;
    ensure!(state.stage == stage, "{}: is a checkpoint of `{}`, not of `{stage}`", folder.display(), state.stage);
    let (seed, asked) = (state.seed, settings.run.seed);
    ensure!(seed == asked, "{}: was made with seed {seed}, and this run has seed {asked}", folder.display());
    say!("resuming after step {} ({})", state.progress.step, folder.display());
    Ok((RunFolder::resume(out, stage, state.progress.step)?, state.progress))
}
