//! Rows from files of any kind: JSON lines, a JSON array, either of them compressed, Parquet. Never more than a row is in memory,
//! and no file can make it panic.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::DataError;
use super::bad_rows::Location;
use super::expansion::check_expansion;
use super::fields::present;
use super::json_array::read_array;
use super::lines::{Line, next_line, too_long};
use super::packed::{Contents, open};
use super::parquet::ParquetRows;

/// Reads the rows of files.
#[derive(Default)]
pub struct RowReader {
    /// Rows seen so far, good or bad, over all files: the next row's position.
    pub rows: u64,
}

/// A row as a value and as it is written. Parquet has no spelling: there the value is all.
pub struct Row<'a> {
    pub value: Value,
    pub text: Option<&'a str>,
}

/// Called with a row, or why it is bad, with its position over all files, and its location. An error ends the reading.
type OnRow<'a> = dyn FnMut(Result<Row<'_>, String>, u64, &Location) -> Result<(), DataError> + 'a;

impl RowReader {
    /// Gives every row of `path` to `on_row`, in order.
    ///
    /// What the file is, its content says and not its name. Text that begins with `[` is one JSON array, any other is JSON lines;
    /// blank lines and a byte order mark are skipped. A file without rows is an error, and so is one that breaks off: rows before
    /// that have been given by then.
    pub fn read(&mut self, path: &Path, on_row: &mut OnRow) -> Result<(), DataError> {
        let start = self.rows;
        match open(path).map_err(|error| DataError::Io { path: path.into(), error })? {
            Contents::Parquet(file) => self.read_parquet(path, ParquetRows::open(file), on_row)?,
            Contents::Text { reader, packed } => self.read_text(path, reader, packed, on_row)?,
            Contents::Foreign(kind) => {
                let reason = format!("{kind}; expected JSON lines, a JSON array (also by gzip or zstd), or Parquet");
                return Err(unreadable(path, reason));
            }
        }
        if self.rows == start {
            return Err(DataError::Empty { path: path.into(), skipped: String::new() });
        }
        Ok(())
    }

    fn read_text(
        &mut self,
        path: &Path,
        mut reader: Box<dyn BufRead>,
        packed: Option<&str>,
        on_row: &mut OnRow,
    ) -> Result<(), DataError> {
        let start = self.rows;
        let rows = |now: u64| format!("after {} whole rows", now - start);
        let is_array = begins_array(&mut reader);
        let result = match is_array {
            Ok(true) => self.read_array(path, reader, on_row)?.map_err(|error| (error, "JSON array")),
            Ok(false) => match self.read_lines(path, reader, on_row)? {
                Err(error) if packed.is_none() => return Err(DataError::Io { path: path.into(), error }),
                result => result.map_err(|error| (error.to_string(), "its text")),
            },
            Err(error) => Err((error.to_string(), "its text")),
        };
        result.map_err(|(error, part)| {
            let what = packed.map_or(part.to_string(), |name| format!("{part} ({name})"));
            unreadable(path, format!("{what} broken {}: {error}", rows(self.rows)))
        })
    }

    /// The inner error is of reading; the outer one is of `on_row`.
    fn read_lines(
        &mut self,
        path: &Path,
        mut reader: impl BufRead,
        on_row: &mut OnRow,
    ) -> Result<std::io::Result<()>, DataError> {
        let mut location = Location { path: path.into(), unit: "line", number: 0 };
        let mut line = Vec::new();
        loop {
            location.number += 1;
            let row = match next_line(&mut reader, &mut line) {
                Err(error) => return Ok(Err(error)),
                Ok(Line::End) => return Ok(Ok(())),
                Ok(Line::TooLong) => Err(too_long()),
                Ok(Line::Whole) if line.trim_ascii().is_empty() => continue,
                Ok(Line::Whole) => parse_line(&line),
            };
            on_row(row, self.next(), &location)?;
        }
    }

    fn read_array(
        &mut self,
        path: &Path,
        reader: impl BufRead,
        on_row: &mut OnRow,
    ) -> Result<Result<(), String>, DataError> {
        let mut location = Location { path: path.into(), unit: "row", number: 0 };
        let mut fault = None;
        let result = read_array(reader, |text| {
            location.number += 1;
            on_row(parse(text), self.next(), &location).map_err(|error| fault = Some(error)).is_ok()
        });
        fault.map_or(Ok(result), Err)
    }

    fn read_parquet(
        &mut self,
        path: &Path,
        rows: Result<ParquetRows, String>,
        on_row: &mut OnRow,
    ) -> Result<(), DataError> {
        let mut rows = rows.map_err(|reason| unreadable(path, reason))?;
        let mut location = Location { path: path.into(), unit: "row", number: 0 };
        let mut made = 0;
        let broken = |number: usize, reason: String| {
            unreadable(path, format!("Parquet file broken after {number} whole rows: {reason}"))
        };
        while let Some(row) = rows.next().map_err(|reason| broken(location.number, reason))? {
            // A row of nulls takes time too.
            made += 64 + row.as_ref().map_or(0, |(_, bytes)| *bytes as u64);
            check_expansion(rows.length(), made).map_err(|reason| broken(location.number, reason))?;
            location.number += 1;
            let row = row.map(|(value, _)| Row { value, text: None });
            on_row(row, self.next(), &location)?;
        }
        Ok(())
    }

    fn next(&mut self) -> u64 {
        self.rows += 1;
        self.rows - 1
    }
}

/// The first row of the first file that is an object, without its null fields; the rest is not read. `None` of what is no plain
/// file: a pipe can be read once.
pub fn first_row(files: &[PathBuf]) -> Result<Option<Map<String, Value>>, DataError> {
    let Some(file) = files.first().filter(|file| file.is_file()) else { return Ok(None) };
    let mut found = None;
    let read = RowReader::default().read(file, &mut |row, _, _| match row {
        Ok(Row { value: Value::Object(row), .. }) => {
            found = Some(present(row));
            Err(DataError::Stopped)
        }
        _ => Ok(()),
    });
    if found.is_none() { read.map(|()| None) } else { Ok(found) }
}

fn unreadable(path: &Path, reason: String) -> DataError {
    DataError::Unreadable { path: path.into(), reason }
}

fn parse_line(line: &[u8]) -> Result<Row<'_>, String> {
    parse(std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?)
}

fn parse(text: &str) -> Result<Row<'_>, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    Ok(Row { value, text: Some(text) })
}

/// Skips a byte order mark, and says whether the text begins an array.
fn begins_array(reader: &mut impl BufRead) -> std::io::Result<bool> {
    let head = reader.fill_buf()?;
    let mark = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let is_array = head[mark..].trim_ascii_start().first() == Some(&b'[');
    reader.consume(mark);
    Ok(is_array)
}
