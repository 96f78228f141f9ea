//! Reads and writes safetensors files: one file or shards, in bf16, f16 or f32.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::DType;

/// A checkpoint file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct TensorFileError {
    pub file: PathBuf,
    pub reason: String,
}

fn error(file: &Path, reason: impl ToString) -> TensorFileError {
    TensorFileError { file: file.to_path_buf(), reason: reason.to_string() }
}

/// The tensors of a directory, mapped into memory.
pub struct TensorDirectory {
    files: Vec<(PathBuf, Mmap)>,
    /// Tensor name → index of its file.
    file_of: BTreeMap<String, usize>,
    directory: PathBuf,
}

impl TensorDirectory {
    /// Opens one file on its own.
    pub fn open_file(path: &Path) -> Result<Self, TensorFileError> {
        let mut opened = Self { files: Vec::new(), file_of: BTreeMap::new(), directory: path.to_path_buf() };
        opened.add(path.to_path_buf())?;
        Ok(opened)
    }

    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(directory: &Path) -> Result<Self, TensorFileError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        let paths = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shards(&index)?
        } else {
            return Err(error(directory, "has neither model.safetensors nor model.safetensors.index.json"));
        };
        let mut opened = Self { files: Vec::new(), file_of: BTreeMap::new(), directory: directory.to_path_buf() };
        for path in paths {
            opened.add(path)?;
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), TensorFileError> {
        let file = File::open(&path).map_err(|e| error(&path, format!("cannot be opened: {e}")))?;
        // Safety: the map is only read. If another process truncated the file, reading it would fault, as with any
        // memory-mapped checkpoint; so we write checkpoints to a temporary file and rename it, never in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| error(&path, format!("cannot be mapped: {e}")))?;
        let names: Vec<String> = {
            let tensors = SafeTensors::deserialize(&map).map_err(|e| {
                error(&path, format!("is not a whole safetensors file ({e}); was its download cut short?"))
            })?;
            tensors.names().into_iter().map(String::from).collect()
        };
        for name in names {
            self.file_of.insert(name, self.files.len());
        }
        self.files.push((path, map));
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// Reads one tensor into `to`, converted to f32. The shape must be `shape`.
    pub fn read(&self, name: &str, shape: &[usize], to: &mut [f32]) -> Result<(), TensorFileError> {
        let Some(&file) = self.file_of.get(name) else {
            let known = self.file_of.len();
            return Err(error(
                &self.directory,
                format!("tensor `{name}` {shape:?} is missing (the files hold {known} others)"),
            ));
        };
        let (path, map) = &self.files[file];
        let tensors = SafeTensors::deserialize(map).map_err(|e| error(path, e))?;
        let tensor = tensors.tensor(name).map_err(|e| error(path, e))?;
        if tensor.shape() != shape {
            let got = tensor.shape();
            return Err(error(path, format!("tensor `{name}` has the wrong shape: expected {shape:?}, got {got:?}")));
        }
        convert(tensor.dtype(), tensor.data(), to).map_err(|dtype| {
            error(path, format!("tensor `{name}` has the wrong type: expected F32, F16 or BF16, got {dtype}"))
        })
    }
}

/// The shards that an index names, sorted, without duplicates.
fn shards(index: &Path) -> Result<Vec<PathBuf>, TensorFileError> {
    let text = std::fs::read_to_string(index).map_err(|e| error(index, format!("cannot be read: {e}")))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| error(index, format!("is not JSON: {e}")))?;
    let map = value["weight_map"].as_object().ok_or_else(|| error(index, "has no object `weight_map`"))?;
    let mut names: Vec<&str> = map.values().filter_map(|file| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(error(index, "names no files in `weight_map`"));
    }
    names
        .into_iter()
        .map(|name| match Path::new(name).file_name() {
            Some(file) if file == name => Ok(index.with_file_name(name)),
            _ => Err(error(index, format!("names a file outside its directory: {name:?}"))),
        })
        .collect()
}

fn convert(dtype: Dtype, bytes: &[u8], to: &mut [f32]) -> Result<(), String> {
    match dtype {
        Dtype::F32 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
        }
        Dtype::F16 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = half::f16::from_le_bytes(*from).to_f32();
            }
        }
        Dtype::BF16 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = half::bf16::from_le_bytes(*from).to_f32();
            }
        }
        other => return Err(format!("{other:?}")),
    }
    Ok(())
}

/// A tensor to be written.
pub struct NamedTensor<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub values: &'a [f32],
}

/// Writes tensors to `path` as `dtype` (f32, f16 or bf16), atomically.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor<'_>], dtype: DType) -> Result<(), TensorFileError> {
    type Encode = fn(&[f32]) -> Vec<u8>;
    let (kind, encode): (Dtype, Encode) = match dtype {
        DType::F32 => (Dtype::F32, |values| values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        DType::F16 => {
            (Dtype::F16, |values| values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect())
        }
        DType::Bf16 => {
            (Dtype::BF16, |values| values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect())
        }
        DType::F64 | DType::U32 => {
            return Err(error(path, format!("weights are written as F32, F16 or BF16, not {dtype}")));
        }
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(|tensor| encode(tensor.values)).collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|(tensor, bytes)| {
            let view = TensorView::new(kind, tensor.shape.to_vec(), bytes).map_err(|e| error(path, e))?;
            Ok((tensor.name, view))
        })
        .collect::<Result<Vec<_>, TensorFileError>>()?;
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| error(path, e))?;
    crate::file::write_atomically(path, &bytes).map_err(|e| error(path, format!("cannot be written: {e}")))
}
