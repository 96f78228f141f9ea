//! Whole files: written aside, flushed to disk, and renamed.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use super::target::{Target, folder_of, plain_error};

/// What the names of files and folders begin with while they are being written. After a kill one may be left; whoever owns the
/// folder may remove it.
pub const UNFINISHED_PREFIX: &str = ".writing-";

/// Replaces the contents of `path`: a plain file is never there half-written.
///
/// A file that exists keeps its mode, and its owner where that is permitted; a new one gets what the umask says, and missing
/// folders are made. A symbolic link stays, and what it points to is replaced. What is not a plain file is written through. A
/// file that can be written, in a folder where nothing can be created or renamed, is written in place: there, a kill can leave
/// a half.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (target, existing) = match Target::of(path)? {
        Target::Through(mut file) => return file.write_all(bytes),
        Target::Plain { path, existing } => (path, existing),
    };
    let folder = folder_of(&target);
    // A link into a folder that is not there points to a disk that is not mounted, say: nothing is made in its place.
    if target == path {
        fs::create_dir_all(folder)?;
    }
    match write_aside(&target, folder, existing.as_ref(), bytes) {
        Err(Aside::Impossible(_)) if existing.is_some() => write_in_place(&target, bytes),
        Err(Aside::Impossible(error) | Aside::Failed(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Why a file was not written aside: the folder does not allow it, or the writing failed.
enum Aside {
    Impossible(io::Error),
    Failed(io::Error),
}

fn write_aside(target: &Path, folder: &Path, existing: Option<&Metadata>, bytes: &[u8]) -> Result<(), Aside> {
    let mode = existing.map_or(0o666, |found| found.mode() & 0o777);
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(UNFINISHED_PREFIX).permissions(Permissions::from_mode(mode));
    let mut temporary = builder.tempfile_in(folder).map_err(|error| match plain_error(error) {
        error if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Aside::Failed(error),
        error => Aside::Impossible(error),
    })?;
    temporary.write_all(bytes).map_err(|error| Aside::Failed(plain_error(error)))?;
    if let Some(found) = existing {
        keep_owner_and_mode(temporary.as_file(), found).map_err(Aside::Failed)?;
    }
    temporary.as_file().sync_all().map_err(Aside::Failed)?;
    temporary.persist(target).map_err(|error| match error.error.kind() {
        // A single file that is mounted cannot be renamed over.
        ErrorKind::ResourceBusy | ErrorKind::PermissionDenied => Aside::Impossible(error.error),
        _ => Aside::Failed(error.error),
    })?;
    // The name too should be there after a power failure; not every file system can flush a folder.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Gives a new file the owner and the mode of the one that it replaces. Only root may give files away, so a refusal is no error;
/// but then nothing runs with the rights of the new owner.
fn keep_owner_and_mode(file: &File, found: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    let mut mode = found.mode() & 0o7777;
    if (new.uid(), new.gid()) != (found.uid(), found.gid()) {
        let kept = fchown(file, Some(found.uid()), Some(found.gid()));
        if kept.or_else(|_| fchown(file, None, Some(found.gid()))).is_err() || file.metadata()?.uid() != found.uid() {
            mode &= 0o777;
        }
    }
    file.set_permissions(Permissions::from_mode(mode))
}

fn write_in_place(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(target)?;
    file.write_all(bytes)?;
    // Files of /proc and /sys have no length.
    if file.metadata()?.len() > bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    match file.sync_all() {
        Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}
