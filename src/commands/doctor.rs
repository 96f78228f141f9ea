//! `doctor`: what this machine and this binary can run, and what to do about what is missing.

use clap::Args;
use serde_json::{Value, json};

use crate::file::{console, counted};
use crate::log::Environment;

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
    findings.extend(cuda(args));
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
fn cuda(_: &DoctorArgs) -> Vec<Finding> {
    let advice = "this binary has the CPU backend only: it was built without nvcc. tools/install-nvcc fetches one, or set \
                  CUDA_HOME; then build again";
    vec![finding("CUDA kernels", false, advice)]
}

#[cfg(has_cuda)]
fn cuda(args: &DoctorArgs) -> Vec<Finding> {
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
    }
    findings
}
