//! Reads files of rows as pairs, conversations and responses, with their ids and tasks.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::fields::{Object, kind, present};
use super::formats::{self, Format, PairReader, Sides};
use super::row_fields::{arguments_of, check_judged, check_row};
use super::row_id::{RowId, Unnamed, name_row, name_rows, part_of, written_id};
use super::row_reader::{Row, RowReader};
use super::sources::resolve;
use super::{
    Candidates, Conversation, DataError, Location, Message, OnBadRow, Pair, Prompt, Response, Skipped, TaskBy, Tasks,
    TemplateArguments,
};

/// How rows are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// The tasks of rows that name none.
    pub tasks: Tasks,
    pub on_bad_row: OnBadRow,
    /// The one format that rows may have; `None`: each row's is recognised.
    pub format: Option<Format>,
}

/// Usable rows in the order of the files, and the bad rows that were skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    pub rows: Vec<T>,
    /// Where each row is.
    pub locations: Vec<Location>,
    pub skipped: Skipped,
    on_bad_row: OnBadRow,
}

impl<T> Loaded<T> {
    /// Converts every row. A row that cannot be converted is bad, like one that cannot be read: it is an error with file and
    /// line, or is left out and counted.
    pub fn try_map<U, E: Display>(self, mut convert: impl FnMut(T) -> Result<U, E>) -> Result<Loaded<U>, DataError> {
        let (mut rows, mut locations, mut skipped) = (Vec::new(), Vec::new(), self.skipped);
        for (row, location) in self.rows.into_iter().zip(self.locations) {
            match convert(row) {
                Ok(row) => {
                    rows.push(row);
                    locations.push(location);
                }
                Err(error) => skipped.refuse(&location, error.to_string(), self.on_bad_row)?,
            }
        }
        Loaded { rows, locations, skipped, on_bad_row: self.on_bad_row }.some()
    }

    /// Keeps the rows for which `keep` is true, and says how many it left out.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) -> usize {
        let kept: Vec<bool> = self.rows.iter().map(keep).collect();
        let mut keep = kept.iter();
        self.rows.retain(|_| *keep.next().expect("one a row"));
        let mut keep = kept.iter();
        self.locations.retain(|_| *keep.next().expect("one a row"));
        kept.len() - self.rows.len()
    }

    /// An error if no row is left because all were bad.
    fn some(self) -> Result<Self, DataError> {
        match self.skipped.first_file() {
            Some(path) if self.rows.is_empty() => {
                let Skipped { count, reasons, .. } = &self.skipped;
                let skipped = format!("; all {count} rows were bad: {}", reasons.join("; "));
                Err(DataError::Empty { path: path.to_path_buf(), skipped })
            }
            _ => Ok(self),
        }
    }
}

/// Preference pairs in any of the formats of [`Format`], which is recognised row by row.
///
/// A pair's id is its row's `id` as it came, or else the row's position over all files in their order ([`RowId`]). The pairs of
/// a row that gives several are called `ID/0`, `ID/1` and so on. A pair that two rows give is called by the second one. Bad rows
/// count too, so skipping one changes no position. An id that the same file has used before makes a row bad. An unreadable
/// file, a file without rows and a file that is given twice are errors even if bad rows are skipped.
pub fn load_pairs(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Pair>, DataError> {
    let mut pairs = PairReader::new(options.format);
    let mut loaded = load(files, options, |row, at| pair_parts(&mut pairs, row, at, options), pair)?;
    for (location, reason) in pairs.left() {
        loaded.skipped.refuse(&location, reason, options.on_bad_row)?;
    }
    loaded.some()
}

/// The same rows, given to `on_row` one by one and not kept. Bad ones come with their reason, whatever the options say. An id is
/// the row's own or its position, and of several files also the file: nobody has looked whether another file has it too.
pub fn stream_pairs(files: &[PathBuf], options: &LoadOptions, on_row: &mut OnRow<Pair>) -> Result<(), DataError> {
    let mut pairs = PairReader::new(options.format);
    let ended = stream(files, |row, at| pair_parts(&mut pairs, row, at, options), pair, on_row)?;
    let mut left = pairs.left().into_iter();
    if ended.is_continue() {
        let _ = left.try_for_each(|(at, reason)| on_row(Streamed::Alone(reason), None, &at));
    }
    Ok(())
}

/// A row's task, and what decided it.
type Task = (String, TaskBy);

type PairParts = (Task, Sides);

fn pair_parts(
    pairs: &mut PairReader,
    row: &Object,
    at: &Location,
    options: &LoadOptions,
) -> Result<Vec<PairParts>, String> {
    let with_task = |sides: Sides| Ok((options.tasks.of(row, &sides.prompt)?, sides));
    pairs.read(row, at)?.into_iter().map(with_task).collect()
}

fn pair(id: RowId, ((task, task_by), sides): PairParts, arguments: TemplateArguments) -> Pair {
    let Sides { prompt, chosen, rejected, source, gap } = sides;
    Pair { id, task, task_by, prompt, chosen, rejected, source, gap, arguments }
}

/// Conversations in any of the formats of [`Format`] that hold one; each ends with an assistant turn. Ids and errors as in
/// [`load_pairs`].
pub fn load_conversations(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Conversation>, DataError> {
    load(files, options, |row, _| conversation_parts(row, options), conversation)
}

/// The same rows one by one, as in [`stream_pairs`].
pub fn stream_conversations(
    files: &[PathBuf],
    options: &LoadOptions,
    on_row: &mut OnRow<Conversation>,
) -> Result<(), DataError> {
    stream(files, |row, _| conversation_parts(row, options), conversation, on_row).map(drop)
}

fn conversation_parts(row: &Object, options: &LoadOptions) -> Result<Vec<Vec<Message>>, String> {
    Ok(vec![formats::conversation_of(row, options.format)?])
}

fn conversation(id: RowId, messages: Vec<Message>, arguments: TemplateArguments) -> Conversation {
    Conversation { id, messages, arguments }
}

/// Rows `{"prompt": text or messages, "response": text}` with optional `task` and `id`, as in [`load_pairs`], and the other
/// formats of [`Format`] that hold a prompt with one response.
pub fn load_responses(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Response>, DataError> {
    load(files, options, |row, _| response_parts(row, options), response)
}

/// The same rows one by one, as in [`stream_pairs`].
pub fn stream_responses(
    files: &[PathBuf],
    options: &LoadOptions,
    on_row: &mut OnRow<Response>,
) -> Result<(), DataError> {
    stream(files, |row, _| response_parts(row, options), response, on_row).map(drop)
}

type ResponseParts = (Vec<Message>, String, Task);

fn response_parts(row: &Object, options: &LoadOptions) -> Result<Vec<ResponseParts>, String> {
    check_judged(&arguments_of(row)?)?;
    let (prompt, response) = formats::response_of(row, options.format)?;
    let task = options.tasks.of(row, &prompt)?;
    Ok(vec![(prompt, response, task)])
}

fn response(id: RowId, (prompt, response, (task, task_by)): ResponseParts, arguments: TemplateArguments) -> Response {
    Response { id, task, task_by, prompt, response, arguments }
}

/// Rows `{"prompt": text or messages, "responses": [text, …]}` with optional `task` and `id`, as in [`load_pairs`].
pub fn load_candidates(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Candidates>, DataError> {
    let parts = |row: &Object, _: &Location| {
        check_judged(&arguments_of(row)?)?;
        let (prompt, responses) = formats::candidates_of(row)?;
        let task = options.tasks.of(row, &prompt)?;
        Ok(vec![(prompt, responses, task)])
    };
    load(files, options, parts, |id, (prompt, responses, (task, task_by)), arguments| Candidates {
        id,
        task,
        task_by,
        prompt,
        responses,
        arguments,
    })
}

/// Rows that `read` understands, given its fields and its position over all files: those of a benchmark, whose ids may repeat.
/// Errors as in [`load_pairs`].
pub fn load_rows<T>(
    files: &[PathBuf],
    on_bad_row: OnBadRow,
    mut read: impl FnMut(&Map<String, Value>, u64) -> Result<T, String>,
) -> Result<Loaded<T>, DataError> {
    let files = &resolve(files)?;
    check_distinct(files)?;
    let (mut reader, mut skipped) = (RowReader::default(), Skipped::default());
    let (mut rows, mut locations) = (Vec::new(), Vec::new());
    for file in files {
        reader.read(file, &mut |row, position, location| {
            let of = |fields: Object| check_row(&fields).and_then(|()| read(&fields, position));
            match row.and_then(|row| object_of(row.value)).and_then(of) {
                Ok(row) => {
                    rows.push(row);
                    locations.push(location.clone());
                    Ok(())
                }
                Err(reason) => skipped.refuse(location, reason, on_bad_row),
            }
        })?;
    }
    Loaded { rows, locations, skipped, on_bad_row }.some()
}

/// Rows `{"prompt": text or messages}` with an optional `id`, as in [`load_pairs`]. In a `chat` a text is turns too, as for a
/// judge; otherwise it is taken as it is.
pub fn load_prompts(files: &[PathBuf], options: &LoadOptions, chat: bool) -> Result<Loaded<Prompt>, DataError> {
    let read = |row: &Object, _: &Location| Ok(vec![formats::prompt_text_of(row, chat)?]);
    load(files, options, read, |id, text, arguments| Prompt { id, text, arguments })
}

/// What a row of a stream holds.
#[derive(Debug)]
pub enum Streamed<T> {
    /// Its records: usually one. None: the row holds a half of a pair, and waits for another row with the other half.
    Records(Vec<T>),
    /// Why it is of no use.
    Bad(String),
    /// At the end, for a row that has waited in vain: why that makes it bad.
    Alone(String),
}

impl<T> Streamed<T> {
    /// The same with other records.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Streamed<U> {
        match self {
            Self::Records(records) => Streamed::Records(records.into_iter().map(convert).collect()),
            Self::Bad(reason) => Streamed::Bad(reason),
            Self::Alone(reason) => Streamed::Alone(reason),
        }
    }
}

/// Called with what a row holds, its fields where it has any, and its location. It may end the reading.
pub type OnRow<'a, T> = dyn FnMut(Streamed<T>, Option<&Map<String, Value>>, &Location) -> ControlFlow<()> + 'a;

/// The records of a row, before it is known what they are called.
struct Unjoined<R> {
    own: Option<String>,
    position: u64,
    file: usize,
    records: Vec<R>,
    arguments: TemplateArguments,
}

impl<R> Unjoined<R> {
    /// Each record with what its id depends on.
    fn into_records(self) -> impl Iterator<Item = (Unnamed, R, TemplateArguments)> {
        let Self { own, position, file, records, arguments } = self;
        let several = records.len() > 1;
        records.into_iter().enumerate().map(move |(part, record)| {
            let id = Unnamed { own: own.clone(), position, part: several.then_some(part), file };
            (id, record, arguments.clone())
        })
    }
}

/// Reads the records that `read` makes of each row, and joins them with their ids once all rows are known.
fn load<R, T>(
    files: &[PathBuf],
    options: &LoadOptions,
    read: impl FnMut(&Object, &Location) -> Result<Vec<R>, String>,
    join: impl Fn(RowId, R, TemplateArguments) -> T,
) -> Result<Loaded<T>, DataError> {
    let files = &resolve(files)?;
    let mut skipped = Skipped::default();
    let (mut parts, mut locations, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    each_row(files, read, |row, _, location| match row {
        Ok(row) => {
            for (id, record, arguments) in row.into_records() {
                parts.push((record, arguments));
                locations.push(location.clone());
                unnamed.push(id);
            }
            Ok(())
        }
        Err(reason) => skipped.refuse(location, reason, options.on_bad_row),
    })?;
    let named = name_rows(&unnamed, &names_of(files)).into_iter().zip(parts);
    let rows = named.map(|(id, (record, arguments))| join(id, record, arguments)).collect();
    Loaded { rows, locations, skipped, on_bad_row: options.on_bad_row }.some()
}

/// Reads the records that `read` makes of each row, and hands them on. Answers whether that went to the end.
fn stream<R, T>(
    files: &[PathBuf],
    read: impl FnMut(&Object, &Location) -> Result<Vec<R>, String>,
    join: impl Fn(RowId, R, TemplateArguments) -> T,
    on_row: &mut OnRow<T>,
) -> Result<ControlFlow<()>, DataError> {
    let files = &resolve(files)?;
    let names = names_of(files);
    let result = each_row(files, read, |row, fields, location| {
        let named = |(id, record, arguments)| join(name_row(&id, &names), record, arguments);
        let row = match row {
            Ok(row) => Streamed::Records(row.into_records().map(named).collect()),
            Err(reason) => Streamed::Bad(reason),
        };
        on_row(row, fields, location).is_continue().then_some(()).ok_or(DataError::Stopped)
    });
    match result {
        Err(DataError::Stopped) => Ok(ControlFlow::Break(())),
        result => result.map(ControlFlow::Continue),
    }
}

fn names_of(files: &[PathBuf]) -> Vec<Arc<str>> {
    files.iter().map(|path| path.display().to_string().into()).collect()
}

/// Gives the records that `read` makes of each row of the files to `on_row`, or why it is bad, and its fields. An error of
/// `on_row` ends the reading.
fn each_row<R>(
    files: &[PathBuf],
    mut read: impl FnMut(&Object, &Location) -> Result<Vec<R>, String>,
    mut on_row: impl FnMut(Result<Unjoined<R>, String>, Option<&Object>, &Location) -> Result<(), DataError>,
) -> Result<(), DataError> {
    if files.is_empty() {
        return Err(DataError::NoFiles);
    }
    check_distinct(files)?;
    let mut reader = RowReader::default();
    for (file, path) in files.iter().enumerate() {
        let mut ids = UsedIds::default();
        reader.read(path, &mut |row, position, location| {
            let row = row.and_then(|Row { value, text }| Ok((object_of(value)?, text)));
            let (fields, text) = match row {
                Ok(row) => row,
                Err(reason) => return on_row(Err(reason), None, location),
            };
            let mut unjoined = || {
                check_row(&fields)?;
                let own = formats::id_of(&fields).map(|id| written_id(id, text));
                ids.check(own.as_deref())?;
                let (records, arguments) = (read(&fields, location)?, arguments_of(&fields)?);
                ids.take(own.as_deref(), records.len())?;
                Ok(Unjoined { own, position, file, records, arguments })
            };
            let row = unjoined();
            on_row(row, Some(&fields), location)
        })?;
    }
    Ok(())
}

/// The ids of the rows of a file and of their records, by hashes that are never the same by chance: a file of millions of rows
/// has millions of them.
#[derive(Default)]
struct UsedIds(HashSet<[u8; 16]>);

impl UsedIds {
    /// An error if a row was called this before.
    fn check(&self, own: Option<&str>) -> Result<(), String> {
        match own.filter(|id| self.0.contains(&hash(id))) {
            Some(id) => Err(format!("id {id} was used before in this file; ids must be unique in a file")),
            None => Ok(()),
        }
    }

    /// Takes the id of a row, and those of its records where it has several.
    fn take(&mut self, own: Option<&str>, records: usize) -> Result<(), String> {
        let Some(id) = own else { return Ok(()) };
        let parts = if records > 1 { records } else { 0 };
        for name in (0..parts).map(|part| part_of(id, part)).chain([id.to_string()]) {
            self.check(Some(&name))?;
            self.0.insert(hash(&name));
        }
        Ok(())
    }
}

fn hash(id: &str) -> [u8; 16] {
    *blake3::hash(id.as_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// A file that is given twice would have every id twice, and nothing would tell its rows apart.
fn check_distinct(files: &[PathBuf]) -> Result<(), DataError> {
    let mut real: Vec<(PathBuf, &Path)> = Vec::new();
    for path in files {
        // A file that is not there is named when it is opened.
        let Ok(at) = path.canonicalize() else { continue };
        if let Some((_, first)) = real.iter().find(|(other, _)| *other == at) {
            return Err(DataError::GivenTwice { path: path.clone(), first: first.to_path_buf() });
        }
        real.push((at, path));
    }
    Ok(())
}

fn object_of(row: Value) -> Result<Object, String> {
    match row {
        Value::Object(row) => Ok(present(row)),
        other => Err(format!("expected a JSON object, got {}", kind(&other))),
    }
}
