//! What a run was made from: the files of its data and its model, told apart by what they hold.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::data::sources::resolve;

/// Larger files are told apart by their length and by samples of this many bytes, evenly spread.
const WHOLE_MAX: u64 = 256 << 20;
const SAMPLE: u64 = 1 << 20;
const SAMPLES: u64 = 64;

/// Files of a model's directory that decide what it computes, beside its weights, and how it judges.
const MODEL_FILES: [&str; 4] = ["config.json", "generation_config.json", "judge.toml", "model.safetensors.index.json"];
/// Files of a tokenizer's directory.
const TOKENIZER_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
];
/// The folder of a tokenizer's named chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// One input of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is to the run: `data 1`, `model`, `tokenizer`, `rubrics`.
    pub what: String,
    pub path: String,
    pub bytes: u64,
    /// BLAKE3 of its contents; empty where they cannot be read a second time (a pipe).
    pub hash: String,
}

impl Input {
    /// Whether both are known to hold the same.
    fn holds_the_same(&self, other: &Self) -> bool {
        !self.hash.is_empty() && (self.bytes, &self.hash) == (other.bytes, &other.hash)
    }
}

/// The inputs that settings name.
pub fn inputs(settings: &Settings) -> anyhow::Result<Vec<Input>> {
    let mut found = Vec::new();
    for (index, path) in settings.data.train.iter().enumerate() {
        let files = resolve(&[PathBuf::from(path)])?;
        found.push(of_files(format!("data {}", index + 1), path, &files)?);
    }
    let model = &settings.model;
    if model.init.is_empty() {
        found.push(of_files("model".into(), &model.path, &members(Path::new(&model.path), is_of_model)?)?);
    }
    let tokenizer = if model.tokenizer.is_empty() { &model.path } else { &model.tokenizer };
    let mut files = members(Path::new(tokenizer), |name| TOKENIZER_FILES.contains(&name))?;
    let templates = Path::new(tokenizer).join(TEMPLATES);
    if templates.is_dir() {
        files.extend(members(&templates, |name| name.ends_with(".jinja"))?);
    }
    found.push(of_files("tokenizer".into(), tokenizer, &files)?);
    let rubrics = &settings.data.rubrics;
    if !rubrics.is_empty() {
        found.push(of_files("rubrics".into(), rubrics, &[PathBuf::from(rubrics)])?);
    }
    Ok(found)
}

/// What differs between the inputs a run has and those it is asked to go on with, in words.
pub fn differences(had: &[Input], asked: &[Input]) -> Vec<String> {
    let of = |inputs: &[Input], what: &str| inputs.iter().find(|input| input.what == what).cloned();
    let mut whats: Vec<&str> = had.iter().chain(asked).map(|input| input.what.as_str()).collect();
    whats.sort_unstable();
    whats.dedup();
    let difference = |what: &str| match (of(had, what), of(asked, what)) {
        (Some(had), Some(asked)) if had.holds_the_same(&asked) => None,
        (Some(had), Some(asked)) if had.hash.is_empty() || asked.hash.is_empty() => {
            Some(format!("{what}: {} is not a plain file, so its content cannot be compared", asked.path))
        }
        (Some(had), Some(asked)) => Some(format!(
            "{what}: {} ({} bytes) in the run, {} ({} bytes) now: the content is another",
            had.path, had.bytes, asked.path, asked.bytes
        )),
        (Some(had), None) => Some(format!("{what}: {} in the run, none now", had.path)),
        (None, Some(asked)) => Some(format!("{what}: none in the run, {} now", asked.path)),
        (None, None) => None,
    };
    whats.into_iter().filter_map(difference).collect()
}

fn is_of_model(name: &str) -> bool {
    MODEL_FILES.contains(&name) || name.ends_with(".safetensors")
}

/// Files of a directory whose names are wanted, sorted.
fn members(directory: &Path, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("{}: cannot be read", directory.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.with_context(|| format!("{}: cannot be read", directory.display()))?;
    paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted));
    paths.sort();
    Ok(paths)
}

/// One fingerprint of files by their names, lengths and contents.
fn of_files(what: String, path: &str, files: &[PathBuf]) -> anyhow::Result<Input> {
    let (mut hasher, mut bytes, mut readable) = (blake3::Hasher::new(), 0, true);
    for file in files {
        let failed = || format!("{}: cannot be read", file.display());
        let metadata = fs::metadata(file).with_context(failed)?;
        // What is not a plain file (a pipe) would be emptied, or never end.
        readable &= metadata.is_file();
        if metadata.is_file() {
            bytes += metadata.len();
            if files.len() > 1 {
                hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            }
            hasher.update(&metadata.len().to_le_bytes());
            add(&mut hasher, file, metadata.len()).with_context(failed)?;
        }
    }
    let hash = if readable { hasher.finalize().to_hex().to_string() } else { String::new() };
    Ok(Input { what, path: path.to_string(), bytes, hash })
}

fn add(hasher: &mut blake3::Hasher, path: &Path, len: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    if len <= WHOLE_MAX {
        io::copy(&mut file, hasher)?;
        return Ok(());
    }
    for sample in 0..SAMPLES {
        // The first begins the file and the last ends it.
        let start = (u128::from(len - SAMPLE) * u128::from(sample) / u128::from(SAMPLES - 1)) as u64;
        file.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&file).take(SAMPLE), hasher)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("model")).unwrap();
        for (name, text) in [
            ("model/config.json", "{}"),
            ("model/model.safetensors", "weights"),
            ("model/tokenizer.json", "tokens"),
            ("a.jsonl", "{\"a\": 1}\n"),
            ("b.jsonl", "{\"a\": 1}\n"),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let mut settings = Settings::default();
        settings.data.train = vec![path("a.jsonl").display().to_string()];
        settings.model.path = path("model").display().to_string();
        (folder, settings)
    }

    #[test]
    fn a_moved_file_is_the_same_and_a_changed_one_is_named() {
        let (folder, mut settings) = fixture();
        let had = inputs(&settings).unwrap();
        assert_eq!(had.iter().map(|input| input.what.as_str()).collect::<Vec<_>>(), ["data 1", "model", "tokenizer"]);
        settings.data.train = vec![folder.path().join("b.jsonl").display().to_string()];
        assert_eq!(differences(&had, &inputs(&settings).unwrap()), [""; 0]);
        for (file, what) in [
            ("b.jsonl", "data 1"),
            ("model/model.safetensors", "model"),
            ("model/judge.toml", "model"),
            ("model/tokenizer.json", "tokenizer"),
        ] {
            let path = folder.path().join(file);
            let before = fs::read(&path).ok();
            fs::write(&path, "{\"a\": 2}\n").unwrap();
            let found = differences(&had, &inputs(&settings).unwrap());
            assert!(found.len() == 1 && found[0].starts_with(what), "{file}: {found:?}");
            match before {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
        }
        settings.data.train.push("/dev/null".into());
        let found = differences(&had, &inputs(&settings).unwrap());
        assert_eq!(found, ["data 2: none in the run, /dev/null now"]);
        let found = differences(&inputs(&settings).unwrap(), &inputs(&settings).unwrap());
        assert!(found.len() == 1 && found[0].contains("not a plain file"), "{found:?}");
    }

    #[test]
    fn a_large_file_is_told_apart_by_its_ends_and_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let hash = |len: u64, last: &[u8]| {
            let mut file = File::create(&path).unwrap();
            // Holes take no disk.
            file.set_len(len).unwrap();
            file.seek(SeekFrom::Start(len - 1)).unwrap();
            io::Write::write_all(&mut file, last).unwrap();
            of_files("model".into(), "", std::slice::from_ref(&path)).unwrap().hash
        };
        let len = WHOLE_MAX + 5;
        assert_eq!(hash(len, b"a"), hash(len, b"a"));
        assert_ne!(hash(len, b"a"), hash(len, b"b"));
        assert_ne!(hash(len, b"a"), hash(len + 1, b"a"));
    }
}
