//! What the four commands read.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::record::Record;
use crate::data::{
    DataError, Format, LoadOptions, OnBadRow, OnRow, Tasks, sources, stream_conversations, stream_pairs,
    stream_responses,
};

/// Files of rows, and what the rows are.
#[derive(Clone, Debug, Args)]
pub struct InputArgs {
    /// Files of rows, folders of them, or data sets of the hub (OWNER/NAME or OWNER/NAME:SPLIT).
    #[arg(value_name = "FILE", required = true)]
    pub input: Vec<PathBuf>,
    /// What a row is: `pairs` for `rl`, `conversations` for `sft`, `responses` for `judge`.
    #[arg(long = "as", value_name = "KIND", default_value = "pairs")]
    pub kind: Kind,
    /// The one format that rows may have, instead of finding out row by row (`data inspect` names the formats that it finds).
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Task of rows that name none. auto: the one that their source or their prompt points to, or else chat.
    #[arg(long, default_value = Tasks::AUTO)]
    pub default_task: String,
}

/// The tasks that the built-in judge has rubrics for.
const TASKS: [&str; 4] = ["chat", "code", "math", "safety"];

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Pairs,
    Conversations,
    Responses,
}

impl Kind {
    /// Their name for a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Conversations => "conversations",
            Self::Responses => "responses",
        }
    }
}

impl InputArgs {
    /// The files that the input stands for.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        sources::resolve(&self.input)
    }

    /// Gives every row of `files` to `on_row`, until that ends it.
    pub fn stream(&self, files: &[PathBuf], on_row: &mut OnRow<Record>) -> Result<(), DataError> {
        // A stream gives bad rows with their reason, whatever the options say.
        let tasks = Tasks::given(&self.default_task, TASKS.map(String::from));
        let options = LoadOptions { tasks, on_bad_row: OnBadRow::Skip, format: self.format };
        match self.kind {
            Kind::Pairs => {
                stream_pairs(files, &options, &mut |row, fields, at| on_row(row.map(Record::Pair), fields, at))
            }
            Kind::Conversations => stream_conversations(files, &options, &mut |row, fields, at| {
                on_row(row.map(Record::Conversation), fields, at)
            }),
            Kind::Responses => {
                stream_responses(files, &options, &mut |row, fields, at| on_row(row.map(Record::Response), fields, at))
            }
        }
    }
}
