//! `data mix`: one training set from several files.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{anyhow, ensure};
use clap::Args;

use super::content::{ContentHash, is_within};
use super::convert::{Ids, OutputArgs};
use super::input::InputArgs;
use super::overlap::Benchmarks;
use super::reasons::{Reasons, place};
use super::record::Record;
use crate::config::SEED;
use crate::data::{Location, Message, Streamed, sources};
use crate::file::{counted, say};
use crate::setting::{count, number};

/// Make one training set of several files.
///
/// Every file gives all its usable rows, or the share or number that --take says. A row that says what an earlier one says is
/// left out, and so is one whose prompt shares a run of words with a prompt of --against (benchmarks that the judge is to be
/// measured by). --cap-task and --cap-source bound what one task or source gives. --holdout puts a share of the prompts into a
/// file of its own: all rows of a prompt go to the same side.
///
/// Which rows are taken depends on what they say and on --seed, not on their order or their files' names, so a file that is
/// added changes nothing of what the others give. The rows are those of `data convert`, in the order of the input, and are
/// there whole or not at all. The files are read twice; only hashes are kept in memory.
///
///   patarm-train data mix a.jsonl b.parquet --take b.parquet=0.5 --take a.jsonl=20000 --output train.jsonl
///   patarm-train data mix *.jsonl --against reward-bench.jsonl --holdout 0.02 --holdout-output test.jsonl --output train.jsonl
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct MixArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// What a file gives: a share of its rows (0.5, 25%) or a number of them (20000); may be given several times.
    #[arg(long, value_name = "FILE=SHARE|COUNT")]
    pub take: Vec<Take>,
    /// The most rows of a task; may be given several times.
    #[arg(long, value_name = "TASK=COUNT")]
    pub cap_task: Vec<Cap>,
    /// The most rows of a source; may be given several times.
    #[arg(long, value_name = "SOURCE=COUNT")]
    pub cap_source: Vec<Cap>,
    /// Keep rows that say what an earlier one says.
    #[arg(long)]
    pub keep_duplicates: bool,
    /// Files of benchmarks; rows with their prompts are left out.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// Words that make a run which two prompts share.
    #[arg(long, value_name = "WORDS", default_value_t = 13, value_parser = crate::commands::flag::<usize>(count(1, 1000)))]
    pub ngram: usize,
    /// The share of prompts that goes to --holdout-output.
    #[arg(long, value_name = "SHARE", requires = "holdout_output", value_parser = crate::commands::flag::<f64>(number(0.0, 1.0)))]
    pub holdout: Option<f64>,
    /// Where the held-out rows go.
    #[arg(long, value_name = "FILE", requires = "holdout")]
    pub holdout_output: Option<String>,
    #[arg(long, default_value_t = 0, value_parser = crate::commands::flag::<u64>(SEED))]
    pub seed: u64,
}

/// What a file gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Take {
    file: String,
    amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Share(f64),
    Rows(u64),
}

impl FromStr for Take {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected FILE=SHARE (0.5 or 50%) or FILE=COUNT, got {text}");
        let (file, amount) = text.rsplit_once('=').ok_or_else(wrong)?;
        let share = match amount.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(|percent| percent / 100.0),
            None => amount.parse().ok().filter(|_| amount.contains('.')),
        };
        let amount = match (share, amount.parse()) {
            (Some(share), _) if (0.0..=1.0).contains(&share) => Amount::Share(share),
            (None, Ok(rows)) => Amount::Rows(rows),
            _ => return Err(wrong()),
        };
        Ok(Self { file: file.to_string(), amount })
    }
}

/// The most rows of something that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    name: String,
    rows: u64,
}

impl FromStr for Cap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cap = text.rsplit_once('=').and_then(|(name, rows)| Some((name.to_string(), rows.parse().ok()?)));
        cap.map(|(name, rows)| Self { name, rows }).ok_or_else(|| format!("expected NAME=COUNT, got {text}"))
    }
}

/// Mixes the files.
pub fn run(args: &MixArgs) -> anyhow::Result<()> {
    let inputs = Inputs::new(args)?;
    let files = inputs.files();
    let benchmarks = match args.against.as_slice() {
        [] => None,
        against => Some(Benchmarks::read(against, args.ngram)?),
    };
    let read = [&files[..], &sources::resolve(&args.against)?].concat();
    let mut train = args.output.begin(&args.output.output, &read)?;
    let held_out = args.holdout_output.as_ref();
    let mut held_out = held_out.map(|output| args.output.begin(output, &read)).transpose()?;
    let stop = crate::commands::stop_flag()?;
    let mut draw = Draw::new(args, &inputs, benchmarks);
    let reasons = each_record(args, &files, &stop, &mut |record, at| {
        draw.add(at, &record);
        Ok(())
    })?;
    draw.left_out.bad = reasons.count;
    let chosen = draw.choose();
    ensure!(!chosen.is_empty(), "no row is left: {}", draw.left_out.text());
    let (mut ids, mut written) = (Ids::default(), [0_u64; 2]);
    each_record(args, &files, &stop, &mut |record, at| {
        let Some(side) = chosen.get(&at.number) else { return Ok(()) };
        let line = record.line(&ids.name(record.id()));
        written[usize::from(*side)] += 1;
        match held_out.as_mut().filter(|_| *side) {
            Some(output) => output.put(&line)?,
            None => train.put(&line)?,
        }
        Ok(())
    })?;
    ensure!(
        written.iter().sum::<u64>() == chosen.len() as u64,
        "the files have changed while they were read; nothing is written"
    );
    train.finish()?;
    held_out.map_or(Ok(()), crate::file::WholeFile::finish)?;
    let held_out = if args.holdout.is_some() { format!(", {} held out", written[1]) } else { String::new() };
    say!("{} written{held_out}; left out: {}", counted(written[0], "row"), draw.left_out.text());
    Ok(())
}

/// The files that are mixed, and what each gives.
struct Inputs(Vec<(PathBuf, Option<Amount>, usize)>);

impl Inputs {
    /// A folder or a data set of several files gives what is said of it as one: all its files have the same number.
    fn new(args: &MixArgs) -> anyhow::Result<Self> {
        let mut inputs = Vec::new();
        for (number, input) in args.input.input.iter().enumerate() {
            let take = args.take.iter().find(|take| Path::new(&take.file) == input);
            for file in sources::resolve(std::slice::from_ref(input))? {
                ensure!(file.is_file(), "{}: is no plain file, and files are read twice", file.display());
                inputs.push((file, take.map(|take| take.amount), number));
            }
        }
        for take in &args.take {
            let known = args.input.input.iter().any(|input| Path::new(&take.file) == input);
            ensure!(known, "--take {}: is none of the input files", take.file);
        }
        Ok(Self(inputs))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.iter().map(|(file, ..)| file.clone()).collect()
    }
}

/// Where a record is: its file, and its number among the records of all files.
#[derive(Clone, Copy)]
struct At {
    file: usize,
    number: u64,
}

fn each_record(
    args: &MixArgs,
    files: &[PathBuf],
    stop: &AtomicBool,
    on_record: &mut dyn FnMut(Record, At) -> anyhow::Result<()>,
) -> anyhow::Result<Reasons> {
    let (mut ended, mut number, mut reasons) = (Ok(()), 0, Reasons::default());
    let of: HashMap<&Path, usize> = files.iter().enumerate().map(|(index, file)| (file.as_path(), index)).collect();
    args.input.stream(files, &mut |row, _, location: &Location| {
        let file = of[&*location.path];
        ended = match row {
            _ if stop.load(Ordering::Relaxed) => Err(anyhow!("stopped; nothing is written")),
            Streamed::Records(records) => records.into_iter().try_for_each(|record| {
                number += 1;
                on_record(record, At { file, number })
            }),
            Streamed::Bad(reason) | Streamed::Alone(reason) if args.output.skip_bad => {
                reasons.add(&reason, location);
                Ok(())
            }
            Streamed::Bad(reason) | Streamed::Alone(reason) => {
                Err(anyhow!("{}: {reason}; --skip-bad leaves such rows out", place(location)))
            }
        };
        if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    ended.map(|()| reasons)
}

/// Which records are taken.
struct Draw<'a> {
    args: &'a MixArgs,
    inputs: &'a Inputs,
    benchmarks: Option<Benchmarks>,
    seen: HashSet<ContentHash>,
    candidates: Vec<Candidate>,
    left_out: LeftOut,
}

/// A record that may be taken, as little of it as decides.
struct Candidate {
    /// Those with the smallest are taken first.
    order: u64,
    number: u64,
    input: u32,
    /// The caps that count it, by their place among those of tasks and of sources.
    task: Option<u32>,
    source: Option<u32>,
    held_out: bool,
}

/// How many records are left out, by the reason.
#[derive(Default)]
struct LeftOut {
    bad: u64,
    duplicates: u64,
    overlaps: u64,
    not_drawn: u64,
    over_cap: u64,
}

impl LeftOut {
    fn text(&self) -> String {
        let Self { bad, duplicates, overlaps, not_drawn, over_cap } = self;
        format!(
            "{bad} bad, {duplicates} that say what another says, {overlaps} with a prompt of --against, {not_drawn} by \
             --take, {over_cap} by a cap"
        )
    }
}

impl<'a> Draw<'a> {
    fn new(args: &'a MixArgs, inputs: &'a Inputs, benchmarks: Option<Benchmarks>) -> Self {
        let (seen, candidates, left_out) = (HashSet::new(), Vec::new(), LeftOut::default());
        Self { args, inputs, benchmarks, seen, candidates, left_out }
    }

    fn add(&mut self, at: At, record: &Record) {
        let content = record.content_hash();
        if !self.args.keep_duplicates && !self.seen.insert(content) {
            self.left_out.duplicates += 1;
            return;
        }
        if let Some(benchmarks) = &self.benchmarks {
            let users = record.prompt().iter().filter(|turn| turn.role == "user").map(Message::text);
            if users.into_iter().any(|text| benchmarks.have(&text)) {
                self.left_out.overlaps += 1;
                return;
            }
        }
        let order = content.number("take", self.args.seed);
        let (_, amount, input) = &self.inputs.0[at.file];
        if matches!(amount, Some(Amount::Share(share)) if !is_within(order, *share)) {
            self.left_out.not_drawn += 1;
            return;
        }
        let cap = |caps: &[Cap], name: Option<&str>| {
            caps.iter().position(|cap| name == Some(&cap.name)).map(|place| place as u32)
        };
        let held_out = self
            .args
            .holdout
            .is_some_and(|share| is_within(record.prompt_hash().number("holdout", self.args.seed), share));
        self.candidates.push(Candidate {
            order,
            number: at.number,
            input: *input as u32,
            task: cap(&self.args.cap_task, record.task()),
            source: cap(&self.args.cap_source, record.set()),
            held_out,
        });
    }

    /// The numbers of the records that are taken, and whether each is held out.
    fn choose(&mut self) -> HashMap<u64, bool> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|candidate| (candidate.order, candidate.number));
        let rows = |caps: &[Cap]| caps.iter().map(|cap| cap.rows).collect::<Vec<u64>>();
        let (mut tasks, mut sources) = (rows(&self.args.cap_task), rows(&self.args.cap_source));
        let mut inputs: HashMap<u32, u64> = HashMap::new();
        for (_, amount, input) in &self.inputs.0 {
            if let Some(Amount::Rows(rows)) = amount {
                inputs.insert(*input as u32, *rows);
            }
        }
        let mut chosen = HashMap::new();
        for candidate in candidates {
            let has_room = |left: Option<&u64>| left.is_none_or(|left| *left > 0);
            let task = candidate.task.and_then(|place| tasks.get_mut(place as usize));
            let source = candidate.source.and_then(|place| sources.get_mut(place as usize));
            let input = inputs.get_mut(&candidate.input);
            if !has_room(input.as_deref()) {
                self.left_out.not_drawn += 1;
            } else if !has_room(task.as_deref()) || !has_room(source.as_deref()) {
                self.left_out.over_cap += 1;
            } else {
                [task, source, input].into_iter().flatten().for_each(|left| *left -= 1);
                chosen.insert(candidate.number, candidate.held_out);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_share_or_a_number() {
        let amount = |text: &str| Take::from_str(text).map(|take| (take.file, take.amount));
        assert_eq!(amount("a=b.jsonl=0.5"), Ok(("a=b.jsonl".into(), Amount::Share(0.5))));
        assert_eq!(amount("a=25%"), Ok(("a".into(), Amount::Share(0.25))));
        assert_eq!(amount("a=1"), Ok(("a".into(), Amount::Rows(1))));
        assert_eq!(amount("a=1.0"), Ok(("a".into(), Amount::Share(1.0))));
        for wrong in ["a", "a=", "a=-1", "a=1.5", "a=101%", "a=x", "a=NaN%"] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Cap::from_str("x=y=3"), Ok(Cap { name: "x=y".into(), rows: 3 }));
        assert!(Cap::from_str("x=0.5").is_err());
    }
}
