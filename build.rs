//! Compiles every `kernels/*.cu` and `kernels/*/*.cu` to a fat binary and writes Rust handles of its entry points
//! (`src/cuda/kernels.rs` includes them). It never needs a device. Without nvcc it prints a warning and builds only the CPU
//! backend.
//!
//! It looks for nvcc in `NVCC`, `CUDA_HOME`, `PATH` and `tools/.cuda` (see `tools/install-nvcc`), in this order.
//! `PATARM_CUDA_ARCH` replaces the architectures: `PATARM_CUDA_ARCH=90a` builds faster, for only one of them.
//!
//! A fat binary contains, for each architecture, machine code for the GPU and the PTX text that the emulator runs, both
//! uncompressed. The handles come from that PTX, so a misspelt kernel or a wrong number of arguments does not compile.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The GPUs that the kernels are tuned for: A100, H100 and H200.
const ARCHITECTURES: &str = "80,90a";

/// `--fmad` stays on: kernels mark the operations that must not be fused. `-lineinfo` gives the emulator's reports and profilers
/// source lines. `-Xptxas=-v` reports each kernel's registers and memory.
const FLAGS: [&str; 7] =
    ["-fatbin", "--no-compress", "-lineinfo", "-std=c++17", "-Werror", "all-warnings", "-Xptxas=-v"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_cuda)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "PATARM_CUDA_ARCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    record_commit();
    let Some(nvcc) = find_nvcc() else {
        println!("cargo::rerun-if-env-changed=PATH");
        println!(
            "cargo::warning=no nvcc found: this build has the CPU backend only (tools/install-nvcc fetches one, or set \
             CUDA_HOME)"
        );
        return;
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    match build(&nvcc) {
        Ok(()) => println!("cargo::rustc-cfg=has_cuda"),
        Err(message) => {
            eprintln!("{message}");
            exit(1);
        }
    }
}

/// Tells the program the commit it is built from, as `PATARM_COMMIT`, unless that variable is set already. Without git, or in
/// a copy of the sources inside another repository, it stays unset.
fn record_commit() {
    println!("cargo::rerun-if-env-changed=PATARM_COMMIT");
    if env::var_os("PATARM_COMMIT").is_some() {
        return;
    }
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|path| fs::canonicalize(path).ok());
    if top.is_none() || top != fs::canonicalize(root()).ok() {
        return;
    }
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return };
    // A tracked file that differs from the commit. What is built depends on these alone.
    const SOURCES: [&str; 5] = ["src", "kernels", "tools/cuda-emulator", "build.rs", "Cargo.lock"];
    let changed =
        git(&[&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--"], &SOURCES[..]].concat());
    let mark = if changed.is_some_and(|lines| !lines.is_empty()) { "-dirty" } else { "" };
    println!("cargo::rustc-env=PATARM_COMMIT={commit}{mark}");
    SOURCES.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    // HEAD moves with a checkout, the file of its branch with a commit. A branch may be in packed-refs alone.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().map(String::from).chain(branch) {
        let file = git(&["rev-parse", "--git-path", &name]).map(|path| root().join(path));
        if let Some(file) = file.filter(|file| file.exists()) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
}

/// What a git command prints; `None` if it fails, or there is no git.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(root()).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_string())
}

/// The nvcc to use. If a variable names one that does not exist, that is an error; no other one is tried.
fn find_nvcc() -> Option<PathBuf> {
    let named = |variable: &str, inside: &str| {
        let mut path = PathBuf::from(env::var_os(variable).filter(|value| !value.is_empty())?);
        path.extend(Path::new(inside));
        if !path.is_file() {
            eprintln!("{variable} is set, but there is no {}", path.display());
            exit(1);
        }
        Some(path)
    };
    let in_path =
        || env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join("nvcc")).find(|path| path.is_file());
    let installed = || Some(root().join("tools/.cuda/bin/nvcc")).filter(|path| path.is_file());
    named("NVCC", "").or_else(|| named("CUDA_HOME", "bin/nvcc")).or_else(in_path).or_else(installed)
}

fn root() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}

/// One `.cu` file and its fat binary.
struct Unit {
    /// Relative to the root of the repository.
    source: PathBuf,
    image: PathBuf,
}

impl Unit {
    /// The file with ptxas's output.
    fn report(&self) -> PathBuf {
        self.image.with_extension("ptxas")
    }
}

fn build(nvcc: &Path) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let units = units(&out)?;
    let next = AtomicUsize::new(0);
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).min(units.len());
    let failures: Vec<String> = thread::scope(|scope| {
        let work = || {
            let take = || units.get(next.fetch_add(1, Ordering::Relaxed));
            std::iter::from_fn(take).filter_map(|unit| compile(nvcc, unit).err()).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a compile thread does not panic")).collect()
    });
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    let path = out.join("kernels.rs");
    fs::write(&path, handles(nvcc, &units)?).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn units(out: &Path) -> Result<Vec<Unit>, String> {
    let folder = root().join("kernels");
    let mut sources: Vec<PathBuf> = Vec::new();
    for path in listed(&folder)? {
        if path.is_dir() { sources.extend(listed(&path)?) } else { sources.push(path) }
    }
    sources.retain(|path| path.extension().is_some_and(|ending| ending == "cu"));
    let unit = |path: PathBuf| {
        let source = path.strip_prefix(root()).expect("listed below it").to_path_buf();
        // kernels/attention/forward.cu: attention-forward.fatbin
        let names: Vec<_> = source.iter().skip(1).map(|name| name.to_string_lossy()).collect();
        Unit { image: out.join(names.join("-")).with_extension("fatbin"), source }
    };
    Ok(sources.into_iter().map(unit).collect())
}

/// The entries of a folder, sorted.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Runs nvcc, unless the fat binary was built by the same nvcc from the same texts with the same flags.
fn compile(nvcc: &Path, unit: &Unit) -> Result<(), String> {
    let flags = flags()?;
    let key = fingerprint(nvcc, unit, &flags)?;
    let stamp = unit.image.with_extension("stamp");
    if unit.image.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == key) {
        return Ok(());
    }
    let mut command = Command::new(nvcc);
    command.current_dir(root()).args(&flags).arg(&unit.source).arg("-o").arg(&unit.image);
    let output = command.output().map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let hint = match Command::new("g++").arg("--version").output() {
            Err(_) => "\nnvcc needs a C++ compiler: g++ was not found",
            Ok(_) => "",
        };
        return Err(format!("nvcc failed on {}:\n{said}{hint}\nthe command was {command:?}", unit.source.display()));
    }
    let report = unit.report();
    fs::write(&report, output.stderr).map_err(|e| format!("cannot write {}: {e}", report.display()))?;
    fs::write(&stamp, key).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
}

fn flags() -> Result<Vec<String>, String> {
    let wanted = env::var("PATARM_CUDA_ARCH").unwrap_or_else(|_| ARCHITECTURES.to_string());
    let mut flags: Vec<String> = FLAGS.iter().map(|flag| flag.to_string()).collect();
    for name in wanted.split(',').map(str::trim) {
        let digits = name.strip_suffix('a').unwrap_or(name);
        if digits.len() < 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("PATARM_CUDA_ARCH is a list such as 80,90a, got `{wanted}`"));
        }
        flags.push(format!("-gencode=arch=compute_{name},code=[sm_{name},compute_{name}]"));
    }
    Ok(flags)
}

/// A hash of everything that the fat binary depends on: the compiler, the flags, the source and the headers it includes.
fn fingerprint(nvcc: &Path, unit: &Unit, flags: &[String]) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    (nvcc, flags).hash(&mut hasher);
    if let Ok(changed) = fs::metadata(nvcc).and_then(|data| data.modified()) {
        changed.hash(&mut hasher);
    }
    let (mut open, mut seen) = (vec![root().join(&unit.source)], BTreeSet::new());
    while let Some(path) = open.pop() {
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        (&path, &text).hash(&mut hasher);
        let folder = path.parent().expect("every file is in a folder");
        let quoted = |line: &str| Some(line.trim().strip_prefix("#include \"")?.split_once('"')?.0.to_string());
        open.extend(
            text.lines().filter_map(quoted).map(|name| folder.join(name)).filter(|path| seen.insert(path.clone())),
        );
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

/// An entry point: its name and the bytes of each argument.
#[derive(PartialEq)]
struct Entry {
    name: String,
    sizes: Vec<usize>,
    /// The most threads that a block may have (`__launch_bounds__`).
    threads_max: usize,
}

/// The kernels and constants in the PTX of one architecture.
#[derive(PartialEq)]
struct Interface {
    entries: Vec<Entry>,
    /// Name, Rust type, value.
    constants: Vec<(String, &'static str, String)>,
}

/// The text of the generated file: a `Kernel` for each entry, the exported constants, and the fat binaries.
fn handles(nvcc: &Path, units: &[Unit]) -> Result<String, String> {
    let (mut text, mut images, mut resources) = (String::new(), String::new(), String::new());
    let mut index = 0;
    for unit in units {
        let Interface { entries, constants } = interface(unit)?;
        let source = unit.source.display();
        let mut names = String::new();
        resources.push_str(&resources_of(unit, &entries)?);
        for Entry { name, sizes, .. } in entries {
            let (constant, count) = (name.to_uppercase(), sizes.len());
            write!(names, "{name:?}, ").expect("writing to a string never fails");
            writeln!(
                text,
                "/// `{name}` of {source}.\n\
                 pub const {constant}: Kernel<{count}> = Kernel {{ index: {index}, name: {name:?}, sizes: {sizes:?} }};"
            )
            .expect("writing to a string never fails");
            index += 1;
        }
        for (name, kind, value) in constants {
            writeln!(text, "/// Of {source}.\npub const {name}: {kind} = {value};")
                .expect("writing to a string never fails");
        }
        let image = unit.image.display().to_string();
        writeln!(
            images,
            "    Image {{ source: \"{source}\", kernels: &[{names}], bytes: include_bytes!({image:?}) }},"
        )
        .expect("writing to a string never fails");
    }
    let architectures = env::var("PATARM_CUDA_ARCH").unwrap_or_else(|_| ARCHITECTURES.to_string());
    writeln!(text, "/// Architectures in the images.\npub const ARCHITECTURES: &str = {architectures:?};")
        .expect("writing to a string never fails");
    writeln!(text, "/// The compiler of the kernels.\npub const NVCC_VERSION: &str = {:?};", version(nvcc)?)
        .expect("writing to a string never fails");
    writeln!(text, "/// What ptxas reported for every kernel.\npub static RESOURCES: &[Resources] = &[\n{resources}];")
        .expect("writing to a string never fails");
    writeln!(
        text,
        "/// The fat binaries, in the order of the kernels' indices.\npub static IMAGES: &[Image] = &[\n{images}];"
    )
    .expect("writing to a string never fails");
    Ok(text)
}

/// The version in `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(nvcc: &Path) -> Result<String, String> {
    let output =
        Command::new(nvcc).arg("--version").output().map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_owned());
    found.ok_or_else(|| format!("{} --version names no version: {text}", nvcc.display()))
}

/// `Resources` of the kernels of one file, as Rust text.
fn resources_of(unit: &Unit, entries: &[Entry]) -> Result<String, String> {
    let path = unit.report();
    let report = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let (mut text, mut kernel, mut stack) = (String::new(), None, String::new());
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split_once("' for '").map(|(name, rest)| (name, rest.trim_end_matches('\'')));
        } else if line.contains("bytes stack frame") {
            // Functions that were not inlined have such lines too; the kernel's own line comes last.
            let numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
            let [frame, stores, loads] = numbers.collect::<Vec<_>>()[..] else {
                return Err(format!("{}: unexpected line `{line}`", path.display()));
            };
            stack = format!("stack_bytes: {frame}, spill_store_bytes: {stores}, spill_load_bytes: {loads}");
        } else if let Some((_, rest)) = line.split_once("ptxas info    : Used ") {
            let Some((name, architecture)) = kernel.take() else { continue };
            let registers = rest.split(' ').next().unwrap_or_default();
            let shared = rest.split(", ").find_map(|part| part.strip_suffix(" bytes smem")).unwrap_or("0");
            let entry = entries.iter().find(|entry| entry.name == name);
            let threads = entry.ok_or_else(|| format!("{}: no kernel {name}", path.display()))?.threads_max;
            writeln!(
                text,
                "    Resources {{ kernel: {name:?}, architecture: {architecture:?}, registers: {registers}, \
                 shared_bytes: {shared}, {stack}, threads_max: {threads} }},"
            )
            .expect("writing to a string never fails");
        }
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort();
    Ok(lines.iter().flat_map(|line| [line, "\n"]).collect())
}

/// Reads the PTX texts in a fat binary; all of them must have the same interface.
fn interface(unit: &Unit) -> Result<Interface, String> {
    let bytes = fs::read(&unit.image).map_err(|e| format!("cannot read {}: {e}", unit.image.display()))?;
    let mut found: Option<Interface> = None;
    // A PTX text ends with a zero byte, and so does the data before it.
    for piece in bytes.split(|byte| *byte == 0) {
        let text = String::from_utf8_lossy(piece);
        let Some(start) = text.find(".version ") else { continue };
        if !text.contains(".address_size 64") {
            continue;
        }
        let parsed = parse_ptx(&text[start..], &unit.source)?;
        if found.as_ref().is_some_and(|other| *other != parsed) {
            return Err(format!(
                "{}: the architectures differ in kernels or exported constants",
                unit.source.display()
            ));
        }
        found = Some(parsed);
    }
    found.filter(|interface| !interface.entries.is_empty()).ok_or_else(|| {
        format!("{}: no kernel found in its PTX (is it extern \"C\" __global__?)", unit.source.display())
    })
}

fn parse_ptx(text: &str, source: &Path) -> Result<Interface, String> {
    let mut interface = Interface { entries: Vec::new(), constants: Vec::new() };
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(constant) = exported_constant(line) {
            interface.constants.push(constant);
        }
        let Some(name) = line.strip_prefix(".visible .entry ") else { continue };
        let name = name.trim_end_matches(['(', ')']).to_string();
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(format!("{}: kernel {name} must be extern \"C\" and named in lower case", source.display()));
        }
        let mut sizes = Vec::new();
        if !line.ends_with("()") {
            for line in lines.by_ref().take_while(|line| *line != ")") {
                sizes.extend(parameter_bytes(line));
            }
        }
        // A kernel's directives come between its parameters and its body.
        let bounds = lines.by_ref().take_while(|line| *line != "{").find_map(|line| line.strip_prefix(".maxntid "));
        let threads =
            bounds.map_or(Some(1024), |sizes| sizes.split(',').map(|size| size.trim().parse::<usize>().ok()).product());
        let threads_max =
            threads.ok_or_else(|| format!("{}: {name} has launch bounds that are not numbers", source.display()))?;
        interface.entries.push(Entry { name, sizes, threads_max });
    }
    interface.entries.sort_by(|a, b| a.name.cmp(&b.name));
    interface.constants.sort();
    Ok(interface)
}

/// `.param .u64 name,` is 8 bytes; `.param .align 4 .b8 name[12]` is 12.
fn parameter_bytes(line: &str) -> Option<usize> {
    let words: Vec<&str> = line.strip_prefix(".param ")?.trim_end_matches(',').split_whitespace().collect();
    let name = words.last()?;
    if let Some((_, length)) = name.split_once('[') {
        return length.trim_end_matches(']').parse().ok();
    }
    let bits: usize = words.iter().find_map(|word| word.trim_start_matches(['.', 'u', 's', 'f', 'b']).parse().ok())?;
    Some(bits / 8)
}

/// `.const .align 4 .u32 NAME = 8192;`: how a constant marked with `EXPORT` (`kernels/common/export.cuh`) appears in the PTX.
fn exported_constant(line: &str) -> Option<(String, &'static str, String)> {
    let words: Vec<&str> = line.trim_start_matches(".visible ").strip_suffix(';')?.split_whitespace().collect();
    let [".const", ".align", "4", kind, name, "=", value] = words[..] else {
        return match words[..] {
            // A constant without a value is zero.
            [".const", ".align", "4", kind, name] if is_exported(name) => {
                Some((name.to_string(), rust_type(kind)?, if kind == ".f32" { "0.0" } else { "0" }.to_string()))
            }
            _ => None,
        };
    };
    if !is_exported(name) {
        return None;
    }
    let value = match value.strip_prefix("0f") {
        Some(bits) => format!("f32::from_bits(0x{bits})"),
        None => value.to_string(),
    };
    Some((name.to_string(), rust_type(kind)?, value))
}

fn is_exported(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn rust_type(ptx: &str) -> Option<&'static str> {
    match ptx {
        ".u32" | ".b32" => Some("u32"),
        ".f32" => Some("f32"),
        _ => None,
    }
}
