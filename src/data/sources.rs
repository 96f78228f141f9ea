//! What an input stands for: a file, the files of a folder, or those of a data set of the hub.

use std::path::{Path, PathBuf};

use super::DataError;
use super::endings::{ENDINGS, is_data};
use super::hub::{Hub, HubName};

/// The files that inputs stand for, in their order: of a folder those with the endings of data, by name; of a data set of the
/// hub (`OWNER/NAME`, `OWNER/NAME:SPLIT`, `hf://datasets/OWNER/NAME/FILE`) those of its split, from the local cache or by a
/// download. A path that there is comes before a name of the hub.
pub fn resolve(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for input in inputs {
        let name = || input.to_str().and_then(HubName::parse);
        if input.is_dir() {
            files.extend(files_of_folder(input)?);
        } else if input.exists() {
            files.push(input.clone());
        } else if let Some(name) = name() {
            files.extend(Hub::from_env().files(&name)?);
        } else {
            // It is named when it is opened.
            files.push(input.clone());
        }
    }
    Ok(files)
}

fn files_of_folder(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |error| DataError::Io { path: folder.to_path_buf(), error };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(failed)?;
    files.retain(|path| path.is_file() && is_data(path));
    files.sort();
    if files.is_empty() {
        let reason = format!("is a folder without data files (.{})", ENDINGS.join(", ."));
        return Err(DataError::Unreadable { path: folder.to_path_buf(), reason });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_data_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["b-1.parquet", "b-0.parquet", "a.jsonl.zst", "README.md", ".hidden.json", "dataset_infos.json"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::create_dir(path("more.json")).unwrap();
        let files = resolve(&[folder.path().to_path_buf(), path("README.md")]).unwrap();
        assert_eq!(files, ["a.jsonl.zst", "b-0.parquet", "b-1.parquet", "README.md"].map(path));
        let empty = resolve(&[path("more.json")]).unwrap_err().to_string();
        assert!(empty.contains("more.json: is a folder without data files"), "{empty}");
        let missing = PathBuf::from("no/such/file.jsonl");
        assert_eq!(resolve(std::slice::from_ref(&missing)).unwrap(), [missing]);
    }
}
