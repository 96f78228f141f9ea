//! The driver through cudarc's own API: contexts, streams, events, graphs, memory, launches, matrix products, errors.
//!
//! Tests run side by side in one process, so each makes a context of its own ([`context`]): a fault sticks to it alone,
//! and settings and reports belong to the thread of the test.

mod contexts;
mod graphs;
mod launches;
mod memory;
mod products;
mod streams;

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError};

/// Opens the emulated device 0 (sm_80) in a context of its own, without event tracking.
fn context() -> Arc<CudaContext> {
    context_on(0)
}

/// As [`context`], on device 0 (sm_80) or 1 (sm_90).
fn context_on(device: usize) -> Arc<CudaContext> {
    load();
    let context = CudaContext::new_non_primary(device, 0).unwrap();
    // Safety: each test orders its streams itself; that is what most of them are about.
    unsafe { context.disable_event_tracking() };
    context
}

/// Loads the emulator; reports are kept, not printed.
fn load() {
    cuda_emulator::load().unwrap();
    cuda_emulator::configure("quiet", "1").unwrap();
    cuda_emulator::configure("target", "80,90").unwrap();
}

/// The error code of a call that must fail.
fn code<T>(result: Result<T, DriverError>) -> CUresult {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(error) => error.0,
    }
}
