//! A model with its tokenizer, from a Hugging Face directory or from random weights, and back to a directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::config::{ModelSettings, Settings};
use crate::file::say;
use crate::judge::{JudgeSettings, PromptFile};
use crate::model::parameters::{ParameterTable, random_weights};
use crate::model::{Qwen3, Qwen3Config, directory};
use crate::ops::Backend;
use crate::setting::Valid;
use crate::tensor::DType;
use crate::tensor::host_memory::check_available;
use crate::tokenizer::Tokenizer;

/// Shape, weights (an arena) and tokenizer that belong together.
pub struct Pretrained {
    pub config: Qwen3Config,
    pub weights: Vec<f32>,
    pub tokenizer: Tokenizer,
}

/// Reads a directory with config.json, safetensors and tokenizer.json.
pub fn load(path: &Path) -> anyhow::Result<Pretrained> {
    ensure!(path.is_dir(), "{}: there is no such model directory", path.display());
    let (config, weights) = directory::load(path)?;
    let tokenizer = Tokenizer::from_dir(path)?;
    check_vocabulary(&tokenizer, &config, path)?;
    Ok(Pretrained { config, weights, tokenizer })
}

/// Shape and tokenizer of a model whose weights are not read yet.
pub struct PretrainedSource {
    pub config: Qwen3Config,
    pub tokenizer: Tokenizer,
    pub weights: WeightSource,
}

/// Where weights come from. They are read last: whatever else cannot work is refused before.
pub enum WeightSource {
    Directory(PathBuf),
    Random { seed: u64 },
}

impl WeightSource {
    /// An arena of the weights.
    pub fn read(&self, config: &Qwen3Config) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Directory(path) => Ok(directory::load(path)?.1),
            Self::Random { seed } => {
                check_memory(config)?;
                Ok(random_weights(config, *seed))
            }
        }
    }
}

/// An error if the weights of a shape do not fit into this machine's memory.
pub fn check_memory(config: &Qwen3Config) -> anyhow::Result<()> {
    let parameters = ParameterTable::new(config).arena_len();
    let weights = || format!("a model of {:.1} billion weights", 1e-9 * parameters as f64);
    Ok(check_available(parameters * size_of::<f32>(), weights)?)
}

/// The model that a configuration asks for: a directory, or a named shape with random weights and some tokenizer.
pub fn from_settings(settings: &ModelSettings, seed: u64) -> anyhow::Result<PretrainedSource> {
    if settings.init.is_empty() {
        ensure!(!settings.path.is_empty(), "no model: give --model DIR, or --init SHAPE with --tokenizer DIR");
        let path = Path::new(&settings.path);
        ensure!(path.is_dir(), "{}: there is no such model directory", path.display());
        let config = Qwen3Config::load(&path.join("config.json"))?;
        let folder = if settings.tokenizer.is_empty() { path } else { Path::new(&settings.tokenizer) };
        let tokenizer = Tokenizer::from_dir(folder)?;
        check_vocabulary(&tokenizer, &config, folder)?;
        return Ok(PretrainedSource { config, tokenizer, weights: WeightSource::Directory(path.to_path_buf()) });
    }
    let Some(mut config) = Qwen3Config::named(&settings.init) else {
        let names: Vec<_> = Qwen3Config::names().collect();
        bail!("--init {}: not a known shape; known are {}", settings.init, names.join(", "));
    };
    let folder = &settings.tokenizer;
    ensure!(!folder.is_empty(), "--init {} needs a tokenizer: give --tokenizer DIR", settings.init);
    let tokenizer = Tokenizer::from_dir(Path::new(folder))?;
    // Random weights fit any vocabulary: take the tokenizer's.
    config.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    config.eos_token_id = Some(tokenizer.eos_id());
    config.pad_token_id = Some(tokenizer.pad_id());
    check_memory(&config).with_context(|| format!("--init {}", settings.init))?;
    Ok(PretrainedSource { config, tokenizer, weights: WeightSource::Random { seed } })
}

fn check_vocabulary(tokenizer: &Tokenizer, config: &Qwen3Config, path: &Path) -> anyhow::Result<()> {
    let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size);
    ensure!(
        tokens <= rows,
        "{}: the tokenizer has {tokens} tokens and the model's vocabulary only {rows} rows: they do not belong together",
        path.display()
    );
    Ok(())
}

/// What the directory of a run's model says of the way it judges; `None` where weights are random or it says nothing.
pub fn carried(settings: &ModelSettings) -> anyhow::Result<Option<Valid<JudgeSettings>>> {
    if !settings.init.is_empty() || settings.path.is_empty() {
        return Ok(None);
    }
    Ok(JudgeSettings::read(Path::new(&settings.path))?)
}

/// The way of judging of a run: its settings, with the prompt that the model's directory carries where they name none. Says
/// where it differs from the directory's.
pub fn judge_settings(settings: &Valid<Settings>) -> anyhow::Result<Valid<JudgeSettings>> {
    let carried = carried(&settings.model)?;
    let file = Some(settings.data.rubrics.as_str()).filter(|file| !file.is_empty()).map(Path::new);
    let prompt = match &carried {
        Some(carried) if file.is_none() => carried.prompt.clone(),
        _ => PromptFile::load(file)?,
    };
    let judge = Valid::new(JudgeSettings::new(prompt, settings.reward.verdict, settings.model.thinking))?;
    say_differences(Path::new(&settings.model.path), carried.as_deref(), &judge);
    Ok(judge)
}

/// Says, on stderr, where a judge is asked to judge otherwise than it was trained to.
pub fn say_differences(folder: &Path, carried: Option<&JudgeSettings>, used: &JudgeSettings) {
    let differences = carried.map(|carried| carried.differences(used)).unwrap_or_default();
    if !differences.is_empty() {
        let folder = folder.display();
        say!("note: {folder} was trained to judge in another way ({folder}/judge.toml): {}", differences.join("; "));
    }
}

/// Writes a model, its tokenizer and its way of judging as a directory that transformers loads.
pub fn export<B: Backend>(
    folder: &Path,
    model: &Qwen3<B>,
    tokenizer: &Tokenizer,
    judge: &Valid<JudgeSettings>,
) -> anyhow::Result<()> {
    let weights = model.backend.download(model.backend.view(model.master(), 0..model.table.arena_len()))?;
    directory::save(folder, &model.config, &weights, DType::F32)?;
    tokenizer.save(folder).with_context(|| format!("{}: the tokenizer cannot be written", folder.display()))?;
    Ok(judge.write(folder)?)
}
