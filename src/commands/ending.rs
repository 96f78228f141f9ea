//! How a training command ends: what it has learnt is looked at before anything says that it has succeeded.

use std::path::Path;

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::report::CONTENTS;
use super::rows::fingerprint_of_model;
use crate::file::{console, say};
use crate::log::charts::Stage;
use crate::log::metrics::Record;
use crate::log::signs::{Finding, Level};
use crate::log::{RunConfig, read_records};
use crate::model::{Parameter, Qwen3};
use crate::ops::Backend;
use crate::report::diagnosis::findings;
use crate::report::write_report;
use crate::train::Learner;
use crate::train::run::Outcome;
use crate::train::run_folder::RunFolder;

/// The weights that a stage began with, by their fingerprint.
#[derive(PartialEq)]
pub struct Beginning(String);

impl Beginning {
    /// Of a stage that begins, or has begun once: before a checkpoint is read.
    pub fn of<B: Backend>(model: &Qwen3<B>) -> anyhow::Result<Self> {
        Ok(Self(fingerprint_of_model(&model.config, model)?))
    }
}

/// Why what a stage leaves is no success.
pub enum Fault {
    /// Every step was skipped.
    Skipped(String),
    /// The weights are what they were before, or that and weight decay.
    Unchanged(String),
    /// The weights are no numbers any more.
    Ruined(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skipped(why) | Self::Unchanged(why) => write!(f, "nothing was learnt: {why}"),
            Self::Ruined(why) => write!(f, "the weights are ruined: {why}"),
        }
    }
}

/// Why the model that a stage leaves may not be used; `None` if it may.
pub fn fault<B: Backend>(learner: &Learner<B>, began: &Beginning, stage: &Stage) -> anyhow::Result<Option<Fault>> {
    let (model, name) = (&learner.model, stage.name);
    if learner.optimizer.updates == 0 {
        let why = format!("no update of {name} was applied, because every step was skipped");
        return Ok(Some(Fault::Skipped(why)));
    }
    if let Some(tensor) = first_not_finite(model)? {
        let why = format!("`{tensor}` holds numbers that are not finite. Lower the learning rate");
        return Ok(Some(Fault::Ruined(why)));
    }
    const WHY: &str = "the learning rate is too small for 32-bit numbers, or there was no gradient (in RL there is none where \
                       all judgements of a response earn the same)";
    if Beginning::of(model)? == *began {
        return Ok(Some(Fault::Unchanged(format!("every weight is what it was before {name}: {WHY}"))));
    }
    if !has_moments(learner)? {
        return Ok(Some(Fault::Unchanged(format!("weight decay alone changed the weights in {name}: {WHY}"))));
    }
    Ok(None)
}

/// Elements that are looked at at a time.
const BLOCK: usize = 1 << 20;

/// The first tensor that holds a NaN or an infinity.
fn first_not_finite<B: Backend>(model: &Qwen3<B>) -> anyhow::Result<Option<String>> {
    for parameter in model.table.parameters() {
        if holds(&model.backend, model.master(), parameter, |value| !value.is_finite())? {
            return Ok(Some(parameter.name.clone()));
        }
    }
    Ok(None)
}

/// Whether a number like that is in a parameter's part of an arena, which is read a piece at a time.
fn holds<B: Backend>(
    backend: &B,
    arena: &B::Buffer<f32>,
    parameter: &Parameter,
    like: impl Fn(f32) -> bool,
) -> anyhow::Result<bool> {
    let mut piece = vec![0.0; BLOCK.min(parameter.len())];
    for first in parameter.range().step_by(BLOCK) {
        let range = first..parameter.range().end.min(first + BLOCK);
        let values = &mut piece[..range.len()];
        backend.read(backend.view(arena, range), values)?;
        if values.iter().any(|value| like(*value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a gradient that is not 0 has ever reached the optimizer.
fn has_moments<B: Backend>(learner: &Learner<B>) -> anyhow::Result<bool> {
    let backend = &learner.model.backend;
    for moment in [&learner.optimizer.moment1, &learner.optimizer.moment2] {
        for parameter in learner.model.table.parameters() {
            if holds(backend, moment, parameter, |value| value != 0.0)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Writes summary and report, says what is not healthy, and exports the model: or says why not, as an error. `summary` gets the
/// key `outcome`.
pub fn conclude<B: Backend>(
    folder: &RunFolder,
    learner: &Learner<B>,
    began: &Beginning,
    stage: &'static Stage,
    mut summary: Map<String, Value>,
    export: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let fault = fault(learner, began, stage)?.map(|fault| fault.to_string());
    summary.insert("outcome".into(), json!(fault.as_deref().unwrap_or("complete")));
    let report = folder.finish(&summary, &CONTENTS);
    say_unhealthy(folder.path(), &[stage]);
    if let Some(fault) = fault {
        let page = report.map(|page| page.display().to_string()).unwrap_or_else(|error| format!("{error:#}"));
        bail!("{fault}. No model is exported. The report: {page}");
    }
    let model = folder.path().join("model");
    export(&model)?;
    let report = report?;
    Ok(console::print_line(format_args!("The trained model: {}. The report: {}", model.display(), report.display()))?)
}

/// Hands the outcome of training on: a stop becomes an error that says what is kept, and a failure leaves a report.
pub fn ended(
    outcome: anyhow::Result<Outcome>,
    folder: &RunFolder,
    step: u64,
    stage: &'static Stage,
) -> anyhow::Result<()> {
    let path = folder.path().display();
    match outcome {
        Ok(Outcome::Complete) => Ok(()),
        Ok(Outcome::Stopped) if step == 0 => {
            bail!("stopped before the end of the first step; --resume --out {path} starts again from there")
        }
        Ok(Outcome::Stopped) => bail!("stopped after step {step}, which is saved; go on with --resume --out {path}"),
        Err(error) => Err(failed(error, folder, &[stage])),
    }
}

/// A failure with what there is to see of it: signs of health on stderr, and a report.
pub fn failed(error: anyhow::Error, folder: &RunFolder, stages: &[&'static Stage]) -> anyhow::Error {
    say_unhealthy(folder.path(), stages);
    error.context(match write_report(folder.path(), &CONTENTS) {
        Ok(page) => format!("the run has failed (its report: {})", page.display()),
        Err(_) => "the run has failed".into(),
    })
}

/// Prints the signs of health that are not good, on stderr.
pub fn say_unhealthy(folder: &Path, stages: &[&'static Stage]) {
    let Ok((records, _)) = read_records(&folder.join("metrics.jsonl")) else { return };
    let config = RunConfig::read(&folder.join("config.toml"));
    stages.iter().flat_map(|stage| unhealthy(stage, &records, &config)).for_each(|line| say!("{line}"));
}

fn unhealthy(stage: &Stage, records: &[Record], config: &RunConfig) -> Vec<String> {
    let line = |(name, finding): (&str, Finding)| {
        let word = match finding.level {
            Level::Good => return None,
            Level::Watch => "to watch",
            Level::Bad => "to act on",
        };
        Some(format!("health of {}, {word}: {name}: {} {}", stage.name, finding.found, finding.advice))
    };
    findings(stage, records, config).into_iter().filter_map(line).collect()
}
