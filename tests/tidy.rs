//! Rules of the house that a compiler does not hold: one op in all its places, who may know whom, and the shape of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../benches/kernels/rows.rs"]
mod kernel_rows;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with one of these endings, sorted.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|end| path.extension().is_some_and(|e| e == *end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<PathBuf> {
    ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, &["rs"])).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Names of modules in a folder: NAME.rs, NAME.cu and NAME/.
fn modules(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir() || entry.path().extension().is_some_and(|e| e == "rs" || e == "cu"))
        .map(|entry| entry.path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

/// What lies in these folders without being an op, and why.
const NOT_OPS: [(&str, &[&str]); 6] = [
    // The table of contents, the backends' folders, and what all contracts use.
    ("src/ops", &["mod", "cpu", "cuda", "cost", "error"]),
    // Shared by several ops: vectors, products, the row routine of head and sampler, rayon and memory helpers.
    ("src/ops/cpu", &["mod", "simd", "gemm", "log_softmax", "memory", "team", "parallel", "shared"]),
    ("src/ops/cuda", &["mod", "peak"]),
    // Headers that several kernels include.
    ("kernels", &["common"]),
    ("tests/ops", &["main", "numbers", "cuda_device"]),
    ("benches/ops", &["main"]),
];

#[test]
fn every_op_has_its_contract_its_code_on_both_sides_its_test_and_its_bench() {
    let names = |folder: &str| {
        let known = NOT_OPS.iter().find(|(f, _)| *f == folder).map_or(&[][..], |(_, names)| names);
        let mut ops = modules(folder);
        ops.retain(|name| !known.contains(&name.as_str()));
        ops
    };
    let contracts = names("src/ops");
    assert!(contracts.len() >= 11, "contracts found: {contracts:?}");
    for (folder, _) in &NOT_OPS[1..] {
        assert_eq!(names(folder), contracts, "{folder} and src/ops must have the same ops");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = rust_files()
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| relative(path))
        .collect();
    assert!(silent.is_empty(), "files without a first line `//! …`: {silent:?}");
}

#[test]
fn every_kernel_file_says_what_it_is_for() {
    let sources = files("kernels", &["cu", "cuh"]);
    assert!(sources.len() >= 4, "{sources:?}");
    let silent: Vec<String> = sources
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("// "))
        .map(|path| relative(path))
        .collect();
    assert!(silent.is_empty(), "files without a first line `// …`: {silent:?}");
}

#[test]
fn files_fit_their_size_and_hold_no_unfinished_marks() {
    // Spelled in two halves, so that this file does not find itself.
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut faults = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > 800 {
            faults.push(format!("{}: {lines} lines, at most 800", relative(&path)));
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                faults.push(format!("{}:{}: {mark}", relative(&path), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Who may know whom: a module and the modules whose names it may use. `train` and `commands` see everything.
const KNOWS: [(&str, &[&str]); 14] = [
    ("random", &[]),
    ("tensor", &[]),
    ("cuda", &["tensor"]),
    ("ops", &["tensor", "random", "cuda"]),
    ("model", &["ops", "tensor", "random"]),
    ("rollout", &["model", "ops", "tensor", "random"]),
    ("optimizer", &["model", "ops", "tensor"]),
    ("loss", &["ops"]),
    ("data", &["random", "tensor", "tokenizer", "reward"]),
    ("tokenizer", &["data", "tensor"]),
    // The arithmetic of rewards is the op `score_margin`.
    ("reward", &["data", "ops", "tensor", "random"]),
    // Settings are made of the settings of what they configure.
    ("config", &["loss", "ops", "optimizer", "reward"]),
    ("log", &["ops", "tensor"]),
    // Judges pairs with the rollouts of `train`, and measures nothing of training itself.
    ("eval", &["train", "model", "ops", "rollout", "reward", "data", "random"]),
];

/// A checkpoint is a learner's state, so it knows `train`.
const SEES_ALL: [&str; 5] = ["train", "commands", "checkpoint", "lib", "main"];

#[test]
fn modules_use_only_the_modules_that_they_may_know() {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for path in files("src", &["rs"]) {
        let inside = relative(&path);
        let module = inside.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_string();
        seen.insert(module.clone());
        if SEES_ALL.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = KNOWS.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{inside}: module `{module}` is not in the table"));
            continue;
        };
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for part in code.split("crate::").skip(1) {
                let used: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module && !allowed.contains(&used.as_str()) {
                    faults.push(format!("{inside}:{}: `{module}` must not know `{used}`", number + 1));
                }
            }
        }
    }
    assert!(seen.len() >= 15, "modules found: {seen:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The driver's name appears where the device is, and nowhere else.
#[test]
fn only_the_cuda_modules_name_cudarc() {
    let inside = |path: &Path| ["src/cuda/", "src/ops/cuda/"].iter().any(|folder| relative(path).starts_with(folder));
    let mut faults = Vec::new();
    for path in files("src", &["rs"]).iter().filter(|path| !inside(path)) {
        for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            if line.split("//").next().unwrap_or("").contains("cudarc") {
                faults.push(format!("{}:{}", relative(path), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "cudarc outside src/cuda and src/ops/cuda: {faults:?}");
}

/// `ops` may name the device only where it lives: contracts and the CPU's code know nothing of it.
#[test]
fn contracts_and_the_cpu_know_nothing_of_cuda() {
    let mut faults = Vec::new();
    for path in files("src/ops", &["rs"]) {
        let inside = relative(&path);
        if inside.starts_with("src/ops/cuda/") || inside == "src/ops/mod.rs" {
            continue;
        }
        if fs::read_to_string(&path).unwrap().contains("crate::cuda") {
            faults.push(inside);
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

/// A contract that says how to check its arguments says what they cost: the one source of bytes and flops for benches and floors.
#[test]
fn every_contract_states_its_cost() {
    let mut contracts = 0;
    for path in files("src/ops", &["rs"]).iter().filter(|path| path.parent() == Some(&root().join("src/ops"))) {
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let count = |line: &str| lines.iter().filter(|other| other.starts_with(line)).count();
        let (checks, costs) = (count("pub fn check(&self) -> OpResult"), count("pub fn cost(&self) -> Cost"));
        assert_eq!(checks, costs, "{}: contracts with a check() and those with a cost()", relative(path));
        contracts += costs;
    }
    assert!(contracts >= 18, "contracts found: {contracts}");
}

/// A prediction of a row that nobody measures would never be off.
#[test]
fn predictions_are_of_rows_that_the_kernel_bench_has() {
    let text = fs::read_to_string(root().join("benches/predictions.toml")).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let tables = |kind: &str| {
        let tables = file[kind].as_array().unwrap_or_else(|| panic!("[[{kind}]]"));
        tables.iter().map(|table| table.as_table().unwrap().clone()).collect::<Vec<_>>()
    };
    let number = |table: &toml::Table, key: &str| {
        let value = &table[key];
        value.as_float().or(value.as_integer().map(|n| n as f64)).unwrap_or_else(|| panic!("{key} of {table}"))
    };
    let text = |table: &toml::Table, key: &str| table[key].as_str().unwrap().to_string();
    let mut names = BTreeSet::new();
    for table in ["kernel", "part", "step"].into_iter().flat_map(tables) {
        let (name, low, high) = (text(&table, "name"), number(&table, "low"), number(&table, "high"));
        assert!(0.0 < low && low <= high, "{name}: {low} to {high}");
        assert!(!text(&table, "why").is_empty(), "{name} has no reason");
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    for table in tables("kernel") {
        let (name, unit) = (text(&table, "name"), text(&table, "unit"));
        assert!(kernel_rows::NAMES.contains(&name.as_str()), "{name} is no row of benches/kernels/rows.rs");
        assert!(["percent_of_copy", "percent_of_matmul", "tflop_per_s"].contains(&unit.as_str()), "{name}: {unit}");
    }
    for table in tables("step") {
        let (name, floor) = (text(&table, "name"), number(&table, "floor"));
        let (low, high) = (number(&table, "low"), number(&table, "high"));
        // A floor of time lies below what is expected, one of speed above.
        let sound = if text(&table, "unit") == "ms" { floor < low } else { floor > high };
        assert!(sound, "{name}: floor {floor}, expected {low} to {high}");
        assert!(text(&table, "command").starts_with("bench ") && !text(&table, "key").is_empty(), "{name}");
    }
    assert!(number(file["card"].as_table().unwrap(), "copy_tb_per_s") > 0.0);
}
