//! Compares the registers and memory that every kernel uses with a committed table.

use std::fmt::Write;
use std::path::PathBuf;

use patarm::cuda::kernels::{NVCC_VERSION, RESOURCES};

/// Kernels that may use local memory (a stack frame, or registers spilled to one), with the reason.
const MAY_USE_LOCAL_MEMORY: [(&str, &str); 0] = [];

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

/// A stack frame without spills is an array with an index that is unknown at compile time, or a choice between the addresses of
/// two structs. Either costs a store and a load where a register was intended.
#[test]
fn no_kernel_uses_local_memory() {
    assert!(RESOURCES.len() >= 40, "kernels found: {}", RESOURCES.len());
    let is_known = |kernel: &str| MAY_USE_LOCAL_MEMORY.iter().any(|(known, _)| *known == kernel);
    let faults: Vec<String> = RESOURCES
        .iter()
        .filter(|r| r.stack_bytes + r.spill_store_bytes + r.spill_load_bytes > 0 && !is_known(r.kernel))
        .map(|r| {
            let spills = r.spill_store_bytes + r.spill_load_bytes;
            format!("{} ({}): a stack of {} bytes, spills of {spills}", r.kernel, r.architecture, r.stack_bytes)
        })
        .collect();
    assert!(faults.is_empty(), "kernels that use local memory:\n{}", faults.join("\n"));
    for (kernel, _) in MAY_USE_LOCAL_MEMORY {
        assert!(
            RESOURCES.iter().any(|r| r.kernel == kernel),
            "{kernel} may use local memory, but there is no such kernel"
        );
    }
    for r in RESOURCES {
        assert!(r.warps_resident() >= 4, "{r:?}: not even one block fits");
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
            "the table is from another nvcc or for other targets (now {NVCC_VERSION}, {architectures}): not compared"
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
        "kernels use other resources than benches/kernels.txt says; if that is intended, run with PATARM_UPDATE=1 and commit \
         the file:\n{}",
        changed.join("\n")
    );
}
