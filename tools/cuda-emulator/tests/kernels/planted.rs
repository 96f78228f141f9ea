//! Kernels with one mistake each: a check must report it with its line, and must not report the correct kernel.

use cuda_emulator::fault::Fault;

use crate::compile::{TARGETS, Target, has_nvcc, source};
use crate::fixture::{Fixture, noise};
use crate::flash_attention::Shape;
use crate::{adamw, flash_attention, log_sum_exp};

/// Runs `work` with and without a mistake, for both targets. The fault must be on a line that the source marks with the
/// mistake.
fn must_be_found(file: &str, mistake: &str, work: impl Fn(&mut Fixture) -> Result<(), Fault>) {
    if !has_nvcc() {
        return;
    }
    let source = source(file);
    let marked = |line: &str| {
        line.split_once("// FAULT ").is_some_and(|(_, names)| names.split_whitespace().any(|name| name == mistake))
    };
    let lines: Vec<u32> = (1..).zip(source.lines()).filter(|(_, line)| marked(line)).map(|(n, _)| n).collect();
    assert!(!lines.is_empty(), "{file} marks no line with {mistake}");
    for target in TARGETS {
        let run = |mistake| work(&mut Fixture::new(file, mistake, target));
        if let Err(fault) = run(None) {
            panic!("sm_{}: {file} without a mistake: {fault}", target.name);
        }
        let fault = run(Some(mistake)).expect_err(&format!("sm_{}: {file} with {mistake}", target.name));
        assert!(fault.file.ends_with(file), "sm_{} {mistake}: {fault}", target.name);
        assert!(lines.contains(&fault.line), "sm_{} {mistake}: expected a line of {lines:?}: {fault}", target.name);
    }
}

fn attention(fixture: &mut Fixture) -> Result<(), Fault> {
    let shape = Shape { tokens: 200, q_heads: 2, kv_heads: 1 };
    flash_attention::run(fixture, &shape, &shape.inputs()).map(|_| ())
}

#[test]
fn a_wait_count_that_is_off_by_one() {
    must_be_found(flash_attention::FILE, "WAIT_OFF_BY_ONE", attention);
}

#[test]
fn a_missing_barrier_after_the_wait() {
    must_be_found(flash_attention::FILE, "NO_BARRIER_AFTER_WAIT", attention);
}

/// The results stay right, so only a race checker can see it.
#[test]
fn a_missing_barrier_at_the_end_of_a_loop() {
    must_be_found(flash_attention::FILE, "NO_BARRIER_AT_END", attention);
}

#[test]
fn an_unguarded_tail() {
    must_be_found(adamw::FILE, "UNGUARDED_TAIL", |fixture| adamw::run(fixture, &adamw::State::new(1021)).map(|_| ()));
}

#[test]
fn a_missing_barrier_inside_a_block_reduction() {
    must_be_found(log_sum_exp::FILE, "NO_INNER_BARRIER", |fixture| rows(fixture, 2, 1000));
}

#[test]
fn a_missing_barrier_before_a_block_reduction() {
    must_be_found(log_sum_exp::FILE, "NO_LEADING_BARRIER", |fixture| rows(fixture, 7, 1000));
}

#[test]
fn a_loop_that_runs_one_iteration_too_many() {
    must_be_found(log_sum_exp::FILE, "BOUND_OFF_BY_ONE", |fixture| rows(fixture, 1, 1001));
}

#[test]
fn a_block_reduction_in_a_branch() {
    must_be_found(log_sum_exp::FILE, "REDUCTION_IN_A_BRANCH", |fixture| rows(fixture, 2, 1000));
}

fn rows(fixture: &mut Fixture, rows: usize, cols: usize) -> Result<(), Fault> {
    log_sum_exp::run(fixture, &noise(1, rows * cols), rows).map(|_| ())
}

/// The launch is fine, but the copy back reads memory that was never written.
#[test]
fn an_output_that_is_never_written() {
    if !has_nvcc() {
        return;
    }
    let run = |mistake, target: Target| {
        let mut fixture = Fixture::new(log_sum_exp::FILE, mistake, target);
        let (out, _) = log_sum_exp::run(&mut fixture, &noise(1, 3000), 3).unwrap_or_else(|fault| panic!("{fault}"));
        fixture.download::<f32>(out, 3)
    };
    for target in TARGETS {
        run(None, target).unwrap_or_else(|fault| panic!("{fault}"));
        let fault = run(Some("OUTPUT_NOT_WRITTEN"), target).unwrap_err();
        assert!(fault.to_string().contains("never written"), "{fault}");
    }
}

#[test]
fn blocks_that_race_for_a_sum() {
    must_be_found(adamw::FILE, "NO_ATOMIC", |fixture| {
        use crate::fixture::Argument::{Address, Int};
        let (sum, from) = (fixture.upload(&[0.0f64]), fixture.upload(&noise(9, 1000)));
        fixture.launch("square_sum_f64", [4, 1, 1], 32, 0, &[Address(sum), Address(from), Int(1000)])
    });
}

#[test]
fn a_buffer_that_was_freed() {
    if !has_nvcc() {
        return;
    }
    for target in TARGETS {
        use crate::fixture::Argument::{Address, Int};
        let mut fixture = Fixture::new(log_sum_exp::FILE, None, target);
        let (out, logits) = (fixture.empty::<f32>(1), fixture.upload(&noise(1, 1001)));
        fixture.device.memory.free(logits).unwrap_or_else(|fault| panic!("{fault}"));
        let arguments = [Address(out), Address(logits), Int(1), Int(1001)];
        let fault = fixture.launch("log_sum_exp_f32", [1, 1, 1], 256, 0, &arguments).unwrap_err();
        assert!(fault.to_string().contains("freed") && fault.file.ends_with(log_sum_exp::FILE), "{fault}");
    }
}
