//! Data sets of the hub (huggingface.co) by their names: from the local cache, or by a download into it.
//!
//! The cache is the one of the Python libraries: `datasets--OWNER--NAME/refs/REVISION` names a commit, and
//! `snapshots/COMMIT/` has its files, which are links into `blobs/`. So what either has fetched, the other finds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::DataError;
use super::endings::is_data;
use crate::file::{say, write_atomically};

/// The name of a data set, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `OWNER/NAME`.
    pub set: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    pub wanted: Wanted,
}

/// What of a data set is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The files of a split; of the only one if it is not named.
    Split(Option<String>),
    File(String),
}

impl HubName {
    /// Reads `OWNER/NAME`, `OWNER/NAME:SPLIT`, `OWNER/NAME@REVISION:SPLIT` and `hf://datasets/OWNER/NAME[@REVISION][/FILE]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, wanted) = match text.strip_prefix("hf://datasets/") {
            Some(path) => {
                let mut parts = path.splitn(3, '/');
                let name = format!("{}/{}", parts.next()?, parts.next()?);
                let file = parts.next().filter(|file| !file.is_empty());
                (name, file.map_or(Wanted::Split(None), |file| Wanted::File(file.to_string())))
            }
            None => {
                let (name, split) = text.split_once(':').map_or((text, None), |(name, split)| (name, Some(split)));
                (name.to_string(), Wanted::Split(split.map(str::to_string)))
            }
        };
        let (set, revision) = name.split_once('@').unwrap_or((&name, "main"));
        let (owner, own) = set.split_once('/')?;
        // Data files are given by such paths too, but hardly with these endings missing.
        let sound = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(plain) && !word.contains("--")
        };
        let revision_is_sound = !revision.is_empty() && revision.split('/').all(sound);
        let is_path = is_data(Path::new(own)) && !text.starts_with("hf://");
        (sound(owner) && sound(own) && revision_is_sound && !is_path).then(|| Self {
            set: set.to_string(),
            revision: revision.to_string(),
            wanted,
        })
    }

    /// The files that are wanted among those of the data set; an error names what there is.
    fn select(&self, files: &[String]) -> Result<Vec<String>, String> {
        if let Wanted::File(file) = &self.wanted {
            return match files.contains(file) {
                true => Ok(vec![file.clone()]),
                false => Err(format!("it has no file {file}; it has {}", listed(files.iter().map(String::as_str)))),
            };
        }
        let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in files.iter().filter(|file| is_data(Path::new(file))) {
            splits.entry(split_of(file)).or_default().push(file.clone());
        }
        let names = listed(splits.keys().map(String::as_str));
        let mut found = match &self.wanted {
            Wanted::Split(Some(split)) => {
                splits.remove(split).ok_or(format!("it has no split {split}; it has {names}"))?
            }
            _ if splits.len() > 1 => {
                return Err(format!("it has several splits: {names}; name one, as in {}:SPLIT", self.set));
            }
            _ => splits.into_values().next().ok_or("it has no data files")?,
        };
        found.sort();
        Ok(found)
    }
}

/// The split that a file belongs to: `train` for `train.jsonl`, `data/train-00000-of-00003.parquet` and `train/0000.parquet`;
/// with its folder where that is another (`harmless/train`).
fn split_of(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.find("-of-").and_then(|at| stem[..at].rsplit_once('-')).map_or(stem, |(stem, _)| stem);
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', ' ']);
    let folder = folder.strip_prefix("data").map_or(folder, |rest| rest.trim_start_matches('/'));
    match (folder, stem) {
        ("", stem) => stem.to_string(),
        (folder, "" | "part" | "shard") => folder.to_string(),
        (folder, stem) => format!("{folder}/{stem}"),
    }
}

/// How many files there should be of a split that is cut into numbered ones (`-00000-of-00003`).
fn expected(files: &[String]) -> usize {
    let of = |file: &String| {
        let digits = file.rsplit_once("-of-")?.1;
        digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse::<usize>().ok()
    };
    files.iter().filter_map(of).max().unwrap_or(1)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    if names.is_empty() { "none".to_string() } else { names[..names.len().min(SHOWN)].join(", ") + &more }
}

/// Where data sets come from.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The address of the hub.
    pub endpoint: String,
    pub token: Option<String>,
    /// Nothing is fetched.
    pub offline: bool,
}

impl Hub {
    /// As the variables of the Python libraries say: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.unwrap_or_else(|| PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache"));
            cache.join("huggingface")
        });
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let written = || fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_string());
        let is_set = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        Self {
            cache: cache.map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string()),
            token: variable("HF_TOKEN").or_else(written).filter(|token| !token.is_empty()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_set),
        }
    }

    /// The files that a name stands for: those of the cache if all are there, and else fetched.
    pub fn files(&self, name: &HubName) -> Result<Vec<PathBuf>, DataError> {
        let cached = match self.cached(name) {
            Ok(files) => return Ok(files),
            Err(reason) => reason,
        };
        let fetched = if self.offline { Err("HF_HUB_OFFLINE is set".to_string()) } else { self.fetched(name) };
        fetched.map_err(|reason| {
            let set = &name.set;
            let how = format!("where there is a network: hf download --repo-type dataset {set}");
            let reason = format!(
                "there is no such file, and as a data set of the hub it is not at hand ({cached}) and cannot be fetched from {} \
                 ({reason}); {how}",
                self.endpoint
            );
            DataError::Hub { name: name.set.clone(), reason }
        })
    }

    /// The folder of a data set in the cache.
    fn folder(&self, name: &HubName) -> PathBuf {
        self.cache.join(format!("datasets--{}", name.set.replace('/', "--")))
    }

    fn cached(&self, name: &HubName) -> Result<Vec<PathBuf>, String> {
        let folder = self.folder(name);
        let commit = fs::read_to_string(folder.join("refs").join(&name.revision));
        let commit = commit.map_or_else(|_| name.revision.clone(), |commit| commit.trim().to_string());
        let snapshot = folder.join("snapshots").join(&commit);
        if Path::new(&commit).components().count() != 1 || !snapshot.is_dir() {
            return Err(format!("the cache has no {} of it; looked in {}", name.revision, folder.display()));
        }
        let mut files = Vec::new();
        list(&snapshot, "", &mut files).map_err(|error| format!("{}: {error}", snapshot.display()))?;
        let selected = name.select(&files).map_err(|reason| format!("{reason} in {}", snapshot.display()))?;
        let wanted = if matches!(name.wanted, Wanted::File(_)) { 1 } else { expected(&selected) };
        if selected.len() < wanted {
            return Err(format!("only {} of {wanted} files are in {}", selected.len(), snapshot.display()));
        }
        Ok(selected.into_iter().map(|file| snapshot.join(file)).collect())
    }

    fn fetched(&self, name: &HubName) -> Result<Vec<PathBuf>, String> {
        let HubName { set, revision, .. } = name;
        let url = format!("{}/api/datasets/{set}/revision/{}", self.endpoint, revision.replace('/', "%2F"));
        let mut answer = self.get(&url)?;
        let listing: Value = serde_json::from_reader(answer.body_mut().as_reader().take(LISTING_BYTES_MAX))
            .map_err(|error| format!("{url}: its answer is no list of files: {error}"))?;
        let commit = listing["sha"].as_str().filter(|sha| is_word(sha)).ok_or(format!("{url}: names no commit"))?;
        let files = listing["siblings"].as_array().into_iter().flatten();
        // A name that leads out of the folder is no name.
        let files: Vec<String> = files
            .filter_map(|file| file["rfilename"].as_str())
            .filter(|file| Path::new(file).components().all(|part| matches!(part, Component::Normal(_))))
            .map(str::to_string)
            .collect();
        let selected = name.select(&files)?;
        let folder = self.folder(name);
        let snapshot = folder.join("snapshots").join(commit);
        let fetched: Result<Vec<PathBuf>, String> =
            selected.iter().map(|file| self.fetch(set, commit, file, &folder, &snapshot)).collect();
        let fetched = fetched?;
        let reference = folder.join("refs").join(revision);
        let written = write_atomically(&reference, commit.as_bytes());
        written.map_err(|error| format!("{}: {error}", reference.display()))?;
        Ok(fetched)
    }

    /// Fetches one file into the cache, unless it is there.
    fn fetch(&self, set: &str, commit: &str, file: &str, folder: &Path, snapshot: &Path) -> Result<PathBuf, String> {
        let path = snapshot.join(file);
        if path.exists() {
            return Ok(path);
        }
        let url = format!("{}/datasets/{set}/resolve/{commit}/{}", self.endpoint, escaped(file));
        let mut answer = self.get(&url)?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
        let tag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
        let tag = tag.trim_start_matches("W/").trim_matches('"').to_string();
        let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
        let shown = length.map_or(String::new(), |bytes| format!(", {:.1} MB", bytes as f64 / 1e6));
        say!("fetching {set}: {file}{shown}");
        let body = &mut answer.body_mut().as_reader();
        let place = if is_word(&tag) { folder.join("blobs").join(&tag) } else { path.clone() };
        save(body, length, &place).map_err(|error| format!("{url}: {error}"))?;
        if place != path {
            let up = "../".repeat(file.split('/').count() + 1);
            let link = || {
                fs::create_dir_all(path.parent().unwrap_or(snapshot))?;
                std::os::unix::fs::symlink(format!("{up}blobs/{tag}"), &path)
            };
            link().map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(path)
    }

    fn get(&self, url: &str) -> Result<ureq::http::Response<ureq::Body>, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .build()
            .into();
        let request = agent.get(url).header("user-agent", concat!("patarm-train/", env!("CARGO_PKG_VERSION")));
        // Where the hub sends on to another host, the token stays behind.
        let request = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        request.call().map_err(|error| match error {
            ureq::Error::StatusCode(401 | 403) => format!("{url}: access is refused; set HF_TOKEN"),
            ureq::Error::StatusCode(404) => format!("{url}: there is no such data set, revision or file"),
            error => format!("{url}: {error}"),
        })
    }
}

/// A list of files is a few megabytes at most.
const LISTING_BYTES_MAX: u64 = 64 << 20;
/// How long the hub may take to accept a connection, and to begin an answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);

/// Files below a folder, by their names within it.
fn list(folder: &Path, within: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let name = if within.is_empty() { name.to_string() } else { format!("{within}/{name}") };
        match entry.path() {
            // A link into a folder may lead in a circle.
            path if entry.file_type()?.is_dir() => list(&path, &name, files)?,
            path if path.is_file() => files.push(name),
            _ => {}
        }
    }
    Ok(())
}

/// Saves a body under a name that is there only when all of it is.
fn save(body: &mut impl Read, length: Option<u64>, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let written = io::copy(body, &mut file)?;
    if length.is_some_and(|length| length != written) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("broke off after {written} bytes")));
    }
    file.as_file().sync_all()?;
    let file: File = file.persist(path).map_err(|error| error.error)?;
    drop(file);
    Ok(())
}

/// Whether a text of the hub may be the name of a file.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A file's name in an address.
fn escaped(file: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/=".contains(&byte);
    let shown = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    file.bytes().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let name =
            |set: &str, revision: &str, wanted| Some(HubName { set: set.into(), revision: revision.into(), wanted });
        let split = |split: &str| Wanted::Split(Some(split.to_string()));
        for (text, expected) in [
            ("a/b", name("a/b", "main", Wanted::Split(None))),
            ("a/b.c-1:train", name("a/b.c-1", "main", split("train"))),
            ("a/b@v1:x/test", name("a/b", "v1", split("x/test"))),
            ("hf://datasets/a/b@refs/c", name("a/b", "refs", Wanted::File("c".into()))),
            ("hf://datasets/a/b/d/c.parquet", name("a/b", "main", Wanted::File("d/c.parquet".into()))),
            ("data/train.jsonl", None),
            ("runs/x.json.gz", None),
            ("a/b/c", None),
            ("../b", None),
            ("a/../b", None),
            ("a/b@..:x", None),
            ("b", None),
            ("/a/b", None),
            ("a/", None),
            ("hf://models/a/b", None),
        ] {
            assert_eq!(HubName::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn files_are_grouped_by_the_split_that_their_names_say() {
        for (file, split) in [
            ("data/train-00000-of-00003.parquet", "train"),
            ("data/train_prefs-00000-of-00001.parquet", "train_prefs"),
            ("train.jsonl.gz", "train"),
            ("train/0000.parquet", "train"),
            ("harmless-base/test.jsonl.gz", "harmless-base/test"),
            ("default/train/0001.parquet", "default/train"),
            ("data/total_dataset.json", "total_dataset"),
        ] {
            assert_eq!(split_of(file), split, "{file}");
        }
        let files = ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "README.md"];
        let files = files.map(String::from);
        let name = HubName::parse("a/b").unwrap();
        assert_eq!(name.select(&files).unwrap(), [files[1].clone(), files[0].clone()]);
        assert_eq!(expected(&files), 2);
        let several = [&files[..], &["test.jsonl".to_string()]].concat();
        let said = name.select(&several).unwrap_err();
        assert!(said.contains("several splits: test, train; name one, as in a/b:SPLIT"), "{said}");
        let said = HubName::parse("a/b:dev").unwrap().select(&several).unwrap_err();
        assert!(said.contains("no split dev; it has test, train"), "{said}");
    }
}
