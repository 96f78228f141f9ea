//! What benches need of a device: the size of its L2 cache, large buffers of a pattern, and the time that work takes on it.

use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};

use super::{Buffer, Cuda, CudaError};
use crate::tensor::{Device, DeviceError, Element};

/// Elements of a pattern that are sent to the device at least.
const SENT_MIN: usize = 1 << 16;

impl Cuda {
    /// Bytes of the L2 cache; 0 where the driver does not say.
    pub fn l2_bytes(&self) -> usize {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        self.context().attribute(attribute).map_or(0, |bytes| bytes.max(0) as usize)
    }

    /// A buffer of `len` elements that holds `pattern` again and again. Only the pattern comes from the host, so gigabytes of
    /// it take milliseconds.
    ///
    /// # Panics
    /// When the pattern is empty and the buffer is not.
    pub fn repeated<T: Element>(&self, len: usize, pattern: &[T]) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.zeros(len)?;
        assert!(!pattern.is_empty() || len == 0, "{len} elements of no pattern");
        // A short pattern is sent many times over: a copy of the driver for each few bytes would take long.
        let period = pattern.len() * SENT_MIN.div_ceil(pattern.len().max(1));
        let sent: Vec<T> = pattern.iter().copied().cycle().take(period.min(len)).collect();
        let once = self.upload(&sent)?;
        for first in (0..len).step_by(period.max(1)) {
            let range = first..len.min(first + period);
            let count = range.len();
            self.copy(self.view_mut(&mut buffer, range), self.view(&once, 0..count))?;
        }
        Ok(buffer)
    }

    /// Seconds from the start to the end of `work` on the device, between two events on its stream. Waits for the end.
    pub fn timed_s<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
        let event = || {
            let event = self.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|error| E::from(CudaError::driver("making an event")(error).into()))
        };
        let failed = |error| E::from(CudaError::driver("timing with events")(error).into());
        let (start, end) = (event()?, event()?);
        start.record(self.stream()).map_err(failed)?;
        work()?;
        end.record(self.stream()).map_err(failed)?;
        self.synchronize().map_err(|error| E::from(error.into()))?;
        Ok(f64::from(start.elapsed_ms(&end).map_err(failed)?) * 1e-3)
    }
}
