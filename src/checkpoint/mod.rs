//! Checkpoints: everything that a resumed run needs, on disk.
//!
//! `checkpoints/step-N/` holds `manifest.json` (stage, progress, a BLAKE3 hash of the other file) and `state.safetensors` (flat
//! arenas in f32, such as the weights and both moments). A checkpoint is written to a temporary folder, flushed and renamed, so
//! it is never there half-written; a folder without a manifest is not a checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ops::Backend;
use crate::tensor::safetensors::{NamedTensor, TensorDirectory, TensorFileError, write_tensors};
use crate::tensor::{DType, Device};

const STATE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";
/// Prefixes of folders that are not checkpoints yet, or no more.
const WRITING: &str = ".writing-";
const DELETING: &str = ".deleting-";
/// Elements that are read at a time.
const PIECE: usize = 16 << 20;
/// Increased when the meaning of a file changes. Since 2, the manifest lists the arenas.
const FORMAT: u32 = 2;

/// An arena of a trainer, with its name in a checkpoint.
pub type NamedArena<'a, B> = (&'static str, &'a <B as Device>::Buffer<f32>);
/// An arena of a trainer, to be read from a checkpoint.
pub type NamedArenaMut<'a, B> = (&'static str, &'a mut <B as Device>::Buffer<f32>);

/// How far training has come; with the trainer's arenas this is all that a resume needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Completed steps.
    pub step: u64,
    /// Examples consumed.
    pub cursor: u64,
}

/// The state of a run, apart from its arenas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// `sft` or `rl`.
    pub stage: String,
    pub progress: Progress,
    /// Updates of the optimizer. They differ from steps if a step was skipped or has several updates.
    pub updates: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    state: RunState,
    /// Elements of each arena, by its name.
    arenas: BTreeMap<String, usize>,
    /// BLAKE3 of state.safetensors, in hex.
    hash: String,
}

/// Read before the other keys, which another format may lack.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Why a checkpoint cannot be written or read. `Unusable`: the file can be read, but what it holds is damaged or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
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
    move |error| CheckpointError::Io { path: path.to_path_buf(), error }
}

/// Writes `root/step-N` for the step of `state`, replaces an existing one, and returns the path.
pub fn save<B: Backend>(
    root: &Path,
    state: &RunState,
    backend: &B,
    arenas: &[NamedArena<'_, B>],
) -> Result<PathBuf, CheckpointError> {
    fs::create_dir_all(root).map_err(io_error(root))?;
    let temporary = tempfile::Builder::new().prefix(WRITING).tempdir_in(root).map_err(io_error(root))?;
    let shapes: Vec<[usize; 1]> = arenas.iter().map(|(_, buffer)| [backend.len(buffer)]).collect();
    let lengths = arenas.iter().zip(&shapes).map(|((name, _), [len])| (name.to_string(), *len)).collect();
    let mut tensors = Vec::with_capacity(arenas.len());
    for ((name, buffer), shape) in arenas.iter().zip(&shapes) {
        let read = |range: Range<usize>, to: &mut [f32]| {
            backend.read(backend.view(buffer, range), to).map_err(|error| error.to_string())
        };
        tensors.push(NamedTensor { name, shape, read: Box::new(read) });
    }
    let file = temporary.path().join(STATE);
    write_tensors(&file, &tensors, DType::F32)?;
    let manifest = Manifest { format: FORMAT, state: state.clone(), arenas: lengths, hash: hash(&file)? };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| unusable(&file, e))?;
    let path = temporary.path().join(MANIFEST);
    crate::file::write_atomically(&path, &text).map_err(io_error(&path))?;

    let target = root.join(format!("step-{}", state.progress.step));
    if target.exists() {
        fs::remove_dir_all(&target).map_err(io_error(&target))?;
    }
    let temporary = temporary.keep();
    fs::rename(&temporary, &target).map_err(io_error(&target))?;
    fs::File::open(root).and_then(|folder| folder.sync_all()).map_err(io_error(root))?;
    Ok(target)
}

/// Reads a checkpoint into arenas, which must have the names and sizes of those in the checkpoint.
pub fn load<B: Backend>(
    folder: &Path,
    backend: &B,
    arenas: &mut [NamedArenaMut<'_, B>],
) -> Result<RunState, CheckpointError> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(io_error(&path))?;
    let format: Format = serde_json::from_slice(&text).map_err(|e| unusable(&path, e))?;
    if format.format != FORMAT {
        let got = format.format;
        return Err(unusable(&path, format!("has format {got}, but this program reads format {FORMAT}")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| unusable(&path, e))?;
    let expected: BTreeMap<String, usize> =
        arenas.iter().map(|(name, buffer)| (name.to_string(), backend.len(buffer))).collect();
    if manifest.arenas != expected {
        let got = manifest.arenas;
        return Err(unusable(&path, format!("belongs to another model: expected arenas {expected:?}, got {got:?}")));
    }
    let file = folder.join(STATE);
    if hash(&file)? != manifest.hash {
        return Err(unusable(&file, "does not have the hash in manifest.json: the file was changed or is damaged"));
    }
    let tensors = TensorDirectory::open_file(&file)?;
    for (name, buffer) in arenas {
        let len = backend.len(buffer);
        for first in (0..len).step_by(PIECE) {
            let range = first..len.min(first + PIECE);
            let view = backend.view_mut(buffer, range.clone());
            backend.write_with(view, |to| tensors.read(name, &[len], range, to).map_err(CheckpointError::from))?;
        }
    }
    Ok(manifest.state)
}

/// The checkpoint of the latest step, if there is one.
pub fn latest(root: &Path) -> Option<PathBuf> {
    all(root).pop()
}

/// Deletes all checkpoints but the latest `keep`, and that of the step `spared`.
pub fn prune(root: &Path, keep: usize, spared: Option<u64>) -> Result<(), CheckpointError> {
    let spared = spared.map(|step| root.join(format!("step-{step}")));
    let folders = all(root);
    let old = folders[..folders.len().saturating_sub(keep)].iter().filter(|folder| Some(*folder) != spared.as_ref());
    for folder in old {
        // Renamed first: a half-deleted folder is no checkpoint, and the next `clean` finds it.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let deleted = root.join(format!("{DELETING}{name}"));
        fs::rename(folder, &deleted).map_err(io_error(folder))?;
        fs::remove_dir_all(&deleted).map_err(io_error(&deleted))?;
    }
    Ok(())
}

/// Removes what a killed process left half-written or half-deleted. Only for the process that owns the folder; what cannot be
/// removed is left.
pub fn clean(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if [WRITING, DELETING].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Complete checkpoints in the order of their steps.
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
