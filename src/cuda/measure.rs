//! What benches need of a device: the size of its L2 cache, large buffers of a pattern, and the time that work takes on it.

use cudarc::driver::CudaEvent;
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

    /// Seconds that the device takes for each of `runs` runs of `work`, from event to event on its stream, after one that is not
    /// timed. Nobody waits in between: while the device is at a run the host asks for the next one, so the host's own time
    /// counts only where it is the slower of the two.
    pub fn timed_s<E: From<DeviceError>>(
        &self,
        runs: usize,
        mut work: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<f64>, E> {
        let failed = |error| E::from(CudaError::driver("timing with events")(error).into());
        let event = || {
            let event = self.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)?;
            event.record(self.stream()).map_err(failed)?;
            Ok::<_, E>(event)
        };
        work()?;
        let mut events = vec![event()?];
        for _ in 0..runs {
            work()?;
            events.push(event()?);
        }
        self.synchronize().map_err(|error| E::from(error.into()))?;
        let seconds = |pair: &[CudaEvent]| Ok(f64::from(pair[0].elapsed_ms(&pair[1]).map_err(failed)?) * 1e-3);
        events.windows(2).map(seconds).collect()
    }
}
