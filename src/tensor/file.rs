//! Files that are whole or not there: written aside, flushed to disk, renamed.

use std::io::{self, Write};
use std::path::Path;

/// Replaces `path` by `bytes`: at no time is there half a file under that name.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory)?;
    let mut aside = tempfile::NamedTempFile::new_in(directory)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    set_readable(aside.as_file())?;
    aside.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Temporary files are made for their owner alone; a finished file has the usual permissions.
#[cfg(unix)]
fn set_readable(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_readable(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}
