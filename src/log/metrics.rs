//! JSON lines on disk: `metrics.jsonl` (one line per step) and `samples.jsonl` (one line per rollout kept to read).
//!
//! A line is one JSON object with at least `stage` ("sft", "rl") and `step`. It is written by one `write` call, so only the
//! last line can be incomplete after a crash: the reader skips it, and a resumed writer removes it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::file::open_plain;

/// One line of the file.
pub type Record = Map<String, Value>;

/// The order of the stages in a run that has several. A line of any other stage is judged by its position in the file.
const STAGES: [&str; 2] = ["sft", "rl"];

/// Why a log file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("{path}: exists already; resume that run, or choose another run name")]
    Exists { path: PathBuf },
    #[error("{path}: cannot {action}: {error}")]
    Io { path: PathBuf, action: &'static str, error: io::Error },
    #[error("{path}: expected a record that serialises to a JSON object, got {got}; write a struct or a map")]
    NotAnObject { path: PathBuf, got: String },
    #[error("{path}: a record cannot be written as JSON: {error}")]
    Json { path: PathBuf, error: serde_json::Error },
}

/// Appends records to a JSON-lines file.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Starts a new file. Fails if there is one already: a run never overwrites another run's numbers.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, MetricsError> {
        let path = path.as_ref().to_owned();
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(MetricsError::Exists { path }),
            Err(error) => Err(MetricsError::Io { path, action: "create the file", error }),
        }
    }

    /// Opens the file of a run that continues after `step` of `stage`, and removes the lines that the run will write again:
    /// everything from the first line that belongs to a later step of `stage` or to a later stage, and an incomplete last
    /// line. Creates the file if it does not exist.
    pub fn resume(path: impl AsRef<Path>, stage: &str, step: u64) -> Result<Self, MetricsError> {
        let path = path.as_ref().to_owned();
        let fail = |action| {
            let path = path.clone();
            move |error| MetricsError::Io { path, action, error }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(fail("open the file for appending"))?;
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            return Err(fail("go on with the file")(io::Error::other("is not a plain file")));
        }
        let keep = length_until(&mut file, stage, step).map_err(fail("read the file"))?;
        file.set_len(keep.bytes).map_err(fail("remove the lines that will be written again"))?;
        if keep.lacks_newline {
            file.write_all(b"\n").map_err(fail("end the last line"))?;
        }
        file.sync_all().map_err(fail("flush the file"))?;
        Ok(Self { path, file })
    }

    /// Appends one record as one line and hands it to the operating system. Numbers that JSON cannot hold (NaN,
    /// infinities) become `null`, so the file of a diverging run stays readable.
    pub fn write(&mut self, record: &impl Serialize) -> Result<(), MetricsError> {
        let mut line =
            serde_json::to_vec(record).map_err(|error| MetricsError::Json { path: self.path.clone(), error })?;
        if line.first() != Some(&b'{') {
            let got = String::from_utf8_lossy(&line).chars().take(60).collect();
            return Err(MetricsError::NotAnObject { path: self.path.clone(), got });
        }
        line.push(b'\n');
        let failed = |error| MetricsError::Io { path: self.path.clone(), action: "append a line", error };
        self.file.write_all(&line).map_err(failed)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How much of a file a resumed run keeps.
struct Keep {
    bytes: u64,
    /// The last kept line is complete except for its newline.
    lacks_newline: bool,
}

fn length_until(file: &mut File, stage: &str, step: u64) -> io::Result<Keep> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let mut keep = Keep { bytes: 0, lacks_newline: false };
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let record = serde_json::from_slice::<Record>(&line).ok();
        let whole = line.ends_with(b"\n");
        if record.as_ref().map_or(!whole, |record| is_after(record, stage, step)) {
            break;
        }
        keep.bytes += line.len() as u64;
        keep.lacks_newline = !whole;
        line.clear();
    }
    Ok(keep)
}

/// Whether a line belongs to a later step than `step` of `stage`, or to a later stage.
fn is_after(record: &Record, stage: &str, step: u64) -> bool {
    let Some(found) = record.get("stage").and_then(Value::as_str) else { return false };
    if found == stage {
        return record.get("step").and_then(Value::as_u64).is_some_and(|found| found > step);
    }
    let rank = |name: &str| STAGES.iter().position(|known| *known == name);
    matches!((rank(found), rank(stage)), (Some(found), Some(stage)) if found > stage)
}

/// Calls `each` with every record, in order, with one line in memory at a time. Returns the number of lines that are not JSON
/// objects: at most one, the incomplete last line, unless something else wrote to the file.
pub fn for_each_record(path: &Path, each: impl FnMut(Record)) -> Result<usize, MetricsError> {
    let fail = |action| move |error| MetricsError::Io { path: path.to_owned(), action, error };
    let file = open_plain(path).map_err(fail("open the file"))?;
    visit(BufReader::new(file), each).map_err(fail("read the file"))
}

/// All records of a file, and the number of lines that were skipped because they are not JSON objects.
pub fn read_records(path: &Path) -> Result<(Vec<Record>, usize), MetricsError> {
    let mut records = Vec::new();
    let damaged = for_each_record(path, |record| records.push(record))?;
    Ok((records, damaged))
}

fn visit(mut reader: BufReader<impl Read>, mut each: impl FnMut(Record)) -> io::Result<usize> {
    let (mut line, mut damaged) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            match serde_json::from_slice(&line) {
                Ok(record) => each(record),
                Err(_) => damaged += 1,
            }
        }
        line.clear();
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line {
        stage: &'static str,
        step: u64,
        loss: f32,
    }

    fn steps(path: &Path) -> Vec<(String, u64)> {
        let (records, damaged) = read_records(path).unwrap();
        assert_eq!(damaged, 0);
        records.iter().map(|r| (r["stage"].as_str().unwrap().to_owned(), r["step"].as_u64().unwrap())).collect()
    }

    fn filled(path: &Path) {
        let mut writer = MetricsWriter::create(path).unwrap();
        for (stage, step) in [("eval", 0), ("sft", 1), ("sft", 2), ("eval", 2), ("rl", 1), ("rl", 2), ("eval", 2)] {
            writer.write(&Line { stage, step, loss: 0.5 }).unwrap();
        }
    }

    #[test]
    fn a_number_that_json_cannot_hold_becomes_null() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for loss in [f32::NAN, f32::INFINITY, 0.1] {
            writer.write(&Line { stage: "sft", step: 1, loss }).unwrap();
        }
        let (records, damaged) = read_records(&path).unwrap();
        assert_eq!((records.len(), damaged), (3, 0));
        assert!(records[0]["loss"].is_null() && records[1]["loss"].is_null());
        assert_eq!(records[2]["loss"].to_string(), "0.1");
    }

    #[test]
    fn a_run_does_not_overwrite_another_and_a_record_is_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        assert!(matches!(MetricsWriter::create(&path), Err(MetricsError::Exists { .. })));
        assert!(matches!(writer.write(&[1, 2]), Err(MetricsError::NotAnObject { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn resuming_removes_later_steps_and_later_stages() {
        let cases: [(&str, u64, usize); 5] = [("rl", 2, 7), ("rl", 1, 5), ("rl", 0, 4), ("sft", 2, 4), ("sft", 1, 2)];
        for (stage, step, kept) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            filled(&path);
            let all = steps(&path);
            let mut writer = MetricsWriter::resume(&path, stage, step).unwrap();
            assert_eq!(steps(&path), all[..kept], "resumed after step {step} of {stage}");
            writer.write(&Line { stage: "rl", step: 9, loss: 0.0 }).unwrap();
            assert_eq!(steps(&path).len(), kept + 1);
        }
    }

    #[test]
    fn resuming_removes_an_incomplete_line_and_ends_a_complete_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for (tail, kept) in [("{\"stage\":\"rl\",\"st", 2), ("{\"stage\":\"rl\",\"step\":3}", 3)] {
            let head = "{\"stage\":\"rl\",\"step\":1}\n{\"stage\":\"rl\",\"step\":2}\n";
            std::fs::write(&path, format!("{head}{tail}")).unwrap();
            assert_eq!(read_records(&path).unwrap().0.len(), kept);
            let mut writer = MetricsWriter::resume(&path, "rl", 3).unwrap();
            writer.write(&Line { stage: "rl", step: 4, loss: 0.0 }).unwrap();
            assert_eq!(steps(&path).len(), kept + 1);
        }
    }
}
