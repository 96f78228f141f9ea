//! Whole files: written aside, flushed to disk, and renamed.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use tempfile::NamedTempFile;

use super::target::{Target, folder_of, unfinished_in};

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
    let temporary = unfinished_in(folder, mode).map_err(|error| match error {
        error if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Aside::Failed(error),
        error => Aside::Impossible(error),
    })?;
    temporary.as_file().write_all(bytes).map_err(Aside::Failed)?;
    put_in_place(temporary, target, existing).map_err(|error| match error.kind() {
        // A single file that is mounted cannot be renamed over.
        ErrorKind::ResourceBusy | ErrorKind::PermissionDenied => Aside::Impossible(error),
        _ => Aside::Failed(error),
    })
}

/// Renames a file that was written aside, once its content is on the disk.
pub(super) fn put_in_place(temporary: NamedTempFile, target: &Path, existing: Option<&Metadata>) -> io::Result<()> {
    if let Some(found) = existing {
        keep_owner_and_mode(temporary.as_file(), found)?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(target).map_err(|error| error.error)?;
    // The name too should be there after a power failure; not every file system can flush a folder.
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.path(name);
            fs::write(&path, "before").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }

        /// No file is left half-written.
        fn is_tidy(&self) -> bool {
            let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.into_iter().all(|name| !name.to_string_lossy().starts_with(UNFINISHED_PREFIX))
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_file_keeps_its_mode_and_owner_and_a_new_one_gets_what_the_umask_says() {
        let folder = Folder::new();
        for kept in [0o600, 0o640, 0o755, 0o666] {
            let path = folder.write("file", kept);
            // Only root can give a file away; the others see that their own is kept.
            let _ = std::os::unix::fs::chown(&path, Some(4321), Some(1234));
            let before = fs::metadata(&path).unwrap();
            write_atomically(&path, b"after").unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"after");
            assert_eq!((mode(&path), after.uid(), after.gid()), (kept, before.uid(), before.gid()));
            assert_ne!(after.ino(), before.ino(), "written aside and renamed");
        }
        fs::write(folder.path("usual"), "").unwrap();
        write_atomically(&folder.path("a/b/new"), b"x").unwrap();
        assert_eq!(mode(&folder.path("a/b/new")), mode(&folder.path("usual")));
        assert!(folder.is_tidy());
    }

    #[test]
    fn links_stay_and_what_they_point_to_is_replaced() {
        let folder = Folder::new();
        folder.write("target", 0o600);
        symlink("target", folder.path("one")).unwrap();
        symlink(folder.path("one"), folder.path("two")).unwrap();
        write_atomically(&folder.path("two"), b"after").unwrap();
        assert_eq!(fs::read(folder.path("target")).unwrap(), b"after");
        assert_eq!(mode(&folder.path("target")), 0o600);
        assert!(folder.path("one").is_symlink() && folder.path("two").is_symlink());

        symlink("later", folder.path("dangling")).unwrap();
        write_atomically(&folder.path("dangling"), b"new").unwrap();
        assert_eq!(fs::read(folder.path("later")).unwrap(), b"new");
        // A folder behind a link is not made: it may be a disk that is not mounted.
        symlink("missing/later", folder.path("unmounted")).unwrap();
        assert_eq!(write_atomically(&folder.path("unmounted"), b"x").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!folder.path("missing").exists());

        symlink("a", folder.path("b")).unwrap();
        symlink("b", folder.path("a")).unwrap();
        let looping = write_atomically(&folder.path("a"), b"x").unwrap_err();
        assert_eq!(looping.raw_os_error(), Some(libc::ELOOP));
        symlink(".", folder.path("folder")).unwrap();
        assert_eq!(write_atomically(&folder.path("folder"), b"x").unwrap_err().kind(), ErrorKind::IsADirectory);
        assert!(folder.is_tidy());
    }

    #[test]
    fn what_is_no_plain_file_is_written_through() {
        let folder = Folder::new();
        let fifo = folder.path("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).unwrap()
        });
        write_atomically(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        symlink("/dev/null", folder.path("null")).unwrap();
        write_atomically(&folder.path("null"), b"x").unwrap();
        use std::os::unix::fs::FileTypeExt;
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device() && folder.path("null").is_symlink());
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(write_atomically(Path::new("/dev/full"), b"x").unwrap_err().kind(), ErrorKind::StorageFull);
        let socket = folder.path("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(write_atomically(&socket, b"x").is_err());
        assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    }

    #[test]
    fn an_open_descriptor_is_written_through_even_if_it_is_a_file() {
        use std::os::fd::AsRawFd;
        let folder = Folder::new();
        let path = folder.write("log", 0o600);
        let open = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        for prefix in ["/dev/fd", "/proc/self/fd"] {
            write_atomically(&Path::new(prefix).join(open.as_raw_fd().to_string()), b"+").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"before++");
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        // A file that has no name any more gets none.
        fs::remove_file(&path).unwrap();
        write_atomically(&Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()), b"+").unwrap();
        assert!(fs::read_dir(folder.0.path()).unwrap().next().is_none());
        let mut text = String::new();
        (&open).read_to_string(&mut text).unwrap();
        assert_eq!(text, "before+++");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_stays_as_it_is() {
        let folder = Folder::new();
        let file = folder.write("file", 0o600);
        let refused = |path: PathBuf| write_atomically(&path, b"x").unwrap_err().kind();
        assert_eq!(refused(folder.path("")), ErrorKind::IsADirectory);
        assert_eq!(refused(file.join("below")), ErrorKind::NotADirectory);
        assert_eq!(refused(folder.path("new/")), ErrorKind::InvalidInput);
        assert_eq!(refused(folder.path("new/..")), ErrorKind::InvalidInput);
        assert_eq!(refused(PathBuf::new()), ErrorKind::InvalidInput);
        assert_eq!(refused(folder.path(&"n".repeat(300))), ErrorKind::InvalidFilename);
        assert_eq!(fs::read(&file).unwrap(), b"before");
        assert!(folder.is_tidy() && !folder.path("new").exists());
        // Where nothing can be created, a file that can be written is written in place.
        write_atomically(Path::new("/proc/self/comm"), b"renamed").unwrap();
        assert!(write_atomically(Path::new("/proc/no-such-file"), b"x").is_err());
    }

    #[test]
    fn another_name_of_the_same_file_keeps_what_it_held() {
        let folder = Folder::new();
        let file = folder.write("file", 0o600);
        fs::hard_link(&file, folder.path("snapshot")).unwrap();
        write_atomically(&file, b"after").unwrap();
        assert_eq!(fs::read(folder.path("snapshot")).unwrap(), b"before");
    }
}
