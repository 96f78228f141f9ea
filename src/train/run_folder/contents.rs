//! What lies in a folder: whose it is, and what of it may go.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use super::record::{self, CONFIG_FILE, HISTORY_FILE, RUN_FILE, RunRecord};
use super::refuse;
use crate::checkpoint;
use crate::file::{counted, read_plain};
use crate::log::read_records;

/// The folder of `step-N` folders.
pub const CHECKPOINTS: &str = "checkpoints";
/// Files of every run beside run.toml; run.lock has its own rules.
const FILES: [&str; 8] = [
    CONFIG_FILE,
    HISTORY_FILE,
    "environment.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "report.html",
    HELD_OUT_FILE,
];
/// The pairs that a demo's judges are measured on.
pub const HELD_OUT_FILE: &str = "held_out_pairs.jsonl";
/// What every page of ours has in its title.
const PAGE_MARK: &str = "patarm-train";
/// Folders of trained models, and what an export writes there.
const MODELS: [&str; 3] = ["model", "model-sft", "model-best"];
const EXPORTED: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "judge.toml",
];

/// What a folder holds.
pub enum Found {
    /// Nothing of the names that a run writes.
    Free,
    /// Such names, and nothing that says that they are ours.
    Foreign(Vec<String>),
    Run(RunRecord, Standing),
}

/// Where a run stands.
pub struct Standing {
    /// Steps in its metrics.
    steps: usize,
    checkpoint: bool,
    /// A summary, or a trained model.
    results: bool,
}

impl Found {
    /// Looks at a folder.
    pub fn in_folder(path: &Path) -> anyhow::Result<Self> {
        let Some(record) = RunRecord::read(path)? else {
            let present = |name: &&str| path.join(name).symlink_metadata().is_ok();
            let known = FILES.iter().chain(&MODELS).chain(&[CHECKPOINTS]).filter(|name| present(name));
            let mut names: Vec<String> = known.map(|name| name.to_string()).collect();
            names.extend(entries(path).into_iter().filter(|name| is_dump(name)));
            return Ok(if names.is_empty() { Self::Free } else { Self::Foreign(names) });
        };
        let metrics = path.join("metrics.jsonl");
        let steps = if metrics.exists() { read_records(&metrics)?.0.len() } else { 0 };
        let checkpoint = checkpoint::latest(&path.join(CHECKPOINTS)).is_some();
        let results = MODELS.iter().chain(&["summary.json"]).any(|name| path.join(name).exists());
        Ok(Self::Run(record, Standing { steps, checkpoint, results }))
    }

    /// Whether a new run of `command` may take the folder. A run without a step holds nothing that anyone could miss.
    pub fn replaced_by(&self, command: &str, replaces_own: bool, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::Free => Ok(()),
            Self::Run(_, Standing { steps: 0, checkpoint: false, results: false }) => Ok(()),
            Self::Run(record, _) if replaces_own && record.command == command => Ok(()),
            Self::Foreign(names) => Err(refuse(
                path,
                format!(
                    "holds {} and no {RUN_FILE}, so nothing says that a run of this program made them (runs of earlier \
                     versions have none): they are not replaced. Move them away, or name another folder with --out",
                    names.join(", ")
                ),
            )),
            Self::Run(record, standing) => Err(refuse(path, standing.refusal(&record.command, command))),
        }
    }

    /// The record of the run that `command` goes on with; `None` for one of an earlier version.
    pub fn resumed_by(&self, command: &str, path: &Path) -> anyhow::Result<Option<RunRecord>> {
        match self {
            Self::Free => Err(refuse(path, "there is no run to resume; leave out --resume to start one")),
            Self::Foreign(names) if [CONFIG_FILE, CHECKPOINTS].iter().all(|name| names.iter().any(|n| n == name)) => {
                Ok(None)
            }
            Self::Foreign(names) => Err(refuse(
                path,
                format!("holds {} and no {RUN_FILE}: it is not the folder of a run to resume", names.join(", ")),
            )),
            Self::Run(record, _) if record.command != command => Err(refuse(
                path,
                format!("holds a run of `{}`, which `{command}` cannot resume; name another folder", record.command),
            )),
            Self::Run(record, _) => Ok(Some(record.clone())),
        }
    }
}

impl Standing {
    /// Why a run in this state is not replaced by `command`, and what to do.
    fn refusal(&self, its: &str, command: &str) -> String {
        let steps = counted(self.steps, "step");
        let state = match self.checkpoint {
            true => steps,
            false => format!("{steps}, no checkpoint yet"),
        };
        let go_on = match self.checkpoint {
            _ if its != command || !["sft", "rl"].contains(&its) => String::new(),
            true => ", or add --resume to go on with it".into(),
            false => ", or add --resume to start it again from its own settings".into(),
        };
        format!("holds a run already (`{its}`, {state}), which is not replaced; name another folder with --out{go_on}")
    }
}

/// Refuses a report where there is nothing to make one of, or where it would replace a page that is not ours.
pub fn check_report(path: &Path) -> anyhow::Result<()> {
    let exists = |name: &str| path.join(name).exists();
    if ![RUN_FILE, "metrics.jsonl", "summary.json"].into_iter().any(exists) {
        let reason =
            format!("holds no run (no {RUN_FILE}, metrics.jsonl or summary.json), so there is nothing to report");
        return Err(refuse(path, reason));
    }
    let page = path.join("report.html");
    let ours = || read_plain(&page).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(PAGE_MARK));
    if exists(RUN_FILE) || !page.exists() || ours() {
        return Ok(());
    }
    Err(refuse(&page, "is not of this program, so it is not replaced; move it away"))
}

/// Removes what killed processes left in a run of ours: half-written files and checkpoints. The caller holds the lock.
/// What cannot be removed is left: it takes space, and does no harm.
pub fn clean(path: &Path) {
    for folder in [""].iter().chain(&MODELS) {
        let leftovers = entries(&path.join(folder)).into_iter().filter(|name| is_half_written(name));
        leftovers.for_each(|name| drop(fs::remove_file(path.join(folder).join(name))));
    }
    checkpoint::clean(&path.join(CHECKPOINTS));
}

/// Removes what is left of a process that was killed while it wrote the record of its run, from a folder that holds no run.
/// Nothing says that the folder is ours, so it must be the beginning of a record. The caller holds the lock.
pub fn clean_unbegun(path: &Path) {
    for name in entries(path).iter().filter(|name| is_half_written(name)) {
        let file = path.join(name);
        let plain = file.symlink_metadata().is_ok_and(|found| found.is_file());
        if plain && record::begins_a_record(&file) {
            let _ = fs::remove_file(file);
        }
    }
}

/// The names of files that are written aside and renamed: `.tmp` or `.writing-`, and six letters or digits.
fn is_half_written(name: &str) -> bool {
    let rest = [".tmp", ".writing-"].iter().find_map(|prefix| name.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Removes the run in a folder of ours, all but run.toml; files that no run writes stay.
pub fn clear(path: &Path) -> anyhow::Result<()> {
    for name in FILES {
        remove(&path.join(name))?;
    }
    for name in entries(path).iter().filter(|name| is_dump(name)) {
        remove(&path.join(name))?;
    }
    for model in MODELS.map(|name| path.join(name)) {
        for name in entries(&model) {
            if EXPORTED.contains(&name.as_str()) || is_weights(&name) {
                remove(&model.join(name))?;
            }
        }
        // Stays if something else lies in it.
        let _ = fs::remove_dir(&model);
    }
    let _ = fs::remove_dir(path.join(CHECKPOINTS));
    Ok(())
}

/// Removes what speaks of the end of a run.
pub fn remove_results(path: &Path) -> anyhow::Result<()> {
    remove(&path.join("summary.json"))
}

fn is_weights(name: &str) -> bool {
    name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
}

/// The batch of a skipped step.
fn is_dump(name: &str) -> bool {
    let step = name.strip_prefix("skipped-step-").and_then(|rest| rest.strip_suffix(".json"));
    step.is_some_and(|step| step.parse::<u64>().is_ok())
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("{}: cannot be replaced", file.display())),
    }
}
