//! The memory traffic of kernels, counted by the emulator and compared with the floors of their contracts, the formulas in their
//! files, and a committed table, so that no change adds traffic or bank conflicts unnoticed.
//!
//! One test in a separate process, because counters are global to the process.
#![cfg(has_cuda)]

mod attention;
mod floors;

use std::fmt::Write;
use std::path::Path;

use cuda_emulator::counters::{Counters, KernelCounters};
use half::bf16;
use patarm::cuda::kernels::NVCC_VERSION;
use patarm::cuda::{Buffer, Cuda, Emulation};
use patarm::random::Stream;
use patarm::tensor::Device;

/// Kernels whose shared-memory conflicts are accepted, with the reason. Their number is in the table.
const MAY_CONFLICT: [(&str, &str); 2] = [
    ("attention_backward_kv_64_bf16", "once a block, after its loop: the compiler splits a store of two floats"),
    ("sample_f32", "histograms of logits by integer atomics, and one scan of them a cut: only with top-k or top-p"),
];

/// The devices, counting and without checks: the other tests check.
fn devices() -> [Cuda; 2] {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("stats", "1").unwrap();
    cuda_emulator::configure("checks", "0").unwrap();
    [0, 1].map(|ordinal| Cuda::open(ordinal, Emulation::Allowed).unwrap_or_else(|e| panic!("{e}")))
}

/// The counters of the work of a call.
fn counted(device: &Cuda, work: impl FnOnce()) -> Counters {
    device.synchronize().unwrap();
    cuda_emulator::counters();
    work();
    device.synchronize().unwrap();
    cuda_emulator::counters()
}

fn kernel<'a>(counters: &'a Counters, name: &str) -> &'a KernelCounters {
    counters.kernel(name).unwrap_or_else(|| panic!("{name} did not run:\n{}", counters.table()))
}

fn floats(device: &Cuda, len: usize) -> Buffer<f32> {
    let stream = Stream::new(len as u64);
    device.upload(&(0..len as u64).map(|i| stream.uniform(i as u32) - 0.5).collect::<Vec<_>>()).unwrap()
}

fn halves(device: &Cuda, len: usize) -> Buffer<bf16> {
    let stream = Stream::new(len as u64);
    device.upload(&(0..len as u64).map(|i| bf16::from_f32(stream.uniform(i as u32) - 0.5)).collect::<Vec<_>>()).unwrap()
}

fn words(device: &Cuda, values: &[u32]) -> Buffer<u32> {
    device.upload(values).unwrap()
}

/// Every kernel's counts on both targets, in the order they ran.
#[derive(Default)]
struct Table(String);

impl Table {
    fn add(&mut self, case: &str, device: &Cuda, counters: &Counters) {
        let (major, minor) = device.capability();
        for (name, k) in counters.kernels() {
            let reason = MAY_CONFLICT.iter().any(|(known, _)| *known == name);
            assert!(
                reason || k.bank_conflicts == 0,
                "{name}, {case}, sm_{major}{minor}: {} conflicts",
                k.bank_conflicts
            );
            writeln!(
                self.0,
                "{case:28} {name:36} sm_{major}{minor} {:>8} {:>12} {:>9} {:>9} {:>12} {:>9} {:>9} {:>9}",
                k.launches,
                k.load_bytes,
                k.load_sectors,
                k.load_instructions,
                k.store_bytes,
                k.store_sectors,
                k.bank_conflicts,
                k.mma
            )
            .unwrap();
        }
    }

    fn text(&self) -> String {
        format!(
            "The emulator's counts for the kernels of nvcc {NVCC_VERSION}; `PATARM_UPDATE=1 cargo test --release --test \
             counters` writes this file.\nSectors have 32 bytes; loads are the instructions of warps that load from global \
             memory (512 bytes each at most); conflicts are passes over shared memory beyond the first.\n\n\
             {:28} {:36} {:5} {:>8} {:>12} {:>9} {:>9} {:>12} {:>9} {:>9} {:>9}\n{}",
            "case",
            "kernel",
            "",
            "launches",
            "load bytes",
            "sectors",
            "loads",
            "store bytes",
            "sectors",
            "conflicts",
            "mma",
            self.0
        )
    }
}

#[test]
fn kernels_move_what_they_say_and_no_more() {
    if std::env::var("PATARM_TEST_DEVICE").as_deref() == Ok("gpu") {
        eprintln!("skipped: a device has no counters");
        return;
    }
    let mut table = Table::default();
    for device in &devices() {
        floors::run(device, &mut table);
        attention::run(device, &mut table);
    }
    compare(&table.text());
}

fn compare(now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counters.txt");
    if std::env::var("PATARM_UPDATE").as_deref() == Ok("1") {
        std::fs::write(&path, now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    if committed.lines().next() != now.lines().next() {
        eprintln!("the table was made with another nvcc than {NVCC_VERSION}: not compared");
        return;
    }
    let changed: Vec<String> = now
        .lines()
        .filter(|line| !committed.lines().any(|other| other == *line))
        .map(|line| format!("now  {line}"))
        .chain(committed.lines().filter(|line| !now.lines().any(|n| n == *line)).map(|line| format!("then {line}")))
        .collect();
    assert!(
        changed.is_empty(),
        "kernels do not do what benches/counters.txt says; if that is meant, run with PATARM_UPDATE=1 and commit it:\n{}",
        changed.join("\n")
    );
}
