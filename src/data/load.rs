//! Reads files of rows as pairs, conversations and responses, with their ids and tasks.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Object, kind, present};
use super::formats::{self, Format, PairReader, Sides};
use super::jsonl::{Location, RowReader};
use super::row_fields::{arguments_of, check_judged, check_row};
use super::row_id::{RowId, Unnamed, name_rows, part_of, written_id};
use super::{Conversation, DataError, OnBadRow, Pair, Prompt, Response, Skipped, Tasks, TemplateArguments};

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
    let mut loaded = load(
        files,
        options,
        |row, at| {
            let with_task = |sides: Sides| Ok((options.tasks.of(row, &sides.prompt)?, sides));
            pairs.read(row, at)?.into_iter().map(with_task).collect()
        },
        |id, ((task, task_by), sides), arguments| Pair {
            id,
            task,
            task_by,
            prompt: sides.prompt,
            chosen: sides.chosen,
            rejected: sides.rejected,
            source: sides.source,
            gap: sides.gap,
            arguments,
        },
    )?;
    for (location, reason) in pairs.left() {
        loaded.skipped.refuse(&location, reason, options.on_bad_row)?;
    }
    loaded.some()
}

/// Conversations in any of the formats of [`Format`] that hold one; each ends with an assistant turn. Ids and errors as in
/// [`load_pairs`].
pub fn load_conversations(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Conversation>, DataError> {
    let read = |row: &Object, _: &Location| Ok(vec![formats::conversation_of(row, options.format)?]);
    load(files, options, read, |id, messages, arguments| Conversation { id, messages, arguments })
}

/// Rows `{"prompt": text or messages, "response": text}` with optional `task` and `id`, as in [`load_pairs`], and the other
/// formats of [`Format`] that hold a prompt with one response.
pub fn load_responses(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Response>, DataError> {
    load(
        files,
        options,
        |row, _| {
            check_judged(&arguments_of(row)?)?;
            let (prompt, response) = formats::response_of(row, options.format)?;
            Ok(vec![(options.tasks.of(row, &prompt)?, prompt, response)])
        },
        |id, ((task, task_by), prompt, response), arguments| Response {
            id,
            task,
            task_by,
            prompt,
            response,
            arguments,
        },
    )
}

/// Rows `{"prompt": text or messages}` with an optional `id`, as in [`load_pairs`]. In a `chat` a text is turns too, as for a
/// judge; otherwise it is taken as it is.
pub fn load_prompts(files: &[PathBuf], options: &LoadOptions, chat: bool) -> Result<Loaded<Prompt>, DataError> {
    let read = |row: &Object, _: &Location| Ok(vec![formats::prompt_text_of(row, chat)?]);
    load(files, options, read, |id, text, arguments| Prompt { id, text, arguments })
}

/// Reads the records that `read` makes of each row, and joins them with their ids once all rows are known.
fn load<R, T>(
    files: &[PathBuf],
    options: &LoadOptions,
    mut read: impl FnMut(&Object, &Location) -> Result<Vec<R>, String>,
    join: impl Fn(RowId, R, TemplateArguments) -> T,
) -> Result<Loaded<T>, DataError> {
    if files.is_empty() {
        return Err(DataError::NoFiles);
    }
    check_distinct(files)?;
    let names: Vec<Arc<str>> = files.iter().map(|path| path.display().to_string().into()).collect();
    let mut reader = RowReader::new(options.on_bad_row);
    let (mut parts, mut locations, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    for (file, path) in files.iter().enumerate() {
        let mut ids = HashSet::new();
        reader.read(path, &mut |row, position, location| {
            let used = |id: &str| format!("id {id} was used before in this file; ids must be unique in a file");
            let read = object_of(row.value).and_then(|fields| {
                check_row(&fields)?;
                let own = formats::id_of(&fields).map(|id| written_id(id, row.text));
                if let Some(id) = own.as_ref().filter(|id| ids.contains(*id)) {
                    return Err(used(id));
                }
                Ok((own, read(&fields, location)?, arguments_of(&fields)?))
            });
            let (own, records, arguments) = match read {
                Ok(row) => row,
                Err(reason) => return Ok(Err(reason)),
            };
            let several = records.len() > 1;
            if let Some(id) = &own {
                let names = (0..records.len()).filter(|_| several).map(|part| part_of(id, part)).chain([id.clone()]);
                for name in names {
                    if ids.contains(&name) {
                        return Ok(Err(used(&name)));
                    }
                    ids.insert(name);
                }
            }
            for (part, record) in records.into_iter().enumerate() {
                parts.push((record, arguments.clone()));
                locations.push(location.clone());
                unnamed.push(Unnamed { own: own.clone(), position, part: several.then_some(part), file });
            }
            Ok(Ok(()))
        })?;
    }
    let named = name_rows(&unnamed, &names).into_iter().zip(parts);
    let rows = named.map(|(id, (part, arguments))| join(id, part, arguments)).collect();
    Loaded { rows, locations, skipped: reader.skipped, on_bad_row: options.on_bad_row }.some()
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
