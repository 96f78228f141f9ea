//! Compiles the kernels beside this file with nvcc, when the tests run: each variant once, kept in the target folder.

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

/// `NVCC`, `CUDA_HOME`, `PATH`, then what tools/install-nvcc fetched: the order of the build script of the project.
pub fn nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda/bin/nvcc");
    named.into_iter().chain(home).chain(in_path).chain([installed]).find(|path| path.is_file())
}

/// Whether these tests can run; says so where they cannot. In CI that is a failure.
pub fn has_nvcc() -> bool {
    if nvcc().is_some() {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "in CI there must be an nvcc: tools/install-nvcc fetches one");
    eprintln!("skipped: there is no nvcc (tools/install-nvcc fetches one)");
    false
}

/// The PTX of a kernel file for one target, with a `MISTAKE_` macro or none.
pub fn ptx(name: &str, mistake: Option<&str>, target: Target) -> String {
    let nvcc = nvcc().expect("callers ask `has_nvcc` first");
    let architecture = format!("-arch=compute_{}", target.name);
    let mut flags = vec!["-ptx".to_string(), "-lineinfo".into(), "-std=c++17".into(), architecture];
    flags.extend(mistake.map(|mistake| format!("-DMISTAKE_{mistake}")));
    let mut hasher = DefaultHasher::new();
    (&nvcc, &flags, source(name)).hash(&mut hasher);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:016x}.ptx", hasher.finish()));
    if let Ok(text) = fs::read_to_string(&kept) {
        return text;
    }
    // Written aside and renamed: other tests may want the same at the same time.
    let aside = kept.with_extension(format!("{}-{:?}", id(), std::thread::current().id()));
    let output = Command::new(nvcc)
        .current_dir(folder())
        .args(&flags)
        .arg(name)
        .arg("-o")
        .arg(&aside)
        .output()
        .expect("nvcc can be run");
    assert!(output.status.success(), "nvcc on {name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&aside, &kept).expect("the target folder can be written");
    fs::read_to_string(&kept).expect("the target folder can be read")
}
