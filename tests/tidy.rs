//! Rules of the house that a compiler does not hold: one op in all its places, who may know whom, and the shape of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// What is found in the text of a file of src, by its place: `FILE:found`.
fn faults_in_src<T: std::fmt::Display>(find: fn(&str) -> Vec<T>) -> Vec<String> {
    let of_file = |path: PathBuf| {
        let found = find(&fs::read_to_string(&path).unwrap());
        found.into_iter().map(move |found| format!("{}:{found}", relative(&path)))
    };
    files("src", &["rs"]).into_iter().flat_map(of_file).collect()
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
    // The table of contents, the backends' folders (one of them on paper), sizes of a card, and what all contracts use.
    ("src/ops", &["mod", "cpu", "cuda", "paper", "chunk", "cost", "error"]),
    // Shared by several ops: vectors, matmuls, the row routine of LM head and sampler, rayon and memory helpers.
    ("src/ops/cpu", &["mod", "simd", "gemm", "log_softmax", "memory", "team", "parallel", "shared"]),
    ("src/ops/cuda", &["mod", "peak"]),
    // Headers that several kernels include.
    ("kernels", &["common"]),
    // Several ops at once: a launch of every kernel, and all ops at the sizes of a model.
    ("tests/ops", &["numbers", "smoke", "model_sizes"]),
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

/// The kind and the name of the public item that a line of code begins, if it begins one.
fn public_item(line: &str) -> Option<(&str, String)> {
    let code = line.trim_start().strip_prefix("pub ")?;
    let qualified = code.strip_prefix("const ").filter(|rest| rest.starts_with("fn ") || rest.starts_with("unsafe "));
    let code = qualified.unwrap_or(code);
    let (kind, rest) = code.strip_prefix("unsafe ").unwrap_or(code).split_once(' ')?;
    // A name that a macro fills in is documented where the macro is used.
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty() && ["fn", "struct", "enum", "trait", "const", "static", "type", "mod"].contains(&kind))
        .then_some((kind, name))
}

/// Public items of a file without a doc comment, as `line: code`. A field or variant is explained by its type where it needs
/// to be, a module by its own file, and every contract's `check` and `cost` are the same.
fn undocumented(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let (mut found, mut tests_end) = (Vec::new(), 0);
    // Whether the item that begins next has a doc comment, and whether an attribute of it is still open.
    let (mut documented, mut in_attribute, mut in_tests) = (false, false, false);
    for (number, line) in lines.iter().enumerate() {
        if number < tests_end {
            continue;
        }
        let code = line.trim();
        if in_attribute || code.starts_with("#[") {
            in_attribute = !code.ends_with(']');
            in_tests |= code == "#[cfg(test)]";
            continue;
        }
        if code.starts_with("///") {
            documented = true;
            continue;
        }
        if in_tests && code.contains("mod ") && code.ends_with('{') {
            let closes = |end: &&str| end.trim() == "}" && indentation(end) == indentation(line);
            tests_end = number + 1 + lines[number..].iter().position(closes).unwrap_or(lines.len());
        } else if let Some((kind, name)) = public_item(line) {
            let elsewhere = kind == "mod" && code.ends_with(';');
            let contract = kind == "fn" && (name == "check" || name == "cost");
            if !(documented || elsewhere || contract) {
                found.push(format!("{}: {code}", number + 1));
            }
        }
        (documented, in_tests) = (false, false);
    }
    found
}

#[test]
fn public_items_say_what_they_are() {
    let faults = faults_in_src(undocumented);
    assert!(faults.is_empty(), "{} public items without a doc comment:\n{}", faults.len(), faults.join("\n"));
}

/// The search for undocumented items can fail, and sees past attributes.
#[test]
fn undocumented_items_are_found() {
    let documented = "/// A.\n#[derive(Debug)]\n#[serde(\n    default\n)]\npub struct A;\npub mod b;\npub use b::C;";
    assert_eq!(undocumented(documented), [""; 0]);
    assert_eq!(undocumented("pub(crate) fn a() {}\npub fn check(&self) {}"), [""; 0]);
    assert_eq!(undocumented("#[cfg(test)]\nmod tests {\n    pub fn a() {}\n}\npub fn b() {}"), ["5: pub fn b() {}"]);
    let bare =
        ["pub fn a() {}", "    pub unsafe fn b() {}", "pub const fn c() {}", "pub const D: u32 = 1;", "pub mod e {"];
    for line in bare {
        assert_eq!(undocumented(&format!("/// F.\npub fn f() {{}}\n{line}")), [format!("3: {}", line.trim())]);
    }
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
const KNOWS: [(&str, &[&str]); 22] = [
    ("random", &[]),
    // Whatever is written goes through it, from everywhere.
    ("file", &[]),
    // What a setting is; sections stand beside what they configure.
    ("setting", &[]),
    // Keeps accounts for every device, and knows none.
    ("memory", &[]),
    ("tensor", &["file", "memory"]),
    ("cuda", &["memory", "tensor"]),
    ("loss", &["setting"]),
    ("ops", &["tensor", "random", "cuda", "loss", "memory"]),
    ("model", &["file", "ops", "tensor", "random"]),
    ("rollout", &["memory", "model", "ops", "tensor", "random"]),
    ("optimizer", &["model", "ops", "setting", "tensor"]),
    ("data", &["file", "random", "tokenizer"]),
    ("tokenizer", &["data", "file", "tensor"]),
    // The way from a response to its verdict, for training, evaluation and serving alike.
    ("judge", &["data", "file", "tokenizer", "model", "ops", "rollout", "random", "setting"]),
    // The arithmetic of rewards is the op `score_margin`.
    ("reward", &["judge", "data", "ops", "setting"]),
    // Settings are made of the settings of what they configure.
    ("config", &["judge", "loss", "memory", "model", "ops", "optimizer", "reward", "setting"]),
    ("log", &["file"]),
    // Draws what it is given: the commands hand the trainers' descriptions over.
    ("report", &["file", "log"]),
    // Benchmarks' rows are read as all rows are.
    ("eval", &["data", "judge", "log", "model", "ops", "random", "rollout"]),
    // Takes named arenas and knows no trainer.
    ("checkpoint", &["file", "ops", "tensor"]),
    (
        "train",
        &[
            "checkpoint",
            "config",
            "data",
            "file",
            "judge",
            "log",
            "loss",
            "memory",
            "model",
            "ops",
            "optimizer",
            "random",
            "report",
            "reward",
            "rollout",
            "setting",
            "tensor",
            "tokenizer",
        ],
    ),
    // Does a step of a run on paper.
    (
        "plan",
        &[
            "config",
            "data",
            "judge",
            "log",
            "memory",
            "model",
            "ops",
            "optimizer",
            "random",
            "reward",
            "rollout",
            "setting",
            "tensor",
            "train",
        ],
    ),
];

/// The top: everything comes together here, and nothing below may use these.
const SEES_ALL: [&str; 3] = ["commands", "lib", "main"];

/// The module of a file of `src`.
fn module_of(file: &str) -> &str {
    file.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default()
}

/// The modules that a line of code names as `crate::NAME`.
fn used_modules(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or("");
    let name = |part: &str| part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    code.split("crate::").skip(1).map(name).collect()
}

#[test]
fn modules_use_only_the_modules_that_they_may_know() {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for path in files("src", &["rs"]) {
        let file = relative(&path);
        let module = module_of(&file);
        seen.insert(module.to_string());
        if SEES_ALL.contains(&module) {
            continue;
        }
        let Some((_, allowed)) = KNOWS.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{file}: module `{module}` is not in the table"));
            continue;
        };
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for used in used_modules(line) {
                if used != module && !allowed.contains(&used.as_str()) {
                    faults.push(format!("{file}:{}: `{module}` must not know `{used}`", number + 1));
                }
            }
        }
    }
    assert!(seen.len() >= 15, "modules found: {seen:?}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A permission that nothing uses invites a use that nobody has thought about.
#[test]
fn every_permission_is_used() {
    let mut used = BTreeSet::new();
    for path in files("src", &["rs"]) {
        let file = relative(&path);
        for line in fs::read_to_string(&path).unwrap().lines() {
            used.extend(used_modules(line).into_iter().map(|name| (module_of(&file).to_string(), name)));
        }
    }
    let unused: Vec<_> = KNOWS
        .iter()
        .flat_map(|(module, allowed)| allowed.iter().map(move |name| (module.to_string(), name.to_string())))
        .filter(|permission| !used.contains(permission))
        .collect();
    assert!(unused.is_empty(), "(module, module that it may know and does not use): {unused:?}");
}

/// Folders inside which no module may use a module that uses it, directly or through others.
const WITHOUT_CYCLES: [&str; 5] =
    ["src/data", "src/rollout", "src/train", "src/ops/cpu/attention", "src/ops/cuda/attention"];

/// Cycles that are still to be opened: folder and two modules. Must be empty; an entry that nothing needs fails the test.
const CYCLES_TO_OPEN: &[(&str, &str, &str)] = &[];

/// The names that follow each `prefix` in `code`: `prefix::a::b` gives a, `prefix::{a::b, c}` gives a and c.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let ident = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (start, _) in code.match_indices(prefix) {
        // `super::super::` is another prefix than `super::`.
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[start + prefix.len()..];
        if rest.starts_with("super::") {
            continue;
        }
        if !rest.starts_with('{') {
            names.push(ident(rest));
            continue;
        }
        let mut depth = 0;
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if (c == '{' || c == ',') && depth == 1 {
                names.push(ident(rest[at + 1..].trim_start()));
            }
        }
    }
    names
}

/// A file's code without comments and without its tests, which may use anything.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("mod tests {").next().unwrap_or("");
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Which module of a folder uses which other one, names that `mod.rs` exports again counted for the module that has them.
fn uses_inside(folder: &str) -> BTreeSet<(String, String)> {
    let mut modules = modules(folder);
    modules.remove("mod");
    let mut exported = BTreeMap::new();
    let table_of_contents = code_of(&root().join(folder).join("mod.rs"));
    for module in &modules {
        for prefix in [format!("{module}::"), format!("self::{module}::")] {
            for name in names_after(&table_of_contents, &prefix) {
                exported.insert(name, module.clone());
            }
        }
    }
    let inside_crate = format!("crate::{}::", folder.trim_start_matches("src/").replace('/', "::"));
    let mut uses = BTreeSet::new();
    for path in files(folder, &["rs"]) {
        let file = path.strip_prefix(root().join(folder)).unwrap();
        let parts: Vec<String> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let user = parts[0].trim_end_matches(".rs").to_string();
        // A `tests.rs` is a test module of its folder.
        if user == "mod" || parts.last().is_some_and(|name| name.ends_with("tests.rs")) {
            continue;
        }
        // `super` of src/data/x.rs and of src/data/x/mod.rs is the folder; a file deeper needs one more.
        let depth = parts.len() - usize::from(parts.last().is_some_and(|name| name == "mod.rs"));
        let code = code_of(&path);
        for name in [names_after(&code, &"super::".repeat(depth)), names_after(&code, &inside_crate)].concat() {
            let used = exported.get(&name).unwrap_or(&name);
            if modules.contains(used) && *used != user {
                uses.insert((user.clone(), used.clone()));
            }
        }
    }
    uses
}

/// Modules that use each other in a cycle, if there are any.
fn cycle(uses: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    fn walk(at: &str, path: &mut Vec<String>, uses: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|module| module == at) {
            return Some(path[start..].to_vec());
        }
        path.push(at.to_string());
        for (_, next) in uses.iter().filter(|(user, _)| user == at) {
            if let Some(found) = walk(next, path, uses) {
                return Some(found);
            }
        }
        path.pop();
        None
    }
    uses.iter().find_map(|(user, _)| walk(user, &mut Vec::new(), uses))
}

#[test]
fn modules_of_a_folder_do_not_use_each_other_in_a_cycle() {
    let mut faults = Vec::new();
    for folder in WITHOUT_CYCLES {
        let mut uses = uses_inside(folder);
        assert!(uses.len() >= 4, "{folder}: {uses:?}");
        for (_, a, b) in CYCLES_TO_OPEN.iter().filter(|(at, _, _)| *at == folder) {
            let [there, back] = [(a, b), (b, a)].map(|(a, b)| uses.remove(&(a.to_string(), b.to_string())));
            if !(there && back) {
                faults.push(format!("{folder}: `{a}` and `{b}` are no longer a cycle: remove the exception"));
            }
        }
        if let Some(found) = cycle(&uses) {
            faults.push(format!("{folder}: {} use each other in a cycle; all uses: {uses:?}", found.join(" → ")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The search for cycles can fail, and reads all spellings of a use.
#[test]
fn cycles_are_found() {
    let uses = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    assert_eq!(cycle(&uses(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(cycle(&uses(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".to_string(), "c".to_string()]));
    let code = "use super::a::X;\nuse super::{b::{Y, Z}, C,\n    d};\nsuper::super::e::f(); crate::data::g()";
    assert_eq!(names_after(code, "super::"), ["a", "b", "C", "d"]);
    assert_eq!(names_after(code, "super::super::"), ["e"]);
    assert_eq!(names_after(code, "crate::data::"), ["g"]);
}

/// Rust, CUDA, Python and shell files of the repository; what tools have downloaded or built is not.
fn sources() -> Vec<PathBuf> {
    let mut found = vec![root().join("build.rs")];
    let mut open: Vec<PathBuf> =
        ["src", "tests", "benches", "kernels", "tools", ".ci"].iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
            match ending.as_deref() {
                _ if name.starts_with('.') || name == "target" || name == "__pycache__" => {}
                _ if path.is_dir() => open.push(path),
                Some("rs" | "cu" | "cuh" | "py" | "sh") => found.push(path),
                None if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"#!")) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Characters of the longest line.
const COLUMNS_MAX: usize = 130;

#[test]
fn lines_fit_their_width() {
    let sources = sources();
    assert!(sources.len() > 200, "{} files", sources.len());
    let mut faults = Vec::new();
    for path in sources {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                faults.push(format!("{}:{}: {columns} characters", relative(&path), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "lines of more than {COLUMNS_MAX} characters:\n{}", faults.join("\n"));
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

/// `println!` and its like panic where standard output or standard error is full or closed.
#[test]
fn only_the_console_writes_to_the_terminal() {
    let mut faults = Vec::new();
    for path in files("src", &["rs"]).iter().filter(|path| !relative(path).ends_with("src/file/console.rs")) {
        for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if ["print!(", "println!(", "dbg!("].iter().any(|name| code.contains(name)) {
                faults.push(format!("{}:{}: {}", relative(path), number + 1, line.trim()));
            }
        }
    }
    let how = "results: file::console::print_line; everything else: file::say!";
    assert!(faults.is_empty(), "{how}\n{}", faults.join("\n"));
}

/// Error types whose causes are printed twice by `{:#}`, as line numbers: it prints an error and then its `source()`, and here
/// an error's own text holds its cause, so that it is whole wherever it is shown. So nothing has a `source()` unless its text
/// is that of its source (`transparent`).
fn causes_printed_twice(text: &str) -> Vec<usize> {
    let (mut found, mut of_text) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        if let Some((_, attribute)) = code.split_once("#[error(") {
            of_text = !attribute.starts_with("transparent");
        }
        // The field `source` is thiserror's without an attribute. Past the end of an enum there are no attributes of fields.
        let field = code.split(['{', ',', '(']).any(|part| {
            let part = part.trim_start().trim_start_matches("pub ");
            part.starts_with("source:") && !part.starts_with("source::")
        });
        let marked = code.contains("#[from]") || code.contains("#[source]");
        if of_text && (field || marked) || code.contains("fn source(&self)") {
            found.push(number + 1);
        }
        of_text &= code != "}";
    }
    found
}

#[test]
fn no_error_prints_its_cause_twice() {
    let faults = faults_in_src(causes_printed_twice);
    assert!(faults.is_empty(), "name the field `error`, or make the variant `transparent`:\n{}", faults.join("\n"));
}

#[test]
fn causes_that_are_printed_twice_are_found() {
    let of = |variant: &str| {
        causes_printed_twice(&format!("enum E {{\n{variant}\n}}\nstruct S {{\n    source: String,\n}}"))
    };
    assert_eq!(of("    #[error(transparent)]\n    A(#[from] Io),"), [0; 0]);
    assert_eq!(of("    #[error(\"a: {error}\")]\n    A { path: PathBuf, error: Io },"), [0; 0]);
    assert_eq!(of("    #[error(\"a: {source}\")]\n    A { path: PathBuf, source: Io },"), [3]);
    assert_eq!(of("    #[error(\n        \"a\"\n    )]\n    A {\n        source: Io,\n    },"), [6]);
    assert_eq!(of("    #[error(\"a: {0}\")]\n    A(#[from] Io),"), [3]);
    assert_eq!(of("    #[error(transparent)]\n    A(#[from] Io),\n    #[error(\"{0}\")]\n    B(#[source] Io),"), [5]);
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
    let rows = fs::read_to_string(root().join("benches/kernels/rows.rs")).unwrap();
    for table in tables("kernel") {
        let (name, unit) = (text(&table, "name"), text(&table, "unit"));
        assert!(rows.contains(&format!("\"{name}\"")), "{name} is no row of benches/kernels/rows.rs");
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
