//! Run state on disk: everything a resumed run needs, whole or not there.
//!
//! `checkpoints/step-N/` holds `manifest.json` (stage, progress, a BLAKE3 hash of every other file) and
//! `state.safetensors` (weights and both moments as flat arenas, in f32). A checkpoint is written to a folder aside, flushed,
//! and renamed; a folder without a manifest is not a checkpoint.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ops::Backend;
use crate::tensor::DType;
use crate::tensor::safetensors::{NamedTensor, TensorDirectory, TensorFileError, write_tensors};
use crate::train::Learner;
use crate::train::sft::Progress;

const STATE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";
/// Raised when the meaning of a file changes.
const FORMAT: u32 = 1;

/// Where a run stands, beside the learner's weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// `sft` or `rl`.
    pub stage: String,
    pub seed: u64,
    pub progress: Progress,
    /// Updates of the optimizer, which differ from steps where a step was skipped or has several updates.
    pub updates: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    state: RunState,
    /// Elements of each arena.
    arena_len: usize,
    /// BLAKE3 of state.safetensors, in hex.
    hash: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error(transparent)]
    Op(#[from] crate::ops::OpError),
    #[error(transparent)]
    Device(#[from] crate::tensor::DeviceError),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError + '_ {
    move |source| CheckpointError::Io { path: path.to_path_buf(), source }
}

/// Writes `root/step-N` for the step that `state` names and returns its path; one that is there is replaced.
pub fn save<B: Backend>(root: &Path, state: &RunState, learner: &Learner<B>) -> Result<PathBuf, CheckpointError> {
    fs::create_dir_all(root).map_err(io_error(root))?;
    let aside = tempfile::Builder::new().prefix(".writing-").tempdir_in(root).map_err(io_error(root))?;
    let (backend, arena_len) = (&learner.model.backend, learner.model.table.arena_len());
    let fetch = |buffer| backend.download(backend.view(buffer, 0..arena_len));
    let arenas = [
        ("master", fetch(learner.model.master())?),
        ("moment1", fetch(&learner.optimizer.moment1)?),
        ("moment2", fetch(&learner.optimizer.moment2)?),
    ];
    let shape = [arena_len];
    let tensors: Vec<_> = arenas.iter().map(|(name, values)| NamedTensor { name, shape: &shape, values }).collect();
    let file = aside.path().join(STATE);
    write_tensors(&file, &tensors, DType::F32)?;
    let manifest = Manifest { format: FORMAT, state: state.clone(), arena_len, hash: hash(&file)? };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| unusable(&file, e))?;
    let path = aside.path().join(MANIFEST);
    crate::tensor::file::write_atomically(&path, &text).map_err(io_error(&path))?;

    let target = root.join(format!("step-{}", state.progress.step));
    if target.exists() {
        fs::remove_dir_all(&target).map_err(io_error(&target))?;
    }
    let aside = aside.keep();
    fs::rename(&aside, &target).map_err(io_error(&target))?;
    fs::File::open(root).and_then(|folder| folder.sync_all()).map_err(io_error(root))?;
    Ok(target)
}

/// Reads a checkpoint into a learner of the same model shape.
pub fn load<B: Backend>(folder: &Path, learner: &mut Learner<B>) -> Result<RunState, CheckpointError> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(io_error(&path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| unusable(&path, e))?;
    if manifest.format != FORMAT {
        let got = manifest.format;
        return Err(unusable(&path, format!("is of format {got}, and this program reads format {FORMAT}")));
    }
    let arena_len = learner.model.table.arena_len();
    if manifest.arena_len != arena_len {
        let got = manifest.arena_len;
        return Err(unusable(&path, format!("is of another model: expected {arena_len} elements, got {got}")));
    }
    let file = folder.join(STATE);
    if hash(&file)? != manifest.hash {
        return Err(unusable(
            &file,
            "does not have the hash that manifest.json gives: the file was changed or is damaged",
        ));
    }
    let backend = learner.model.backend.clone();
    let tensors = TensorDirectory::open_file(&file)?;
    let mut arena = vec![0.0; arena_len];
    for (name, buffer) in [
        ("master", learner.model.master_mut()),
        ("moment1", &mut learner.optimizer.moment1),
        ("moment2", &mut learner.optimizer.moment2),
    ] {
        tensors.read(name, &[arena_len], &mut arena)?;
        backend.write(backend.view_mut(buffer, 0..arena_len), &arena)?;
    }
    learner.optimizer.updates = manifest.state.updates;
    learner.model.refresh()?;
    Ok(manifest.state)
}

/// The checkpoint of the latest step, if there is one.
pub fn latest(root: &Path) -> Option<PathBuf> {
    all(root).pop()
}

/// Deletes all checkpoints but the latest `keep`.
pub fn prune(root: &Path, keep: usize) -> Result<(), CheckpointError> {
    let folders = all(root);
    for folder in &folders[..folders.len().saturating_sub(keep)] {
        fs::remove_dir_all(folder).map_err(io_error(folder))?;
    }
    Ok(())
}

/// Whole checkpoints in the order of their steps.
fn all(root: &Path) -> Vec<PathBuf> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<u64>().ok();
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(MANIFEST).is_file())
        .filter_map(|path| Some((step(&path)?, path)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn unusable(path: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Unusable { path: path.to_path_buf(), reason: reason.to_string() }
}

fn hash(path: &Path) -> Result<String, CheckpointError> {
    let mut file = fs::File::open(path).map_err(io_error(path))?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file, &mut hasher).map_err(io_error(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}
