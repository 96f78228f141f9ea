//! Whole files that are written piece by piece: there is nothing at the name until all is written.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::RowError;
use super::atomic::put_in_place;
use super::console::{self, StdoutError};
use super::target::{Target, folder_of, is_same, unfinished_in};

/// A file that grows aside, until [`Self::finish`] puts it in place. Dropped before that, it leaves no trace. Standard output
/// (`-`), pipes and devices are written through.
#[derive(Debug)]
pub struct WholeFile {
    output: String,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout(BufWriter<File>),
    Through(BufWriter<File>),
    Aside { file: BufWriter<NamedTempFile>, path: PathBuf, existing: Option<Box<Metadata>> },
}

impl WholeFile {
    /// Begins a file, which must be none of `inputs`. Missing folders are made. A file that exists keeps its mode and owner, and
    /// its content until the end.
    pub fn create(output: &str, inputs: &[PathBuf]) -> Result<Self, RowError> {
        let path = if output == "-" { Path::new("/dev/stdout") } else { Path::new(output) };
        if let Some(input) = inputs.iter().find(|input| is_same(input, path)) {
            return Err(RowError::IsInput { output: output.into(), input: input.display().to_string() });
        }
        let sink = match output {
            "-" => Sink::Stdout(BufWriter::new(console::stdout().map_err(StdoutError)?)),
            _ => begin(path).map_err(|error| RowError::Io { output: output.into(), error })?,
        };
        Ok(Self { output: output.into(), sink })
    }

    /// Writes a piece.
    pub fn put(&mut self, text: &str) -> Result<(), RowError> {
        match &mut self.sink {
            Sink::Stdout(file) => file.write_all(text.as_bytes()).map_err(|error| StdoutError(error).into()),
            Sink::Through(file) => file.write_all(text.as_bytes()).map_err(|error| self.failed(error)),
            Sink::Aside { file, .. } => file.write_all(text.as_bytes()).map_err(|error| self.failed(error)),
        }
    }

    /// Puts the file in place.
    pub fn finish(self) -> Result<(), RowError> {
        let failed = |error| RowError::Io { output: self.output, error };
        match self.sink {
            Sink::Stdout(mut file) => file.flush().map_err(|error| StdoutError(error).into()),
            Sink::Through(mut file) => file.flush().map_err(failed),
            Sink::Aside { file, path, existing } => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error);
                file.and_then(|file| put_in_place(file, &path, existing.as_deref())).map_err(failed)
            }
        }
    }

    fn failed(&self, error: io::Error) -> RowError {
        RowError::Io { output: self.output.clone(), error }
    }
}

fn begin(name: &Path) -> io::Result<Sink> {
    match Target::of(name)? {
        Target::Through(file) => Ok(Sink::Through(BufWriter::new(file))),
        Target::Plain { path, existing } => {
            // Not behind a link, which may point to a disk that is not mounted.
            if path == name {
                fs::create_dir_all(folder_of(&path))?;
            }
            let file = unfinished_in(folder_of(&path), 0o666)?;
            Ok(Sink::Aside { file: BufWriter::with_capacity(1 << 20, file), path, existing: existing.map(Box::new) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let name = path.to_str().unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut file = WholeFile::create(name, &[]).unwrap();
        file.put("a").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(), 0);

        fs::write(&path, "before").unwrap();
        let mut file = WholeFile::create(name, &[folder.path().join("other")]).unwrap();
        file.put(&"after\n".repeat(1 << 19)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        file.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap().len(), names()), (6 << 19, 1));

        let refused = WholeFile::create(name, std::slice::from_ref(&path)).unwrap_err();
        assert!(matches!(refused, RowError::IsInput { .. }), "{refused}");
        let mut full = WholeFile::create("/dev/full", &[]).unwrap();
        let ended = full.put("a").and_then(|()| full.finish());
        assert!(matches!(ended, Err(RowError::Io { .. })), "{ended:?}");
    }
}
