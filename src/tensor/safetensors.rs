//! Reads and writes safetensors files: one file or shards, in bf16, f16 or f32 (f64 is read only).

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use tempfile::NamedTempFile;

use super::DType;
use crate::file::UNFINISHED_PREFIX;

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

/// What a file says of a tensor.
struct Entry {
    /// Index of its file
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes in the file
    range: Range<usize>,
}

/// The tensors of a directory, mapped into memory.
pub struct TensorDirectory {
    files: Vec<(PathBuf, Mmap)>,
    entries: BTreeMap<String, Entry>,
    directory: PathBuf,
}

impl TensorDirectory {
    /// Opens one file on its own.
    pub fn open_file(path: &Path) -> Result<Self, TensorFileError> {
        let mut opened = Self { files: Vec::new(), entries: BTreeMap::new(), directory: path.to_path_buf() };
        opened.add(path.to_path_buf())?;
        Ok(opened)
    }

    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(directory: &Path) -> Result<Self, TensorFileError> {
        let single = directory.join(SINGLE);
        let index = directory.join(INDEX);
        let paths = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shards(&index)?
        } else {
            return Err(error(directory, no_weights(directory)));
        };
        let mut opened = Self { files: Vec::new(), entries: BTreeMap::new(), directory: directory.to_path_buf() };
        for path in paths {
            opened.add(path)?;
        }
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), TensorFileError> {
        let file = File::open(&path).map_err(|e| error(&path, format!("cannot be opened: {e}")))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(error(&path, "is not a file"));
        }
        // Safety: the map is only read. If another process truncated the file, reading it would fault, as with any
        // memory-mapped checkpoint; so we write checkpoints to a temporary file and rename it, never in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| error(&path, format!("cannot be mapped: {e}")))?;
        if is_lfs_pointer(&map) {
            return Err(error(&path, LFS_POINTER));
        }
        // The sizes in a header are checked against each other and against the length of the file.
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| error(&path, format!("is not a whole safetensors file ({e}); was its download cut short?")))?;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let first = header + size_of::<u64>();
            let range = first + start..first + end;
            let entry = Entry { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), range };
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let other = self.files[other.file].0.display();
                return Err(error(&path, format!("tensor `{name}` is in {other} as well")));
            }
        }
        self.files.push((path, map));
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The type of a tensor, which must be one that can be read and have that shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<DType, TensorFileError> {
        let Some(entry) = self.entries.get(name) else {
            let known = self.entries.len();
            return Err(error(
                &self.directory,
                format!("tensor `{name}` {shape:?} is missing (the files hold {known} others)"),
            ));
        };
        let path = &self.files[entry.file].0;
        if entry.shape != shape {
            let got = &entry.shape;
            return Err(error(path, format!("tensor `{name}` has the wrong shape: expected {shape:?}, got {got:?}")));
        }
        match entry.dtype {
            Dtype::F64 => Ok(DType::F64),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::Bf16),
            dtype => Err(error(
                path,
                format!(
                    "tensor `{name}` has the wrong type: expected F32, F16, BF16 or F64, got {dtype:?}; quantized weights are \
                     not supported"
                ),
            )),
        }
    }

    /// Whether two tensors of that shape hold the same numbers.
    pub fn same(&self, a: &str, b: &str, shape: &[usize]) -> Result<bool, TensorFileError> {
        if self.check(a, shape)? == self.check(b, shape)? {
            return Ok(self.bytes(a) == self.bytes(b));
        }
        let len = shape.iter().product();
        let mut blocks = [vec![0.0; BLOCK.min(len)], vec![0.0; BLOCK.min(len)]];
        for first in (0..len).step_by(BLOCK) {
            let range = first..len.min(first + BLOCK);
            let [of_a, of_b] = blocks.each_mut().map(|block| &mut block[..range.len()]);
            self.read(a, shape, range.clone(), of_a)?;
            self.read(b, shape, range, of_b)?;
            if of_a != of_b {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let entry = &self.entries[name];
        &self.files[entry.file].1[entry.range.clone()]
    }

    /// Reads elements `range` of a tensor into `to`, converted to f32. The tensor's shape must be `shape`.
    pub fn read(
        &self,
        name: &str,
        shape: &[usize],
        range: Range<usize>,
        to: &mut [f32],
    ) -> Result<(), TensorFileError> {
        let dtype = self.check(name, shape)?;
        assert!(range.end <= shape.iter().product::<usize>() && to.len() == range.len(), "{name}");
        convert(dtype, &self.bytes(name)[range.start * dtype.bytes()..range.end * dtype.bytes()], to);
        Ok(())
    }
}

/// The file of a model that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// The file that names the shards of one that is.
pub const INDEX: &str = "model.safetensors.index.json";

/// The start of what Git leaves where large files were not fetched.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is wrong with a file that is a pointer of Git LFS.
pub const LFS_POINTER: &str = "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`";

/// Whether these are not a file's bytes, but a pointer that Git LFS would replace by them.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS)
}

/// What is wrong with a directory without safetensors.
fn no_weights(directory: &Path) -> String {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    let other = names.iter().find(|name| {
        [".bin", ".pt", ".pth", ".bin.index.json", ".gguf"].iter().any(|end| name.ends_with(end))
            || name.ends_with(".safetensors")
    });
    let hint = match other {
        None => String::new(),
        Some(name) if name.starts_with("adapter_model") => {
            format!("; {name} is an adapter: merge it into its model first")
        }
        Some(name) if name.ends_with(".safetensors") => format!("; {name} is not read: rename it, or add the index"),
        Some(name) => format!("; {name} is not read: save the model as safetensors (`save_pretrained` does)"),
    };
    format!("has neither {SINGLE} nor {INDEX}{hint}")
}

/// The shards that an index names, sorted, without duplicates.
fn shards(index: &Path) -> Result<Vec<PathBuf>, TensorFileError> {
    let text = std::fs::read_to_string(index).map_err(|e| error(index, format!("cannot be read: {e}")))?;
    if is_lfs_pointer(text.as_bytes()) {
        return Err(error(index, LFS_POINTER));
    }
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| error(index, format!("is not JSON: {e}")))?;
    let map = value["weight_map"].as_object().ok_or_else(|| error(index, "has no object `weight_map`"))?;
    let mut names = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let name = file.as_str().ok_or_else(|| error(index, format!("`weight_map` gives `{tensor}` no file name")))?;
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(error(index, "names no files in `weight_map`"));
    }
    let path = |name: &str| match Path::new(name).file_name() {
        Some(file) if file == name => Ok(index.with_file_name(name)),
        _ => Err(error(index, format!("names a file outside its directory: {name:?}"))),
    };
    let paths = names.iter().map(|name| path(name)).collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<&str> =
        names.iter().zip(&paths).filter(|(_, path)| !path.exists()).map(|(name, _)| *name).collect();
    if let Some(first) = missing.first() {
        let (missing, all) = (missing.len(), names.len());
        return Err(error(index, format!("names {all} files, of which {missing} are not there, the first {first}")));
    }
    Ok(paths)
}

fn convert(dtype: DType, bytes: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
        }
        DType::F16 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = half::f16::from_le_bytes(*from).to_f32();
            }
        }
        DType::Bf16 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *to = half::bf16::from_le_bytes(*from).to_f32();
            }
        }
        DType::F64 => {
            for (to, from) in to.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *to = f64::from_le_bytes(*from) as f32;
            }
        }
        DType::U32 => unreachable!("no type of a weight"),
    }
}

/// Reads a range of a tensor's elements, or says why it cannot.
pub type Read<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) -> Result<(), String> + 'a>;

/// A tensor to be written.
pub struct NamedTensor<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub read: Read<'a>,
}

impl<'a> NamedTensor<'a> {
    /// A tensor in memory.
    ///
    /// # Panics
    /// When the shape is one of another number of values.
    pub fn of(name: &'a str, shape: &'a [usize], values: &'a [f32]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        let read = |range: Range<usize>, to: &mut [f32]| {
            to.copy_from_slice(&values[range]);
            Ok(())
        };
        Self { name, shape, read: Box::new(read) }
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes tensors to `path` as `dtype` (f32, f16 or bf16), atomically.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor<'_>], dtype: DType) -> Result<(), TensorFileError> {
    let tensors: Vec<_> = tensors.iter().map(|tensor| (tensor, dtype)).collect();
    stage_tensors(path, &tensors)?.persist()
}

/// A whole file on disk that does not have its name yet.
pub struct StagedFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl StagedFile {
    /// Gives the file its name, in place of a file that has it.
    pub fn persist(self) -> Result<(), TensorFileError> {
        let Self { temporary, path } = self;
        temporary.persist(&path).map_err(|e| error(&path, format!("cannot be written: {}", e.error)))?;
        Ok(())
    }
}

/// Elements that are encoded at a time.
const BLOCK: usize = 1 << 20;

/// Writes tensors beside `path`, each with its type (f32, f16 or bf16). No more than a block of them is held.
pub fn stage_tensors(path: &Path, tensors: &[(&NamedTensor<'_>, DType)]) -> Result<StagedFile, TensorFileError> {
    let io = |e: std::io::Error| error(path, format!("cannot be written: {e}"));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let permissions = Permissions::from_mode(0o666);
    let mut builder = tempfile::Builder::new();
    let temporary = builder.prefix(UNFINISHED_PREFIX).permissions(permissions).tempfile_in(folder).map_err(io)?;
    let (tensors, header) = header(path, tensors)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    out.write_all(&header).map_err(io)?;
    let (mut bytes, mut block) = (Vec::new(), Vec::new());
    for (tensor, dtype) in tensors {
        let named = |reason: String| error(path, format!("`{}`: {reason}", tensor.name));
        for first in (0..tensor.len()).step_by(BLOCK) {
            let range = first..tensor.len().min(first + BLOCK);
            block.resize(range.len(), 0.0);
            (tensor.read)(range, &mut block).map_err(named)?;
            encode(&block, dtype, &mut bytes).map_err(named)?;
            out.write_all(&bytes).map_err(io)?;
        }
    }
    out.flush().map_err(io)?;
    drop(out);
    temporary.as_file().sync_all().map_err(io)?;
    Ok(StagedFile { temporary, path: path.to_path_buf() })
}

type Typed<'a> = (&'a NamedTensor<'a>, DType);

/// The tensors in the order of the file, which is that of the safetensors library: by type, then by name; and the bytes before
/// the first of them.
fn header<'a>(path: &Path, tensors: &[Typed<'a>]) -> Result<(Vec<Typed<'a>>, Vec<u8>), TensorFileError> {
    let mut sorted = Vec::with_capacity(tensors.len());
    for &(tensor, dtype) in tensors {
        let kind = match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
            DType::F64 | DType::U32 => {
                return Err(error(path, format!("weights are written as F32, F16 or BF16, not {dtype}")));
            }
        };
        sorted.push((kind, (tensor, dtype)));
    }
    sorted.sort_by(|(left, (a, _)), (right, (b, _))| right.cmp(left).then(a.name.cmp(b.name)));
    let (mut offset, mut infos) = (0, Vec::with_capacity(sorted.len()));
    for (kind, (tensor, dtype)) in &sorted {
        let end = offset + tensor.len() * dtype.bytes();
        let info = TensorInfo { dtype: *kind, shape: tensor.shape.to_vec(), data_offsets: (offset, end) };
        infos.push((tensor.name.to_string(), info));
        offset = end;
    }
    let format = [("format".to_string(), "pt".to_string())].into_iter().collect();
    let metadata = Metadata::new(Some(format), infos).map_err(|e| error(path, e))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| error(path, e))?;
    json.resize(json.len().next_multiple_of(size_of::<u64>()), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok((sorted.into_iter().map(|(_, tensor)| tensor).collect(), header))
}

/// Replaces `bytes` by `values` as `dtype`. An error where f16 would make a number infinite.
fn encode(values: &[f32], dtype: DType, bytes: &mut Vec<u8>) -> Result<(), String> {
    bytes.clear();
    match dtype {
        DType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(values)),
        DType::Bf16 => bytes.extend(values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())),
        DType::F16 => {
            if let Some(x) = values.iter().find(|x| x.is_finite() && half::f16::from_f32(**x).is_infinite()) {
                return Err(format!("{x:e} does not fit into F16; write the model as F32 or BF16"));
            }
            bytes.extend(values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()));
        }
        DType::F64 | DType::U32 => unreachable!("refused before"),
    }
    Ok(())
}
