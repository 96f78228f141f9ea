//! The folder of a run: `runs/<name>/` with its configuration, metrics, samples, checkpoints, summary and report.
//!
//! This is the one place that decides what may be written there. A command first takes the folder ([`Claim`]): it is locked,
//! and whatever lies there is refused or recognised before anything is loaded. When all that can be refused has been, the run
//! begins ([`Claim::begin`]). `run.toml` is written first and says what made the folder; files of ours beside it may be
//! replaced, and nothing else ever is.

mod contents;
mod inputs;
mod lock;
mod record;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::learner::Learner;
use crate::checkpoint::{self, Progress};
use crate::config::Settings;
use crate::file::{counted, say, write_atomically};
use crate::log::{Environment, MetricsWriter};
use crate::ops::Backend;
use crate::report::{Contents, write_report};

use contents::{Found, clean, clean_unbegun, clear};
pub use contents::{HELD_OUT_FILE, check_report};
pub use inputs::{Input, inputs};
use lock::{FolderLock, LOCK_FILE};
use record::{Differences, RunState, record_settings, recorded_settings};
pub use record::{RunRecord, settings_of};

/// What a command means to do with the folder it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A run in a place that holds none.
    New,
    /// The same, or in the place of an earlier run of the same command.
    Replace,
    /// To go on with the run there; `accept_changes`: even with other settings or inputs.
    Resume { accept_changes: bool },
}

/// A locked folder; the folders that were made for it and are still empty go when it does.
struct Place {
    path: PathBuf,
    lock: Option<FolderLock>,
    made: Vec<PathBuf>,
}

impl Place {
    fn take(path: &Path, make: bool) -> anyhow::Result<Self> {
        let missing: Vec<PathBuf> =
            path.ancestors().take_while(|folder| !exists(folder)).map(Path::to_path_buf).collect();
        let mut place = Self { path: path.to_path_buf(), lock: None, made: Vec::new() };
        // Released before `place` is dropped where this fails.
        let mut traces = Traces::locked();
        if make && !missing.is_empty() {
            place.made = missing;
            std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        }
        ensure!(!path.exists() || path.is_dir(), "{}: is not a folder; name one with --out", path.display());
        ensure!(!make || path.is_dir(), "{}: is a link to a folder that is not there", path.display());
        ensure!(path.is_dir(), "{}: there is no run to resume; leave out --resume to start one", path.display());
        place.lock = Some(FolderLock::take(path)?);
        traces.0.push(path.join(LOCK_FILE));
        traces.0.extend(place.made.iter().cloned());
        Ok(place)
    }
}

/// What the claims of this process have made, each folder after what lies in it. A process that is ended before its run begins
/// removes it ([`remove_traces`]).
struct Traces(Vec<PathBuf>);

static TRACES: Mutex<Traces> = Mutex::new(Traces(Vec::new()));

impl Traces {
    fn locked() -> MutexGuard<'static, Self> {
        TRACES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&mut self, place: &Place) {
        self.0.retain(|path| *path != place.path.join(LOCK_FILE) && !place.made.contains(path));
    }
}

/// Removes what claims that have not begun a run have made: for a process that is about to end at once. Whoever calls this
/// makes sure that no run begins meanwhile.
pub fn remove_traces() {
    for path in Traces::locked().0.drain(..) {
        // A folder that holds anything stays.
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
    }
}

/// Whether something of that name is there; the empty path is the working directory.
fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.symlink_metadata().is_ok()
}

impl Drop for Place {
    fn drop(&mut self) {
        Traces::locked().forget(self);
        self.lock = None;
        // The deepest first. Not removed if anything is in it.
        self.made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

/// A folder that a command has taken and not written into yet.
pub struct Claim {
    place: Place,
    command: &'static str,
    accept_changes: bool,
    /// What the run there is, if it goes on. The record is that of an earlier version where there is none.
    earlier: Option<(Option<RunRecord>, Settings)>,
}

impl Claim {
    /// Takes a folder for a command. Refuses one that another process uses, and one that holds what this may not replace.
    pub fn new(path: &Path, command: &'static str, intent: Intent) -> anyhow::Result<Self> {
        let resumes = matches!(intent, Intent::Resume { .. });
        let place = Place::take(path, !resumes)?;
        let found = Found::in_folder(path)?;
        let accept_changes = intent == Intent::Resume { accept_changes: true };
        let record = if resumes {
            found.resumed_by(command, path)?
        } else {
            found.replaced_by(command, intent == Intent::Replace, path)?;
            None
        };
        match found {
            Found::Run(..) => clean(path),
            Found::Free => clean_unbegun(path),
            Found::Foreign(_) => {}
        }
        let earlier = if resumes { Some((record, recorded_settings(path)?)) } else { None };
        Ok(Self { place, command, accept_changes, earlier })
    }

    /// Compares the run that goes on with what is asked: names what differs, and refuses what changes what is learnt.
    pub fn check(&self, record: &RunRecord, settings: &Settings) -> anyhow::Result<()> {
        let Some((had, had_settings)) = &self.earlier else { return Ok(()) };
        let path = self.place.path.display();
        ensure!(
            had.is_some() || self.accept_changes,
            "{path}: has no run.toml (a run of an earlier version), so nothing says whether its data and its model are still \
             the same; add --accept-changes to go on all the same"
        );
        // Without a record, the settings alone can be compared.
        let had = had.as_ref().unwrap_or(record);
        let asked = RunState { record, settings };
        let Differences { free, learnt } =
            Differences::between(RunState { record: had, settings: had_settings }, asked);
        for difference in &free {
            say!("note: {difference}");
        }
        if learnt.is_empty() {
            return Ok(());
        }
        let list = learnt.join("\n  ");
        ensure!(
            self.accept_changes,
            "{path}: the run was begun otherwise, and these change what it learns:\n  {list}\nLeave them out (--resume takes \
             the run's own settings), start another run with --out, or add --accept-changes to go on with them from the \
             latest checkpoint"
        );
        say!("note: accepted changes:\n  {list}");
        Ok(())
    }

    /// Reads the latest checkpoint of a run that goes on into the learner, and returns where the run stands. A run without one
    /// (it is new, or was ended before its first) stands at its beginning. `steps`: of the whole run.
    pub fn restore<B: Backend>(&self, learner: &mut Learner<B>, steps: u64) -> anyhow::Result<Progress> {
        if self.earlier.is_none() {
            return Ok(Progress::default());
        }
        let Some(folder) = checkpoint::latest(&self.checkpoints()) else {
            say!("{}: no checkpoint yet, so the run starts again from its beginning", self.place.path.display());
            return Ok(Progress::default());
        };
        let state = checkpoint::load(&folder, &learner.model.backend.clone(), &mut learner.arenas_mut())
            .context("the latest checkpoint cannot be used; delete its folder to go on from the one before")?;
        learner.restored(state.updates)?;
        let (stage, command, step) = (state.stage, self.command, state.progress.step);
        ensure!(stage == command, "{}: is a checkpoint of `{stage}`, not of `{command}`", folder.display());
        ensure!(
            step <= steps,
            "{}: the run is at step {step} already, which is beyond the {} asked for",
            folder.display(),
            counted(steps, "step")
        );
        say!("resuming after step {step} ({})", folder.display());
        Ok(state.progress)
    }

    fn checkpoints(&self) -> PathBuf {
        self.place.path.join(contents::CHECKPOINTS)
    }

    /// Begins the run, or goes on with it after `progress`: from here on the folder is the run's.
    pub fn begin(self, record: &RunRecord, settings: &Settings, progress: Progress) -> anyhow::Result<RunFolder> {
        let path = self.place.path.clone();
        Traces::locked().forget(&self.place);
        // First of all: with it, a folder that a kill leaves half-made is known as ours.
        record.write(&path)?;
        let resumes = self.earlier.is_some();
        if resumes {
            // They speak of an ended run, and this one has not ended.
            contents::remove_results(&path)?;
        } else {
            clear(&path)?;
        }
        record_settings(&path, progress.step, record, settings)?;
        let (metrics, samples) = (path.join("metrics.jsonl"), path.join("samples.jsonl"));
        let open = |file: PathBuf| match resumes {
            true => MetricsWriter::resume(file, self.command, progress.step),
            false => MetricsWriter::create(file),
        };
        Environment::detect().write(&path).with_context(|| format!("{}: cannot be written into", path.display()))?;
        Ok(RunFolder { metrics: open(metrics)?, samples: open(samples)?, place: self.place })
    }
}

/// Where a run leaves its files, locked while this exists.
pub struct RunFolder {
    pub metrics: MetricsWriter,
    pub samples: MetricsWriter,
    place: Place,
}

impl RunFolder {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The folder that holds this run's `step-N` folders.
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join(contents::CHECKPOINTS)
    }

    /// Writes summary.json, then the report of `contents`; returns the report's path.
    pub fn finish(&self, summary: &impl Serialize, contents: &Contents) -> anyhow::Result<PathBuf> {
        let text = serde_json::to_vec_pretty(summary)?;
        let file = self.path().join("summary.json");
        write_atomically(&file, &text).with_context(|| format!("{}: cannot be written", file.display()))?;
        Ok(write_report(self.path(), contents)?)
    }
}

/// Why a folder may not be taken.
fn refuse(path: &Path, reason: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{}: {reason}", path.display())
}
