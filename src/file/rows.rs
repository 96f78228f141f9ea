//! Rows of a long job: appended as they finish, in the order of the input, so that the job can be gone on with.
//!
//! Beside a file `OUTPUT` lies `OUTPUT.resume`: a line with the settings that its rows are made with, then rows that have
//! finished before an earlier one. When that one finishes, they move to `OUTPUT`. So a kill loses only what was being worked
//! on, and the order never depends on what finished first. Standard output, pipes and devices get the same rows in the same
//! order, and cannot be gone on with.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::console::{self, StdoutError};
use super::kept_rows::{Log, check_log, has_rows, log_line, read_log, read_rows};
use super::target::{Target, folder_of, is_same, try_creating, try_writing};

/// What becomes of an output that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Overwrite,
    /// Its rows are kept. They must belong to the same input and the same settings.
    Resume,
}

/// Why rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("{output}: cannot be written: {error}")]
    Io { output: String, error: io::Error },
    #[error(transparent)]
    Stdout(#[from] StdoutError),
    #[error("{output}: exists already; --resume goes on with it, --overwrite begins again")]
    Exists { output: String },
    #[error("{output} is an input too ({input}): writing it would destroy what is to be read")]
    IsInput { output: String, input: String },
    #[error("{output}: another process is writing to it")]
    Locked { output: String },
    #[error("{output}: --resume needs a file; rows that went to a pipe or a device cannot be read again")]
    NoFile { output: String },
    #[error("{output}: --resume cannot go on with it: {reason}; --overwrite begins again")]
    NotResumable { output: String, reason: String },
}

/// An output that has been tried, before anything is loaded. Nothing is changed by that.
#[derive(Debug)]
pub struct RowOutput {
    output: String,
    existing: Existing,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Stdout,
    Through(File),
    /// A plain file; open and locked if it was there.
    File {
        path: PathBuf,
        file: Option<File>,
    },
}

impl RowOutput {
    /// Tries an output, `-` for standard output. An error if it cannot be written, if it is one of `inputs`, or if it exists and
    /// `existing` does not say what is to become of it. An empty file counts as none.
    pub fn new(output: &str, existing: Existing, inputs: &[PathBuf]) -> Result<Self, RowError> {
        let failed = |error| RowError::Io { output: output.into(), error };
        let place = if output == "-" {
            console::stdout().map_err(StdoutError)?;
            refuse_input(output, Path::new("/dev/stdout"), inputs)?;
            Place::Stdout
        } else {
            refuse_input(output, Path::new(output), inputs)?;
            match Target::of(Path::new(output)).map_err(failed)? {
                Target::Through(file) => Place::Through(file),
                Target::Plain { path, existing: None } => {
                    try_creating(Path::new(output), &path).map_err(failed)?;
                    Place::File { path, file: None }
                }
                Target::Plain { path, existing: Some(found) } => {
                    if existing == Existing::Refuse && (found.len() > 0 || has_rows(&beside(&path))) {
                        return Err(RowError::Exists { output: output.into() });
                    }
                    let file = OpenOptions::new().read(true).append(true).open(&path).map_err(failed)?;
                    lock(output, &file)?;
                    Place::File { path, file: Some(file) }
                }
            }
        };
        if let Place::File { path, .. } = &place {
            refuse_input(output, &beside(path), inputs)?;
            check_log(&beside(path)).and_then(|()| try_writing(&beside(path))).map_err(failed)?;
        } else if existing == Existing::Resume {
            return Err(RowError::NoFile { output: output.into() });
        }
        Ok(Self { output: output.into(), existing, place })
    }

    /// Whether it is a file, which can be gone on with.
    pub fn is_file(&self) -> bool {
        matches!(self.place, Place::File { .. })
    }

    /// Begins to write. `ids` are the ids of the input's rows, of which each becomes `lines` lines; `settings` are whatever
    /// changes a row. The lines that are there already are passed to `kept`, and [`RowWriter::has`] knows their rows.
    pub fn begin(
        self,
        settings: &Value,
        ids: &[Value],
        lines: usize,
        mut kept: impl FnMut(&Value),
    ) -> Result<RowWriter, RowError> {
        let Self { output, existing, place } = self;
        let (path, file) = match place {
            Place::Stdout => return Ok(RowWriter::new(output, Sink::Stdout)),
            Place::Through(file) => return Ok(RowWriter::new(output, Sink::Through(file))),
            Place::File { path, file } => (path, file),
        };
        let failed = |error| RowError::Io { output: output.clone(), error };
        let refused = |reason| RowError::NotResumable { output: output.clone(), reason };
        let file = file.map_or_else(|| create(&output, &path), Ok).map_err(|error| match error.kind() {
            // It was not there when it was tried: someone else has begun since.
            ErrorKind::AlreadyExists => RowError::Locked { output: output.clone() },
            _ => failed(error),
        })?;
        lock(&output, &file)?;
        let beside = beside(&path);
        let begun = file.metadata().map_err(failed)?.len() > 0 || has_rows(&beside);
        let mut open = OpenOptions::new();
        open.read(true).append(true);
        if existing != Existing::Resume || !begun {
            let mut log = open.create(true).open(&beside).map_err(failed)?;
            file.set_len(0).and_then(|()| log.set_len(0)).map_err(failed)?;
            let head = format!("{settings}\n");
            log.write_all(head.as_bytes()).map_err(failed)?;
            return Ok(RowWriter::new(output, Sink::File { file, log, head: head.len() as u64, log_used: false }));
        }
        let unknown = |error| format!("how its rows were made is not known: {}: {error}", beside.display());
        let log = open.open(&beside).map_err(|error| refused(unknown(error)))?;
        let Log { head, whole, waiting } = read_log(&log, settings).map_err(refused)?;
        let (rows, bytes) = read_rows(BufReader::new(&file), ids, lines, &mut kept).map_err(refused)?;
        file.set_len(bytes).and_then(|()| log.set_len(whole)).map_err(failed)?;
        let mut writer = RowWriter::new(output.clone(), Sink::File { file, log, head, log_used: whole > head });
        writer.next = rows;
        for (index, text) in waiting.into_iter().filter(|(index, _)| (rows..ids.len()).contains(index)) {
            let (whole, _) = read_rows(text.as_bytes(), &ids[index..=index], lines, &mut kept).map_err(refused)?;
            if whole == 1 {
                writer.waiting.insert(index, text);
            }
        }
        writer.flush()?;
        Ok(writer)
    }
}

/// `OUTPUT.resume`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".resume");
    name.into()
}

fn refuse_input(output: &str, path: &Path, inputs: &[PathBuf]) -> Result<(), RowError> {
    match inputs.iter().find(|input| is_same(input, path)) {
        Some(input) => Err(RowError::IsInput { output: output.into(), input: input.display().to_string() }),
        None => Ok(()),
    }
}

fn lock(output: &str, file: &File) -> Result<(), RowError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(RowError::Locked { output: output.into() }),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

fn create(output: &str, path: &Path) -> io::Result<File> {
    if path == Path::new(output) {
        fs::create_dir_all(folder_of(path))?;
    }
    OpenOptions::new().read(true).append(true).create_new(true).open(path)
}

/// Writes rows in the order of the input, whatever order they finish in.
#[derive(Debug)]
pub struct RowWriter {
    output: String,
    sink: Sink,
    /// The first row that is not written.
    next: usize,
    /// Finished rows that wait for an earlier one.
    waiting: BTreeMap<usize, String>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Through(File),
    File {
        file: File,
        log: File,
        /// Bytes of the log's first line, and whether there is more.
        head: u64,
        log_used: bool,
    },
}

impl RowWriter {
    fn new(output: String, sink: Sink) -> Self {
        Self { output, sink, next: 0, waiting: BTreeMap::new() }
    }

    /// Whether a row was there when writing began, or has been put since.
    pub fn has(&self, index: usize) -> bool {
        index < self.next || self.waiting.contains_key(&index)
    }

    /// Whether the rows go to a file, which can be gone on with.
    pub fn is_file(&self) -> bool {
        matches!(self.sink, Sink::File { .. })
    }

    /// Rows that are finished; of a file, those that a kill does not lose.
    pub fn finished(&self) -> usize {
        self.next + self.waiting.len()
    }

    /// Takes the finished lines of a row, each with its newline, and hands them to the system as soon as those before are there.
    pub fn put(&mut self, index: usize, lines: String) -> Result<(), RowError> {
        if index != self.next
            && let Sink::File { log, log_used, .. } = &mut self.sink
        {
            *log_used = true;
            let failed = |error| RowError::Io { output: self.output.clone(), error };
            log.write_all(log_line(index, &lines).as_bytes()).map_err(failed)?;
        }
        self.waiting.insert(index, lines);
        self.flush()
    }

    /// Writes the rows that no longer wait.
    fn flush(&mut self) -> Result<(), RowError> {
        let failed = |error| RowError::Io { output: self.output.clone(), error };
        while let Some(lines) = self.waiting.remove(&self.next) {
            match &mut self.sink {
                Sink::Stdout => console::print(&lines)?,
                Sink::Through(file) | Sink::File { file, .. } => file.write_all(lines.as_bytes()).map_err(failed)?,
            }
            self.next += 1;
        }
        match &mut self.sink {
            Sink::File { log, head, log_used, .. } if *log_used && self.waiting.is_empty() => {
                *log_used = false;
                log.set_len(*head).map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// Flushes a file to disk, after the last row.
    pub fn finish(self) -> Result<(), RowError> {
        match self.sink {
            Sink::File { file, .. } => file.sync_all().map_err(|error| RowError::Io { output: self.output, error }),
            Sink::Stdout | Sink::Through(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Job(tempfile::TempDir);

    impl Job {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("out.jsonl")
        }

        fn output(&self, existing: Existing) -> Result<RowOutput, RowError> {
            RowOutput::new(self.path().to_str().unwrap(), existing, &[])
        }

        fn begin(&self, existing: Existing, settings: Value, rows: usize) -> Result<RowWriter, RowError> {
            self.output(existing)?.begin(&settings, &ids(rows), 1, |_| {})
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        fn log(&self) -> String {
            fs::read_to_string(beside(&self.path())).unwrap()
        }
    }

    fn ids(rows: usize) -> Vec<Value> {
        (0..rows).map(Value::from).collect()
    }

    fn line(id: usize) -> String {
        format!("{{\"id\":{id}}}\n")
    }

    fn lines(ids: impl Iterator<Item = usize>) -> String {
        ids.map(line).collect()
    }

    const SEED: &str = "seed";

    /// Rows that finish in any order, with a kill after each number of them: what is there goes on, and the end is the same.
    #[test]
    fn a_job_that_is_killed_anywhere_loses_nothing_that_is_finished() {
        let order = [2, 0, 1, 5, 4, 3];
        for killed_after in 0..=order.len() {
            let job = Job::new();
            let mut writer = job.begin(Existing::Refuse, json!({SEED: 1}), 6).unwrap();
            for &index in &order[..killed_after] {
                writer.put(index, line(index)).unwrap();
            }
            drop(writer);
            let mut kept = Vec::new();
            let output = job.output(Existing::Resume).unwrap();
            let mut writer = output.begin(&json!({SEED: 1}), &ids(6), 1, |row| kept.push(row["id"].as_u64().unwrap()));
            let writer = writer.as_mut().unwrap();
            kept.sort();
            let mut expected: Vec<u64> = order[..killed_after].iter().map(|index| *index as u64).collect();
            expected.sort();
            assert_eq!(kept, expected, "killed after {killed_after}");
            let open: Vec<usize> = (0..6).filter(|index| !writer.has(*index)).collect();
            assert_eq!(open.len(), 6 - killed_after);
            open.into_iter().rev().for_each(|index| writer.put(index, line(index)).unwrap());
            assert_eq!(job.text(), lines(0..6));
            assert_eq!(job.log(), "{\"seed\":1}\n", "no row waits any more");
        }
    }

    #[test]
    fn incomplete_lines_are_cut_off() {
        for (text, log, kept) in [
            (lines(0..2) + "{\"id\":", "", 2),
            (lines(0..2) + "{\"id\":2}", "", 2),
            (lines(0..1), "[2,\"{\\\"id\\\":2}\\n\"]\n[1,\"{\\\"id", 2),
            (lines(0..1), "[0,\"stale\"]\n[1,\"{\\\"id\\\":1}\\n\"]\n", 2),
            (String::new(), "[3,\"{\\\"id\\\":3}\\n\"]\n", 1),
        ] {
            let job = Job::new();
            fs::write(job.path(), &text).unwrap();
            fs::write(beside(&job.path()), format!("{{\"seed\":1}}\n{log}")).unwrap();
            assert!(matches!(job.output(Existing::Refuse), Err(RowError::Exists { .. })), "{text:?} {log:?}");
            let mut writer = job.begin(Existing::Resume, json!({SEED: 1}), 4).unwrap();
            assert_eq!(writer.finished(), kept, "{text:?} {log:?}");
            let open: Vec<usize> = (0..4).filter(|index| !writer.has(*index)).collect();
            open.into_iter().for_each(|index| writer.put(index, line(index)).unwrap());
            assert_eq!(job.text(), lines(0..4), "{text:?} {log:?}");
        }
    }

    #[test]
    fn rows_of_several_lines_are_kept_whole_or_not_at_all() {
        let job = Job::new();
        let two = |id: usize| line(id) + &line(id);
        let mut writer = job.output(Existing::Refuse).unwrap().begin(&json!({}), &ids(2), 2, |_| {}).unwrap();
        writer.put(0, two(0)).unwrap();
        drop(writer);
        fs::write(job.path(), two(0) + &line(1)).unwrap();
        let mut kept = 0;
        let output = job.output(Existing::Resume).unwrap();
        let mut writer = output.begin(&json!({}), &ids(2), 2, |_| kept += 1).unwrap();
        assert_eq!((writer.finished(), kept), (1, 2));
        writer.put(1, two(1)).unwrap();
        assert_eq!(job.text(), two(0) + &two(1));
    }

    #[test]
    fn rows_of_another_job_are_refused_by_name_and_stay() {
        let job = Job::new();
        let settings = json!({SEED: 1, "judge": {"max": 10, "template": "x".repeat(200)}, "gone": true});
        let mut writer = job.begin(Existing::Refuse, settings.clone(), 3).unwrap();
        writer.put(0, line(0)).unwrap();
        drop(writer);
        let other = json!({SEED: 2, "judge": {"max": 10, "template": "y".repeat(200)}, "new": 0.5});
        let said = job.begin(Existing::Resume, other, 3).unwrap_err().to_string();
        for words in
            ["seed was 1, is now 2", "judge.template differs", "gone was true, is now null", "new was null, is now 0.5"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!said.contains("max"), "{said}");
        let refused = |text: String, rows: usize, words: &str| {
            fs::write(job.path(), &text).unwrap();
            let said = job.begin(Existing::Resume, settings.clone(), rows).unwrap_err().to_string();
            assert!(said.contains(words) && said.contains("out.jsonl"), "{words}: {said}");
            assert_eq!(job.text(), text);
        };
        refused(lines(1..2), 3, "line 1: expected the row of id 0, got id 1");
        refused(lines(0..1) + "no row\n" + &line(2), 3, "line 2: ");
        refused(lines(0..1) + "7\n", 3, "line 2: expected the row of id 1, got id null");
        refused(lines(0..3), 2, "line 3: the input has only 2 rows");
        fs::remove_file(beside(&job.path())).unwrap();
        refused(lines(0..1), 3, "how its rows were made is not known");
        assert!(!beside(&job.path()).exists());
    }

    #[test]
    fn an_output_is_overwritten_only_when_asked_and_an_empty_one_is_none() {
        let job = Job::new();
        fs::write(job.path(), "mine\n").unwrap();
        let said = job.output(Existing::Refuse).unwrap_err().to_string();
        assert!(said.contains("--resume") && said.contains("--overwrite"), "{said}");
        drop(job.output(Existing::Overwrite).unwrap());
        assert_eq!(job.text(), "mine\n", "trying changes nothing");
        let mut writer = job.begin(Existing::Overwrite, json!({}), 1).unwrap();
        writer.put(0, line(0)).unwrap();
        drop(writer);
        assert_eq!(job.text(), line(0));

        fs::write(job.path(), "").unwrap();
        assert!(job.begin(Existing::Refuse, json!({}), 1).is_ok());
        fs::write(beside(&job.path()), "notes of someone\n").unwrap();
        let said = job.output(Existing::Overwrite).unwrap_err().to_string();
        assert!(said.contains("out.jsonl.resume is in the way"), "{said}");
        assert_eq!(job.log(), "notes of someone\n");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_refused_without_a_trace() {
        let job = Job::new();
        let folder = job.0.path();
        fs::write(folder.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("missing/out", folder.join("dangling")).unwrap();
        for (name, words) in
            [("", "is a directory"), ("file/below", "Not a directory"), ("dangling", "No such file or directory")]
        {
            let output = folder.join(name).display().to_string();
            let error = RowOutput::new(&output, Existing::Refuse, &[])
                .and_then(|output| output.begin(&json!({}), &ids(1), 1, |_| {}).map(drop))
                .unwrap_err();
            let said = error.to_string();
            assert!(said.contains(words) && said.contains(&output), "{said}");
        }
        // Missing folders are made, but only when there is something to write.
        let output = RowOutput::new(folder.join("a/b/out").to_str().unwrap(), Existing::Refuse, &[]).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
        output.begin(&json!({}), &ids(1), 1, |_| {}).unwrap().put(0, line(0)).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a/b/out")).unwrap(), line(0));

        let mut full =
            RowOutput::new("/dev/full", Existing::Refuse, &[]).unwrap().begin(&json!({}), &ids(1), 1, |_| {});
        let said = full.as_mut().unwrap().put(0, line(0)).unwrap_err().to_string();
        assert!(said.contains("/dev/full") && said.contains("No space left"), "{said}");
        assert!(matches!(RowOutput::new("/dev/null", Existing::Resume, &[]), Err(RowError::NoFile { .. })));
    }

    #[test]
    fn an_input_is_no_output_under_any_name() {
        let job = Job::new();
        let at = |name: &str| job.0.path().join(name);
        fs::write(at("in"), "row\n").unwrap();
        fs::hard_link(at("in"), at("hard")).unwrap();
        std::os::unix::fs::symlink("in", at("soft")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for name in ["in", "hard", "soft", "folder/../in"] {
            let output = at(name).display().to_string();
            let refused = RowOutput::new(&output, Existing::Overwrite, &[at("other"), at("in")]).unwrap_err();
            assert!(matches!(refused, RowError::IsInput { .. }), "{name}: {refused}");
        }
        // Nor is the log beside the output.
        fs::write(at("out.resume"), "{}\n").unwrap();
        let refused = RowOutput::new(at("out").to_str().unwrap(), Existing::Refuse, &[at("out.resume")]).unwrap_err();
        assert!(matches!(refused, RowError::IsInput { .. }), "{refused}");
        assert!(RowOutput::new("/dev/null", Existing::Refuse, &["/dev/null".into()]).is_ok());
        // Nor is what is not there yet.
        std::os::unix::fs::symlink("new/later", at("link")).unwrap();
        for (output, input) in [
            ("x", "x.resume"),
            ("x", "folder/../x"),
            ("new/later", "new/./later"),
            ("x/y", "x/y.resume"),
            ("new/later", "link"),
        ] {
            let refused = RowOutput::new(at(output).to_str().unwrap(), Existing::Refuse, &[at(input)]).unwrap_err();
            assert!(matches!(refused, RowError::IsInput { .. }), "{output} {input}: {refused}");
        }
        assert!(RowOutput::new(at("x").to_str().unwrap(), Existing::Refuse, &[at("y")]).is_ok());
    }

    #[test]
    fn two_jobs_do_not_write_to_one_output() {
        let job = Job::new();
        let tried = job.output(Existing::Refuse).unwrap();
        let _first = job.begin(Existing::Refuse, json!({}), 2).unwrap();
        for existing in [Existing::Refuse, Existing::Overwrite, Existing::Resume] {
            assert!(matches!(job.output(existing), Err(RowError::Locked { .. })), "{existing:?}");
        }
        let lost = tried.begin(&json!({}), &ids(2), 1, |_| {}).unwrap_err();
        assert!(matches!(lost, RowError::Locked { .. }), "tried before the other began: {lost}");
    }
}
