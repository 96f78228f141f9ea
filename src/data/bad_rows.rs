//! Rows of no use: where they are, and what becomes of them.

use std::path::Path;
use std::sync::Arc;

use super::DataError;

/// How many reasons of skipped rows are kept.
const REASONS_MAX: usize = 5;

/// What to do with a bad row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// It is an error with file, line and reason.
    #[default]
    Refuse,
    /// It is left out and counted.
    Skip,
}

/// Rows that were left out under [`OnBadRow::Skip`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub count: usize,
    /// The first few, each with file, line and reason.
    pub reasons: Vec<String>,
    /// The file of the first.
    file: Option<Arc<Path>>,
}

impl Skipped {
    /// Counts a bad row, or makes it an error where bad rows are refused.
    pub fn refuse(&mut self, location: &Location, reason: String, on: OnBadRow) -> Result<(), DataError> {
        let bad = location.bad(reason);
        if on == OnBadRow::Refuse {
            return Err(bad);
        }
        self.count += 1;
        self.file.get_or_insert_with(|| location.path.clone());
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(bad.to_string());
        }
        Ok(())
    }

    /// The file of the first bad row.
    pub(super) fn first_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub path: Arc<Path>,
    /// `line` of a file of JSON lines, `row` of an array or of Parquet.
    pub unit: &'static str,
    /// Counted from 1; lines include blank ones.
    pub number: usize,
}

impl Location {
    /// The error of a bad row that is here.
    pub fn bad(&self, reason: String) -> DataError {
        DataError::BadRow { path: self.path.to_path_buf(), unit: self.unit, number: self.number, reason }
    }
}
