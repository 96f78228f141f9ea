//! What an earlier job has left of its rows: the log beside an output, and the rows in it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde_json::Value;

use super::counted;

/// Whether a log holds rows that wait.
pub(super) fn has_rows(beside: &Path) -> bool {
    File::open(beside).is_ok_and(|file| BufReader::new(file).split(b'\n').skip(1).any(|line| line.is_ok()))
}

/// What lies at the name of our log must be one, or it is not ours to replace.
pub(super) fn check_log(beside: &Path) -> io::Result<()> {
    let is_log = |file| {
        let mut first = Vec::new();
        let read = BufReader::new(file).read_until(b'\n', &mut first);
        read.is_ok() && (first.is_empty() || serde_json::from_slice::<Value>(&first).is_ok_and(|head| head.is_object()))
    };
    match fs::symlink_metadata(beside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(found) if found.is_file() && File::open(beside).is_ok_and(is_log) => return Ok(()),
        _ => {}
    }
    let reason = format!("{} is in the way: it is no record of such a job", beside.display());
    Err(io::Error::new(ErrorKind::AlreadyExists, reason))
}

/// What a log holds.
pub(super) struct Log {
    /// Bytes of the first line, the settings.
    pub head: u64,
    /// Bytes up to the last whole line.
    pub whole: u64,
    pub waiting: Vec<(usize, String)>,
}

/// Reads a log, whose settings must be these; an incomplete last line is passed over.
pub(super) fn read_log(log: &File, settings: &Value) -> Result<Log, String> {
    const UNKNOWN: &str = "how its rows were made is not known";
    let mut lines = WholeLines(BufReader::new(log));
    let first = lines.next().ok_or(UNKNOWN)?.map_err(|error| error.to_string())?;
    let was: Value = serde_json::from_slice(&first).map_err(|_| UNKNOWN)?;
    let mut differences = Vec::new();
    compare("", &was, settings, &mut differences);
    if !differences.is_empty() {
        return Err(format!("its rows were made in another way: {}", differences.join("; ")));
    }
    let mut read = Log { head: first.len() as u64, whole: first.len() as u64, waiting: Vec::new() };
    for line in lines {
        let line = line.map_err(|error| error.to_string())?;
        read.whole += line.len() as u64;
        read.waiting.extend(serde_json::from_slice::<(usize, String)>(&line).ok());
    }
    Ok(read)
}

/// The lines of a reader with their newlines, without an incomplete last one.
struct WholeLines<R>(R);

impl<R: BufRead> Iterator for WholeLines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => Some(Ok(line)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

pub(super) fn log_line(index: usize, text: &str) -> String {
    format!("{}\n", Value::from(vec![Value::from(index), Value::from(text)]))
}

/// Names every value in which two settings differ.
fn compare(name: &str, was: &Value, is: &Value, differences: &mut Vec<String>) {
    const SHOWN_MAX: usize = 80;
    if let (Value::Object(was), Value::Object(is)) = (was, is) {
        let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for key in keys {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            let [was, is] = [was, is].map(|map| map.get(key).unwrap_or(&Value::Null));
            compare(&name, was, is, differences);
        }
    } else if was != is {
        let [was, is] = [was, is].map(Value::to_string);
        let long = was.len().max(is.len()) > SHOWN_MAX;
        differences.push(if long { format!("{name} differs") } else { format!("{name} was {was}, is now {is}") });
    }
}

/// Checks the rows of an output against the ids of the input, and answers with their number and the bytes that they take. What
/// follows the last whole row was being written when the job ended.
pub(super) fn read_rows(
    text: impl BufRead,
    ids: &[Value],
    lines: usize,
    kept: &mut impl FnMut(&Value),
) -> Result<(usize, u64), String> {
    let (mut rows, mut bytes) = (0, 0);
    let mut row: Vec<Value> = Vec::new();
    let mut row_bytes = 0;
    for (number, line) in (1..).zip(WholeLines(text)) {
        let line = line.map_err(|error| error.to_string())?;
        let id =
            ids.get(rows).ok_or_else(|| format!("line {number}: the input has only {}", counted(ids.len(), "row")))?;
        let value: Value = serde_json::from_slice(&line).map_err(|error| format!("line {number}: {error}"))?;
        if value.get("id") != Some(id) {
            let got = value.get("id").unwrap_or(&Value::Null);
            return Err(format!("line {number}: expected the row of id {id}, got id {got}"));
        }
        row.push(value);
        row_bytes += line.len() as u64;
        if row.len() == lines {
            row.drain(..).for_each(|value| kept(&value));
            bytes += std::mem::take(&mut row_bytes);
            rows += 1;
        }
    }
    Ok((rows, bytes))
}
