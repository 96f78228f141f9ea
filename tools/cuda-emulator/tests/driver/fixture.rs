//! Opens emulated devices for a test.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError};

/// Creates a context on the emulated device 0 (sm_80), without event tracking.
pub fn context() -> Arc<CudaContext> {
    context_on(0)
}

/// Like [`context`], on device 0 (sm_80) or 1 (sm_90).
pub fn context_on(device: usize) -> Arc<CudaContext> {
    load();
    let context = CudaContext::new_non_primary(device, 0).unwrap();
    // Safety: each test orders its streams explicitly; most of them test exactly that.
    unsafe { context.disable_event_tracking() };
    context
}

/// Loads the emulator; reports are kept but not printed.
pub fn load() {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("quiet", "1").unwrap();
    cuda_emulator::configure("target", "80,90").unwrap();
}

/// The error code of a call that must fail.
pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(error) => error.0,
    }
}
