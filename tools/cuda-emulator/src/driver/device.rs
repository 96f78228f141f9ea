//! The devices of the process: `cuInit`, `cuDriverGetVersion`, `cuDevice*`.
//!
//! The setting `target` lists their compute capabilities. The default is `80,90`: device 0 is an Ampere and device 1 a
//! Hopper, so that one process can test both.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::attributes;
use super::engine;
use super::entry::{Out, entry};
use super::reports;
use super::status::{Answer, Status};

/// The CUDA version that this library implements: 13.0.
const DRIVER_VERSION: i32 = 13000;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// The compute capabilities of the devices, by ordinal.
fn capabilities() -> Answer<Vec<(u32, u32)>> {
    let list = reports::setting("target").unwrap_or_else(|| "80,90".to_owned());
    let parse = |part: &str| match part.trim().trim_end_matches('a') {
        // A Turing, too old for the code of this project; for tests of the error message.
        "75" => Some((7, 5)),
        "80" => Some((8, 0)),
        "90" => Some((9, 0)),
        _ => None,
    };
    let parsed: Option<Vec<_>> = list.split(',').map(parse).collect();
    parsed.ok_or_else(|| {
        Status::INVALID_VALUE.because(format!("PATARM_EMULATOR_TARGET is {list:?}; expected a list of 75, 80 and 90"))
    })
}

/// The ordinal of a `CUdevice`.
///
/// # Errors
/// `NOT_INITIALIZED` before `cuInit`; `INVALID_DEVICE` for a device that does not exist.
pub fn ordinal(device: i32) -> Answer<usize> {
    if !INITIALISED.load(Ordering::Acquire) {
        return Err(Status::NOT_INITIALIZED.into());
    }
    let count = capabilities()?.len();
    match usize::try_from(device) {
        Ok(ordinal) if ordinal < count => Ok(ordinal),
        _ => Err(Status::INVALID_DEVICE.because(format!("there is no device {device}: {count} are emulated"))),
    }
}

/// The compute capability of a device.
pub fn capability(ordinal: usize) -> Answer<(u32, u32)> {
    capabilities()?.get(ordinal).copied().ok_or_else(|| Status::INVALID_DEVICE.into())
}

fn capability_of(device: i32) -> Answer<(u32, u32)> {
    capability(ordinal(device)?)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    entry("cuInit", || {
        if flags != 0 {
            return Err(Status::INVALID_VALUE.because("flags must be 0"));
        }
        capabilities()?;
        INITIALISED.store(true, Ordering::Release);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(slot: Out<i32>) -> u32 {
    entry("cuDriverGetVersion", || {
        let set = reports::setting("driver-version");
        let version = set.map_or(Ok(DRIVER_VERSION), |text| {
            text.parse().map_err(|_| {
                Status::INVALID_VALUE
                    .because(format!("PATARM_EMULATOR_DRIVER_VERSION={text}: expected a number such as 12080"))
            })
        });
        slot.put(version?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(slot: Out<i32>) -> u32 {
    entry("cuDeviceGetCount", || slot.put(capabilities()?.len() as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(slot: Out<i32>, number: i32) -> u32 {
    entry("cuDeviceGet", || slot.put(ordinal(number)? as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(buffer: *mut c_char, length: i32, device: i32) -> u32 {
    entry("cuDeviceGetName", || {
        let name = match capability_of(device)? {
            (9, _) => c"Emulated H100 (sm_90)",
            _ => c"Emulated A100 (sm_80)",
        };
        let bytes = name.to_bytes_with_nul();
        if buffer.is_null() || length <= 0 {
            return Err(Status::INVALID_VALUE.because("no buffer for the name"));
        }
        let fits = bytes.len().min(length as usize);
        // Safety: the caller owns `length` bytes at `buffer`; the last byte is set to zero below.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), buffer, fits);
            buffer.add(fits - 1).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(slot: Out<[u8; 16]>, device: i32) -> u32 {
    entry("cuDeviceGetUuid", || {
        let mut uuid = *b"patarm-emulated0";
        uuid[15] = b'0' + ordinal(device)? as u8;
        slot.put(uuid)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(slot: Out<[u8; 16]>, device: i32) -> u32 {
    cuDeviceGetUuid_v2(slot, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(slot: Out<usize>, device: i32) -> u32 {
    entry("cuDeviceTotalMem", || {
        ordinal(device)?;
        slot.put(engine::memory_bytes()? as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(slot: Out<i32>, attribute: i32, device: i32) -> u32 {
    entry("cuDeviceGetAttribute", || slot.put(attributes::device(attribute, capability_of(device)?, device)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> u32 {
    entry("cuDeviceComputeCapability", || {
        let capability = capability_of(device)?;
        major.put(capability.0 as i32)?;
        minor.put(capability.1 as i32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(slot: Out<i32>, device: i32, peer: i32) -> u32 {
    entry("cuDeviceCanAccessPeer", || {
        ordinal(device)?;
        ordinal(peer)?;
        slot.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(_peer: *mut c_void, _flags: u32) -> u32 {
    entry("cuCtxEnablePeerAccess", || {
        Err(Status::PEER_ACCESS_UNSUPPORTED.because("kernels can access only the memory of their own context"))
    })
}
