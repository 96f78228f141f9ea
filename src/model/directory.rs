//! A Hugging Face model directory: config.json and weights, in and out.

use std::path::Path;

use super::config::ConfigError;
use super::{ParameterTable, Qwen3Config};
use crate::file::write_atomically;
use crate::tensor::DType;
use crate::tensor::safetensors::{NamedTensor, TensorDirectory, TensorFileError, write_tensors};

/// A model directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tensors(#[from] TensorFileError),
    #[error("{file}: cannot be written: {error}")]
    Write { file: String, error: std::io::Error },
}

/// Reads config.json and all weights of a directory into an arena.
pub fn load(directory: &Path) -> Result<(Qwen3Config, Vec<f32>), DirectoryError> {
    let config = Qwen3Config::load(&directory.join("config.json"))?;
    let table = ParameterTable::new(&config);
    let files = TensorDirectory::open(directory)?;
    let mut weights = vec![0.0; table.arena_len()];
    for parameter in table.parameters() {
        files.read(&parameter.name, &parameter.shape, &mut weights[parameter.range()])?;
    }
    Ok((config, weights))
}

/// Writes config.json, generation_config.json and model.safetensors; the tokenizer writes its own files beside them.
pub fn save(directory: &Path, config: &Qwen3Config, weights: &[f32], dtype: DType) -> Result<(), DirectoryError> {
    let table = ParameterTable::new(config);
    assert_eq!(weights.len(), table.arena_len(), "an arena of another model");
    let json = |name: &str, value: &serde_json::Value| {
        let file = directory.join(name);
        let text = format!("{value:#}\n");
        write_atomically(&file, text.as_bytes())
            .map_err(|error| DirectoryError::Write { file: file.display().to_string(), error })
    };
    let tensors: Vec<_> = table
        .parameters()
        .iter()
        .map(|p| NamedTensor { name: &p.name, shape: &p.shape, values: &weights[p.range()] })
        .collect();
    write_tensors(&directory.join("model.safetensors"), &tensors, dtype)?;
    json(
        "generation_config.json",
        &serde_json::json!({
            "do_sample": true,
            "temperature": 1.0,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
        }),
    )?;
    // Written last: a directory with a config.json is complete.
    json("config.json", &config.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters::random_weights;

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
        let file = directory.path().join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        let message = load(directory.path()).unwrap_err().to_string();
        assert!(message.contains("model.safetensors") && message.contains("cut short"), "{message}");

        let mut other = tiny();
        other.num_hidden_layers = 1;
        let weights = vec![0.0; ParameterTable::new(&other).arena_len()];
        save(directory.path(), &other, &weights, DType::F32).unwrap();
        write_atomically(&directory.path().join("config.json"), tiny().to_json().to_string().as_bytes()).unwrap();
        let message = load(directory.path()).unwrap_err().to_string();
        assert!(message.contains("model.layers.1.") && message.contains("missing"), "{message}");

        other.num_hidden_layers = 2;
        other.intermediate_size = 64;
        let weights = vec![0.0; ParameterTable::new(&other).arena_len()];
        save(directory.path(), &other, &weights, DType::F32).unwrap();
        write_atomically(&directory.path().join("config.json"), tiny().to_json().to_string().as_bytes()).unwrap();
        let message = load(directory.path()).unwrap_err().to_string();
        assert!(
            message.contains("gate_proj") && message.contains("[48, 32]") && message.contains("[64, 32]"),
            "{message}"
        );
    }
}
