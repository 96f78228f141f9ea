//! The commands that tasks run, and how they fail.

use std::ffi::c_void;
use std::sync::Arc;

use super::engine::Engine;
use super::status::Status;

/// A function that works on the device.
pub type DeviceFunction = dyn Fn(&mut Engine) -> Result<(), Failure> + Send + Sync;

/// What a task does. It can run several times: a graph replays it.
#[derive(Clone)]
pub enum Command {
    /// Does nothing; only orders other tasks.
    Nothing,
    /// Accesses device memory or runs a kernel.
    Device(Arc<DeviceFunction>),
    /// Marks an event as reached, unless the event was recorded again since.
    Record { event: u32, generation: u64 },
    /// Calls a host function of the program.
    Host { function: extern "C" fn(*mut c_void), argument: usize },
}

impl Command {
    /// A command for the device, from a closure.
    pub fn device(function: impl Fn(&mut Engine) -> Result<(), Failure> + Send + Sync + 'static) -> Command {
        Command::Device(Arc::new(function))
    }
}

/// A failure on the device: the code that sticks to the context and the report for people.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: Status,
    pub report: String,
}
