//! Where the time of some work goes on a device: a line for every phase, and one for every op of a phase.

use std::time::Duration;

/// What a profile measures. Either costs time of its own, so a profiled run is never the one whose speed counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileDetail {
    /// Host time of each phase; the device works as it always does.
    Phases,
    /// Also the device time of every command. Replayed work is sent command by command.
    Commands,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Host time of the whole work, the wait for its end included.
    pub host: Duration,
    /// In the order in which they began first. The first one is the work as a whole; its path is empty.
    pub phases: Vec<Phase>,
    /// Every (phase, op) that had a command; empty without [`ProfileDetail::Commands`].
    pub ops: Vec<OpTime>,
    /// Device time from the beginning to the end, in milliseconds; 0 without [`ProfileDetail::Commands`].
    pub span_ms: f64,
    /// What two events with nothing between them measure, in milliseconds: a part of every command's time.
    pub event_ms: f64,
    /// Commands whose host side took so long that the device may have waited for it within the measured time.
    pub late_commands: u64,
}

/// A named range of the work, wherever it has the same path. Times include those of the ranges within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Names from the outside in, such as `decode/forward/mlp`. Layers are folded: all have the same name.
    pub path: String,
    /// How often it began.
    pub calls: u64,
    pub host: Duration,
}

/// All commands of one kind in one phase (in that phase itself, not in the ranges within).
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// Index in [`Profile::phases`].
    pub phase: usize,
    /// The kernel's name, or what the driver or cuBLASLt was asked for.
    pub op: &'static str,
    pub calls: u64,
    pub device_ms: f64,
    /// Bytes that the commands read and write at least, where the command says it.
    pub bytes: Option<u64>,
    pub flops: Option<u64>,
}

impl Profile {
    /// Device time of all commands, in milliseconds.
    pub fn device_ms(&self) -> f64 {
        self.ops.iter().map(|op| op.device_ms).sum()
    }

    /// Device time of the commands of a phase and of the ranges within, in milliseconds.
    pub fn phase_device_ms(&self, phase: usize) -> f64 {
        let path = &self.phases[phase].path;
        let within = |other: usize| is_within(&self.phases[other].path, path);
        self.ops.iter().filter(|op| within(op.phase)).map(|op| op.device_ms).sum()
    }
}

/// Whether a path is another one or lies below it.
fn is_within(path: &str, outer: &str) -> bool {
    outer.is_empty() || path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_the_time_of_what_lies_below_its_path_and_no_other() {
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
