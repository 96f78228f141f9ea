//! What a run does with its plan: takes it over into its settings, or refuses to start.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::device::DeviceChoice;
use super::plan::json_of;
use crate::config::Settings;
use crate::file::say;
use crate::memory::{Ledger, bytes_text};
use crate::model::Qwen3Config;
use crate::ops::Backend;
use crate::ops::linear::LinearSizes;
use crate::plan::stages::inference;
use crate::plan::table::table;
use crate::plan::{Fit, Kind, Largest, Machine, Wanted};
use crate::rollout::EngineLimits;
use crate::setting::Valid;

/// What a run is to fit on: its device, with the budget instead of all of its memory if there is one.
fn machine<B: Backend>(backend: &B, device: DeviceChoice, budget: Option<usize>) -> Machine {
    let memory_bytes = budget.or_else(|| backend.memory_bytes()).unwrap_or(usize::MAX);
    let kind = if device == DeviceChoice::Cpu { Kind::Cpu } else { Kind::Cuda };
    Machine { name: backend.name(), memory_bytes, kind }
}

/// The plan of what fits, whose memory is set aside then; an error with its table if it does not.
fn fitting<B: Backend>(backend: &B, wanted: Wanted, machine: &Machine) -> anyhow::Result<Fit> {
    let fit = wanted.fit(machine)?;
    if !fit.fits {
        let (largest, phases) = (fit.largest(machine)?, table(&fit.plan.phases));
        bail!("{}\n\n{phases}\n{}: {}", fit.levers(), fit.verdict(machine), fit.advice(&largest));
    }
    backend.set_aside(fit.plan.scratch_bytes, fit.plan.needed_bytes(), machine.memory_bytes)?;
    Ok(fit)
}

/// The sizes of an engine that generates on a device beside a model without gradients: prompts of up to `prompt` tokens with
/// up to `new` more, `running` at a time. With less memory fewer run at a time; an error if not even one does.
pub fn engine_limits<B: Backend>(
    backend: &B,
    device: DeviceChoice,
    model: &Qwen3Config,
    context: usize,
    [prompt, new, running]: [usize; 3],
) -> anyhow::Result<EngineLimits> {
    let machine = machine(backend, device, None);
    let wanted = inference(model, machine.kind, context, [prompt, new, running]);
    let fit = fitting(backend, wanted, &machine)?;
    Ok(fit.job.rollouts.expect("generation is all that is planned").limits)
}

/// A run that fits its device, with all that depends on the device resolved.
pub struct Fitted {
    pub settings: Valid<Settings>,
    pub fit: Fit,
    pub machine: Machine,
}

impl Fitted {
    /// Plans a run before any weight is read, sets the plan's memory aside, and refuses what does not fit. `wanted` makes the
    /// job of the stage.
    pub fn new<B: Backend>(
        backend: &B,
        device: DeviceChoice,
        settings: &Valid<Settings>,
        model: &Qwen3Config,
        wanted: impl FnOnce(&Valid<Settings>, &Qwen3Config, &Machine) -> Wanted,
    ) -> anyhow::Result<Self> {
        let sizes = LinearSizes { out_features: model.vocab_size, in_features: model.hidden_size };
        let rows = settings.run.lm_head_chunk_rows;
        if rows > 0 {
            let refused = || format!("run.lm_head_chunk_rows = {rows} cannot work");
            backend.lm_head_check_chunk(rows, sizes).with_context(refused)?;
        }
        let machine = machine(backend, device, settings.memory.budget().map_err(anyhow::Error::msg)?);
        let fit = fitting(backend, wanted(settings, model, &machine), &machine)?;
        say!("plan: {}; {}", fit.verdict(&machine), fit.levers());
        let settings = settings.changed(|settings| {
            settings.run.lm_head_chunk_rows = fit.plan.lm_head_chunk_rows;
            if let Some(learning) = &fit.job.learning {
                settings.memory.recompute = learning.recompute.into();
                settings.memory.share = learning.share.into();
            }
            if let Some(rollouts) = fit.job.rollouts {
                settings.memory.cache_tokens = rollouts.limits.cache_rows;
                settings.memory.prefill_tokens = rollouts.limits.max_batch_tokens;
            }
        })?;
        Ok(Self { settings, fit, machine })
    }

    /// The sizes of the engine, if the run has one.
    pub fn limits(&self) -> Option<EngineLimits> {
        self.fit.job.rollouts.map(|rollouts| rollouts.limits)
    }

    /// Whether rollouts and training have the same memory.
    pub fn shares(&self) -> bool {
        self.fit.job.learning.as_ref().is_some_and(|learning| learning.share)
    }

    /// For summary.json: the plan, and what was handed out.
    pub fn summary(&self, ledger: &Ledger) -> Value {
        let handed_out: serde_json::Map<_, _> = ledger
            .peaks()
            .iter()
            .map(|(phase, peak)| (phase.name().to_string(), json!({ "bytes": peak.bytes, "labels": peak.labels })))
            .collect();
        json!({ "plan": json_of(&self.fit, &Largest::default(), &self.machine), "handed_out": handed_out })
    }

    /// The most that was handed out, beside what was planned: for the end of a run.
    pub fn high_water(&self, ledger: &Ledger) -> String {
        let most = ledger.peaks().values().map(|peak| peak.bytes).max().unwrap_or(0);
        format!("memory: at most {} of {} planned", bytes_text(most), bytes_text(self.fit.plan.peak_bytes()))
    }
}
