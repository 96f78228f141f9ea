//! What a task does when its turn comes, and how it fails.

use std::ffi::c_void;
use std::sync::Arc;

use super::engine::Engine;
use super::status::Status;

/// What a task does to device memory.
pub type Deed = dyn Fn(&mut Engine) -> Result<(), Failure> + Send + Sync;

/// A task. It can be done again: a graph replays it.
#[derive(Clone)]
pub enum Work {
    /// Only orders other tasks.
    Nothing,
    /// Works on device memory or runs a kernel.
    Device(Arc<Deed>),
    /// Notes that an event was reached, unless the event was recorded again since.
    Record { event: u32, generation: u64 },
    /// Calls a function of the program.
    Host { function: extern "C" fn(*mut c_void), argument: usize },
}

impl Work {
    /// Work on the device, from a closure.
    pub fn device(deed: impl Fn(&mut Engine) -> Result<(), Failure> + Send + Sync + 'static) -> Work {
        Work::Device(Arc::new(deed))
    }
}

/// How work on the device fails: the code that sticks to the context and the report that a person reads.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: Status,
    pub report: String,
}
