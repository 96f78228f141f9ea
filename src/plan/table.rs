//! A plan in words: a table of what fills each phase, and what to do.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::fit::{Fit, Largest};
use super::job::Stage;
use super::machine::Machine;
use crate::log::TextTable;
use crate::memory::{Peak, Phase, bytes_text};
use crate::model::Recompute;

/// Phases that hold the same, under one name.
fn columns(phases: &BTreeMap<Phase, Peak>) -> Vec<(String, &Peak)> {
    let mut columns: Vec<(String, &Peak)> = Vec::new();
    for (phase, peak) in phases {
        match columns.last_mut().filter(|(_, last)| last.labels == peak.labels) {
            Some((name, _)) => write!(name, ", {phase}").expect("writing to a string never fails"),
            None => columns.push((phase.to_string(), peak)),
        }
    }
    columns
}

/// Rows: what memory is for; columns: phases.
pub fn table(phases: &BTreeMap<Phase, Peak>) -> String {
    let columns = columns(phases);
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for (label, bytes) in columns.iter().flat_map(|(_, peak)| &peak.labels) {
        let total = totals.entry(label).or_default();
        *total = (*total).max(*bytes);
    }
    let mut labels: Vec<_> = totals.into_iter().collect();
    labels.sort_by_key(|(label, bytes)| (std::cmp::Reverse(*bytes), *label));
    let mut table =
        TextTable::new(["memory".to_string()].into_iter().chain(columns.iter().map(|(name, _)| name.clone())));
    let cell = |bytes: Option<&usize>| bytes.map_or(String::new(), |bytes| bytes_text(*bytes));
    for (label, _) in labels {
        table.row([label.to_string()].into_iter().chain(columns.iter().map(|(_, peak)| cell(peak.labels.get(label)))));
    }
    table.row(["in all".to_string()].into_iter().chain(columns.iter().map(|(_, peak)| bytes_text(peak.bytes))));
    table.to_string()
}

/// Numbers with thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Operations for people.
fn flops_text(flops: f64) -> String {
    let units = [(1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")];
    let (unit, name) = units.into_iter().find(|(unit, _)| flops >= *unit).unwrap_or((1e6, "MFLOP"));
    format!("{:.1} {name}", flops / unit)
}

impl Fit {
    /// Whether it fits, in a sentence.
    pub fn verdict(&self, machine: &Machine) -> String {
        let (needed, all) = (self.plan.needed_bytes(), machine.memory_bytes);
        let name = &machine.name;
        match self.fits {
            true => format!(
                "fits on {name}: {} of {}, {} are left",
                bytes_text(needed),
                bytes_text(all),
                bytes_text(all - needed)
            ),
            false => format!(
                "does not fit on {name}: {} of {}, {} too much",
                bytes_text(needed),
                bytes_text(all),
                bytes_text(needed.saturating_sub(all))
            ),
        }
    }

    /// The levers, in words.
    pub fn levers(&self) -> String {
        let mut levers = Vec::new();
        if let Some(learning) = &self.job.learning {
            levers.push(format!("micro-batches of {} tokens", grouped(learning.micro_batch_tokens as u64)));
            levers.push(format!("recompute: {}", learning.recompute.name()));
            levers.push(format!("rollouts and training share memory: {}", if learning.share { "yes" } else { "no" }));
        }
        levers.push(format!("rows of logits at a time: {}", self.plan.lm_head_chunk_rows));
        if let Some(rollouts) = self.job.rollouts {
            let limits = rollouts.limits;
            levers.push(format!(
                "cache of {} tokens, {} completions at a time, {} tokens a pass",
                grouped(limits.cache_rows as u64),
                limits.max_running,
                grouped(limits.max_batch_tokens as u64)
            ));
        }
        levers.join("; ")
    }

    /// Tokens and operations of the run, at most.
    pub fn work(&self, peak_teraflops: Option<f64>) -> String {
        let Some(learning) = &self.job.learning else { return String::new() };
        let new = self.job.rollouts.map_or(0, |rollouts| rollouts.new_tokens);
        let step = self.plan.step_flops() as f64;
        let mut text = format!("at most, a step: {} tokens trained", grouped(learning.tokens));
        if new > 0 {
            write!(text, ", {} generated", grouped(new)).expect("writing to a string never fails");
        }
        let run = step * learning.steps as f64;
        write!(
            text,
            ", {}; the run: {} steps, {} tokens, {}",
            flops_text(step),
            grouped(learning.steps),
            grouped(learning.steps * learning.tokens),
            flops_text(run)
        )
        .expect("writing to a string never fails");
        if let Some(peak) = peak_teraflops {
            let hours = run / (peak * 1e12) / 3600.0;
            write!(text, ", {hours:.1} h if every operation ran at the data sheet's {peak:.0} TFLOP/s")
                .expect("writing to a string never fails");
        }
        text
    }

    /// What to do about a job that does not fit.
    pub fn advice(&self, largest: &Largest) -> String {
        let Some(learning) = &self.job.learning else {
            return "a smaller model, shorter texts or more memory is needed".into();
        };
        let stage = if self.job.stage == Stage::Sft { "sft" } else { "rl" };
        match largest.micro_batch_tokens {
            Some(tokens) if tokens < learning.micro_batch_tokens => {
                format!("{stage}.micro_batch_tokens = {tokens} is the most that fits with these levers")
            }
            _ if learning.recompute < Recompute::Block => "memory.recompute = block needs the least memory".into(),
            _ => "the weights with their gradients and moments alone are too large: a smaller model or more memory is \
                  needed"
                .into(),
        }
    }
}

impl Largest {
    /// In words.
    pub fn text(&self) -> String {
        let tokens = |what: &str, n: Option<usize>| match n {
            Some(n) => format!("{what} of {} tokens", grouped(n as u64)),
            None => format!("no {what}"),
        };
        let mut text = format!(
            "the largest that fits with these levers: {}, {}",
            tokens("micro-batches", self.micro_batch_tokens),
            tokens("sequences", self.context)
        );
        if let Some(rollouts) = self.rollouts {
            write!(
                text,
                ", {} completions of full length of one prompt in the cache at once",
                grouped(rollouts as u64)
            )
            .expect("writing to a string never fails");
        }
        text
    }
}
