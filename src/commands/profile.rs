//! `bench --profile`: where the time of a run goes on a CUDA device, by phase and by op, as a table and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::ops::Backend;
use crate::tensor::{Profile, ProfileDetail};

/// Lines of ops that the table has; the rest is one line. JSON has all.
const OPS_SHOWN: usize = 40;

/// Parts of the report of `bench`.
#[derive(Debug, Serialize)]
pub struct ProfileReport {
    /// By device time, the largest first.
    profile: Vec<OpRow>,
    profile_phases: Vec<PhaseRow>,
    profile_run: Totals,
}

/// The commands of one kind in one phase.
#[derive(Debug, Serialize)]
struct OpRow {
    phase: String,
    op: &'static str,
    calls: u64,
    device_ms: f64,
    /// Of the device time of all.
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flops: Option<u64>,
}

/// A phase with all phases within.
#[derive(Debug, Serialize)]
struct PhaseRow {
    phase: String,
    calls: u64,
    /// Host time in a run whose commands were not measured.
    host_ms: f64,
    device_ms: f64,
}

#[derive(Debug, Serialize)]
struct Totals {
    /// The median of the timed runs, which nothing measured from within.
    run_ms: f64,
    /// Sum over all commands.
    device_ms: f64,
    /// What is left of `run_ms`; below zero where the events cost more than the device was idle.
    idle_or_launch_bound_ms: f64,
    /// Device time from the first command's start to the last one's end, while commands were measured.
    profiled_span_ms: f64,
    commands: u64,
    /// What an empty pair of events measures: a part of each command's time.
    event_us: f64,
    late_commands: u64,
    /// Whether the times are an emulator's, which say nothing of speed.
    emulated: bool,
}

/// Two more runs: one for the host times of the phases, while the device works as it does in the timed ones, and one for the
/// device time of each command. `None` where the backend is the host.
pub fn measure<B: Backend>(
    backend: &B,
    run_s: f64,
    mut run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Option<ProfileReport>> {
    let mut profile = |detail| -> anyhow::Result<Option<Profile>> {
        let (done, profile) = backend.profiled(detail, &mut run)?;
        done?;
        Ok(profile)
    };
    let (Some(host), Some(device)) = (profile(ProfileDetail::Phases)?, profile(ProfileDetail::Commands)?) else {
        return Ok(None);
    };
    Ok(Some(ProfileReport::new(&host, &device, 1e3 * run_s, backend.name().starts_with("Emulated"))))
}

/// The path of a phase, for people.
fn label(path: &str) -> String {
    if path.is_empty() { "run".into() } else { path.into() }
}

impl ProfileReport {
    fn new(host: &Profile, device: &Profile, run_ms: f64, emulated: bool) -> Self {
        let device_ms = device.device_ms();
        let row = |op: &crate::tensor::OpTime| OpRow {
            phase: label(&device.phases[op.phase].path),
            op: op.op,
            calls: op.calls,
            device_ms: op.device_ms,
            share: if device_ms > 0.0 { op.device_ms / device_ms } else { 0.0 },
            bytes: op.bytes,
            flops: op.flops,
        };
        let mut profile: Vec<OpRow> = device.ops.iter().map(row).collect();
        profile.sort_by(|a, b| b.device_ms.total_cmp(&a.device_ms));
        let host_ms = |path: &str| {
            let known = host.phases.iter().find(|phase| phase.path == path);
            known.map_or(0.0, |phase| 1e3 * phase.host.as_secs_f64())
        };
        let phase = |(index, phase): (usize, &crate::tensor::Phase)| PhaseRow {
            phase: label(&phase.path),
            calls: phase.calls,
            host_ms: host_ms(&phase.path),
            device_ms: device.phase_device_ms(index),
        };
        Self {
            profile,
            profile_phases: device.phases.iter().enumerate().map(phase).collect(),
            profile_run: Totals {
                run_ms,
                device_ms,
                idle_or_launch_bound_ms: run_ms - device_ms,
                profiled_span_ms: device.span_ms,
                commands: device.ops.iter().map(|op| op.calls).sum(),
                event_us: 1e3 * device.event_ms,
                late_commands: device.late_commands,
                emulated,
            },
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let Totals { run_ms, device_ms, idle_or_launch_bound_ms, commands, event_us, late_commands, emulated, .. } =
            &self.profile_run;
        let mut text = String::new();
        if *emulated {
            text += "emulated: counts, not speed\n";
        }
        text += &format!(
            "device time of one run: {device_ms:.3} ms in {commands} commands; the run without a profile takes {run_ms:.3} ms, \
             so {idle_or_launch_bound_ms:.3} ms are device idle or launch-bound\n\
             Each command was measured alone, graphs kernel by kernel: this run's own wall time is no speed. An empty \
             measurement reads {event_us:.1} µs, which is in each call. Host times are of another run, in which the device \
             works as always, graphs included.\n"
        );
        if *late_commands > 0 {
            text += &format!(
                "{late_commands} commands came so late that the device may have waited for the host meanwhile.\n"
            );
        }
        self.write_phases(&mut text).and_then(|()| self.write_ops(&mut text)).expect("a string takes everything");
        text
    }

    fn write_phases(&self, text: &mut String) -> std::fmt::Result {
        let head = "phase (with those within)";
        let width = self.profile_phases.iter().map(|row| row.phase.len()).max().unwrap_or(0).max(head.len());
        writeln!(
            text,
            "\n{:width$} {:>8} {:>12} {:>12} {:>14} {:>14}",
            head, "calls", "host ms", "device ms", "host ms/call", "device ms/call"
        )?;
        for PhaseRow { phase, calls, host_ms, device_ms } in &self.profile_phases {
            let each = |ms: f64| ms / *calls as f64;
            writeln!(
                text,
                "{phase:width$} {calls:>8} {host_ms:>12.3} {device_ms:>12.3} {:>14.4} {:>14.4}",
                each(*host_ms),
                each(*device_ms)
            )?;
        }
        Ok(())
    }

    fn write_ops(&self, text: &mut String) -> std::fmt::Result {
        let widest = |length: fn(&OpRow) -> usize| self.profile.iter().map(length).max().unwrap_or(0).max(5);
        let (phases, ops) = (widest(|row| row.phase.len()), widest(|row| row.op.len()));
        writeln!(
            text,
            "\n{:phases$} {:ops$} {:>8} {:>12} {:>7} {:>10} {:>8} {:>8}",
            "phase", "op", "calls", "device ms", "share", "µs/call", "GB/s", "TFLOP/s"
        )?;
        // The emulator's times are the host's: rates of them would be read as speed.
        let rate = |amount: Option<u64>, unit: f64, ms: f64| match amount {
            Some(amount) if !self.profile_run.emulated && ms > 0.0 => {
                format!("{:.1}", amount as f64 / unit / (ms / 1e3))
            }
            _ => "-".into(),
        };
        for row in self.profile.iter().take(OPS_SHOWN) {
            let OpRow { phase, op, calls, device_ms, share, bytes, flops } = row;
            writeln!(
                text,
                "{phase:phases$} {op:ops$} {calls:>8} {device_ms:>12.3} {:>6.1}% {:>10.2} {:>8} {:>8}",
                100.0 * share,
                1e3 * device_ms / *calls as f64,
                rate(*bytes, 1e9, *device_ms),
                rate(*flops, 1e12, *device_ms),
            )?;
        }
        let rest = self.profile.get(OPS_SHOWN..).unwrap_or_default();
        if !rest.is_empty() {
            let (calls, ms) = rest.iter().fold((0, 0.0), |(calls, ms), row| (calls + row.calls, ms + row.device_ms));
            writeln!(text, "and {} more, of {calls} calls and {ms:.3} ms (--json lists all)", rest.len())?;
        }
        Ok(())
    }
}
