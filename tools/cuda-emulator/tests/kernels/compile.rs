//! Compiles the kernels in this folder with nvcc when the tests run. Each variant is compiled once and cached in the
//! target folder.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, id};

/// The two PTX dialects of the project: A100, and H100 or H200.
pub const TARGETS: [Target; 2] =
    [Target { name: "80", capability: (8, 0) }, Target { name: "90a", capability: (9, 0) }];

#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub capability: (u32, u32),
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

/// The text of a kernel's source.
pub fn source(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `NVCC`, `CUDA_HOME`, `PATH`, then the nvcc from tools/install-nvcc: the same order as in the project's build script.
pub fn nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda/bin/nvcc");
    named.into_iter().chain(home).chain(in_path).chain([installed]).find(|path| path.is_file())
}

/// Whether these tests can run; prints a line if not. In CI, a missing nvcc is a failure.
pub fn has_nvcc() -> bool {
    if nvcc().is_some() {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "CI needs nvcc: run tools/install-nvcc");
    eprintln!("skipped: there is no nvcc (run tools/install-nvcc)");
    false
}

/// The PTX of a kernel file for one target, with one `MISTAKE_` macro or none.
pub fn ptx(name: &str, mistake: Option<&str>, target: Target) -> String {
    let nvcc = nvcc().expect("callers check `has_nvcc` first");
    let architecture = format!("-arch=compute_{}", target.name);
    let mut flags = vec!["-ptx".to_string(), "-lineinfo".into(), "-std=c++17".into(), architecture];
    flags.extend(mistake.map(|mistake| format!("-DMISTAKE_{mistake}")));
    let mut hasher = DefaultHasher::new();
    (&nvcc, &flags, source(name)).hash(&mut hasher);
    let cached = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}.ptx", hasher.finish()));
    if let Ok(text) = fs::read_to_string(&cached) {
        return text;
    }
    // Writes a temporary file and renames it, because other tests may compile the same variant at the same time.
    let aside = cached.with_extension(format!("{}-{:?}", id(), std::thread::current().id()));
    let output = Command::new(nvcc)
        .current_dir(folder())
        .args(&flags)
        .arg(name)
        .arg("-o")
        .arg(&aside)
        .output()
        .expect("nvcc can be run");
    assert!(output.status.success(), "nvcc on {name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&aside, &cached).expect("the target folder can be written");
    fs::read_to_string(&cached).expect("the target folder can be read")
}
