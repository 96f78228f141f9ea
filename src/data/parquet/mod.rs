//! Rows of Parquet files as JSON, one at a time. Of each column one page is in memory.
//!
//! The parquet crate decodes schema, levels and values. What a hostile file could use against it is ours: the footer is walked
//! through before it is decoded, pages are read and unpacked with limits, and what still makes the crate panic is caught.

mod assembly;
mod budget;
mod codec;
mod column;
mod delta;
mod footer;
mod guarded;
mod pages;
mod thrift;

use std::fs::File;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;

use assembly::{Node, fields_of};
use budget::Budget;
use column::Column;
use footer::read_footer;
use guarded::guarded;
use pages::Pages;

/// Reads the rows of a file.
pub(super) struct ParquetRows {
    file: Arc<File>,
    length: u64,
    metadata: ParquetMetaData,
    fields: Node,
    budget: Arc<Budget>,
    /// The columns of the row group that is being read; its number, counted from 1, and its rows that are left.
    columns: Vec<Column>,
    group: usize,
    left: u64,
}

/// A row with the bytes that it takes, or why it is of no use.
pub(super) type ParquetRow = Result<(Value, usize), String>;

impl ParquetRows {
    /// Opens a file. It must be a plain one: its end is read first.
    pub fn open(file: File) -> Result<Self, String> {
        let found = file.metadata().map_err(|error| error.to_string())?;
        if !found.is_file() {
            return Err("is Parquet, which cannot be read from a pipe; save it as a file first".to_string());
        }
        let length = found.len();
        let metadata = guarded(|| read_footer(&file, length))?;
        let fields = fields_of(metadata.file_metadata().schema())?;
        let (file, budget) = (Arc::new(file), Arc::new(Budget::default()));
        Ok(Self { file, length, metadata, fields, budget, columns: Vec::new(), group: 0, left: 0 })
    }

    /// The bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next row; `None` after the last. After an error there are no more.
    pub fn next(&mut self) -> Result<Option<ParquetRow>, String> {
        guarded(|| self.read())
    }

    fn read(&mut self) -> Result<Option<ParquetRow>, String> {
        while self.left == 0 {
            if self.group == self.metadata.num_row_groups() {
                return Ok(None);
            }
            self.begin_group()?;
        }
        self.left -= 1;
        self.budget.begin_row();
        let (mut bytes, mut bad) = (0, None);
        for column in &mut self.columns {
            match column.read(&mut bytes).map_err(reason)? {
                Ok(true) => {}
                Ok(false) => {
                    let left = self.left + 1;
                    return Err(format!("its row group {} ends, but should have {left} more rows", self.group));
                }
                Err(reason) => bad = bad.or(Some(reason)),
            }
        }
        Ok(Some(match bad {
            Some(reason) => Err(reason),
            None => Ok((self.fields.take(&mut self.columns)?, bytes)),
        }))
    }

    fn begin_group(&mut self) -> Result<(), String> {
        // First the pages of the last group are let go of.
        self.columns.clear();
        let group = self.metadata.row_group(self.group);
        let left = u64::try_from(group.num_rows()).map_err(|_| "a row group has a negative number of rows")?;
        for column in group.columns() {
            let pages = Pages::new(self.file.clone(), self.length, column, self.budget.clone())?;
            self.columns.push(Column::new(column.column_descr_ptr(), pages));
        }
        (self.group, self.left) = (self.group + 1, left);
        Ok(())
    }
}

/// What the crate says, without its own word for an error.
fn reason(error: ParquetError) -> String {
    match error {
        ParquetError::General(reason) | ParquetError::EOF(reason) => reason,
        other => other.to_string(),
    }
}
