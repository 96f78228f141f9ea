//! What the four commands read.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::record::Record;
use crate::data::{
    DataError, LoadOptions, Location, OnBadRow, sources, stream_conversations, stream_pairs, stream_responses,
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
    /// Task of rows that name none.
    #[arg(long, default_value = "chat")]
    pub default_task: String,
}

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

    /// Gives every row of `files` to `on_row`, or why it is bad, until that ends it.
    pub fn stream(
        &self,
        files: &[PathBuf],
        on_row: &mut dyn FnMut(Result<Record, String>, &Location) -> ControlFlow<()>,
    ) -> Result<(), DataError> {
        // A stream gives bad rows with their reason, whatever the options say.
        let options = LoadOptions { default_task: self.default_task.clone(), on_bad_row: OnBadRow::Skip };
        match self.kind {
            Kind::Pairs => stream_pairs(files, &options, &mut |row, at| on_row(row.map(Record::Pair), at)),
            Kind::Conversations => {
                stream_conversations(files, &mut |row, at| on_row(row.map(Record::Conversation), at))
            }
            Kind::Responses => stream_responses(files, &options, &mut |row, at| on_row(row.map(Record::Response), at)),
        }
    }
}
