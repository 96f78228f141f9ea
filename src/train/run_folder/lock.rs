//! The lock of a run's folder: `run.lock`, held while a process writes there, released by the system when it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The file; it is there only while a process holds it, or after a process was killed.
pub const LOCK_FILE: &str = "run.lock";
/// What its text begins with: a file with another beginning is not ours.
const OPENING: &str = "patarm-train";

/// An exclusive lock of a folder. Dropping it releases the folder and removes the file.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    file: File,
}

impl FolderLock {
    /// Locks an existing folder; an error that names the other process if there is one.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LOCK_FILE);
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = file.with_context(|| format!("{}: the folder cannot be written into", folder.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!("{}", held(folder, &mut file)),
                // A file system without locks, such as some network ones.
                Err(TryLockError::Error(error)) if is_unsupported(&error) => {
                    crate::file::say!(
                        "note: {}: cannot be locked ({error}): start no second run in it",
                        path.display()
                    );
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
            }
            // The process that held it may have removed the file between the two calls: then the lock is of no file.
            let same = |there: std::fs::Metadata, ours: std::fs::Metadata| {
                (there.dev(), there.ino()) == (ours.dev(), ours.ino())
            };
            if !std::fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| same(there, ours))) {
                continue;
            }
            let mut text = String::new();
            // Something else, such as a pipe, might never end.
            let plain = file.metadata().is_ok_and(|metadata| metadata.is_file());
            let read = plain && file.read_to_string(&mut text).is_ok();
            if !read || !(text.is_empty() || text.starts_with(OPENING)) {
                bail!("{}: is not a lock of this program; name another folder with --out", path.display());
            }
            let written = write_holder(&mut file);
            written.with_context(|| format!("{}: cannot be written", path.display()))?;
            return Ok(Self { path, file });
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Removed before it is released: whoever opened it meanwhile finds that it is gone, and tries again.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    writeln!(file, "{OPENING}, process {} on {}", std::process::id(), host.trim())
}

/// Why a folder cannot be had.
fn held(folder: &Path, file: &mut File) -> String {
    let mut text = String::new();
    let holder = match file.read_to_string(&mut text) {
        Ok(_) if text.starts_with(OPENING) => text.trim().to_string(),
        _ => "another process".to_string(),
    };
    format!(
        "{}: is in use by {holder}: wait for it to end or stop it, or name another folder with --out",
        folder.display()
    )
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_and_is_free_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let message = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())) && message.contains("--out"), "{message}");
        drop(first);
        assert!(!folder.path().join(LOCK_FILE).exists());
        drop(FolderLock::take(folder.path()).unwrap());
        // What a killed process leaves: the file, which nobody holds.
        std::fs::write(folder.path().join(LOCK_FILE), "patarm-train, process 1\n").unwrap();
        drop(FolderLock::take(folder.path()).unwrap());
    }

    #[test]
    fn a_file_of_that_name_that_is_not_a_lock_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(LOCK_FILE), "my notes").unwrap();
        let message = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not a lock"), "{message}");
        assert_eq!(std::fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap(), "my notes");
    }

    /// Reading a pipe that nobody writes into would never end.
    #[test]
    fn a_pipe_is_no_lock_and_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let made = std::process::Command::new("mkfifo").arg(folder.path().join(name)).status();
            assert!(made.unwrap().success());
        };
        pipe(LOCK_FILE);
        let message = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not a lock"), "{message}");
        pipe(super::super::record::RUN_FILE);
        let message = super::super::RunRecord::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not a file"), "{message}");
    }
}
