//! `doctor`: what this machine and this binary can run, and what to do about what is missing.

use clap::Args;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::file::{console, counted};
use crate::log::Environment;
use crate::memory::bytes_text;
use crate::model::Qwen3Config;
#[cfg(has_cuda)]
use crate::plan::machine::CONTEXT_BYTES;
use crate::plan::{Machine, Wanted, stages};
use crate::setting::{Assignment, Valid, resolve};

/// Look at this machine: processor, CUDA driver and devices, and what this binary has code for.
///
/// Never fails: a missing thing is a line that says what to do about it.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at the emulated devices instead of the machine's.
    #[arg(long)]
    pub emulated: bool,
    /// Print JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// One line: what was looked at, whether it will do, and what was found.
struct Finding {
    what: String,
    fine: bool,
    found: String,
}

fn finding(what: impl Into<String>, fine: bool, found: impl Into<String>) -> Finding {
    Finding { what: what.into(), fine, found: found.into() }
}

/// Prints what it finds, as text or JSON. What is missing is printed too, and is no error.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut findings = machine();
    findings.push(trains("CPU", &Machine::cpu(None))?);
    findings.extend(cuda(args)?);
    if args.json {
        let object = |f: &Finding| json!({ "what": f.what, "fine": f.fine, "found": f.found });
        let text = serde_json::to_string_pretty(&findings.iter().map(object).collect::<Vec<Value>>())?;
        return Ok(console::print_line(text)?);
    }
    let width = findings.iter().map(|f| f.what.chars().count()).max().unwrap_or(0);
    let line =
        |Finding { what, fine, found }: &Finding| format!("{} {what:width$}  {found}\n", if *fine { "✓" } else { "✗" });
    Ok(console::print(&findings.iter().map(line).collect::<String>())?)
}

/// Shapes whose training is planned, the smallest first.
const SHAPES: [&str; 8] = ["nano", "mini", "0.6b", "1.7b", "4b", "8b", "14b", "32b"];

/// The largest models that a machine trains, by plan: sequences of 2,048 tokens, one at a time, a prompt and a judgement each
/// half of it.
fn trains(what: &str, machine: &Machine) -> anyhow::Result<Finding> {
    let sft = ["sft.max_length=2048", "sft.micro_batch_tokens=2048", "model.context=2048"];
    let rl = ["rl.max_prompt_tokens=1024", "rl.max_new_tokens=1024", "rl.micro_batch_tokens=2048", "rl.max_running=16"];
    let assignments = sft.into_iter().chain(rl).map(Assignment::set).collect::<Result<Vec<_>, _>>()?;
    let settings = resolve(&Settings::default(), None, std::iter::empty(), &assignments)?;
    type Stage = fn(&Valid<Settings>, &Qwen3Config, &Machine) -> Wanted;
    let largest = |stage: Stage| -> anyhow::Result<&str> {
        for name in SHAPES.into_iter().rev() {
            let Some(model) = Qwen3Config::named(name) else { continue };
            // Weights, gradients and moments in f32 alone: no plan is needed to see that these do not fit.
            let fits = 16 * model.parameters() <= machine.memory_bytes as u128;
            if fits && stage(&settings, &model, machine).fit(machine)?.fits {
                return Ok(name);
            }
        }
        Ok("no model")
    };
    let (sft, rl) = (largest(stages::sft)?, largest(stages::rl)?);
    let memory = bytes_text(machine.memory_bytes);
    let found =
        format!("sft of {sft}, rl of {rl} at most, by plan, with {memory} for a run (`plan` shows what fills it)");
    Ok(finding(format!("trains on {what}"), sft != "no model", found))
}

/// Program, processor, system.
fn machine() -> Vec<Finding> {
    let e = Environment::detect();
    let commit = e.commit.map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let features =
        if e.cpu_features.is_empty() { "no vector instructions in use".into() } else { e.cpu_features.join(" ") };
    vec![
        finding("patarm-train", true, format!("{}{commit}", e.version)),
        finding("system", true, e.system),
        finding("processor", true, format!("{}, {}", e.cpu, counted(e.cores, "core"))),
        finding("CPU kernels", !e.cpu_features.is_empty(), features),
    ]
}

#[cfg(not(has_cuda))]
fn cuda(_: &DoctorArgs) -> anyhow::Result<Vec<Finding>> {
    let advice = "this binary has the CPU backend only: it was built without nvcc. tools/install-nvcc fetches one, or set \
                  CUDA_HOME; then build again";
    Ok(vec![finding("CUDA kernels", false, advice)])
}

#[cfg(has_cuda)]
fn cuda(args: &DoctorArgs) -> anyhow::Result<Vec<Finding>> {
    use crate::cuda::device_info::{Code, cuda_info};
    let mut findings = Vec::new();
    if args.emulated
        && let Err(error) = cuda_emulator::load()
    {
        findings.push(finding("emulator", false, error.to_string()));
    }
    let found = cuda_info();
    let kernels = format!("compiled by nvcc {} for {}", found.nvcc_version, found.architectures);
    findings.push(finding("CUDA kernels", true, kernels));
    let driver = match &found.driver {
        Ok(version) => finding("CUDA driver", true, format!("CUDA {version} (needed: {})", found.driver_needed)),
        Err(error) => finding("CUDA driver", false, error.to_string()),
    };
    findings.push(driver);
    findings.push(match &found.blas {
        Ok(blas) => finding("cuBLASLt", true, format!("{} in {}", blas.version, blas.path)),
        Err(error) => finding("cuBLASLt", false, error.to_string()),
    });
    if found.devices.is_empty() {
        findings.push(finding(
            "CUDA devices",
            false,
            "none: use --device cpu, or --device emulated to try the CUDA path",
        ));
    }
    for device in &found.devices {
        let (major, minor) = device.capability;
        let code = match device.code {
            Code::Machine => "runs the code of this binary".to_owned(),
            Code::Ptx => format!(
                "the driver compiles the kernels at the start; for its own code build with PATARM_CUDA_ARCH={major}{minor}"
            ),
            Code::None => format!("too old for this binary; build it with PATARM_CUDA_ARCH={major}{minor}"),
        };
        let memory = device.memory_bytes as f64 / f64::from(1 << 30);
        findings.push(finding(
            format!("device cuda:{}", device.ordinal),
            device.code != Code::None,
            format!("{}, compute capability {major}.{minor}, {memory:.1} GiB: {code}", device.name),
        ));
        let machine = Machine::cuda(device.name.as_str(), device.memory_bytes.saturating_sub(CONTEXT_BYTES));
        findings.push(trains(&format!("cuda:{}", device.ordinal), &machine)?);
    }
    Ok(findings)
}
