//! What a file is by its first bytes, and the text of compressed files.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

use super::expansion::check_expansion;

/// What a file holds, whatever it is called.
pub(super) enum Contents {
    /// Text that is read through its decompressor, if it has one. The name is that of the compression.
    Text {
        reader: Box<dyn BufRead>,
        packed: Option<&'static str>,
    },
    Parquet(File),
    /// A known kind of file that holds no rows.
    Foreign(&'static str),
}

/// Known beginnings of files that are not read.
const FOREIGN: [(&[u8], &str); 6] = [
    (b"BZh", "is compressed by bzip2"),
    (b"\xfd7zXZ\0", "is compressed by xz"),
    (b"PK\x03\x04", "is a zip archive"),
    (b"ARROW1", "is an Arrow file"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"SQLite format", "is a database of SQLite"),
];

const PARQUET: &[u8] = b"PAR1";
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Opens a file. Its first bytes say how it is read.
pub(super) fn open(path: &Path) -> io::Result<Contents> {
    let mut file = File::open(path)?;
    let head = head_of(&mut file)?;
    if head.starts_with(PARQUET) {
        return Ok(Contents::Parquet(file));
    }
    if let Some(kind) = foreign(&head) {
        return Ok(Contents::Foreign(kind));
    }
    let read = Rc::new(Cell::new(0));
    let whole = Counted { inner: Cursor::new(head.clone()).chain(file), count: read.clone() };
    let whole = BufReader::with_capacity(BUFFER, whole);
    let (unpacked, name): (Box<dyn Read>, _) = match () {
        // Of several members, each is a part of the same text.
        () if head.starts_with(GZIP) => (Box::new(flate2::bufread::MultiGzDecoder::new(whole)), "gzip"),
        () if head.starts_with(ZSTD) => (Box::new(zstd::stream::read::Decoder::with_buffer(whole)?), "zstd"),
        () => return Ok(Contents::Text { reader: Box::new(whole), packed: None }),
    };
    let unpacked = Unpacked { inner: unpacked, made: 0, read };
    let mut reader = BufReader::with_capacity(BUFFER, unpacked);
    let inside = reader.fill_buf()?;
    Ok(match inside {
        inside if inside.starts_with(PARQUET) => Contents::Foreign("is a compressed Parquet file"),
        inside if inside.starts_with(GZIP) || inside.starts_with(ZSTD) => Contents::Foreign("is compressed twice"),
        inside if is_tar(inside) => Contents::Foreign("is a compressed tar archive"),
        inside => match foreign(inside) {
            Some(kind) => Contents::Foreign(kind),
            None => Contents::Text { reader: Box::new(reader), packed: Some(name) },
        },
    })
}

fn foreign(head: &[u8]) -> Option<&'static str> {
    FOREIGN.iter().find(|(start, _)| head.starts_with(start)).map(|(_, kind)| *kind)
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// The first bytes of a file, also of a pipe that hands them over one by one.
fn head_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head)?;
    Ok(head)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Fails where a file expands beyond all measure.
struct Unpacked {
    inner: Box<dyn Read>,
    made: u64,
    read: Rc<Cell<u64>>,
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let made = self.inner.read(buffer)?;
        self.made += made as u64;
        check_expansion(self.read.get(), self.made).map_err(io::Error::other)?;
        Ok(made)
    }
}
