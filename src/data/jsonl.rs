//! Rows of JSON from a file: one per line, or the elements of one array. A bad row is an error or is counted; it never panics.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::{RawValue, Value};

use super::DataError;

/// The longest row, in bytes. A longer line is a bad row; a longer element of an array ends the reading.
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// How many reasons of skipped rows are kept.
const REASONS_MAX: usize = 5;

/// What to do with a bad row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// It is an error with file, line and reason.
    #[default]
    Refuse,
    /// It is left out and counted.
    Skip,
}

/// Rows that were left out under [`OnBadRow::Skip`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub count: usize,
    /// The first few, each with file, line and reason.
    pub reasons: Vec<String>,
    /// The file of the first.
    file: Option<Arc<Path>>,
}

impl Skipped {
    /// Counts a bad row, or makes it an error where bad rows are refused.
    pub(super) fn refuse(&mut self, location: &Location, reason: String, on: OnBadRow) -> Result<(), DataError> {
        let bad = location.bad(reason);
        if on == OnBadRow::Refuse {
            return Err(bad);
        }
        self.count += 1;
        self.file.get_or_insert_with(|| location.path.clone());
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(bad.to_string());
        }
        Ok(())
    }

    /// The file of the first bad row.
    pub(super) fn first_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub path: Arc<Path>,
    /// `line` in a JSONL file, `row` in an array.
    pub unit: &'static str,
    /// Counted from 1; lines include blank ones.
    pub number: usize,
}

impl Location {
    fn bad(&self, reason: String) -> DataError {
        DataError::BadRow { path: self.path.to_path_buf(), unit: self.unit, number: self.number, reason }
    }
}

/// Reads the rows of files, and counts the bad ones.
pub struct RowReader {
    on_bad_row: OnBadRow,
    pub skipped: Skipped,
    /// Rows seen so far, good or bad, over all files: the next row's position.
    pub rows: u64,
}

/// A row as a value and as it is written.
pub struct Row<'a> {
    pub value: Value,
    pub text: &'a str,
}

/// Called with a row, its position over all files, and its location. The inner error says why the row is bad; the outer
/// one ends the reading.
type OnRow<'a> = dyn FnMut(Row<'_>, u64, &Location) -> Result<Result<(), String>, DataError> + 'a;

impl RowReader {
    /// A reader that has seen no row. `on_bad_row`: whether a bad row ends the reading or is counted.
    pub fn new(on_bad_row: OnBadRow) -> Self {
        Self { on_bad_row, skipped: Skipped::default(), rows: 0 }
    }

    /// Gives every row of `path` to `on_row`, in order. A file that begins with `[` is one JSON array, any other is JSON
    /// lines; blank lines and a byte order mark are skipped. A file without rows is an error.
    pub fn read(&mut self, path: &Path, on_row: &mut OnRow) -> Result<(), DataError> {
        let io_error = |error| DataError::Io { path: path.into(), error };
        let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
        let start = self.rows;
        match file_start(&mut reader).map_err(io_error)? {
            Start::Array => self.read_array(path, reader, on_row)?,
            Start::Lines => self.read_lines(path, reader, on_row)?,
            Start::Foreign(kind) => {
                let reason = format!("is {kind}; expected JSON lines or a JSON array, so convert it first");
                return Err(DataError::Unreadable { path: path.into(), reason });
            }
        }
        if self.rows == start {
            return Err(DataError::Empty { path: path.into(), skipped: String::new() });
        }
        Ok(())
    }

    fn read_lines(&mut self, path: &Path, mut reader: impl BufRead, on_row: &mut OnRow) -> Result<(), DataError> {
        let mut location = Location { path: path.into(), unit: "line", number: 0 };
        let mut line = Vec::new();
        loop {
            let got = next_line(&mut reader, &mut line);
            let got = got.map_err(|error| DataError::Io { path: path.into(), error })?;
            location.number += 1;
            let row = match got {
                Line::End => return Ok(()),
                Line::TooLong => Err(format!("is longer than {ROW_BYTES_MAX} bytes")),
                Line::Whole if line.trim_ascii().is_empty() => continue,
                Line::Whole => parse_line(&line),
            };
            self.take(row, &location, on_row)?;
        }
    }

    /// Elements are parsed one at a time. A syntax error ends the reading even if bad rows are skipped: nothing says where
    /// the next element of the array begins.
    fn read_array(&mut self, path: &Path, reader: impl BufRead, on_row: &mut OnRow) -> Result<(), DataError> {
        let used = Rc::new(Cell::new(0));
        let limited = Limited { inner: reader, used: used.clone() };
        let mut fault = None;
        let mut location = Location { path: path.into(), unit: "row", number: 0 };
        let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(limited));
        let elements = Elements(|row: &RawValue| {
            used.set(0);
            location.number += 1;
            self.take(parse(row.get()), &location, on_row).map_err(|error| fault = Some(error)).is_ok()
        });
        let result = deserializer.deserialize_seq(elements).and_then(|()| deserializer.end());
        match (fault, result) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => {
                let reason = format!("JSON array broken after {} whole rows: {error}", location.number);
                Err(DataError::Unreadable { path: path.into(), reason })
            }
            (None, Ok(())) => Ok(()),
        }
    }

    fn take(&mut self, row: Result<Row<'_>, String>, location: &Location, on_row: &mut OnRow) -> Result<(), DataError> {
        let position = self.rows;
        self.rows += 1;
        let outcome = match row {
            Ok(row) => on_row(row, position, location)?,
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(reason) => self.skipped.refuse(location, reason, self.on_bad_row),
        }
    }
}

fn parse_line(line: &[u8]) -> Result<Row<'_>, String> {
    parse(std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?)
}

fn parse(text: &str) -> Result<Row<'_>, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    Ok(Row { value, text })
}

enum Start {
    Array,
    Lines,
    /// A known format that is not JSON.
    Foreign(&'static str),
}

/// Skips a byte order mark, and says what kind of file the rest is by its first byte that is not white space.
fn file_start(reader: &mut impl BufRead) -> std::io::Result<Start> {
    let head = reader.fill_buf()?;
    if head.starts_with(b"PAR1") {
        return Ok(Start::Foreign("a Parquet file"));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Start::Foreign("gzip-compressed"));
    }
    let mark = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let body = head[mark..].trim_ascii_start();
    let start = if body.first() == Some(&b'[') { Start::Array } else { Start::Lines };
    reader.consume(mark);
    Ok(start)
}

enum Line {
    End,
    Whole,
    TooLong,
}

/// Reads the next line into `line`, without its newline. Of a line that is too long, only the limit is kept in memory.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Line> {
    line.clear();
    let mut length = 0;
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let (at_end, used) = (chunk.is_empty(), end.map_or(chunk.len(), |end| end + 1));
        length += part.len();
        if length <= ROW_BYTES_MAX {
            line.extend_from_slice(part);
        }
        reader.consume(used);
        if end.is_some() || at_end {
            let empty = at_end && length == 0;
            return Ok(if empty {
                Line::End
            } else if length > ROW_BYTES_MAX {
                Line::TooLong
            } else {
                Line::Whole
            });
        }
    }
}

/// A reader that fails when one element takes more than [`ROW_BYTES_MAX`]. The caller resets `used` between elements.
struct Limited<R> {
    inner: R,
    used: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.used.set(self.used.get() + count);
        if self.used.get() > ROW_BYTES_MAX {
            return Err(std::io::Error::other(format!("a row is longer than {ROW_BYTES_MAX} bytes")));
        }
        Ok(count)
    }
}

/// Gives the elements of an array to a function, one by one, until it returns false.
struct Elements<F>(F);

impl<'de, F: FnMut(&RawValue) -> bool> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(row) = elements.next_element::<Box<RawValue>>()? {
            if !(self.0)(&row) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
