//! `run.toml`: what made a run's folder, and from what. A folder without it is not ours to write into.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::inputs::{Input, differences};
use crate::config::{KeyClass, Settings, changes};
use crate::file::write_atomically;
use crate::log::read_records;
use crate::setting::overlay;

/// The file in a run's folder.
pub const RUN_FILE: &str = "run.toml";
/// The resolved settings, always the newest.
pub const CONFIG_FILE: &str = "config.toml";
/// The settings by the step that they were first used after, one JSON object a line.
pub const HISTORY_FILE: &str = "config-history.jsonl";
/// What the record begins with.
const HEADING: &str = "# What made this folder. `patarm-train` reads it before it writes here.\n\n";
/// Increased when the meaning of a key changes.
const FORMAT: u32 = 1;

/// What a run is: the command that made it, the kind of device, its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    format: u32,
    /// `sft`, `rl`, `demo` or `compare`.
    pub command: String,
    /// `cpu` or `cuda`: their sums differ.
    #[serde(default)]
    pub device: String,
    /// The working directory, which relative paths of the settings start from.
    #[serde(default)]
    directory: PathBuf,
    #[serde(default)]
    pub inputs: Vec<Input>,
}

impl RunRecord {
    /// A record of today's format.
    pub fn new(command: &str, device: &str, inputs: Vec<Input>) -> Self {
        let directory = std::env::current_dir().unwrap_or_default();
        Self { format: FORMAT, command: command.into(), device: device.into(), directory, inputs }
    }

    /// Reads a folder's record; `None` if it has none.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(RUN_FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        ensure!(path.is_file(), "{}: is not a file, so not the record of a run", path.display());
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let record: Self =
            toml::from_str(&text).with_context(|| format!("{}: is not the record of a run", path.display()))?;
        let format = record.format;
        ensure!(format == FORMAT, "{}: has format {format}, but this program reads {FORMAT}", path.display());
        Ok(Some(record))
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let body = toml::to_string(self).context("the record of the run cannot be written as TOML")?;
        let text = format!("{HEADING}{body}");
        replace(&folder.join(RUN_FILE), text.as_bytes())
    }
}

/// Whether a file may be what a killed process has written of a record.
pub fn begins_a_record(file: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(HEADING.len() as u64).read_to_end(&mut bytes));
    read.is_ok() && HEADING.as_bytes().starts_with(&bytes)
}

/// The settings in the config.toml of the run in a folder. Relative paths of its inputs start where the run was begun, wherever
/// this process is.
pub fn settings_of(folder: &Path) -> anyhow::Result<Settings> {
    let file = folder.join(CONFIG_FILE);
    if !file.is_file() {
        let there = folder.display();
        ensure!(
            !folder.join(RUN_FILE).exists(),
            "{there}: the run there has lost its {CONFIG_FILE}, so it cannot go on; put it back (the last line of \
             {HISTORY_FILE} holds its settings), or name another folder with --out"
        );
        anyhow::bail!("{there}: there is no run to resume; leave out --resume to start one");
    }
    from_here(overlay(&Settings::default(), Some(&file), std::iter::empty(), &[])?.settings, folder)
}

/// The settings that the last steps of a run were made with, as its history has them: config.toml may have been edited since.
/// Without a history that this version reads, they are those of config.toml.
pub(super) fn recorded_settings(folder: &Path) -> anyhow::Result<Settings> {
    let history = read_records(&folder.join(HISTORY_FILE)).map(|(lines, _)| lines).unwrap_or_default();
    let last = history.into_iter().next_back().and_then(|mut line| line.remove("settings"));
    match last.and_then(|settings| serde_json::from_value(settings).ok()) {
        Some(settings) => from_here(settings, folder),
        None => settings_of(folder),
    }
}

/// Settings with relative paths as this process reads them.
fn from_here(mut settings: Settings, folder: &Path) -> anyhow::Result<Settings> {
    let Some(RunRecord { directory, .. }) = RunRecord::read(folder)? else { return Ok(settings) };
    if std::env::current_dir().is_ok_and(|here| here == directory) {
        return Ok(settings);
    }
    let Settings { model, data, .. } = &mut settings;
    for path in [&mut model.path, &mut model.tokenizer, &mut data.rubrics].into_iter().chain(&mut data.train) {
        let there = directory.join(&path);
        // Where the tree was moved as a whole, they may still be right from here.
        if !path.is_empty() && there.exists() {
            *path = there.display().to_string();
        }
    }
    Ok(settings)
}

/// A run with its settings.
pub struct RunState<'a> {
    pub record: &'a RunRecord,
    pub settings: &'a Settings,
}

/// What differs between a run and the way it is to go on.
pub struct Differences {
    /// What changes speed or length alone.
    pub free: Vec<String>,
    /// What changes what is learnt.
    pub learnt: Vec<String>,
}

impl Differences {
    /// Between a run and what is asked.
    pub fn between(had: RunState<'_>, asked: RunState<'_>) -> Self {
        let (mut free, mut learnt) = (Vec::new(), differences(&had.record.inputs, &asked.record.inputs));
        for change in changes(&had.record.command, had.settings, asked.settings) {
            match change.class {
                KeyClass::Free | KeyClass::Input => free.push(change.to_string()),
                KeyClass::Learnt => learnt.push(change.to_string()),
            }
        }
        let (begun, now) = (&had.record.device, &asked.record.device);
        if begun != now {
            learnt.push(format!("device: {begun} in the run, {now} now (--device)"));
        }
        Self { free, learnt }
    }
}

/// Records that `settings` hold for the steps after `step`: config.toml is theirs, and the history says since when.
pub(super) fn record_settings(folder: &Path, step: u64, record: &RunRecord, settings: &Settings) -> anyhow::Result<()> {
    let path = folder.join(HISTORY_FILE);
    let mut lines = if path.exists() { read_records(&path)?.0 } else { Vec::new() };
    let since = |line: &crate::log::metrics::Record| line.get("after_step").and_then(Value::as_u64).unwrap_or(0);
    let now = json!({"after_step": step, "settings": settings, "inputs": record.inputs, "device": record.device});
    let Value::Object(now) = now else { anyhow::bail!("a line of {HISTORY_FILE} is an object") };
    // Steps that are run again have no other settings than those they are run again with.
    lines.retain(|line| since(line) < step || (since(line) == step && step > 0));
    let last =
        lines.last().filter(|last| ["settings", "inputs", "device"].iter().all(|key| last.get(*key) == now.get(*key)));
    if last.is_none() {
        lines.retain(|line| since(line) < step);
        lines.push(now);
    }
    let text: String = lines.iter().map(|line| format!("{}\n", Value::Object(line.clone()))).collect();
    replace(&path, text.as_bytes())?;
    let config = toml::to_string(settings).context("the configuration cannot be written as TOML")?;
    replace(&folder.join(CONFIG_FILE), config.as_bytes())
}

fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomically(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(folder: &Path) -> Vec<(u64, u64)> {
        let (lines, damaged) = read_records(&folder.join(HISTORY_FILE)).unwrap();
        assert_eq!(damaged, 0);
        let number = |value: &Value| value.as_u64().unwrap();
        lines.iter().map(|line| (number(&line["after_step"]), number(&line["settings"]["rl"]["steps"]))).collect()
    }

    #[test]
    fn the_history_says_which_settings_every_kept_step_was_made_with() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let record = RunRecord::new("rl", "cpu", Vec::new());
        let mut settings = Settings::default();
        let mut hold = |step, steps| {
            settings.rl.steps = steps;
            record_settings(folder, step, &record, &settings).unwrap();
            assert_eq!(settings_of(folder).unwrap(), settings, "config.toml is the newest");
            history(folder)
        };
        assert_eq!(hold(0, 5), [(0, 5)]);
        assert_eq!(hold(3, 5), [(0, 5)], "nothing changed");
        assert_eq!(hold(4, 8), [(0, 5), (4, 8)]);
        assert_eq!(hold(4, 9), [(0, 5), (4, 9)], "no step was made with the one before");
        assert_eq!(hold(2, 9), [(0, 5), (2, 9)], "later steps are made again");
        assert_eq!(hold(0, 7), [(0, 7)], "from the beginning");
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(RunRecord::read(folder.path()).unwrap().is_none());
        let input = Input { what: "data 1".into(), path: "a".into(), bytes: 3, hash: "00".into() };
        let record = RunRecord::new("sft", "cpu", vec![input]);
        record.write(folder.path()).unwrap();
        assert_eq!(RunRecord::read(folder.path()).unwrap(), Some(record));
        for (text, part) in [("format = 9\ncommand = \"rl\"", "format 9"), ("cargo run", "not the record of a run")] {
            std::fs::write(folder.path().join(RUN_FILE), text).unwrap();
            let message = format!("{:#}", RunRecord::read(folder.path()).unwrap_err());
            assert!(message.contains(part), "{message}");
        }
    }
}
