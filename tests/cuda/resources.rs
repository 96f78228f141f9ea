//! The static gate: what every kernel takes of a multiprocessor, held to a committed table.

use std::fmt::Write;
use std::path::PathBuf;

use patarm::cuda::kernels::{NVCC_VERSION, RESOURCES};

/// Kernels that may spill registers, with the reason.
const MAY_SPILL: [(&str, &str); 0] = [];

fn table() -> String {
    let mut text = format!(
        "What ptxas of nvcc {NVCC_VERSION} says of every kernel; `PATARM_UPDATE=1 cargo test --release --test cuda resources` \
         writes this file.\n\n{:44} {:7} {:>9} {:>7} {:>6} {:>6} {:>7} {:>8}\n",
        "kernel", "target", "registers", "shared", "stack", "spills", "threads", "warps/SM"
    );
    for r in RESOURCES {
        let spills = r.spill_store_bytes + r.spill_load_bytes;
        writeln!(
            text,
            "{:44} {:7} {:>9} {:>7} {:>6} {spills:>6} {:>7} {:>8}",
            r.kernel,
            r.architecture,
            r.registers,
            r.shared_bytes,
            r.stack_bytes,
            r.threads_max,
            r.warps_resident()
        )
        .unwrap();
    }
    text
}

#[test]
fn no_kernel_spills_registers() {
    assert!(RESOURCES.len() >= 40, "kernels found: {}", RESOURCES.len());
    let spilling: Vec<String> = RESOURCES
        .iter()
        .filter(|r| r.spill_store_bytes + r.spill_load_bytes > 0 && !MAY_SPILL.iter().any(|(k, _)| *k == r.kernel))
        .map(|r| format!("{} ({})", r.kernel, r.architecture))
        .collect();
    assert!(spilling.is_empty(), "kernels that spill: {spilling:?}");
    for r in RESOURCES {
        assert!(r.warps_resident() >= 4, "{r:?}: not one block of it fits");
    }
}

#[test]
fn resources_are_those_of_the_committed_table() {
    let root = std::env::var_os("PATARM_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let path = root.join("benches/kernels.txt");
    let now = table();
    if std::env::var("PATARM_UPDATE").as_deref() == Ok("1") {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let version = |text: &str| text.lines().next().map(str::to_owned);
    let architectures = patarm::cuda::kernels::ARCHITECTURES;
    if version(&committed) != version(&now) || architectures != "80,90a" {
        eprintln!(
            "the table was made by another nvcc or for other targets ({NVCC_VERSION}, {architectures}): not compared"
        );
        return;
    }
    let changed: Vec<String> = now
        .lines()
        .filter(|line| !committed.contains(line))
        .map(|line| format!("now  {line}"))
        .chain(committed.lines().filter(|line| !now.contains(line)).map(|line| format!("then {line}")))
        .collect();
    assert!(
        changed.is_empty(),
        "kernels take other resources than benches/kernels.txt says; if that is meant, run with PATARM_UPDATE=1 and commit \
         it:\n{}",
        changed.join("\n")
    );
}
