//! The columns that an evaluation has in tables of results: declared beside the struct whose fields they show.

/// What the report shows of an evaluation's results.
pub struct Evaluation {
    pub columns: &'static [Column],
    /// Keys of results that are shares by task, each with its name for readers.
    pub by_task: &'static [(&'static str, &'static str)],
    /// The keys of its results, by [`super::charts::keys_of`]: columns may name no other.
    pub keys: fn() -> Vec<String>,
}

/// One column of a table of results.
pub struct Column {
    pub key: &'static str,
    /// For readers.
    pub name: &'static str,
    pub form: Form,
    pub more_is_better: bool,
    /// Whether it is one of the few numbers that a reader wants first.
    pub first: bool,
    /// A sentence that explains it, without its full stop; may be empty.
    pub meaning: &'static str,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A share of one, as percent.
    Percent,
    /// Points on the judge's scale, with a sign.
    Points,
    /// A plain number.
    Number,
}
