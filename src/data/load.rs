//! Reads files of rows as pairs, conversations and responses, with their ids and tasks.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::Value;

use super::fields::{Object, kind};
use super::formats;
use super::jsonl::{Location, RowReader};
use super::{Conversation, DataError, OnBadRow, Pair, Prompt, Response, Skipped};

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
    pub skipped: Skipped,
}

/// Preference pairs in any of the formats of [`formats::pair_of`], which is recognised row by row.
///
/// A pair's id is its row's integer `id`, or else the row's position over all files in their order. Bad rows count too, so
/// skipping one changes no id. A repeated id, an unreadable file and a file without rows are errors even if bad rows are
/// skipped.
pub fn load_pairs(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Pair>, DataError> {
    load(files, options, |row, id| {
        let sides = formats::pair_of(row)?;
        let task = formats::task_of(row)?.unwrap_or_else(|| options.default_task.clone());
        Ok(Pair { id, task, prompt: sides.prompt, chosen: sides.chosen, rejected: sides.rejected })
    })
}

/// Rows `{"messages": [{"role", "content"}, …]}` that end with an assistant turn. Ids and errors as in [`load_pairs`].
pub fn load_conversations(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Conversation>, DataError> {
    load(files, options, |row, id| Ok(Conversation { id, messages: formats::conversation_of(row)? }))
}

/// Rows `{"prompt": text or messages, "response": text}` with optional `task` and `id`, as in [`load_pairs`].
pub fn load_responses(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Response>, DataError> {
    load(files, options, |row, id| {
        let (prompt, response) = formats::response_of(row)?;
        let task = formats::task_of(row)?.unwrap_or_else(|| options.default_task.clone());
        Ok(Response { id, task, prompt, response })
    })
}

/// Rows `{"prompt": text or messages}` with an optional `id`, as in [`load_pairs`].
pub fn load_prompts(files: &[PathBuf], options: &LoadOptions) -> Result<Loaded<Prompt>, DataError> {
    load(files, options, |row, id| Ok(Prompt { id, text: formats::prompt_text_of(row)? }))
}

fn load<T>(
    files: &[PathBuf],
    options: &LoadOptions,
    mut convert: impl FnMut(&Object, u64) -> Result<T, String>,
) -> Result<Loaded<T>, DataError> {
    let mut reader = RowReader::new(options.on_bad_row);
    let mut rows = Vec::new();
    let mut ids = HashSet::new();
    for path in files {
        reader.read(path, &mut |row, position, location| {
            let converted = object_of(&row).and_then(|row| {
                let id = formats::id_of(row)?.unwrap_or(position);
                Ok((id, convert(row, id)?))
            });
            Ok(match converted {
                Ok((id, item)) => {
                    check_new(&mut ids, id, location)?;
                    rows.push(item);
                    Ok(())
                }
                Err(reason) => Err(reason),
            })
        })?;
    }
    let skipped = reader.skipped;
    if rows.is_empty() {
        let path = files.first().ok_or(DataError::NoFiles)?.clone();
        let skipped = format!("; all {} rows were bad: {}", skipped.count, skipped.reasons.join("; "));
        return Err(DataError::Empty { path, skipped });
    }
    Ok(Loaded { rows, skipped })
}

fn object_of(row: &Value) -> Result<&Object, String> {
    row.as_object().ok_or_else(|| format!("expected a JSON object, got {}", kind(row)))
}

fn check_new(ids: &mut HashSet<u64>, id: u64, location: &Location) -> Result<(), DataError> {
    if ids.insert(id) {
        return Ok(());
    }
    Err(DataError::DuplicateId { path: location.path.clone(), unit: location.unit, number: location.number, id })
}
