//! What benches need from a device: the size of its L2 cache, large buffers with a pattern, and the device time of some work.

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};

use super::{Buffer, Cuda, CudaError};
use crate::tensor::{Device, DeviceError, Element};

/// The fewest elements of a pattern that are copied to the device at once.
const SENT_MIN: usize = 1 << 16;

impl Cuda {
    /// Bytes of the L2 cache; 0 if the driver does not report them.
    pub fn l2_bytes(&self) -> usize {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        self.context().attribute(attribute).map_or(0, |bytes| bytes.max(0) as usize)
    }

    /// A buffer of `len` elements, filled with repetitions of `pattern`. Only the pattern is copied from the host, so gigabytes
    /// take milliseconds.
    ///
    /// # Panics
    /// When the pattern is empty and the buffer is not.
    pub fn repeated<T: Element>(&self, len: usize, pattern: &[T]) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.zeros(len)?;
        assert!(!pattern.is_empty() || len == 0, "a buffer of {len} elements needs a pattern that is not empty");
        // A short pattern is repeated before it is sent: one device copy for every few bytes would take long.
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

    /// The device's seconds for each of `runs` runs of `work`, between events on its stream, after one run that is not timed.
    /// The host does not wait between runs. It submits the next run while the device works on the current one, so host time
    /// only counts where the host is the slower of the two.
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
