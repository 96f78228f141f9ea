//! The CUDA driver, libraries and devices of this machine, for `doctor`. Nothing here fails: what is missing is reported.

use cudarc::driver::CudaContext;

use super::context::{DRIVER_VERSION_MIN, check_driver, driver_version};
use super::kernels::{ARCHITECTURES, NVCC_VERSION};
use super::{CudaError, blas};

pub use super::blas::BlasInfo;

/// Driver, libraries and devices.
#[derive(Debug)]
pub struct CudaInfo {
    /// The nvcc that compiled the kernels of this binary.
    pub nvcc_version: &'static str,
    /// Architectures in this binary, such as "80,90a".
    pub architectures: &'static str,
    /// "13.0"
    pub driver_needed: String,
    /// "13.1", or why there is no usable driver.
    pub driver: Result<String, CudaError>,
    pub blas: Result<BlasInfo, CudaError>,
    pub devices: Vec<DeviceInfo>,
}

/// One device.
#[derive(Debug)]
pub struct DeviceInfo {
    pub ordinal: usize,
    pub name: String,
    pub capability: (i32, i32),
    pub memory_bytes: usize,
    /// How this binary's kernels run on it.
    pub code: Code,
}

/// Which code of this binary a device can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Its own machine code.
    Machine,
    /// PTX of an older architecture, which the driver compiles when the program starts.
    Ptx,
    /// None: the device is older than every architecture in the binary.
    None,
}

/// Queries this machine.
pub fn cuda_info() -> CudaInfo {
    let driver = check_driver().and_then(|()| driver_version()).map(version_text);
    let count = if driver.is_ok() { CudaContext::device_count().unwrap_or(0).max(0) as usize } else { 0 };
    CudaInfo {
        nvcc_version: NVCC_VERSION,
        architectures: ARCHITECTURES,
        driver_needed: version_text(DRIVER_VERSION_MIN),
        blas: blas::info(),
        devices: (0..count).filter_map(device_info).collect(),
        driver,
    }
}

/// One device; `None` if the driver cannot open it.
fn device_info(ordinal: usize) -> Option<DeviceInfo> {
    let context = CudaContext::new(ordinal).ok()?;
    let capability = context.compute_capability().ok()?;
    Some(DeviceInfo {
        ordinal,
        name: context.name().ok()?,
        capability,
        memory_bytes: context.total_mem().ok()?,
        code: code_for(ARCHITECTURES, capability),
    })
}

/// Version 13010 is "13.1".
fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Machine code runs on its own major version, from its minor version on. PTX runs on everything newer, except that code for an
/// accelerated architecture (`90a`) runs on that one only.
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
