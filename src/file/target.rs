//! What a path means to someone who writes: a plain file, or something that is written through.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{UNFINISHED_PREFIX, console};

/// What stands at a path, symbolic links resolved.
#[derive(Debug)]
pub enum Target {
    /// A plain file. Its last component is no link; `existing` is `None` where there is no file yet.
    Plain { path: PathBuf, existing: Option<Metadata> },
    /// A device, a pipe, or an open descriptor such as /dev/stdout: opened for writing, never to be replaced.
    Through(File),
}

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

impl Target {
    /// Resolves a path. A folder, a loop of links, and a file that may not be written are errors.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut at = path.to_path_buf();
        for _ in 0..=LINKS_MAX {
            if let Some(file) = descriptor(&at)? {
                return Ok(Self::Through(file));
            }
            let found = match fs::symlink_metadata(&at) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => return Self::plain(path, at, None),
                Err(error) => return Err(error),
            };
            if found.is_symlink() {
                at = folder_of(&at).join(fs::read_link(&at)?);
            } else if found.is_dir() {
                return Err(io::Error::new(ErrorKind::IsADirectory, "is a directory; expected a file"));
            } else if found.is_file() {
                return Self::plain(path, at, Some(found));
            } else {
                return Ok(Self::Through(OpenOptions::new().write(true).open(&at)?));
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    /// Opens the file by its first name, which changes nothing: the system then says whether it may be written, and whether these
    /// links may be followed (in a folder like /tmp, not every link may).
    fn plain(name: &Path, path: PathBuf, existing: Option<Metadata>) -> io::Result<Self> {
        if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(io::Error::new(ErrorKind::InvalidInput, "is not the name of a file"));
        }
        match OpenOptions::new().append(true).open(name) {
            Err(error) if error.kind() != ErrorKind::NotFound || existing.is_some() => Err(error),
            _ => Ok(Self::Plain { path, existing }),
        }
    }
}

/// The folder of a file; `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The open descriptor that a path such as /dev/fd/1 or /proc/self/fd/1 names. Its own offset and mode of opening are kept:
/// opening the file behind it again would write over its beginning.
fn descriptor(path: &Path) -> io::Result<Option<File>> {
    let Some(number) = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok()) else {
        return Ok(None);
    };
    let Ok(folder) = folder_of(path).canonicalize() else { return Ok(None) };
    let in_proc = folder.starts_with("/proc") && folder.ends_with("fd");
    if !in_proc && folder != Path::new("/dev/fd") {
        return Ok(None);
    }
    let own = Path::new("/proc").join(std::process::id().to_string());
    if !in_proc || folder.starts_with(own) {
        match number {
            1 => return console::stdout().map(Some),
            2 => return Ok(Some(File::from(io::stderr().as_fd().try_clone_to_owned()?))),
            _ => {}
        }
    }
    OpenOptions::new().append(true).open(path).map(Some)
}

/// Whether both paths are the same file, however it is named, and writing one would change what the other reads. A terminal,
/// a socket and /dev/null may be both.
pub fn is_same(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => same(&a, &b),
        (Err(_), Err(_)) => place_of(a).is_some_and(|place| place_of(b) == Some(place)),
        _ => false,
    }
}

/// Where a file that is not there yet would be made, links resolved.
fn place_of(path: &Path) -> Option<PathBuf> {
    let mut at = path.to_path_buf();
    for _ in 0..=LINKS_MAX {
        let Ok(to) = fs::read_link(&at) else {
            let folder = folder_of(&at);
            let folder = folder.canonicalize().ok().or_else(|| folder.file_name().and_then(|_| place_of(folder)))?;
            return Some(folder.join(at.file_name()?));
        };
        at = folder_of(&at).join(to);
    }
    None
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    let kind = a.file_type();
    (a.dev(), a.ino()) == (b.dev(), b.ino()) && (kind.is_file() || kind.is_fifo() || kind.is_block_device())
}

/// Finds out whether a path can be written, before the work that it is for, and leaves no trace. Answers whether a plain file
/// with contents is there, which writing would replace. A pipe is not opened: its reader would see that as the end.
pub fn try_writing(path: &Path) -> io::Result<bool> {
    if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return Ok(false);
    }
    match Target::of(path)? {
        Target::Plain { path: target, existing: None } => try_creating(path, &target).map(|()| false),
        Target::Plain { existing: Some(found), .. } => Ok(found.len() > 0),
        Target::Through(_) => Ok(false),
    }
}

/// Whether a file can be created where `name` leads to. Missing folders can be made, but not behind a link.
pub(super) fn try_creating(name: &Path, target: &Path) -> io::Result<()> {
    let mut folder = folder_of(target);
    while name == target && fs::symlink_metadata(folder).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        folder = folder_of(folder);
    }
    let created = nameless_in(folder);
    let within = |error: io::Error| format!("in {} no file can be created: {error}", folder.display());
    created.map(drop).map_err(|error| io::Error::new(error.kind(), within(error)))
}

/// A new file that is gone when it is closed. Where the system can, it never has a name, so that not even a kill leaves one.
fn nameless_in(folder: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        let made = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder);
        // Some file systems, such as those of a network, make no such files; older kernels take it for the folder itself.
        let cannot =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL));
        if !made.as_ref().is_err_and(cannot) {
            return made;
        }
    }
    unfinished_in(folder, 0o600).map(NamedTempFile::into_file)
}

/// A new file beside a target. Made here and not by tempfile, whose errors name the temporary file, which nobody has asked for.
pub(super) fn unfinished_in(folder: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
    tempfile::Builder::new().prefix(UNFINISHED_PREFIX).make_in(folder, open)
}
