//! `plan`: what a run will hold and compute, without a device.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::device::DeviceArgs;
use crate::config::Settings;
use crate::file::console;
use crate::memory::{bytes_text, parse_bytes};
use crate::model::directory::config_of;
use crate::model::{ParameterTable, Qwen3Config};
use crate::plan::table::table;
use crate::plan::{CARDS, Fit, Largest, Machine, Wanted, stages};
use crate::setting::{Assignment, Valid, resolve};

/// Say what a run needs before it is started: does it fit, what fills each phase, what would fit.
///
/// Nothing is read but the settings and the model's config.json, and nothing is allocated: a step of the run is done on paper.
/// `plan sft --shape 8b --card h100`, `plan rl --config rl.toml --memory 24GiB`, `plan rl --model DIR` (for this machine).
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The stage.
    #[arg(value_enum)]
    pub stage: PlannedStage,
    /// A named shape with Qwen3's vocabulary (nano, mini, 0.6b … 32b), instead of the model of the settings.
    #[arg(long, value_name = "SHAPE")]
    pub shape: Option<String>,
    /// Hugging Face directory of a Qwen3, of which config.json alone is read.
    #[arg(long, value_name = "DIR", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, for example `rl.max_new_tokens=2048`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A card by its name: rtx-3090, rtx-4090, rtx-5090, a100-40, l40s, a100-80, h100, h200.
    #[arg(long, value_name = "NAME", conflicts_with = "memory")]
    pub card: Option<String>,
    /// A card with so much memory, all of it the run's: 80GiB, 24GB, 128MiB.
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// What can be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlannedStage {
    Sft,
    Rl,
}

/// Prints the plan; an error if the run does not fit.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let assignments = args.set.iter().map(|set| Assignment::set(set)).collect::<Result<Vec<_>, _>>()?;
    let settings = resolve(&Settings::default(), args.config.as_deref(), std::env::vars_os(), &assignments)?;
    let (name, model) = args.shape(&settings)?;
    let machine = args.machine(&settings)?;
    let wanted = wanted(args.stage, &settings, &model, &machine);
    let fit = wanted.fit(&machine)?;
    let largest = fit.largest(&machine)?;
    match args.json {
        true => console::print_line(json_of(&fit, &largest, &machine).to_string())?,
        false => console::print(&text(args, &name, &fit, &largest, &machine))?,
    }
    ensure!(fit.fits, "{}: {}", fit.verdict(&machine), fit.advice(&largest));
    Ok(())
}

fn wanted(stage: PlannedStage, settings: &Valid<Settings>, model: &Qwen3Config, machine: &Machine) -> Wanted {
    match stage {
        PlannedStage::Sft => stages::sft(settings, model, machine),
        PlannedStage::Rl => stages::rl(settings, model, machine),
    }
}

impl PlanArgs {
    /// The model and what it is called.
    fn shape(&self, settings: &Settings) -> anyhow::Result<(String, Qwen3Config)> {
        let named = |name: &str| {
            let names: Vec<_> = Qwen3Config::names().collect();
            Qwen3Config::named(name)
                .with_context(|| format!("{name}: not a known shape; known are {}", names.join(", ")))
        };
        if let Some(name) = &self.shape {
            return Ok((format!("Qwen3 {name}"), named(name)?));
        }
        let path = self
            .model
            .clone()
            .or_else(|| Some(PathBuf::from(&settings.model.path)).filter(|path| !path.as_os_str().is_empty()));
        if let Some(path) = path {
            return Ok((path.display().to_string(), config_of(&path)?));
        }
        if settings.model.init.is_empty() {
            bail!("no model: give --shape SHAPE, --model DIR, or a --config that names one");
        }
        Ok((format!("Qwen3 {}", settings.model.init), named(&settings.model.init)?))
    }

    /// What the run is to fit on.
    fn machine(&self, settings: &Settings) -> anyhow::Result<Machine> {
        if let Some(name) = &self.card {
            let names: Vec<_> = CARDS.iter().map(|card| card.name).collect();
            let known = || format!("--card {name}: not a known card; known are {}, or give --memory", names.join(", "));
            return Machine::named(name).with_context(known);
        }
        if let Some(memory) = &self.memory {
            let bytes = parse_bytes(memory).map_err(|reason| anyhow::anyhow!("--memory {reason}"))?;
            return Ok(Machine::cuda(format!("a card of {}", bytes_text(bytes)), bytes));
        }
        let budget = settings.memory.budget().map_err(anyhow::Error::msg)?;
        super::device::machine(self.device.device, budget)
    }
}

fn text(args: &PlanArgs, name: &str, fit: &Fit, largest: &Largest, machine: &Machine) -> String {
    let stage = match args.stage {
        PlannedStage::Sft => "sft",
        PlannedStage::Rl => "rl",
    };
    let parameters = ParameterTable::new(&fit.job.model).parameter_count() as f64;
    let peak =
        args.card.as_ref().and_then(|name| CARDS.iter().find(|card| card.name == *name)).map(|card| card.teraflops);
    format!(
        "plan of {stage} for {name}, {:.2} billion parameters\n\n{}\n{}\n{}\n{}\n{}\n",
        parameters * 1e-9,
        table(&fit.plan.phases),
        fit.verdict(machine),
        fit.levers(),
        fit.work(peak),
        largest.text()
    )
}

/// The plan as JSON: what `summary.json` holds of it too.
pub fn json_of(fit: &Fit, largest: &Largest, machine: &Machine) -> serde_json::Value {
    let phases: serde_json::Map<_, _> = fit
        .plan
        .phases
        .iter()
        .map(|(phase, peak)| (phase.name().to_string(), json!({ "bytes": peak.bytes, "labels": peak.labels })))
        .collect();
    json!({
        "machine": machine.name,
        "memory_bytes": machine.memory_bytes,
        "needed_bytes": fit.plan.needed_bytes(),
        "fits": fit.fits,
        "phases": phases,
        "lm_head_chunk_rows": fit.plan.lm_head_chunk_rows,
        "recompute": fit.job.learning.as_ref().map(|learning| learning.recompute.name()),
        "share": fit.job.learning.as_ref().map(|learning| learning.share),
        "cache_tokens": fit.job.rollouts.map(|rollouts| rollouts.limits.cache_rows),
        "step_flops": fit.plan.step_flops(),
        "largest": {
            "micro_batch_tokens": largest.micro_batch_tokens,
            "context": largest.context,
            "rollouts": largest.rollouts,
        },
    })
}
