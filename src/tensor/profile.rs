//! A profile of device time: one line for every phase, and one for every op of a phase.

use std::time::Duration;

/// What a profile measures. Both cost time themselves, so throughput is never taken from a profiled run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileDetail {
    /// Host time of each phase; device commands are not changed.
    Phases,
    /// Also the device time of every command. Graphs are not replayed, but sent command by command.
    Commands,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Host time of all the work, including the wait for the device.
    pub host: Duration,
    /// In the order in which they first began. Phase 0 is all the work; its path is empty.
    pub phases: Vec<Phase>,
    /// Every (phase, op) that had a command; empty without [`ProfileDetail::Commands`].
    pub ops: Vec<OpTime>,
    /// Device time from the first to the last command, in milliseconds; 0 without [`ProfileDetail::Commands`].
    pub span_ms: f64,
    /// The time between two events with nothing between them, in milliseconds. Every command's time includes it.
    pub event_ms: f64,
    /// Commands that the host queued so slowly that their measured time may include waiting for it.
    pub late_commands: u64,
}

/// All ranges with the same path. Its times include those of inner ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Names from the outermost in, such as `decode/forward/mlp`. All layers share one name.
    pub path: String,
    /// How often it began.
    pub calls: u64,
    pub host: Duration,
}

/// All commands of one op in one phase, without those of inner ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// Index in [`Profile::phases`].
    pub phase: usize,
    /// The name of the kernel, or of the driver's or cuBLASLt's operation.
    pub op: &'static str,
    pub calls: u64,
    pub device_ms: f64,
    /// The fewest bytes that the commands read and write, where known.
    pub bytes: Option<u64>,
    pub flops: Option<u64>,
}

impl Profile {
    /// Device time of all commands, in milliseconds.
    pub fn device_ms(&self) -> f64 {
        self.ops.iter().map(|op| op.device_ms).sum()
    }

    /// Device time of the commands of a phase and of its inner ranges, in milliseconds.
    pub fn phase_device_ms(&self, phase: usize) -> f64 {
        let path = &self.phases[phase].path;
        let within = |other: usize| is_within(&self.phases[other].path, path);
        self.ops.iter().filter(|op| within(op.phase)).map(|op| op.device_ms).sum()
    }
}

/// Whether `path` is `outer` or lies below it.
fn is_within(path: &str, outer: &str) -> bool {
    outer.is_empty() || path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_includes_the_time_of_inner_phases_only() {
        let phase = |path: &str| Phase { path: path.into(), ..Phase::default() };
        let op = |phase, device_ms| OpTime { phase, op: "x", calls: 1, device_ms, bytes: None, flops: None };
        let profile = Profile {
            phases: ["", "decode", "decode/mlp", "decoded"].map(phase).into(),
            ops: vec![op(0, 1.0), op(1, 2.0), op(2, 4.0), op(3, 8.0)],
            ..Profile::default()
        };
        assert_eq!([0, 1, 2, 3].map(|i| profile.phase_device_ms(i)), [15.0, 6.0, 4.0, 8.0]);
        assert_eq!(profile.device_ms(), 15.0);
    }
}
