//! `benches/predictions.toml`: the expected speed of each kernel, written before it was measured.

use std::path::PathBuf;

use patarm::ops::Cost;
use serde::Deserialize;

/// Beyond this ratio, the performance model was wrong.
pub const OFF: f64 = 1.5;

/// The parts of the file that this bench compares; `tools/gpu-check` reads `[[step]]`.
#[derive(Debug, Deserialize)]
pub struct Predictions {
    card: Card,
    #[serde(default)]
    kernel: Vec<Kernel>,
}

#[derive(Debug, Deserialize)]
struct Card {
    copy_tb_per_s: f64,
    matmul_tflop_per_s: f64,
}

#[derive(Debug, Deserialize)]
struct Kernel {
    name: String,
    unit: Unit,
    low: f64,
    high: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    PercentOfCopy,
    PercentOfMatmul,
    TflopPerS,
}

/// The measured speed of copies and matmuls on this device.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    pub copy_bytes_per_s: f64,
    pub matmul_flops_per_s: f64,
}

/// A time between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub fastest_s: f64,
    pub slowest_s: f64,
}

impl Range {
    /// 1 inside the range; outside, the measured time over the nearer bound.
    pub fn ratio(self, seconds: f64) -> f64 {
        if seconds < self.fastest_s {
            seconds / self.fastest_s
        } else if seconds > self.slowest_s {
            seconds / self.slowest_s
        } else {
            1.0
        }
    }
}

pub fn is_off(ratio: f64) -> bool {
    !(1.0 / OFF..=OFF).contains(&ratio)
}

impl Predictions {
    /// From `$PATARM_ROOT/benches`, if the bench was copied to another machine, otherwise from the repository it was built in.
    /// `None`, with a message, without such a file.
    pub fn load() -> Result<Option<Self>, String> {
        let root = std::env::var_os("PATARM_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let path = root.join("benches/predictions.toml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("no predictions: {} is not there", path.display());
            return Ok(None);
        };
        toml::from_str(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn ceilings(&self) -> Ceilings {
        Ceilings {
            copy_bytes_per_s: 1e12 * self.card.copy_tb_per_s,
            matmul_flops_per_s: 1e12 * self.card.matmul_tflop_per_s,
        }
    }

    /// The time of a row on a device with these ceilings.
    pub fn of(&self, name: &str, cost: Cost, ceilings: Ceilings) -> Option<Range> {
        let Kernel { unit, low, high, .. } = self.kernel.iter().find(|kernel| kernel.name == name)?;
        let seconds = |value: &f64| match unit {
            Unit::PercentOfCopy => cost.bytes as f64 / (ceilings.copy_bytes_per_s * value / 100.0),
            Unit::PercentOfMatmul => cost.flops as f64 / (ceilings.matmul_flops_per_s * value / 100.0),
            Unit::TflopPerS => cost.flops as f64 / (1e12 * value),
        };
        Some(Range { fastest_s: seconds(high), slowest_s: seconds(low) })
    }
}
