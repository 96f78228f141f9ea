//! A model with its tokenizer, from a Hugging Face directory or from random weights, and back to a directory.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail, ensure};

use crate::config::{ExportDtype, ModelSettings, Settings};
use crate::file::{say, write_atomically};
use crate::judge::{JudgeSettings, PromptFile};
use crate::log::StageBar;
use crate::model::parameters::RandomWeights;
use crate::model::{Description, Export, LoadError, ModelDirectory, Parameter, Qwen3, Qwen3Config, Weights};
use crate::ops::Backend;
use crate::setting::Valid;
use crate::tensor::DType;
use crate::tensor::host_memory::check_available;
use crate::tokenizer::Tokenizer;

/// Shape, weights and tokenizer that belong together. Weights are read when they are needed.
pub struct Pretrained {
    pub config: Qwen3Config,
    pub weights: WeightSource,
    pub tokenizer: Tokenizer,
}

/// Reads a directory with config.json, safetensors and tokenizer.json.
pub fn load(path: &Path) -> anyhow::Result<Pretrained> {
    let opened = open(path)?;
    let tokenizer = Tokenizer::from_dir(path)?;
    check_vocabulary(&tokenizer, &opened.config, path)?;
    Ok(Pretrained { config: opened.config.clone(), weights: WeightSource::Directory(opened.into()), tokenizer })
}

/// The files of a model directory; says on stderr what in them may surprise.
pub fn open(path: &Path) -> anyhow::Result<ModelDirectory> {
    ensure!(path.is_dir(), "{}: there is no such model directory", path.display());
    let opened = ModelDirectory::open(path)?;
    check_memory(&opened.config).with_context(|| path.display().to_string())?;
    for note in &opened.notes {
        say!("note: {}: {note}", path.display());
    }
    Ok(opened)
}

/// Shape and tokenizer of a model whose weights are not read yet.
pub struct PretrainedSource {
    pub config: Qwen3Config,
    pub tokenizer: Tokenizer,
    pub weights: WeightSource,
    /// What an export writes back.
    pub description: Description,
    pub tokenizer_files: TokenizerFiles,
}

/// The files of a tokenizer as they came, which an export writes back: what no reader here knows is kept too.
#[derive(Default)]
pub struct TokenizerFiles(Vec<(&'static str, Vec<u8>)>);

impl TokenizerFiles {
    const NAMES: [&str; 7] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
    ];

    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for name in Self::NAMES.iter().filter(|name| folder.join(name).is_file()) {
            let path = folder.join(name);
            files.push((*name, std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?));
        }
        Ok(Self(files))
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            write_atomically(&path, bytes).with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        Ok(())
    }
}

/// Where weights come from. They are read last: whatever else cannot work is refused before.
pub enum WeightSource {
    Directory(Box<ModelDirectory>),
    Random(RandomWeights),
}

impl Weights for WeightSource {
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        match self {
            Self::Directory(opened) => Weights::read(&**opened, index, parameter, range, to),
            Self::Random(random) => random.read(index, parameter, range, to),
        }
    }
}

impl WeightSource {
    /// Makes a model of them with `make`. Where reading takes a while, a bar shows how far it is; numbers that are not finite are
    /// spoken of.
    pub fn model<M>(
        &self,
        config: &Qwen3Config,
        make: impl FnOnce(&LoadedWeights<'_>) -> Result<M, LoadError>,
    ) -> anyhow::Result<M> {
        let bar = (config.parameters() >= SLOW_TO_READ).then(|| StageBar::new("load", config.parameters() as u64, 0));
        let loaded = LoadedWeights { source: self, seen: Mutex::new(Seen { read: 0, bar, damaged: None }) };
        let model = make(&loaded)?;
        let Seen { bar, damaged, .. } = loaded.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        bar.into_iter().for_each(|bar| bar.finish());
        if let Some((_, name)) = damaged {
            say!(
                "note: `{name}` of the model holds numbers that are not finite: if its file is damaged, fetch it again"
            );
        }
        Ok(model)
    }
}

/// Parameters of a model that takes seconds to read.
const SLOW_TO_READ: u128 = 250_000_000;

/// Weights that are looked at while a model is made of them.
pub struct LoadedWeights<'a> {
    source: &'a WeightSource,
    seen: Mutex<Seen>,
}

struct Seen {
    /// Parameters, as single numbers
    read: u64,
    bar: Option<StageBar>,
    /// The first tensor that holds a NaN or an infinity: its index and its name
    damaged: Option<(usize, String)>,
}

impl Weights for LoadedWeights<'_> {
    fn read(&self, index: usize, parameter: &Parameter, range: Range<usize>, to: &mut [f32]) -> Result<(), LoadError> {
        self.source.read(index, parameter, range, to)?;
        let finite = to.iter().all(|value| value.is_finite());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !finite && seen.damaged.as_ref().is_none_or(|(first, _)| index < *first) {
            seen.damaged = Some((index, parameter.name.clone()));
        }
        seen.read += to.len() as u64;
        let Seen { read, bar, .. } = &mut *seen;
        bar.iter_mut().for_each(|bar| bar.update(*read, &[]));
        Ok(())
    }
}

/// An error if the weights of a shape do not fit into this machine's memory.
pub fn check_memory(config: &Qwen3Config) -> anyhow::Result<()> {
    let parameters = config.parameters();
    let bytes = usize::try_from(parameters * size_of::<f32>() as u128).unwrap_or(usize::MAX);
    let weights = || {
        format!("a model of {parameters} parameters ({:.1} billion), 4 bytes each in f32,", 1e-9 * parameters as f64)
    };
    Ok(check_available(bytes, weights)?)
}

/// The model that a configuration asks for: a directory, or a named shape with random weights and some tokenizer.
pub fn from_settings(settings: &ModelSettings, seed: u64) -> anyhow::Result<PretrainedSource> {
    if settings.init.is_empty() {
        ensure!(!settings.path.is_empty(), "no model: give --model DIR, or --init SHAPE with --tokenizer DIR");
        let path = Path::new(&settings.path);
        let opened = open(path)?;
        let (config, description) = (opened.config.clone(), opened.description.clone());
        let folder = if settings.tokenizer.is_empty() { path } else { Path::new(&settings.tokenizer) };
        let mut tokenizer = Tokenizer::from_dir(folder)?;
        check_vocabulary(&tokenizer, &config, folder)?;
        // A tokenizer of another directory does not know what ends this model's text.
        tokenizer.add_eos_ids(&description.stop_tokens());
        let tokenizer_files = TokenizerFiles::read(folder)?;
        let weights = WeightSource::Directory(opened.into());
        return Ok(PretrainedSource { config, tokenizer, weights, description, tokenizer_files });
    }
    let Some(mut config) = Qwen3Config::named(&settings.init) else {
        let names: Vec<_> = Qwen3Config::names().collect();
        bail!("--init {}: not a known shape; known are {}", settings.init, names.join(", "));
    };
    let folder = &settings.tokenizer;
    ensure!(!folder.is_empty(), "--init {} needs a tokenizer: give --tokenizer DIR", settings.init);
    let tokenizer = Tokenizer::from_dir(Path::new(folder))?;
    let tokenizer_files = TokenizerFiles::read(Path::new(folder))?;
    // Random weights fit any vocabulary: take the tokenizer's.
    config.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    check_memory(&config).with_context(|| format!("--init {}", settings.init))?;
    let description = Description::with_tokens(&config, tokenizer.eos_id(), tokenizer.pad_id());
    let weights = WeightSource::Random(RandomWeights { config: config.clone(), seed });
    Ok(PretrainedSource { config, tokenizer, weights, description, tokenizer_files })
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

/// What the settings of a run say of the way it judges by default: the file of `data.rubrics`, if it is a whole one, or else the
/// model's directory.
pub fn way_of(settings: &Settings) -> anyhow::Result<Option<Valid<JudgeSettings>>> {
    let file = &settings.data.rubrics;
    let whole = if file.is_empty() { None } else { JudgeSettings::read_file(Path::new(file))? };
    if whole.is_some() { Ok(whole) } else { carried(&settings.model) }
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
    let Settings { reward, model, judge, .. } = &**settings;
    let judge = Valid::new(JudgeSettings::new(prompt, reward.verdict, model.thinking, *judge))?;
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

/// A trained model, and what its directory says beside its weights.
pub struct Trained<'a, B: Backend> {
    pub model: &'a Qwen3<B>,
    /// Of the model that training began from
    pub description: &'a Description,
    pub dtype: ExportDtype,
    pub tokenizer: &'a Tokenizer,
    /// Those that the tokenizer was read from
    pub tokenizer_files: &'a TokenizerFiles,
    pub judge: &'a Valid<JudgeSettings>,
}

/// Writes a model, its tokenizer and its way of judging as a directory that transformers loads; config.json is written last.
pub fn export<B: Backend>(folder: &Path, trained: &Trained<'_, B>) -> anyhow::Result<()> {
    let Trained { model, description, dtype, tokenizer, tokenizer_files, judge } = *trained;
    tokenizer.save(folder).with_context(|| format!("{}: the tokenizer cannot be written", folder.display()))?;
    tokenizer_files.write(folder)?;
    judge.write(folder)?;
    let mut description = description.clone();
    description.add_stop_tokens(tokenizer.eos_ids());
    let dtype = match dtype {
        ExportDtype::Source => None,
        ExportDtype::F32 => Some(DType::F32),
        ExportDtype::Bf16 => Some(DType::Bf16),
    };
    Ok(Export::new(&model.config, model, &description, dtype).write(folder)?)
}
