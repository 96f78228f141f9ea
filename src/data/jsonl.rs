//! Rows of JSON from a file: one a line, or the elements of one array. Bad rows are refused or counted, never a panic.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::DataError;

/// A row longer than this is no row: it is bad (a line) or ends the reading (an array's element).
pub const ROW_BYTES_MAX: usize = 64 << 20;

/// How many reasons of skipped rows are kept.
const REASONS_MAX: usize = 5;

/// What to do with a row that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLine {
    /// The first one is an error with file, line and reason.
    #[default]
    Refuse,
    /// It is left out and counted.
    Skip,
}

/// Rows that were left out under [`BadLine::Skip`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub count: usize,
    /// The first few, each with file, line and reason.
    pub reasons: Vec<String>,
}

impl Skipped {
    fn add(&mut self, reason: String) {
        self.count += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(reason);
        }
    }
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// `line` in a JSONL file, `row` in an array.
    pub unit: &'static str,
    /// Counted from 1; lines include blank ones.
    pub number: usize,
}

impl Place {
    fn bad(&self, reason: String) -> DataError {
        DataError::BadRow { path: self.path.clone(), unit: self.unit, number: self.number, reason }
    }
}

/// What reads a file's rows: the policy for bad ones and the tally of them.
pub struct RowReader {
    policy: BadLine,
    pub skipped: Skipped,
    /// Rows seen so far, good or bad, over all files: the next row's position.
    pub rows: u64,
}

/// Called with a row, its position over all files and its place. The inner error is a reason to call the row bad; the
/// outer one ends the reading.
type OnRow<'a> = dyn FnMut(Value, u64, &Place) -> Result<Result<(), String>, DataError> + 'a;

impl RowReader {
    pub fn new(policy: BadLine) -> Self {
        Self { policy, skipped: Skipped::default(), rows: 0 }
    }

    /// Gives every row of `path` to `on_row`, in order. A first byte `[` means one JSON array, anything else JSON
    /// lines; blank lines and a byte order mark are passed over. An error also where the file has no rows at all.
    pub fn read(&mut self, path: &Path, on_row: &mut OnRow) -> Result<(), DataError> {
        let io_error = |source| DataError::Io { path: path.into(), source };
        let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
        let start = self.rows;
        match first_byte(&mut reader).map_err(io_error)? {
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
        let mut place = Place { path: path.into(), unit: "line", number: 0 };
        let mut line = Vec::new();
        loop {
            let got = next_line(&mut reader, &mut line);
            let got = got.map_err(|source| DataError::Io { path: path.into(), source })?;
            place.number += 1;
            let row = match got {
                Line::End => return Ok(()),
                Line::TooLong => Err(format!("is longer than {ROW_BYTES_MAX} bytes")),
                Line::Whole if line.trim_ascii().is_empty() => continue,
                Line::Whole => parse_line(&line),
            };
            self.take(row, &place, on_row)?;
        }
    }

    /// Elements are parsed one at a time. A syntax error ends the reading under either policy: what follows it in an
    /// array cannot be told apart from it.
    fn read_array(&mut self, path: &Path, reader: impl BufRead, on_row: &mut OnRow) -> Result<(), DataError> {
        let used = Rc::new(Cell::new(0));
        let limited = Limited { inner: reader, used: used.clone() };
        let mut fault = None;
        let mut place = Place { path: path.into(), unit: "row", number: 0 };
        let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(limited));
        let elements = Elements(|row| {
            used.set(0);
            place.number += 1;
            self.take(Ok(row), &place, on_row).map_err(|error| fault = Some(error)).is_ok()
        });
        let result = deserializer.deserialize_seq(elements).and_then(|()| deserializer.end());
        match (fault, result) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => {
                let reason = format!("JSON array broken after {} whole rows: {error}", place.number);
                Err(DataError::Unreadable { path: path.into(), reason })
            }
            (None, Ok(())) => Ok(()),
        }
    }

    fn take(&mut self, row: Result<Value, String>, place: &Place, on_row: &mut OnRow) -> Result<(), DataError> {
        let position = self.rows;
        self.rows += 1;
        let outcome = match row {
            Ok(value) => on_row(value, position, place)?,
            Err(reason) => Err(reason),
        };
        match (outcome, self.policy) {
            (Ok(()), _) => {}
            (Err(reason), BadLine::Refuse) => return Err(place.bad(reason)),
            (Err(reason), BadLine::Skip) => self.skipped.add(place.bad(reason).to_string()),
        }
        Ok(())
    }
}

fn parse_line(line: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?;
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

enum Start {
    Array,
    Lines,
    /// A known format that is not JSON.
    Foreign(&'static str),
}

/// Passes over a byte order mark and says what the rest begins with, white space aside.
fn first_byte(reader: &mut impl BufRead) -> std::io::Result<Start> {
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

/// The next line without its newline, in `line`. Of one that is too long no more than the limit is held.
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

/// A reader that fails when one element takes more than [`ROW_BYTES_MAX`]; `used` is set back between elements.
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

/// Gives an array's elements to a function, one by one, until it says false.
struct Elements<F>(F);

impl<'de, F: FnMut(Value) -> bool> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(row) = elements.next_element::<Value>()? {
            if !(self.0)(row) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
