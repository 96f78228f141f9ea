//! A model directory as it is written: weights in one file or in shards, generation_config.json, and config.json last.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::description::{Description, GENERATION};
use super::directory::{CONFIG, DirectoryError, error, read_object};
use super::{ParameterTable, Qwen3Config};
use crate::tensor::DType;
use crate::tensor::file::write_atomically;
use crate::tensor::safetensors::{INDEX, NamedTensor, SINGLE, stage_tensors};

/// Shards are at most this long, unless one tensor is longer.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// What is written.
pub struct Export<'a> {
    table: ParameterTable,
    /// [arena]
    weights: &'a [f32],
    description: &'a Description,
    /// `None`: each tensor as the type that it was read as
    dtype: Option<DType>,
    shard_bytes_max: usize,
}

impl<'a> Export<'a> {
    /// A model with that description; `dtype` (f32, f16 or bf16) in place of the types that its tensors were read as.
    ///
    /// # Panics
    /// When the arena is one of another model.
    pub fn new(config: &Qwen3Config, weights: &'a [f32], description: &'a Description, dtype: Option<DType>) -> Self {
        let table = ParameterTable::new(config);
        assert_eq!(weights.len(), table.arena_len(), "an arena of another model");
        Self { table, weights, description, dtype, shard_bytes_max: SHARD_BYTES_MAX }
    }

    /// Writes all files of the model; the tokenizer writes its own beside them. Whatever is not a model's file stays. An earlier
    /// model in the folder stays whole until the new weights lie on the disk beside it.
    pub fn write(&self, directory: &Path) -> Result<(), DirectoryError> {
        let shards = self.shards();
        let names = names(shards.len());
        let staged = shards.iter().zip(&names).map(|(shard, name)| {
            let tensors: Vec<NamedTensor<'_>> = self.table.parameters()[shard.clone()]
                .iter()
                .map(|p| NamedTensor { name: &p.name, shape: &p.shape, values: &self.weights[p.range()] })
                .collect();
            let typed: Vec<_> = tensors.iter().zip(shard.clone().map(|index| self.dtype(index))).collect();
            stage_tensors(&directory.join(name), &typed)
        });
        let staged = staged.collect::<Result<Vec<_>, _>>()?;
        let stale = stale(directory, &names);
        // A directory with a config.json is whole: it goes first and comes last.
        for file in std::iter::once(directory.join(CONFIG)).chain(stale) {
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error(&file, format!("cannot be replaced: {e}")));
                }
                _ => {}
            }
        }
        for file in staged {
            file.persist()?;
        }
        if let [_, _, ..] = &names[..] {
            write_json(&directory.join(INDEX), &self.index(&shards, &names))?;
        }
        write_json(&directory.join(GENERATION), &self.description.generation)?;
        write_json(&directory.join(CONFIG), &self.description.exported_config(self.dtype))
    }

    fn dtype(&self, index: usize) -> DType {
        self.dtype.unwrap_or_else(|| self.description.dtype(index))
    }

    fn bytes(&self, index: usize) -> usize {
        self.table.parameters()[index].len() * self.dtype(index).bytes()
    }

    /// Parameters of each shard, in the order of the table.
    fn shards(&self) -> Vec<Range<usize>> {
        let (mut shards, mut first, mut bytes) = (Vec::new(), 0, 0);
        for index in 0..self.table.parameters().len() {
            if index > first && bytes + self.bytes(index) > self.shard_bytes_max {
                shards.push(first..index);
                (first, bytes) = (index, 0);
            }
            bytes += self.bytes(index);
        }
        shards.push(first..self.table.parameters().len());
        shards
    }

    fn index(&self, shards: &[Range<usize>], names: &[String]) -> Map<String, Value> {
        let parameters = self.table.parameters();
        let of_shard = |shard: &Range<usize>, name: &String| {
            parameters[shard.clone()].iter().map(|p| (p.name.clone(), name.clone().into())).collect::<Vec<_>>()
        };
        let weight_map: Map<String, Value> =
            shards.iter().zip(names).flat_map(|(shard, name)| of_shard(shard, name)).collect();
        let total_size: usize = (0..parameters.len()).map(|index| self.bytes(index)).sum();
        let total_parameters: usize = parameters.iter().map(|parameter| parameter.len()).sum();
        let metadata = json!({ "total_size": total_size, "total_parameters": total_parameters });
        [("metadata".to_string(), metadata), ("weight_map".to_string(), weight_map.into())].into_iter().collect()
    }
}

/// The files of so many shards, as transformers calls them.
fn names(count: usize) -> Vec<String> {
    match count {
        1 => vec![SINGLE.to_string()],
        _ => (1..=count).map(|shard| format!("model-{shard:05}-of-{count:05}.safetensors")).collect(),
    }
}

/// Weights of an earlier export that a reader would take for this one's: the single file, the index, and the shards that it names.
fn stale(directory: &Path, names: &[String]) -> Vec<PathBuf> {
    let index = directory.join(INDEX);
    let mut stale = BTreeSet::from([SINGLE.to_string(), INDEX.to_string()]);
    if let Some(Value::Object(weight_map)) = read_object(&index).ok().flatten().and_then(|mut o| o.remove("weight_map"))
    {
        let shards = weight_map.values().filter_map(Value::as_str);
        let own = |name: &&str| name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/');
        stale.extend(shards.filter(own).map(String::from));
    }
    stale.retain(|name| !names.contains(name));
    stale.iter().map(|name| directory.join(name)).collect()
}

fn write_json(file: &Path, object: &Map<String, Value>) -> Result<(), DirectoryError> {
    let text = format!("{:#}\n", Value::Object(object.clone()));
    write_atomically(file, text.as_bytes()).map_err(|e| error(file, format!("cannot be written: {e}")))
}
