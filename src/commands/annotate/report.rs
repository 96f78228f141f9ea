//! What became of the pairs, in numbers: on the terminal and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::selection::{Fate, Outcome};
use super::{AnnotateArgs, Annotated};
use crate::file::{console, counted};
use crate::log::TextTable;

/// All numbers of an annotation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The teacher, in words.
    pub judge: String,
    pub votes_per_response: usize,
    pub min_gap: f64,
    pub per_response: usize,
    pub pairs: PairCounts,
    pub by_task: BTreeMap<String, PairCounts>,
    /// Rows that are no pairs, or that the judge cannot be asked about; they are not among the pairs.
    pub bad_rows: usize,
    /// Rows for `sft`.
    pub sft_rows: usize,
    pub votes: VoteCounts,
    pub cost: Cost,
    /// Pairs with a margin, by its size.
    pub margins: Vec<MarginCount>,
}

/// Pairs by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PairCounts {
    pub read: usize,
    pub kept: usize,
    /// By the name of the reason.
    pub dropped: BTreeMap<&'static str, usize>,
}

/// Votes by what came of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VoteCounts {
    pub asked: usize,
    pub valid: usize,
    /// By the reason why they have no score.
    pub failed: BTreeMap<String, usize>,
}

/// What the judgements took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Judgements that were asked for.
    pub calls: usize,
    /// Tokens that the judge wrote.
    pub tokens: u64,
    /// Tokens of its prompts, counted for each judgement; 0 where a server does not count them.
    pub prompt_tokens: u64,
}

/// How many pairs have a margin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MarginCount {
    pub margin: f64,
    pub kept: usize,
    pub dropped: usize,
}

impl PairCounts {
    fn add(&mut self, fate: Fate) {
        self.read += 1;
        for reason in Fate::DROPPED {
            *self.dropped.entry(reason.name()).or_default() += usize::from(reason == fate);
        }
        self.kept += usize::from(fate == Fate::Kept);
    }

    /// Pairs that were dropped for one of these reasons.
    pub fn dropped(&self, reasons: &[Fate]) -> usize {
        reasons.iter().filter_map(|reason| self.dropped.get(reason.name())).sum()
    }

    /// The share that was kept.
    pub fn kept_share(&self) -> f64 {
        self.kept as f64 / self.read.max(1) as f64
    }
}

/// The columns of reasons in tables.
pub const REASONS: [(&str, &[Fate]); 5] = [
    ("wrong way round", &[Fate::WrongWayRound]),
    ("tie", &[Fate::Tie]),
    ("too small", &[Fate::TooSmall]),
    ("no verdict", &[Fate::NoChosen, Fate::NoRejected, Fate::NoVerdict]),
    ("too long", &[Fate::TooLong]),
];

impl Report {
    /// Of all pairs.
    pub fn new(args: &AnnotateArgs, annotated: &Annotated, judge: String) -> Self {
        let mut report = Self {
            judge,
            votes_per_response: args.judging.votes,
            min_gap: args.gap(annotated.mode),
            per_response: args.per_response,
            pairs: PairCounts::default(),
            by_task: BTreeMap::new(),
            bad_rows: annotated.bad_rows,
            sft_rows: 0,
            votes: VoteCounts::default(),
            cost: Cost::default(),
            margins: margins(&annotated.outcomes),
        };
        for (pair, outcome) in annotated.pairs.iter().zip(&annotated.outcomes) {
            report.pairs.add(outcome.fate);
            report.by_task.entry(pair.task.clone()).or_default().add(outcome.fate);
            report.sft_rows += outcome.learnt.iter().map(Vec::len).sum::<usize>();
            report.votes.asked += outcome.votes;
            report.votes.valid += outcome.valid;
            for (name, count) in &outcome.failed {
                *report.votes.failed.entry(name.clone()).or_default() += count;
            }
            report.cost.tokens += outcome.tokens;
            report.cost.prompt_tokens += outcome.prompt_tokens;
        }
        report.cost.calls = report.votes.asked;
        report
    }

    /// Prints it.
    pub fn print(&self) -> anyhow::Result<()> {
        Ok(console::print_line(self.text().trim_end())?)
    }

    fn text(&self) -> String {
        let header = ["pairs", "read", "kept", ""].into_iter().chain(REASONS.map(|(name, _)| name));
        let mut table = TextTable::new(header);
        let rows = self.by_task.iter().map(|(task, counts)| (format!("  {task}"), counts));
        for (name, counts) in std::iter::once(("all".to_string(), &self.pairs)).chain(rows) {
            let cells = [
                name,
                counts.read.to_string(),
                counts.kept.to_string(),
                format!("{:.1} %", 100.0 * counts.kept_share()),
            ];
            table.row(cells.into_iter().chain(REASONS.map(|(_, reasons)| counts.dropped(reasons).to_string())));
        }
        let lines: String = self.notes().iter().map(|line| format!("{line}\n")).collect();
        format!("{table}\n{lines}")
    }

    /// What must be said beside the table.
    pub fn notes(&self) -> Vec<String> {
        let [chosen, rejected, both] =
            [Fate::NoChosen, Fate::NoRejected, Fate::NoVerdict].map(|reason| self.pairs.dropped(&[reason]));
        let failures: usize = self.votes.failed.values().sum();
        let failed: Vec<String> = self.votes.failed.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let failed =
            if failures == 0 { "none failed".into() } else { format!("{failures} failed: {}", failed.join(", ")) };
        let VoteCounts { asked, valid, .. } = self.votes;
        let read = match self.cost.prompt_tokens {
            0 => String::new(),
            tokens => format!(", {} of prompts", counted(usize::try_from(tokens).unwrap_or(usize::MAX), "token")),
        };
        let written = counted(usize::try_from(self.cost.tokens).unwrap_or(usize::MAX), "token");
        let mut notes = vec![
            format!(
                "kept: chosen scores higher by more than {}; {} for sft, {} of each response",
                self.min_gap,
                counted(self.sft_rows, "row"),
                counted(self.per_response, "judgement")
            ),
            format!("no verdict: {chosen} for chosen alone, {rejected} for rejected alone, {both} for both"),
            format!("{}, {valid} with a verdict; {failed}", counted(asked, "vote")),
            format!("cost: {}, {written} written{read}", counted(self.cost.calls, "judgement")),
        ];
        if self.bad_rows > 0 {
            notes.push(format!("{} left out", counted(self.bad_rows, "bad row")));
        }
        notes
    }
}

/// How often each margin is there, in ascending order.
fn margins(outcomes: &[Outcome]) -> Vec<MarginCount> {
    let mut all: Vec<(f64, bool)> =
        outcomes.iter().filter_map(|of| Some((of.margin?, of.fate == Fate::Kept))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = |group: &[(f64, bool)]| {
        let kept = group.iter().filter(|(_, kept)| *kept).count();
        MarginCount { margin: group[0].0, kept, dropped: group.len() - kept }
    };
    all.chunk_by(|a, b| a.0 == b.0).map(count).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::judge::JudgeMode;

    /// A report of a few pairs.
    pub fn report() -> Report {
        let outcome = |fate, margin, learnt: usize| Outcome {
            fate,
            margin,
            learnt: [vec![(0, "text".to_string()); learnt], vec![(1, "text".to_string()); learnt]],
            votes: 4,
            valid: 3,
            failed: BTreeMap::from([("malformed".to_string(), 1)]),
            tokens: 10,
            prompt_tokens: 100,
        };
        let outcomes = vec![
            outcome(Fate::Kept, Some(4.0), 1),
            outcome(Fate::Kept, Some(4.0), 1),
            outcome(Fate::TooSmall, Some(2.0), 0),
            outcome(Fate::WrongWayRound, Some(-1.0), 0),
            outcome(Fate::NoRejected, None, 0),
        ];
        let pair = |task: &str| super::super::AskedPair {
            id: crate::data::RowId::from(0),
            file: None,
            task: task.into(),
            source: None,
            prompts: Default::default(),
        };
        let pairs = ["chat", "math", "chat", "<b>", "chat"].map(pair).into();
        let annotated = Annotated { pairs, outcomes, bad_rows: 2, thinking: false, mode: JudgeMode::Pointwise };
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: AnnotateArgs,
        }
        let line = "annotate --data d --model m --sft s --output o --votes 2";
        Report::new(&Line::parse_from(line.split(' ')).args, &annotated, "a & b".into())
    }

    #[test]
    fn every_pair_is_counted_once_and_by_its_task() {
        let report = report();
        let sum = |counts: &PairCounts| counts.kept + counts.dropped.values().sum::<usize>();
        assert_eq!((report.pairs.read, sum(&report.pairs)), (5, 5));
        assert_eq!(report.by_task.values().map(sum).sum::<usize>(), 5);
        assert_eq!((report.by_task["chat"].read, report.by_task["chat"].kept), (3, 1));
        assert_eq!((report.sft_rows, report.bad_rows, report.cost.calls), (4, 2, 20));
        let margin = |margin, kept, dropped| MarginCount { margin, kept, dropped };
        assert_eq!(report.margins, [margin(-1.0, 0, 1), margin(2.0, 0, 1), margin(4.0, 2, 0)]);
        let text = report.text();
        for part in [
            "all        5     2   40.0 %                1    0          1           1         0",
            "no verdict: 0 for chosen alone, 1 for rejected alone, 0 for both",
            "20 votes, 15 with a verdict; 5 failed: 5 malformed",
            "cost: 20 judgements, 50 tokens written, 500 tokens of prompts",
            "2 bad rows left out",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
