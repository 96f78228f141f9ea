//! Numbers on their way from a device to the host.

use super::DeviceError;

/// A copy that a device was asked for ([`super::Device::fetch`]): the work goes on, and who needs the numbers waits for them.
#[must_use = "a copy to the host that nobody waits for is of no use"]
pub struct Fetch<T>(State<T>);

enum State<T> {
    Ready(Vec<T>),
    Pending(Box<dyn FnOnce() -> Result<Vec<T>, DeviceError> + Send>),
}

impl<T> Fetch<T> {
    /// Numbers that are here already.
    pub fn ready(values: Vec<T>) -> Self {
        Self(State::Ready(values))
    }

    /// Numbers that `arrive` waits for.
    pub fn pending(arrive: impl FnOnce() -> Result<Vec<T>, DeviceError> + Send + 'static) -> Self {
        Self(State::Pending(Box::new(arrive)))
    }

    /// The numbers; waits for the work that produces them, and for no later work.
    pub fn get(self) -> Result<Vec<T>, DeviceError> {
        match self.0 {
            State::Ready(values) => Ok(values),
            State::Pending(arrive) => arrive(),
        }
    }
}
