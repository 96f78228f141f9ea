//! Training rows as a trainer takes them: loaded, encoded, held to a length, in a resumable order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;

use anyhow::ensure;

use super::rl::PairSource;
use super::sft::{Example, ExampleSource};
use crate::config::{Settings, SftTarget};
use crate::data::order::Order;
use crate::data::{
    Conversation, LoadOptions, OnBadRow, Pair, Skipped, TaskBy, Tasks, check_judged, hash64, load_conversations,
    load_pairs,
};
use crate::file::{counted, say};
use crate::judge::{Cuts, Judge, JudgePair};
use crate::random::{Purpose, Stream};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Pairs with their prompts.
pub struct PairDataset {
    pub pairs: Vec<JudgePair>,
    order: Order,
    /// Bad rows that were left out.
    pub skipped: usize,
    /// Pairs that were left out because a prompt is too long.
    pub too_long: usize,
    /// Those of `eval.share`: no training pair has one of their prompts.
    pub held_out: Vec<JudgePair>,
}

impl PairDataset {
    /// Reads pairs, swaps the labels of the fraction `data.flip`, and encodes the judge's prompts. An error if fewer pairs than
    /// one step needs have prompts that fit.
    pub fn load(settings: &Settings, judge: &Judge) -> anyhow::Result<Self> {
        let known = judge.settings().prompt.tasks.keys().cloned();
        let options = load_options(settings, Tasks::given(&settings.data.task, known));
        let mut loaded = load_pairs(&files(settings)?, &options)?.try_map(|mut pair| {
            flip(&mut pair, settings);
            check_judged(&pair.arguments)?;
            judge.encode_pair(pair).map_err(|error| error.to_string())
        })?;
        let limit = settings.rl.max_prompt_tokens;
        let too_long = loaded.retain(|pair| pair.prompts.iter().all(|prompt| prompt.len() <= limit));
        report_skipped(&loaded.skipped, too_long, limit);
        report_cuts(judge.cuts());
        let (held_out, pairs): (Vec<_>, Vec<_>) =
            loaded.rows.into_iter().partition(|pair| is_held_out(&pair.pair, settings));
        report_routed_tasks(pairs.iter().map(|pair| (pair.pair.task.as_str(), pair.pair.task_by)));
        report_default_tasks(|task| judge.falls_to_default(task), pairs.iter().map(|pair| pair.pair.task.as_str()));
        let (count, wanted) = (pairs.len(), settings.rl.pairs_per_step);
        ensure!(
            count >= wanted,
            "{} for rl.pairs_per_step = {wanted}: lower it, give more pairs, or raise rl.max_prompt_tokens",
            counted(count, "usable pair")
        );
        let order = Order::new(count, settings.run.seed);
        Ok(Self { pairs, order, skipped: loaded.skipped.count, too_long, held_out })
    }
}

/// Whether a pair is one of `eval.share`. What decides is the prompt, so that all its pairs are on one side, and the seed; a
/// pair more in the files moves no other.
fn is_held_out(pair: &Pair, settings: &Settings) -> bool {
    let draws = Stream::new(settings.run.seed).fold(Purpose::HeldOut as u64);
    let prompt = serde_json::to_vec(&pair.prompt).expect("messages in memory can be written");
    f64::from(draws.fold(hash64(&prompt)).uniform(0)) < settings.eval.share
}

/// Swaps the labels of the fraction `data.flip` of the pairs. Those that are held out keep theirs: they measure what the noise
/// has done.
fn flip(pair: &mut Pair, settings: &Settings) {
    let flips = Stream::new(settings.run.seed).fold(Purpose::Flip as u64);
    if f64::from(flips.fold(pair.id.key()).uniform(0)) < settings.data.flip && !is_held_out(pair, settings) {
        std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        pair.gap = pair.gap.map(|gap| -gap);
    }
}

impl PairSource for PairDataset {
    fn pair(&self, cursor: u64) -> JudgePair {
        self.pairs[self.order.row(cursor)].clone()
    }
}

/// Encoded conversations.
pub struct SftDataset {
    pub examples: Vec<Example>,
    order: Order,
    /// Bad rows that were left out.
    pub skipped: usize,
    /// Conversations that were left out because they are too long.
    pub too_long: usize,
}

impl SftDataset {
    /// Reads rows of either `sft.target` and encodes them; those longer than `context` are left out. An error if none is left.
    pub fn load(settings: &Settings, tokenizer: &Tokenizer, context: usize) -> anyhow::Result<Self> {
        // What is learnt does not depend on a task.
        let (files, options) = (files(settings)?, load_options(settings, Tasks::always("")));
        let conversations = match settings.sft.target {
            SftTarget::Messages => load_conversations(&files, &options)?,
            SftTarget::Chosen => {
                load_pairs(&files, &options)?.try_map(|pair| Ok::<_, Infallible>(Conversation::from(pair)))?
            }
        };
        let limit = settings.sft.max_length.min(context).min(settings.sft.micro_batch_tokens);
        let mut loaded = conversations.try_map(|conversation| {
            let encoded = tokenizer.encode_conversation(&conversation, settings.model.thinking, limit)?;
            Ok::<_, TokenizerError>(Example { ids: encoded.ids, mask: encoded.mask })
        })?;
        let too_long = loaded.retain(|example| example.ids.len() <= limit);
        report_skipped(&loaded.skipped, too_long, limit);
        let (examples, skipped) = (loaded.rows, loaded.skipped);
        let limits = [
            ("sft.max_length", settings.sft.max_length),
            ("the context (model.context, or the model's own limit)", context),
            ("sft.micro_batch_tokens", settings.sft.micro_batch_tokens),
        ];
        let (name, _) = limits.into_iter().min_by_key(|(_, tokens)| *tokens).expect("there are three");
        ensure!(!examples.is_empty(), "no row has at most {}, which is {name}: raise it", counted(limit, "token"));
        let order = Order::new(examples.len(), settings.run.seed);
        Ok(Self { examples, order, skipped: skipped.count, too_long })
    }
}

impl ExampleSource for SftDataset {
    fn example(&self, cursor: u64) -> Example {
        self.examples[self.order.row(cursor)].clone()
    }
}

/// Files of training rows; there must be some.
fn files(settings: &Settings) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(!settings.data.train.is_empty(), "no training rows: give --data FILE, or data.train in the configuration");
    Ok(settings.data.train.iter().map(PathBuf::from).collect())
}

fn load_options(settings: &Settings, tasks: Tasks) -> LoadOptions {
    LoadOptions {
        tasks,
        on_bad_row: if settings.data.skip_bad { OnBadRow::Skip } else { OnBadRow::Refuse },
        format: None,
    }
}

/// Says what was left out, on stderr.
pub fn report_skipped(skipped: &Skipped, too_long: usize, limit: usize) {
    if skipped.count > 0 {
        say!("skipped: {}, for example:", counted(skipped.count, "bad row"));
        skipped.reasons.iter().for_each(|reason| say!("  {reason}"));
    }
    if too_long > 0 {
        say!("kept out: {} of more than {}", counted(too_long, "row"), counted(limit, "token"));
    }
}

/// Says in how many prompts the judge's length budget cut a text, if in any.
pub fn report_cuts(Cuts { prompts, responses }: Cuts) {
    if prompts + responses > 0 {
        say!(
            "cut to the judge's length budget: the request in {}, a response in {}",
            counted(prompts, "prompt"),
            counted(responses, "prompt")
        );
    }
}

/// Says which tasks rows without one got from their source or their prompt, if any did.
pub fn report_routed_tasks<'a>(tasks: impl Iterator<Item = (&'a str, TaskBy)>) {
    let mut counts: BTreeMap<(TaskBy, &str), usize> = BTreeMap::new();
    for (task, by) in tasks.filter(|(_, by)| *by != TaskBy::Own) {
        *counts.entry((by, task)).or_default() += 1;
    }
    if counts.keys().any(|(by, _)| *by != TaskBy::Default) {
        let told = |((by, task), count): (&(TaskBy, &str), &usize)| format!("{task} by {} {count}", by.name());
        let told: Vec<String> = counts.iter().map(told).collect();
        let rows = counted(counts.values().sum::<usize>(), "row");
        say!("tasks of {rows} that name none: {}", told.join(", "));
    }
}

/// Says which tasks have no rubrics, so that the rows that name them are judged by those of the default task.
pub fn report_default_tasks<'a>(falls_to_default: impl Fn(&str) -> bool, tasks: impl Iterator<Item = &'a str>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks.filter(|task| falls_to_default(task)) {
        *counts.entry(task).or_default() += 1;
    }
    if !counts.is_empty() {
        let rows: usize = counts.values().sum();
        let names: Vec<String> = counts.iter().take(10).map(|(task, count)| format!("{task} ({count})")).collect();
        let more = if counts.len() > names.len() { ", …" } else { "" };
        let rows = counted(rows, "row");
        say!("judged as the default task, because the task named has no rubrics: {rows}: {}{more}", names.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_pairs_keep_their_labels() {
        let mut settings = Settings::default();
        (settings.data.flip, settings.eval.share) = (1.0, 0.25);
        let pair = |number: u64| {
            let row = format!(r#"{{"id": {number}, "prompt": "p{number}", "chosen": "good", "rejected": "bad"}}"#);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), row).unwrap();
            let options = load_options(&settings, Tasks::always("chat"));
            load_pairs(&[file.path().to_path_buf()], &options).unwrap().rows.remove(0)
        };
        let mut held_out = 0;
        for number in 0..100 {
            let mut pair = pair(number);
            flip(&mut pair, &settings);
            let is_held_out = is_held_out(&pair, &settings);
            assert_eq!(pair.chosen, if is_held_out { "good" } else { "bad" }, "{number}");
            held_out += usize::from(is_held_out);
        }
        assert!((10..40).contains(&held_out), "{held_out}");
    }
}
