//! A line of `annotate --output`: a pair with every judgement of both sides.

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::AskedPair;
use super::selection::{Outcome, Rule};
use crate::commands::judged_response::{PairJudged, ResponseJudged};
use crate::commands::judged_rows::RowVotes;
use crate::data::RowId;
use crate::file::{RowOutput, RowWriter};

/// One line of the output.
#[derive(Debug, Serialize, Deserialize)]
pub struct AnnotatedRow {
    /// As it came; a pair without one has its position over all files.
    pub id: RowId,
    /// The pair's number in the data, from 0.
    pub position: usize,
    /// The input file, where there are several: their ids may be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub task: String,
    /// The set that the row says it is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(flatten)]
    pub pair: PairJudged,
    /// Tokens that the judge wrote.
    pub tokens: u64,
    /// Tokens of its prompts, counted for each judgement; 0 if a server does not count them.
    pub prompt_tokens: u64,
    /// Why a response was not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl AnnotatedRow {
    /// The line of a pair whose votes are all there.
    fn new(position: usize, pair: &AskedPair, of: RowVotes) -> Self {
        let RowVotes { votes, tokens, skipped } = of;
        let mut sides = votes.into_iter().map(ResponseJudged::new);
        let mut side = || sides.next().unwrap_or_else(|| ResponseJudged::new(Vec::new()));
        let (chosen, rejected) = (side(), side());
        Self {
            id: pair.id.clone(),
            position,
            file: pair.file.clone(),
            task: pair.task.clone(),
            source: pair.source.clone(),
            pair: PairJudged::new(chosen, rejected),
            tokens: tokens.written,
            prompt_tokens: tokens.read,
            skipped,
        }
    }
}

/// What became of the pairs so far, by those of an earlier process too.
pub struct Sheet<'a> {
    pairs: &'a [AskedPair],
    rule: Rule,
    outcomes: Vec<Option<Outcome>>,
}

impl<'a> Sheet<'a> {
    /// Nothing is judged yet.
    pub fn new(pairs: &'a [AskedPair], rule: Rule) -> Self {
        Self { pairs, rule, outcomes: pairs.iter().map(|_| None).collect() }
    }

    /// Begins to write, and keeps the rows that are there already. An error if one of them cannot be read.
    pub fn begin(&mut self, output: RowOutput, made_with: &Value) -> anyhow::Result<RowWriter> {
        let ids: Vec<Value> = self.pairs.iter().map(|pair| pair.id.given()).collect();
        let keep = |row: &Value| {
            if let Ok(row) = AnnotatedRow::deserialize(row)
                && let Some(free) = self.outcomes.get_mut(row.position)
            {
                *free = Some(Outcome::of(row, self.rule));
            }
        };
        let writer = output.begin(made_with, &ids, 1, keep)?;
        for (index, pair) in self.pairs.iter().enumerate().filter(|(index, _)| writer.has(*index)) {
            let id = pair.id.json();
            let reason = "is no row of `annotate`: it was changed; --overwrite begins again";
            ensure!(self.outcomes[index].is_some(), "--output: row {} (id {id}) {reason}", index + 1);
        }
        Ok(writer)
    }

    /// Takes the votes of a pair, and returns its line.
    pub fn line(&mut self, index: usize, of: RowVotes) -> String {
        let row = AnnotatedRow::new(index, &self.pairs[index], of);
        let line = serde_json::to_string(&row).expect("texts and numbers are JSON") + "\n";
        self.outcomes[index] = Some(Outcome::of(row, self.rule));
        line
    }

    /// What became of all pairs, in their order.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes.into_iter().flatten().collect()
    }
}
