//! A Hugging Face model directory as it is read: config.json and tensors that fit together.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::description::Description;
use super::export::Export;
use super::weights::Weights;
use super::{Parameter, ParameterTable, Qwen3Config};
use crate::file::counted;
use crate::tensor::DType;
use crate::tensor::safetensors::{LFS_POINTER, TensorDirectory, TensorFileError, is_lfs_pointer};

pub(super) const CONFIG: &str = "config.json";

const EMBEDDING: &str = "model.embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";

/// A longer config.json is something else.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// A model directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
}

pub(super) fn error(file: &Path, reason: impl ToString) -> DirectoryError {
    DirectoryError::File { file: file.to_path_buf(), reason: reason.to_string() }
}

/// A directory whose config.json and tensors fit together. Its weights are not read yet.
pub struct ModelDirectory {
    pub config: Qwen3Config,
    pub description: Description,
    /// What was read in a way that may surprise.
    pub notes: Vec<String>,
    files: TensorDirectory,
    table: ParameterTable,
    /// What the files call each parameter.
    names: Vec<String>,
}

impl ModelDirectory {
    /// Reads config.json and the headers of the weights, and refuses what does not fit together.
    pub fn open(directory: &Path) -> Result<Self, DirectoryError> {
        let file = directory.join(CONFIG);
        let mut notes = Vec::new();
        let Some(mut json) = read_object(&file)? else {
            let adapter = directory.join("adapter_config.json").exists();
            let hint =
                if adapter { ", and adapter_config.json is there: merge the adapter into its model first" } else { "" };
            return Err(error(&file, format!("is missing{hint}")));
        };
        let mut config = Qwen3Config::from_json(&json, &mut notes).map_err(|reason| error(&file, reason))?;
        let files = TensorDirectory::open(directory)?;
        if let Some(score) = files.names().find(|name| name.starts_with("score.")) {
            return Err(error(
                directory,
                format!("has a tensor `{score}`: it is a classifier, which does not write text"),
            ));
        }
        if config.tie_word_embeddings && head_differs(&files, &config)? {
            config.tie_word_embeddings = false;
            json.insert("tie_word_embeddings".into(), false.into());
            notes.push(
                "`tie_word_embeddings` is true, but the files hold an `lm_head.weight` that differs from the embedding: it is \
                 used, as transformers 5 does (4 would use the embedding)"
                    .into(),
            );
        }
        let table = ParameterTable::new(&config);
        let names: Vec<String> = table.parameters().iter().map(|parameter| name_in(&files, &parameter.name)).collect();
        if !config.tie_word_embeddings && !files.has(LM_HEAD) {
            let reason = "there is no `lm_head.weight`, and `tie_word_embeddings` of config.json is false, which is its default: \
                          set it to true if the embedding is the head";
            return Err(error(directory, reason));
        }
        let types = table.parameters().iter().zip(&names).map(|(parameter, name)| files.check(name, &parameter.shape));
        let types = types.collect::<Result<Vec<DType>, _>>()?;
        note_unread(&files, &names, &mut notes);
        let description = Description::read(directory, json, types)?;
        Ok(Self { config, description, notes, files, table, names })
    }

    /// How many tensors there are to read.
    pub fn tensors(&self) -> usize {
        self.names.len()
    }

    /// An arena of the weights. It calls `read` with the number of tensors read so far.
    pub fn weights(&self, mut read: impl FnMut(usize)) -> Result<Vec<f32>, DirectoryError> {
        let mut weights = vec![0.0; self.table.arena_len()];
        for (index, (parameter, name)) in self.table.parameters().iter().zip(&self.names).enumerate() {
            read(index);
            self.files.read(name, &parameter.shape, 0..parameter.len(), &mut weights[parameter.range()])?;
        }
        Ok(weights)
    }

    /// Reads elements `range` of parameter `index` of the model's table.
    pub fn read(
        &self,
        index: usize,
        parameter: &Parameter,
        range: Range<usize>,
        to: &mut [f32],
    ) -> Result<(), DirectoryError> {
        Ok(self.files.read(&self.names[index], &parameter.shape, range, to)?)
    }
}

/// The shape of a directory's model: config.json alone is read.
pub fn config_of(directory: &Path) -> Result<Qwen3Config, DirectoryError> {
    let file = directory.join(CONFIG);
    let json = read_object(&file)?.ok_or_else(|| error(&file, "is missing"))?;
    Qwen3Config::from_json(&json, &mut Vec::new()).map_err(|reason| error(&file, reason))
}

/// Reads config.json and all weights of a directory into an arena.
pub fn load(directory: &Path) -> Result<(Qwen3Config, Vec<f32>), DirectoryError> {
    let opened = ModelDirectory::open(directory)?;
    let weights = opened.weights(|_| {})?;
    Ok((opened.config, weights))
}

/// Writes a model that no directory describes: config.json, generation_config.json and the weights; the tokenizer writes its own
/// files beside them.
pub fn save(directory: &Path, config: &Qwen3Config, weights: &dyn Weights, dtype: DType) -> Result<(), DirectoryError> {
    Export::new(config, weights, &Description::new(config), Some(dtype)).write(directory)
}

/// What the files call a parameter: a model that was saved without its head has no `model.` before its names, and a tied one may
/// hold the head in place of the embedding.
fn name_in(files: &TensorDirectory, name: &str) -> String {
    let bare = name.strip_prefix("model.").unwrap_or(name);
    let there = [name, bare].into_iter().find(|name| files.has(name));
    let head = if name == EMBEDDING { Some(LM_HEAD).filter(|head| files.has(head)) } else { None };
    there.or(head).unwrap_or(name).to_string()
}

/// Whether the files hold a head beside the embedding, with other numbers.
fn head_differs(files: &TensorDirectory, config: &Qwen3Config) -> Result<bool, DirectoryError> {
    let embedding = name_in(files, EMBEDDING);
    if embedding == LM_HEAD || !files.has(&embedding) || !files.has(LM_HEAD) {
        return Ok(false);
    }
    Ok(!files.same(&embedding, LM_HEAD, &[config.vocab_size, config.hidden_size])?)
}

/// Tensors that are no parameter of this model: transformers passes over them too. A tied head and the frequencies that old
/// versions saved are nothing to speak of.
fn note_unread(files: &TensorDirectory, names: &[String], notes: &mut Vec<String>) {
    let read: std::collections::BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let unread: Vec<&str> = files
        .names()
        .filter(|name| !read.contains(name) && *name != LM_HEAD && !name.ends_with("rotary_emb.inv_freq"))
        .collect();
    if let Some(first) = unread.first() {
        notes.push(format!(
            "not read, because no part of a dense Qwen3: {}, the first `{first}`",
            counted(unread.len(), "tensor")
        ));
    }
}

/// The object in a JSON file; `None` if there is no such file.
pub(super) fn read_object(file: &Path) -> Result<Option<Map<String, Value>>, DirectoryError> {
    match std::fs::metadata(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(file, format!("cannot be read: {e}"))),
        Ok(found) if !found.is_file() => return Err(error(file, "is not a file")),
        Ok(found) if found.len() > JSON_BYTES_MAX => {
            return Err(error(file, format!("is {} bytes long, which no such file is", found.len())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(file).map_err(|e| error(file, format!("cannot be read: {e}")))?;
    if is_lfs_pointer(&bytes) {
        return Err(error(file, LFS_POINTER));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| error(file, format!("is not a JSON object: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::file::write_atomically;
    use crate::model::parameters::random_weights;
    use crate::tensor::safetensors::{INDEX, NamedTensor, SINGLE, stage_tensors};

    fn tiny() -> Qwen3Config {
        let mut config = Qwen3Config::named("nano").unwrap();
        (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size) = (40, 32, 2, 48);
        config.tie_word_embeddings = false;
        config
    }

    fn saved(dtype: DType) -> (tempfile::TempDir, Vec<f32>) {
        let directory = tempfile::tempdir().unwrap();
        let weights = random_weights(&tiny(), 1);
        save(directory.path(), &tiny(), &weights, dtype).unwrap();
        (directory, weights)
    }

    fn write_config(directory: &Path, keys: Value) {
        let mut json = tiny().to_json();
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(directory.join(CONFIG), json.to_string()).unwrap();
    }

    /// Writes the tensors of an arena of `tiny` under the names that `name` gives them, where it gives one.
    fn write_renamed(file: &Path, weights: &[f32], name: impl Fn(&str) -> Option<String>) {
        let table = ParameterTable::new(&tiny());
        let renamed: Vec<_> =
            table.parameters().iter().filter_map(|parameter| Some((name(&parameter.name)?, parameter))).collect();
        let tensors: Vec<_> =
            renamed.iter().map(|(name, p)| NamedTensor::of(name, &p.shape, &weights[p.range()])).collect();
        let typed: Vec<_> = tensors.iter().map(|tensor| (tensor, DType::F32)).collect();
        stage_tensors(file, &typed).unwrap().persist().unwrap();
    }

    #[track_caller]
    fn refused(directory: &Path, words: &[&str]) {
        let message = ModelDirectory::open(directory).err().expect("refused").to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    }

    #[test]
    fn weights_survive_a_round_trip_exactly_in_f32_and_rounded_in_bf16() {
        let (directory, weights) = saved(DType::F32);
        assert_eq!(load(directory.path()).unwrap(), (tiny(), weights.clone()));
        let (directory, _) = saved(DType::Bf16);
        let rounded: Vec<f32> = weights.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(load(directory.path()).unwrap().1, rounded);
    }

    #[test]
    fn a_truncated_file_a_missing_tensor_and_a_wrong_shape_are_named() {
        let (directory, _) = saved(DType::F32);
        let file = directory.path().join(SINGLE);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        refused(directory.path(), &[SINGLE, "cut short"]);
        std::fs::write(&file, []).unwrap();
        refused(directory.path(), &[SINGLE]);

        let mut other = tiny();
        other.num_hidden_layers = 1;
        let weights = vec![0.0; ParameterTable::new(&other).arena_len()];
        save(directory.path(), &other, &weights, DType::F32).unwrap();
        write_config(directory.path(), json!({}));
        refused(directory.path(), &["model.layers.1.", "missing"]);

        other.num_hidden_layers = 2;
        other.intermediate_size = 64;
        let weights = vec![0.0; ParameterTable::new(&other).arena_len()];
        save(directory.path(), &other, &weights, DType::F32).unwrap();
        write_config(directory.path(), json!({}));
        refused(directory.path(), &["gate_proj", "[48, 32]", "[64, 32]"]);
    }

    #[test]
    fn files_that_are_not_the_weights_of_such_a_model_are_named() {
        let (directory, weights) = saved(DType::F32);
        let (folder, file) = (directory.path(), directory.path().join(SINGLE));
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 1503300328\n";
        std::fs::write(&file, pointer).unwrap();
        refused(folder, &[SINGLE, "git lfs pull"]);
        std::fs::write(folder.join(CONFIG), pointer).unwrap();
        refused(folder, &[CONFIG, "git lfs pull"]);
        write_config(folder, json!({}));

        let classifier = |name: &str| Some(if name == LM_HEAD { "score.weight".to_string() } else { name.to_string() });
        write_renamed(&file, &weights, classifier);
        refused(folder, &["`score.weight`", "classifier"]);
        write_renamed(&file, &weights, |name| (name != LM_HEAD).then(|| name.to_string()));
        refused(folder, &["`lm_head.weight`", "`tie_word_embeddings`"]);

        std::fs::remove_file(&file).unwrap();
        refused(folder, &["has neither"]);
        std::fs::write(folder.join("pytorch_model.bin"), "PK").unwrap();
        refused(folder, &["pytorch_model.bin", "safetensors"]);
        std::fs::remove_file(folder.join(CONFIG)).unwrap();
        refused(folder, &["config.json: is missing"]);
        std::fs::write(folder.join("adapter_config.json"), "{}").unwrap();
        refused(folder, &["adapter_config.json", "merge"]);
        std::fs::create_dir(folder.join(CONFIG)).unwrap();
        refused(folder, &["config.json: is not a file"]);
    }

    #[test]
    fn quantized_tensors_are_refused_by_type() {
        let (directory, _) = saved(DType::F32);
        let file = directory.path().join(SINGLE);
        let bytes = std::fs::read(&file).unwrap();
        // A type of the same size: the offsets stay true.
        let header = String::from_utf8_lossy(&bytes).into_owned();
        assert!(header.contains("\"dtype\":\"F32\""));
        let at = bytes.windows(13).position(|window| window == b"\"dtype\":\"F32\"").unwrap();
        let mut integers = bytes.clone();
        integers[at + 9..at + 12].copy_from_slice(b"I32");
        std::fs::write(&file, integers).unwrap();
        refused(directory.path(), &["got I32", "expected F32, F16, BF16 or F64"]);
    }

    #[test]
    fn shards_must_be_there_beside_their_index_and_share_no_tensor() {
        let (directory, weights) = saved(DType::F32);
        let folder = directory.path();
        std::fs::remove_file(folder.join(SINGLE)).unwrap();
        let index = |map: Value| std::fs::write(folder.join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let first = |name: &str| name.contains("layers.0");
        write_renamed(&folder.join(names[0]), &weights, |name| first(name).then(|| name.to_string()));
        index(json!({"a": names[0], "b": names[1]}));
        refused(folder, &[INDEX, "names 2 files", "1 are not there", names[1]]);
        write_renamed(&folder.join(names[1]), &weights, |name| (!first(name)).then(|| name.to_string()));
        assert_eq!(load(folder).unwrap(), (tiny(), weights.clone()));
        write_renamed(&folder.join(names[1]), &weights, |name| Some(name.to_string()));
        refused(folder, &[names[1], "is in", names[0]]);
        for outside in ["sub/model.safetensors", "../model.safetensors", "/etc/passwd", "..", ""] {
            index(json!({"a": names[0], "b": outside}));
            refused(folder, &[INDEX, "outside its directory"]);
        }
        index(json!({"a": 3}));
        refused(folder, &["`a` no file name"]);
        index(json!([]));
        refused(folder, &["no object `weight_map`"]);
    }

    #[test]
    fn a_tied_model_uses_the_head_that_its_files_hold() {
        let (directory, weights) = saved(DType::F32);
        let (folder, file) = (directory.path(), directory.path().join(SINGLE));
        let mut tied = tiny();
        tied.tie_word_embeddings = true;
        write_config(folder, json!({"tie_word_embeddings": true}));

        let other = ModelDirectory::open(folder).unwrap();
        assert_eq!((other.config.clone(), other.weights(|_| {}).unwrap()), (tiny(), weights.clone()));
        assert_eq!(other.description.config["tie_word_embeddings"], false, "an export says what is computed");
        assert!(
            other.notes.len() == 1 && other.notes[0].contains("`lm_head.weight` that differs"),
            "{:?}",
            other.notes
        );

        // The same numbers, only the head, and names without `model.`: the embedding is the head.
        let table = ParameterTable::new(&tiny());
        let (embedding, head) = (table.get(EMBEDDING).unwrap().range(), table.get(LM_HEAD).unwrap().range());
        let mut equal = weights.clone();
        equal.copy_within(embedding.clone(), head.start);
        for name in [
            (|name| Some(name.to_string())) as fn(&str) -> Option<String>,
            |name| (name != EMBEDDING).then(|| name.to_string()),
            |name| (name != LM_HEAD).then(|| name.trim_start_matches("model.").to_string()),
        ] {
            write_renamed(&file, &equal, name);
            let opened = ModelDirectory::open(folder).unwrap();
            assert_eq!((&opened.config, &opened.notes), (&tied, &Vec::new()));
            assert_eq!(opened.weights(|_| {}).unwrap()[..embedding.end], equal[..embedding.end]);
        }
    }

    #[test]
    fn tensors_that_are_not_read_are_spoken_of() {
        let (directory, weights) = saved(DType::F32);
        let bias = |name: &str| Some(name.replace("layers.1.input_layernorm.weight", "layers.0.self_attn.q_proj.bias"));
        write_renamed(&directory.path().join("more.safetensors"), &weights, |name| {
            if name.contains("layers.1.input_layernorm") { bias(name) } else { None }
        });
        std::fs::rename(directory.path().join(SINGLE), directory.path().join("all.safetensors")).unwrap();
        let index = json!({"weight_map": {"a": "all.safetensors", "b": "more.safetensors"}}).to_string();
        write_atomically(&directory.path().join(INDEX), index.as_bytes()).unwrap();
        let notes = ModelDirectory::open(directory.path()).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("1 tensor,") && notes[0].contains("q_proj.bias"), "{notes:?}");
    }
}
