//! `--device`: where the maths runs.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::plan::Machine;

/// The device of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// The CUDA path on the emulator: 0 runs the code for sm_80, 1 that for sm_90a.
    Emulated(usize),
}

impl DeviceChoice {
    /// `cpu` or `cuda`: what decides the order and the precision of sums.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) | Self::Emulated(_) => "cuda",
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        match (name, number.parse()) {
            ("cpu", _) if name == text => Ok(Self::Cpu),
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("emulated", Ok(number)) => Ok(Self::Emulated(number)),
            _ => Err(format!("a device is cpu, cuda, cuda:N or emulated, got `{text}`")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Emulated(number) => write!(f, "emulated:{number}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

/// The `--device` flag, the same for every command that computes.
#[derive(Clone, Copy, Debug, Args)]
pub struct DeviceArgs {
    /// Where the maths runs: cpu, cuda (a GPU; cuda:1 for the second one), or emulated (the CUDA path without a GPU: slow,
    /// and checks every access).
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,
}

/// Opens a CUDA device, emulated or not.
#[cfg(has_cuda)]
pub fn open_cuda(choice: DeviceChoice) -> anyhow::Result<crate::cuda::Cuda> {
    use crate::cuda::{Cuda, Emulation};
    let device = match choice {
        DeviceChoice::Emulated(number) => {
            cuda_emulator::load()?;
            Cuda::open(number, Emulation::Allowed)
        }
        DeviceChoice::Cuda(number) => Cuda::open(number, Emulation::Refused),
        DeviceChoice::Cpu => anyhow::bail!("the CPU is no CUDA device"),
    };
    device.map_err(|error| anyhow::anyhow!("--device {choice}: {error}"))
}

/// What a plan for a device is made for; `budget`: the bytes that a run may hold, if fewer than the device has.
pub fn machine(choice: DeviceChoice, budget: Option<usize>) -> anyhow::Result<Machine> {
    let Some(bytes) = budget else {
        return match choice {
            DeviceChoice::Cpu => Ok(Machine::cpu(None)),
            #[cfg(has_cuda)]
            choice => {
                let bytes = crate::tensor::Device::memory_bytes(&open_cuda(choice)?);
                Ok(Machine::cuda(choice.to_string(), bytes.unwrap_or(usize::MAX)))
            }
            #[cfg(not(has_cuda))]
            choice => anyhow::bail!("--device {choice}: this binary was built without nvcc: give --card or --memory"),
        };
    };
    Ok(match choice {
        DeviceChoice::Cpu => Machine::cpu(Some(bytes)),
        choice => Machine::cuda(choice.to_string(), bytes),
    })
}

/// `with_backend!(choice, backend => work)`: runs `work` with `backend` a reference to the backend of that device.
macro_rules! with_backend {
    ($choice:expr, $backend:ident => $work:expr) => {
        match $choice {
            $crate::commands::device::DeviceChoice::Cpu => {
                let $backend = &$crate::ops::Cpu;
                $work
            }
            #[cfg(has_cuda)]
            choice => {
                let $backend = &$crate::commands::device::open_cuda(choice)?;
                $work
            }
            #[cfg(not(has_cuda))]
            choice => anyhow::bail!(
                "--device {choice}: this binary was built without nvcc and has the CPU backend only; run tools/install-nvcc \
                 (or set CUDA_HOME) and build again"
            ),
        }
    };
}
pub(crate) use with_backend;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, choice) in [
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
            ("emulated:1", DeviceChoice::Emulated(1)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["gpu", "cpu:1", "cuda:", "cuda:x", ""] {
            let message = text.parse::<DeviceChoice>().unwrap_err();
            assert!(message.contains("cuda:N") && message.contains(text), "{message}");
        }
    }
}
