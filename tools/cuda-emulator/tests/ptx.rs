//! Loading nvcc's PTX: everything that it emits for ordinary CUDA C must load, everything else must be refused by name.

use std::fs;
use std::path::Path;

use cuda_emulator::ir::{LoadError, Program};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The text before the statements of the fixture, and its statements, one per form.
fn forms() -> (String, Vec<String>) {
    let text = fixture("forms.ptx");
    let is_statement = |line: &&str| line.ends_with(';') && !line.starts_with('.');
    let statements: Vec<_> = text.lines().filter(is_statement).map(str::to_string).collect();
    let first = text.find(&statements[0]).unwrap();
    (text[..first].to_string(), statements)
}

#[test]
fn every_form_loads_for_both_targets() {
    let (header, statements) = forms();
    assert!(statements.len() > 500);
    for target in ["sm_80", "sm_90a"] {
        let header = header.replace("sm_90a", target);
        for statement in &statements {
            let text = format!("{header}{statement}\n}}\n");
            let program = Program::load(&text).unwrap_or_else(|error| panic!("{target}, {statement}: {error}"));
            assert!(program.kernels[0].code.len() > 1, "{statement} became nothing");
        }
    }
}

/// One modifier too many, one too few, another type: the loader must never choose a similar form.
#[test]
fn changed_forms_are_refused_by_name() {
    let (header, statements) = forms();
    for statement in &statements {
        let (opcode, operands) = statement.split_once(' ').unwrap_or((statement.trim_end_matches(';'), ";"));
        let (mnemonic, modifiers) = opcode.split_once('.').unwrap_or((opcode, ""));
        for changed in [
            format!("{opcode}.banana"),
            format!("{mnemonic}.banana.{modifiers}"),
            format!("{opcode}x"),
            format!("{opcode}.u128"),
            format!("q{opcode}"),
        ] {
            let text = format!("{header}.loc 1 77 1\n{changed} {operands}\n}}\n.file 1 \"here.cu\"\n");
            match Program::load(&text) {
                Err(LoadError::UnknownForm { form, location }) => {
                    assert_eq!(form, changed);
                    assert_eq!(location.source, Some(("here.cu".to_string(), 77)));
                }
                other => panic!("{changed}: {:?}", other.map(|_| ())),
            }
        }
    }
}

/// The shape of a kernel as the driver needs it.
#[test]
fn a_kernel_of_nvcc() {
    let program = Program::load(&fixture("adamw-80.ptx")).unwrap();
    assert_eq!(program.target, (8, 0));
    let names: Vec<_> = program.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    assert_eq!(names, ["adamw_f32", "square_sum_f64"]);
    let adamw = program.kernel("adamw_f32").unwrap();
    let shape: Vec<_> = adamw.parameters.iter().map(|p| (p.offset, p.size, p.pointers.len())).collect();
    // Five arrays, a count, and a struct of seven numbers.
    assert_eq!(shape, [(0, 8, 1), (8, 8, 1), (16, 8, 1), (24, 8, 1), (32, 8, 1), (40, 4, 0), (44, 28, 0)]);
    assert_eq!((adamw.parameter_bytes, adamw.max_threads), (72, 256));
    // Every instruction of the body has a source line, and none in the toolkit's headers.
    let lines: Vec<_> = adamw.code.iter().map(|i| &program.lines[i.line as usize]).collect();
    let in_source = lines.iter().filter(|line| line.file.ends_with("adamw.cu")).count();
    assert!(lines.iter().all(|line| !line.file.contains("/include/")) && in_source + 10 > lines.len(), "{lines:?}");
}
