//! The machine and the process of a run: processor with its vector instructions, cores and threads, system, crate version,
//! commit, and the peak of resident memory. Saved as `environment.json` in the run folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::file::write_atomically;

/// What can explain a difference between two runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Name of the processor, or "unknown".
    pub cpu: String,
    /// Vector instruction sets that this processor has and the CPU backend can use, best first.
    pub cpu_features: Vec<String>,
    /// Logical cores this process may use.
    pub cores: usize,
    /// Worker threads.
    pub threads: usize,
    /// Operating system and architecture, such as "linux x86_64".
    pub system: String,
    /// Version of this crate.
    pub version: String,
    /// Commit the binary was built from, with `-dirty` if its sources differed; `None` where the build found no git.
    pub commit: Option<String>,
    /// Largest resident memory of this process so far, in bytes; `None` where the system does not report it.
    pub peak_rss_bytes: Option<u64>,
}

impl Environment {
    /// The environment of this process.
    pub fn detect() -> Self {
        Self {
            cpu: cpu_name().unwrap_or_else(|| "unknown".to_owned()),
            cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("PATARM_COMMIT").map(str::to_owned),
            peak_rss_bytes: peak_rss_bytes(),
        }
    }

    /// Writes `environment.json` into the run folder, replacing an older one.
    pub fn write(&self, run_dir: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_atomically(&run_dir.join("environment.json"), &text)
    }
}

/// Largest resident memory of this process so far, in bytes (`VmHWM` of Linux); `None` on other systems.
pub fn peak_rss_bytes() -> Option<u64> {
    parse_kib("VmHWM:", &std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_kib(key: &str, text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let known = [
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
    ];
    known.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_in_bytes() {
        assert_eq!(parse_kib("VmHWM:", "VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 7 kB\n"), Some(2 << 20));
        assert_eq!(parse_kib("VmHWM:", "VmRSS:\t 7 kB\n"), None);
        assert_eq!(parse_kib("VmHWM:", "VmHWM:\t many kB\n"), None);
    }

    #[test]
    fn the_environment_survives_the_run_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = Environment::detect();
        assert!(here.cores >= 1 && here.threads >= 1 && !here.system.is_empty());
        here.write(folder.path()).unwrap();
        let read = std::fs::read(folder.path().join("environment.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Environment>(&read).unwrap(), here);
    }
}
