//! An asynchronous copy from a device to the host.

use super::DeviceError;

/// A copy that [`super::Device::fetch`] started. It runs beside other work; the caller waits only when it needs the values.
#[must_use = "a copy to the host is wasted if nobody gets its values"]
pub struct Fetch<T>(State<T>);

enum State<T> {
    Ready(Vec<T>),
    Pending(Box<dyn FnOnce() -> Result<Vec<T>, DeviceError> + Send>),
}

impl<T> Fetch<T> {
    /// Values that are already on the host.
    pub fn ready(values: Vec<T>) -> Self {
        Self(State::Ready(values))
    }

    /// Values that `wait` waits for and returns.
    pub fn pending(wait: impl FnOnce() -> Result<Vec<T>, DeviceError> + Send + 'static) -> Self {
        Self(State::Pending(Box::new(wait)))
    }

    /// Returns the values. It waits for the commands that produce them, but not for later ones.
    pub fn get(self) -> Result<Vec<T>, DeviceError> {
        match self.0 {
            State::Ready(values) => Ok(values),
            State::Pending(wait) => wait(),
        }
    }
}
