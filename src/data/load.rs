//! Files of rows to pairs, conversations and responses: ids, tasks, and what to do with bad rows.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::Value;

use super::formats::{self, Object};
use super::jsonl::{Place, RowReader};
use super::{BadLine, Conversation, DataError, Pair, Response, Skipped};

/// How rows are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// The task of rows that name none.
    pub default_task: String,
    pub bad_lines: BadLine,
}

/// Usable rows in the order of the files, and what was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    pub rows: Vec<T>,
    pub skipped: Skipped,
}

/// Preference pairs in any of the formats of [`formats::pair_of`], told apart row by row.
///
/// A pair's id is its row's integer `id`, or else the row's position over all files in their order, bad rows included
/// (so skipping a row renumbers nothing). An id that comes twice, an unreadable file and a file without rows are errors
/// under either policy for bad rows.
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

fn load<T>(
    files: &[PathBuf],
    options: &LoadOptions,
    mut convert: impl FnMut(&Object, u64) -> Result<T, String>,
) -> Result<Loaded<T>, DataError> {
    let mut reader = RowReader::new(options.bad_lines);
    let mut rows = Vec::new();
    let mut ids = HashSet::new();
    for path in files {
        reader.read(path, &mut |row, position, place| {
            let converted = object_of(&row).and_then(|row| {
                let id = formats::id_of(row)?.unwrap_or(position);
                Ok((id, convert(row, id)?))
            });
            Ok(match converted {
                Ok((id, item)) => {
                    check_new(&mut ids, id, place)?;
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
    row.as_object().ok_or_else(|| format!("expected a JSON object, got {}", formats::kind(row)))
}

fn check_new(ids: &mut HashSet<u64>, id: u64, place: &Place) -> Result<(), DataError> {
    if ids.insert(id) {
        return Ok(());
    }
    Err(DataError::DuplicateId { path: place.path.clone(), unit: place.unit, number: place.number, id })
}
