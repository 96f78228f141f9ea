//! What this machine has for CUDA. Nothing here fails: what is missing is part of the answer.

use cudarc::driver::CudaContext;

use super::context::{DRIVER_VERSION_MIN, check_driver, driver_version};
use super::kernels::{ARCHITECTURES, NVCC_VERSION};
use super::{CudaError, blas};

pub use super::blas::BlasFacts;

/// Driver, libraries and devices.
#[derive(Debug)]
pub struct Survey {
    /// The toolkit that compiled the kernels of this binary.
    pub nvcc_version: &'static str,
    /// Architectures in this binary, such as "80,90a".
    pub architectures: &'static str,
    /// "13.0"
    pub driver_needed: String,
    /// "13.1", or why there is none that will do.
    pub driver: Result<String, CudaError>,
    pub blas: Result<BlasFacts, CudaError>,
    pub devices: Vec<DeviceFacts>,
}

/// One device.
#[derive(Debug)]
pub struct DeviceFacts {
    pub ordinal: usize,
    pub name: String,
    pub capability: (i32, i32),
    pub memory_bytes: usize,
    /// How this binary's kernels run on it.
    pub code: Code,
}

/// What a device can do with the kernels of this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is machine code for it.
    Machine,
    /// The driver compiles the PTX of an older architecture when the program starts.
    Ptx,
    /// It is older than everything in the binary.
    None,
}

/// Looks at this machine.
pub fn survey() -> Survey {
    let driver = check_driver().and_then(|()| driver_version()).map(version_text);
    let count = if driver.is_ok() { CudaContext::device_count().unwrap_or(0).max(0) as usize } else { 0 };
    Survey {
        nvcc_version: NVCC_VERSION,
        architectures: ARCHITECTURES,
        driver_needed: version_text(DRIVER_VERSION_MIN),
        blas: blas::facts(),
        devices: (0..count).filter_map(facts).collect(),
        driver,
    }
}

/// Of one device; `None` where the driver does not even open it.
fn facts(ordinal: usize) -> Option<DeviceFacts> {
    let context = CudaContext::new(ordinal).ok()?;
    let capability = context.compute_capability().ok()?;
    Some(DeviceFacts {
        ordinal,
        name: context.name().ok()?,
        capability,
        memory_bytes: context.total_mem().ok()?,
        code: code_for(ARCHITECTURES, capability),
    })
}

/// 13010 is 13.1.
fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Machine code runs on its own major version from its minor on; PTX on everything newer, unless it is of an accelerated
/// architecture (`90a`), which is bound to its own.
fn code_for(architectures: &str, (major, minor): (i32, i32)) -> Code {
    let of = |text: &str| {
        let digits: i32 = text.trim_end_matches('a').parse().ok()?;
        Some((digits / 10, digits % 10, text.ends_with('a')))
    };
    let known: Vec<(i32, i32, bool)> = architectures.split(',').filter_map(|text| of(text.trim())).collect();
    let machine = |(a, b, bound): &(i32, i32, bool)| *a == major && if *bound { *b == minor } else { *b <= minor };
    let ptx = |(a, b, bound): &(i32, i32, bool)| !bound && (*a, *b) <= (major, minor);
    match () {
        () if known.iter().any(machine) => Code::Machine,
        () if known.iter().any(ptx) => Code::Ptx,
        () => Code::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_an_architecture_runs_on_its_own_and_ptx_on_newer_ones() {
        for (capability, code) in [
            ((7, 5), Code::None),
            ((8, 0), Code::Machine),
            ((8, 9), Code::Machine),
            ((9, 0), Code::Machine),
            ((10, 0), Code::Ptx),
        ] {
            assert_eq!(code_for("80,90a", capability), code, "{capability:?}");
        }
        assert_eq!(code_for("90a", (8, 0)), Code::None);
        assert_eq!(code_for("90a", (10, 0)), Code::None);
        assert_eq!(version_text(12080), "12.8");
    }
}
