//! Reads files of rows as pairs, conversations and responses, with their ids and tasks.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Object, kind, present};
use super::formats;
use super::row_fields::{arguments_of, check_judged, check_row};
use super::row_id::{RowId, Unnamed, name_row, name_rows, written_id};
use super::row_reader::{Row, RowReader};
use super::{Conversation, DataError, Location, Message, OnBadRow, Pair, Prompt, Response, Skipped, TemplateArguments};

/// How rows are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// The task of rows that name none.
    pub default_task: String,
    pub on_bad_row: OnBadRow,
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

/// Preference pairs in any of the formats of [`formats::pair_of`], which is recognised row by row.
///
/// A pair's id is its row's `id` as it came, or else the row's position over all files in their order ([`RowId`]). Bad rows
/// count too, so skipping one changes no position. An id that the same file has used before makes a row bad. An unreadable
/// file, a file without rows and a file that is given twice are errors even if bad rows are skipped.
pub fn load_pairs(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Pair>, DataError> {
    load(files, options, pair_parts(options), pair)
}

/// The same rows, given to `on_row` one by one and not kept; bad ones come with their reason, whatever the options say. An id is
/// the row's own or its position, and of several files also the file: nobody has looked whether another file has it too. `on_row`
/// may end the reading.
pub fn stream_pairs(files: &[PathBuf], options: &LoadOptions, on_row: &mut OnRow<Pair>) -> Result<(), DataError> {
    stream(files, pair_parts(options), pair, on_row)
}

fn pair_parts(options: &LoadOptions) -> impl FnMut(&Object) -> Result<(formats::Sides, String), String> {
    |row| {
        let sides = formats::pair_of(row)?;
        let task = formats::task_of(row)?.unwrap_or_else(|| options.default_task.clone());
        Ok((sides, task))
    }
}

fn pair(id: RowId, (sides, task): (formats::Sides, String), arguments: TemplateArguments) -> Pair {
    Pair { id, task, prompt: sides.prompt, chosen: sides.chosen, rejected: sides.rejected, arguments }
}

/// Rows of [`formats::conversation_of`], which end with an assistant turn. Ids and errors as in [`load_pairs`].
pub fn load_conversations(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Conversation>, DataError> {
    load(files, options, formats::conversation_of, conversation)
}

/// The same rows one by one, as in [`stream_pairs`].
pub fn stream_conversations(files: &[PathBuf], on_row: &mut OnRow<Conversation>) -> Result<(), DataError> {
    stream(files, formats::conversation_of, conversation, on_row)
}

fn conversation(id: RowId, messages: Vec<Message>, arguments: TemplateArguments) -> Conversation {
    Conversation { id, messages, arguments }
}

/// Rows `{"prompt": text or messages, "response": text}` with optional `task` and `id`, as in [`load_pairs`].
pub fn load_responses(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Response>, DataError> {
    load(files, options, response_parts(options), response)
}

/// The same rows one by one, as in [`stream_pairs`].
pub fn stream_responses(
    files: &[PathBuf],
    options: &LoadOptions,
    on_row: &mut OnRow<Response>,
) -> Result<(), DataError> {
    stream(files, response_parts(options), response, on_row)
}

type ResponseParts = (Vec<Message>, String, String);

fn response_parts(options: &LoadOptions) -> impl FnMut(&Object) -> Result<ResponseParts, String> {
    |row| {
        let task = formats::task_of(row)?.unwrap_or_else(|| options.default_task.clone());
        check_judged(&arguments_of(row)?)?;
        let (prompt, response) = formats::response_of(row)?;
        Ok((prompt, response, task))
    }
}

fn response(id: RowId, (prompt, response, task): ResponseParts, arguments: TemplateArguments) -> Response {
    Response { id, task, prompt, response, arguments }
}

/// Rows `{"prompt": text or messages}` with an optional `id`, as in [`load_pairs`]. In a `chat` a text is turns too, as for a
/// judge; otherwise it is taken as it is.
pub fn load_prompts(files: &[PathBuf], options: &LoadOptions, chat: bool) -> Result<Loaded<Prompt>, DataError> {
    load(files, options, |row| formats::prompt_text_of(row, chat), |id, text, arguments| Prompt { id, text, arguments })
}

/// Called with a row, or why it is bad, and its location.
pub type OnRow<'a, T> = dyn FnMut(Result<T, String>, &Location) -> ControlFlow<()> + 'a;

/// What a row holds, before it is known what it is called.
struct Unjoined<R> {
    id: Unnamed,
    part: R,
    arguments: TemplateArguments,
}

/// Reads what `read` makes of each row, and joins it with the row's id once all rows are known.
fn load<R, T>(
    files: &[PathBuf],
    options: &LoadOptions,
    read: impl FnMut(&Object) -> Result<R, String>,
    join: impl Fn(RowId, R, TemplateArguments) -> T,
) -> Result<Loaded<T>, DataError> {
    let mut skipped = Skipped::default();
    let (mut parts, mut locations, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    each_row(files, read, |row, location| match row {
        Ok(Unjoined { id, part, arguments }) => {
            parts.push((part, arguments));
            locations.push(location.clone());
            unnamed.push(id);
            Ok(())
        }
        Err(reason) => skipped.refuse(location, reason, options.on_bad_row),
    })?;
    let named = name_rows(&unnamed, &names_of(files)).into_iter().zip(parts);
    let rows = named.map(|(id, (part, arguments))| join(id, part, arguments)).collect();
    Loaded { rows, locations, skipped, on_bad_row: options.on_bad_row }.some()
}

/// Reads what `read` makes of each row, and hands it on.
fn stream<R, T>(
    files: &[PathBuf],
    read: impl FnMut(&Object) -> Result<R, String>,
    join: impl Fn(RowId, R, TemplateArguments) -> T,
    on_row: &mut OnRow<T>,
) -> Result<(), DataError> {
    let names = names_of(files);
    let result = each_row(files, read, |row, location| {
        let row = row.map(|row| join(name_row(row.id, &names), row.part, row.arguments));
        on_row(row, location).is_continue().then_some(()).ok_or(DataError::Stopped)
    });
    match result {
        Err(DataError::Stopped) => Ok(()),
        result => result,
    }
}

fn names_of(files: &[PathBuf]) -> Vec<Arc<str>> {
    files.iter().map(|path| path.display().to_string().into()).collect()
}

/// Gives what `read` makes of each row of the files to `on_row`, or why it is bad. An error of `on_row` ends the reading.
fn each_row<R>(
    files: &[PathBuf],
    mut read: impl FnMut(&Object) -> Result<R, String>,
    mut on_row: impl FnMut(Result<Unjoined<R>, String>, &Location) -> Result<(), DataError>,
) -> Result<(), DataError> {
    if files.is_empty() {
        return Err(DataError::NoFiles);
    }
    check_distinct(files)?;
    let mut reader = RowReader::default();
    for (file, path) in files.iter().enumerate() {
        let mut ids = UsedIds::default();
        reader.read(path, &mut |row, position, location| {
            let row = row.and_then(|Row { value, text }| {
                let fields = object_of(value)?;
                check_row(&fields)?;
                let own = formats::id_of(&fields).map(|id| written_id(id, text));
                let (part, arguments) = (read(&fields)?, arguments_of(&fields)?);
                own.iter().try_for_each(|id| ids.take(id))?;
                Ok(Unjoined { id: Unnamed { own, position, file }, part, arguments })
            });
            on_row(row, location)
        })?;
    }
    Ok(())
}

/// The ids of the rows of a file, by hashes that never are the same by chance: a file of millions of rows has millions of them.
#[derive(Default)]
struct UsedIds(HashSet<[u8; 16]>);

impl UsedIds {
    fn take(&mut self, id: &str) -> Result<(), String> {
        let hash = *blake3::hash(id.as_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes");
        match self.0.insert(hash) {
            true => Ok(()),
            false => Err(format!("id {id} was used before in this file; ids must be unique in a file")),
        }
    }
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
