//! A model directory as it is written: weights in one file or in shards, generation_config.json, and config.json last.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::description::{Description, GENERATION};
use super::directory::{CONFIG, DirectoryError, error, read_object};
use super::{ParameterTable, Qwen3Config, Weights};
use crate::file::write_atomically;
use crate::tensor::DType;
use crate::tensor::safetensors::{INDEX, NamedTensor, SINGLE, stage_tensors};

/// Shards are at most this long, unless one tensor is longer.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// What is written.
pub struct Export<'a> {
    table: ParameterTable,
    weights: &'a dyn Weights,
    description: &'a Description,
    /// `None`: each tensor as the type that it was read as
    dtype: Option<DType>,
    shard_bytes_max: usize,
}

impl<'a> Export<'a> {
    /// A model with that description; `dtype` (f32, f16 or bf16) in place of the types that its tensors were read as.
    pub fn new(
        config: &Qwen3Config,
        weights: &'a dyn Weights,
        description: &'a Description,
        dtype: Option<DType>,
    ) -> Self {
        let table = ParameterTable::new(config);
        Self { table, weights, description, dtype, shard_bytes_max: SHARD_BYTES_MAX }
    }

    /// Writes all files of the model; the tokenizer writes its own beside them. Whatever is not a model's file stays. An earlier
    /// model in the folder stays whole until the new weights lie on the disk beside it.
    pub fn write(&self, directory: &Path) -> Result<(), DirectoryError> {
        let shards = self.shards();
        let names = names(shards.len());
        let staged = shards.iter().zip(&names).map(|(shard, name)| {
            let tensors: Vec<NamedTensor<'_>> = shard.clone().map(|index| self.tensor(index)).collect();
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

    fn tensor(&self, index: usize) -> NamedTensor<'_> {
        let parameter = &self.table.parameters()[index];
        let read = move |range: Range<usize>, to: &mut [f32]| {
            self.weights.read(index, parameter, range, to).map_err(|error| error.to_string())
        };
        NamedTensor { name: &parameter.name, shape: &parameter.shape, read: Box::new(read) }
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

/// Weights of an earlier export that a reader would take for this one's: the single file, the index, and the shards that the
/// index names.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelDirectory;
    use crate::model::parameters::random_weights;

    fn tiny() -> Qwen3Config {
        let mut config = Qwen3Config::named("nano").unwrap();
        (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size) = (40, 32, 2, 48);
        config
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn files(directory: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// A directory as someone else may have written it: bf16 in shards, keys that we do not know.
    fn foreign(config: Value, generation: Option<Value>) -> (tempfile::TempDir, Vec<f32>) {
        let directory = tempfile::tempdir().unwrap();
        let weights: Vec<f32> = random_weights(&tiny(), 1).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        let mut description = Description::new(&tiny());
        description.config.extend(object(config));
        description.generation = generation.clone().map(object).unwrap_or_default();
        Export::new(&tiny(), &weights, &description, Some(DType::Bf16)).write(directory.path()).unwrap();
        if generation.is_none() {
            std::fs::remove_file(directory.path().join(GENERATION)).unwrap();
        }
        (directory, weights)
    }

    fn read(directory: &Path, name: &str) -> Map<String, Value> {
        read_object(&directory.join(name)).unwrap().unwrap()
    }

    #[test]
    fn what_was_read_is_written_back() {
        let config = json!({
            "dtype": "bfloat16", "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "bos_token_id": 3,
            "eos_token_id": [5, 4], "pad_token_id": 3, "max_window_layers": 28, "a_number": 0.10000000000000003,
            "rope_scaling": null, "rope_theta": 1_000_000, "sliding_window": null, "of_ours": {"a": [1]},
        });
        let generation = json!({
            "bos_token_id": 3, "do_sample": true, "eos_token_id": [5, 3], "pad_token_id": 3, "temperature": 0.6,
            "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0",
        });
        let (source, weights) = foreign(config, Some(generation.clone()));
        let opened = ModelDirectory::open(source.path()).unwrap();
        let mut description = opened.description.clone();
        description.add_stop_tokens(&[3, 5]);

        let out = tempfile::tempdir().unwrap();
        Export::new(&opened.config, &opened.weights(|_| {}).unwrap(), &description, None).write(out.path()).unwrap();
        for name in [CONFIG, GENERATION, SINGLE] {
            let text = |directory: &Path| std::fs::read(directory.join(name)).unwrap();
            assert!(text(out.path()) == text(source.path()), "{name}");
        }
        assert_eq!(files(out.path()), files(source.path()));

        // A stop token of training that was not named, and another type.
        description.add_stop_tokens(&[3, 7]);
        Export::new(&opened.config, &weights, &description, Some(DType::F32)).write(out.path()).unwrap();
        let mut expected = object(generation);
        expected.insert("eos_token_id".into(), json!([5, 3, 7]));
        assert_eq!(read(out.path(), GENERATION), expected);
        let config = read(out.path(), CONFIG);
        assert_eq!((&config["dtype"], &config["torch_dtype"]), (&json!("float32"), &json!("float32")));
        assert_eq!(config["eos_token_id"], json!([5, 4]));
        assert_eq!(ModelDirectory::open(out.path()).unwrap().weights(|_| {}).unwrap(), weights);
    }

    #[test]
    fn without_a_generation_config_the_ids_are_those_of_config_json_and_of_training() {
        let (source, _) = foreign(json!({"eos_token_id": 5, "pad_token_id": 3}), None);
        let mut description = ModelDirectory::open(source.path()).unwrap().description;
        description.add_stop_tokens(&[5]);
        assert_eq!(description.generation, object(json!({"eos_token_id": 5, "pad_token_id": 3})));
        description.add_stop_tokens(&[4, 5]);
        assert_eq!(description.generation["eos_token_id"], json!([5, 4]));
        let mut none = Description::new(&tiny());
        none.add_stop_tokens(&[4]);
        assert_eq!(none.generation["eos_token_id"], json!(4));
    }

    #[test]
    fn every_tensor_keeps_its_type() {
        let table = ParameterTable::new(&tiny());
        let weights: Vec<f32> = random_weights(&tiny(), 1).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        let mixed = tempfile::tempdir().unwrap();
        let tensors: Vec<_> =
            table.parameters().iter().map(|p| NamedTensor::of(&p.name, &p.shape, &weights[p.range()])).collect();
        let dtype = |tensor: &NamedTensor<'_>| if tensor.shape.len() == 1 { DType::F32 } else { DType::Bf16 };
        let typed: Vec<_> = tensors.iter().map(|tensor| (tensor, dtype(tensor))).collect();
        stage_tensors(&mixed.path().join(SINGLE), &typed).unwrap().persist().unwrap();
        write_json(&mixed.path().join(CONFIG), &object(tiny().to_json())).unwrap();
        let opened = ModelDirectory::open(mixed.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        Export::new(&opened.config, &weights, &opened.description, None).write(out.path()).unwrap();
        let text = |directory: &Path| std::fs::read(directory.join(SINGLE)).unwrap();
        assert!(text(out.path()) == text(mixed.path()));
        assert_eq!(read(out.path(), CONFIG), read(mixed.path(), CONFIG));
    }

    #[test]
    fn shards_are_whole_models_and_leave_nothing_of_an_earlier_export() {
        let (config, description) = (tiny(), Description::new(&tiny()));
        let out = tempfile::tempdir().unwrap();
        let write = |seed: u64, shard_bytes_max: usize| {
            let weights = random_weights(&config, seed);
            let export = Export { shard_bytes_max, ..Export::new(&config, &weights, &description, None) };
            export.write(out.path()).unwrap();
            let opened = ModelDirectory::open(out.path()).unwrap();
            assert!(opened.weights(|_| {}).unwrap() == weights, "shards of {shard_bytes_max}");
            files(out.path())
        };
        let mine = ["model-of-mine.safetensors", "model-00001-of-00009.safetensors", "notes.txt"];
        mine.iter().for_each(|name| std::fs::write(out.path().join(name), name).unwrap());
        let with = |names: &[String]| {
            let ours = names.iter().map(String::as_str).chain([CONFIG, GENERATION]).chain(mine);
            ours.map(String::from).collect::<BTreeSet<_>>()
        };
        let single = with(&[SINGLE.into()]);
        assert_eq!(write(1, SHARD_BYTES_MAX), single);

        let sharded = write(2, 30_000);
        let index = read(out.path(), INDEX);
        let count = names_of(&index).len();
        assert!(count > 3, "{index:?}");
        let mut expected = names(count);
        for name in &expected {
            let length = std::fs::metadata(out.path().join(name)).unwrap().len();
            assert!(length < 30_000 + 2000, "{name}: {length} bytes");
        }
        let parameters: usize = ParameterTable::new(&config).parameters().iter().map(|p| p.len()).sum();
        assert_eq!(index["metadata"], json!({"total_size": 4 * parameters, "total_parameters": parameters}));
        expected.push(INDEX.into());
        assert_eq!(sharded, with(&expected));

        let fewer = write(3, 100_000);
        let count = names_of(&read(out.path(), INDEX)).len();
        assert_eq!(fewer, with(&[names(count), vec![INDEX.into()]].concat()));
        assert_eq!(write(4, SHARD_BYTES_MAX), single);
        for name in mine {
            assert_eq!(std::fs::read_to_string(out.path().join(name)).unwrap(), name);
        }
    }

    fn names_of(index: &Map<String, Value>) -> BTreeSet<&str> {
        index["weight_map"].as_object().unwrap().values().filter_map(Value::as_str).collect()
    }

    #[test]
    fn a_number_that_f16_does_not_hold_is_named_and_the_earlier_model_stays() {
        let (config, out) = (tiny(), tempfile::tempdir().unwrap());
        let mut weights = random_weights(&config, 1);
        let description = Description::new(&config);
        Export::new(&config, &weights, &description, Some(DType::F16)).write(out.path()).unwrap();
        let before = files(out.path());
        weights[7] = 1e5;
        let message = Export::new(&config, &weights, &description, Some(DType::F16)).write(out.path()).unwrap_err();
        assert!(message.to_string().contains("embed_tokens") && message.to_string().contains("1e5"), "{message}");
        assert_eq!(files(out.path()), before, "nothing is left, nothing is gone");
        ModelDirectory::open(out.path()).unwrap();
    }
}
